"""The Swift of a card for packages that take images: a type that passes them through Vision, which resizes them.

Every call is documented by Apple: `VNCoreMLModel(for:)`, `VNCoreMLRequest` with its `imageCropAndScaleOption`,
`VNImageRequestHandler(cgImage:options:)`, and the observations `VNCoreMLFeatureValueObservation` and
`VNClassificationObservation`, which a program with the outputs of a classifier gives.
"""

from __future__ import annotations

from optimum_ane.hub.card_package import CardPackage
from optimum_ane.hub.swift import load_model

_FRAME = """\
import CoreML
import Foundation
import ImageIO
import Vision

struct {type_name} {{
    let model: VNCoreMLModel{constants}

    /// - Parameter folder: holds {mlpackage}, as downloaded.
    init(folder: URL) async throws {{
{load_model}
        model = try VNCoreMLModel(for: loaded)
    }}

    /// Vision makes {height} × {width} pixels of the image, {how}, and the package normalises them.
    func observations(_ image: CGImage) throws -> [VNObservation] {{
        let request = VNCoreMLRequest(model: model)
        request.imageCropAndScaleOption = {option}
        try VNImageRequestHandler(cgImage: image).perform([request])
        return request.results ?? []
    }}

{task}
}}

func example(folder: URL, photo: URL) async throws {{
    let model = try await {type_name}(folder: folder)
    let source = CGImageSourceCreateWithURL(photo as CFURL, nil)!
    let image = CGImageSourceCreateImageAtIndex(source, 0, nil)!
    print(try model.{call}(image))
}}"""

_PREDICT = """\
    /// The outputs by name. They are {dtype} in the package.
    func predict(_ image: CGImage) throws -> [String: MLMultiArray] {{
        let values = try observations(image).compactMap {{ $0 as? VNCoreMLFeatureValueObservation }}
        return Dictionary(uniqueKeysWithValues: values.map {{ ($0.featureName, $0.featureValue.multiArrayValue!) }})
    }}

    /// An output without its batch dimension.
    func row(_ name: String, of output: [String: MLMultiArray]) -> MLShapedArraySlice<Float> {{
        MLShapedArray<Float>(converting: output[name]!)[0]
    }}

{task}"""

_CLASSIFIER = """\
    /// The labels with their probabilities, the most probable first.
    func classify(_ image: CGImage) throws -> [(label: String, probability: Float)] {
        let found = try observations(image).compactMap { $0 as? VNClassificationObservation }
        return found.map { ($0.identifier, $0.confidence) }
    }"""

_FITS = {
    "fill": (".scaleFill", "all of it, stretched"),
    "crop": (".centerCrop", "as much of its middle as they hold"),
    "pad": (".scaleFit", "all of it, with a margin"),
}
"""Vision's names of how images get their size, and what is said of it, by those of `ImageEntry.fit`."""


def image_snippet(package: CardPackage, type_name: str, task: str, call: str, constants: str) -> str:
    """Writes a type around a task's method.

    Args:
        package: Its program takes an image.
        type_name: Of the struct.
        task: The method, for the outputs as arrays; of a Core ML classifier it is another one.
        call: The method's name.
        constants: Properties of the struct.
    """
    manifest, image = package.manifest, package.manifest.image
    assert image is not None
    program = manifest.programs[0]
    is_classifier = manifest.form.class_labels
    option, how = _FITS.get(image.fit, _FITS["fill"])
    dtypes = {tensor.dtype for tensor in package.default_function.outputs if tensor.shape}
    dtype = "Float16" if dtypes == {"float16"} else "Float32"
    return _FRAME.format(
        type_name=type_name,
        constants="" if is_classifier else constants,
        mlpackage=program.path,
        load_model=load_model(program).replace("        model = ", "        let loaded = "),
        height=image.height,
        width=image.width,
        how=how,
        option=option,
        task=_CLASSIFIER if is_classifier else _PREDICT.format(dtype=dtype, task=_of_image(task)),
        call=call,
    )


def _of_image(task: str) -> str:
    """A method that takes the numbers of a row, taking an image."""
    return task.replace("_ values: [Float]", "_ image: CGImage").replace("predict(values)", "predict(image)")
