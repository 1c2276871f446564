"""The Swift of a card for texts and images whose vectors are compared: a type that loads both programs."""

from __future__ import annotations

from math import prod

from optimum_ane.hub.card_package import CardPackage
from optimum_ane.hub.markdown import swift_string
from optimum_ane.hub.swift import UNITS
from optimum_ane.hub.swift_tokenizer import load_tokenizer, tokenizer_imports
from optimum_ane.package.manifest import FunctionEntry, ImageEntry, TensorEntry

_FRAME = """\
import CoreML
import Foundation
import ImageIO
{imports}
import Vision

struct ZeroShotClassifier {{
    let texts: MLModel
    let images: MLModel
    let tokenizer: any Tokenizer

    /// - Parameter folder: holds {mlpackages} and the tokenizer's files, as downloaded.
    init(folder: URL) async throws {{
        texts = try await Self.load({text_name}, from: folder, for: {text_units})
        images = try await Self.load({image_name}, from: folder, for: {image_units})
{load_tokenizer}
    }}

    // Compiling takes a while. Keep what it gives, or add the packages to the app in Xcode, which compiles them when
    // the app is built.
    private static func load(_ name: String, from folder: URL, for units: MLComputeUnits) async throws -> MLModel {{
        let configuration = MLModelConfiguration()
        configuration.computeUnits = units{function}
        let compiled = try await MLModel.compileModel(at: folder.appendingPathComponent(name))
        return try await MLModel.load(contentsOf: compiled, configuration: configuration)
    }}

    /// The vector of a text, of length 1; one that is too long loses its end.
    func encode(text: String) throws -> [Float] {{
        var tokens = tokenizer.encode(text: text)
        if tokens.count > {length} {{ tokens = Array(tokens.prefix({length} - 1)) + [tokens.last!] }}
        func feature(_ values: [Int], padding: Int) -> MLFeatureValue {{
            let row = values.map {{ Int32($0) }} + Array(repeating: Int32(padding), count: {length} - values.count)
            return MLFeatureValue(shapedArray: MLShapedArray<Int32>(scalars: row, shape: [1, {length}]))
        }}
        return try vector("text_embeds", of: texts.prediction(from: MLDictionaryFeatureProvider(dictionary: [
{features}
        ])))
    }}

{encode_image}

    /// How well an image fits each text: {meaning}.
    func scores(of image: [Float], for texts: [[Float]]) -> [Float] {{
        let logits = texts.map {{ text in {scale} * zip(text, image).map(*).reduce(0, +) + {bias} }}
        {probabilities}
    }}

    private func vector(_ name: String, of output: MLFeatureProvider) -> [Float] {{
        MLShapedArray<Float>(converting: output.featureValue(for: name)!.multiArrayValue!).scalars
    }}
}}

func example(folder: URL, photo: URL) async throws {{
    let model = try await ZeroShotClassifier(folder: folder)
    let labels = ["cat", "dog", "bird"]
    let texts = try labels.map {{ try model.encode(text: "a photo of a \\($0)") }}
{example_image}
    print(zip(labels, model.scores(of: image, for: texts)).map {{ "\\($0): \\($1)" }})
}}"""

_ENCODE_IMAGE = """\
    /// The vector of an image, of length 1. Core ML makes {height} × {width} pixels of it, and the package normalises
    /// them.
    func encode(image: CGImage) throws -> [Float] {{
        let value = try MLFeatureValue(
            cgImage: image, pixelsWide: {width}, pixelsHigh: {height}, pixelFormatType: kCVPixelFormatType_32BGRA,
            options: [.cropAndScale: VNImageCropAndScaleOption.{fit}.rawValue])
        return try vector("image_embeds", of: images.prediction(from: MLDictionaryFeatureProvider(dictionary: [
            {name}: value,
        ])))
    }}"""
_READ_IMAGE = """\
    let source = CGImageSourceCreateWithURL(photo as CFURL, nil)!
    let image = try model.encode(image: CGImageSourceCreateImageAtIndex(source, 0, nil)!)"""

_ENCODE_VALUES = """\
    /// The vector of an image, of length 1.
    ///
    /// - Parameter values: {extents} numbers, channels first, as preprocessor_config.json says.
    func encode(image values: [Float]) throws -> [Float] {{
        precondition(values.count == {count}, "the package takes {count} numbers")
        let array = MLShapedArray<Float>(scalars: values, shape: [{shape}])
        return try vector("image_embeds", of: images.prediction(from: MLDictionaryFeatureProvider(dictionary: [
            {name}: MLFeatureValue(shapedArray: array),
        ])))
    }}"""
_NO_IMAGE = """\
    // Zeros stand for what you read from the file.
    let image = try model.encode(image: Array(repeating: 0, count: {count}))"""
_FITS = {"fill": "scaleFill", "crop": "centerCrop", "pad": "scaleFit"}
"""Vision's names of how images get their size, by those of `ImageEntry.fit`."""

_SOFTMAX = """\
let largest = logits.max() ?? 0, exponentials = logits.map { exp($0 - largest) }
        let sum = exponentials.reduce(0, +)
        return exponentials.map { $0 / sum }"""
_SIGMOID = "return logits.map { 1 / (1 + exp(-$0)) }"


def zero_shot(package: CardPackage) -> str:
    """Vectors of texts and of images, and how well they fit."""
    manifest = package.manifest
    text, image = (manifest.program(name) for name in ("text", "image"))
    texts, images = text.functions[0], image.functions[0]
    length = texts.inputs[0].shape[-1]
    (pixels,) = images.inputs
    encode_image, example_image = _image_code(manifest.image, pixels)
    is_each = "siglip" in manifest.model_type
    function = f'\n        if name == {swift_string(text.path)} {{ configuration.functionName = "{texts.name}" }}'
    return _FRAME.format(
        imports="\n".join(tokenizer_imports(manifest)),
        mlpackages=f"{text.path}, {image.path}",
        text_name=swift_string(text.path),
        image_name=swift_string(image.path),
        text_units=UNITS.get(text.compute_units, ".all"),
        image_units=UNITS.get(image.compute_units, ".all"),
        function=function if len(text.functions) > 1 else "",
        load_tokenizer=load_tokenizer(manifest),
        length=length,
        features=_features(texts, package.padding_id),
        encode_image=encode_image,
        example_image=example_image,
        meaning="the probability of each by itself" if is_each else "probabilities, of which the sum is 1",
        scale=f"{manifest.constants['logit_scale']:.8g}",
        bias=f"{manifest.constants['logit_bias']:.8g}",
        probabilities=_SIGMOID if is_each else _SOFTMAX,
    )


def _image_code(image: ImageEntry | None, pixels: TensorEntry) -> tuple[str, str]:
    """The method that takes an image, and the lines that give it one."""
    name, count = swift_string(pixels.name), prod(pixels.shape[1:])
    if image is not None and image.normalization is not None:
        fit = _FITS.get(image.fit, _FITS["fill"])
        return _ENCODE_IMAGE.format(height=image.height, width=image.width, fit=fit, name=name), _READ_IMAGE
    extents, shape = " × ".join(map(str, pixels.shape[1:])), ", ".join(map(str, pixels.shape))
    return _ENCODE_VALUES.format(extents=extents, count=count, shape=shape, name=name), _NO_IMAGE.format(count=count)


def _features(function: FunctionEntry, padding: int) -> str:
    values = {
        "input_ids": f"feature(tokens, padding: {padding})",
        "attention_mask": "feature(Array(repeating: 1, count: tokens.count), padding: 0)",
        "token_type_ids": "feature([], padding: 0)",
    }
    return "\n".join(f"            {swift_string(each.name)}: {values[each.name]}," for each in function.inputs)
