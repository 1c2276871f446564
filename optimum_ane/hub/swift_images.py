"""The Swift of a card for packages that take images: a type that passes them through Vision, which resizes them.

Every call is documented by Apple: `VNCoreMLModel(for:)`, `VNCoreMLRequest` with its `imageCropAndScaleOption`,
`VNImageRequestHandler(cgImage:options:)`, and the observations: `VNClassificationObservation` of a classifier,
`VNPixelBufferObservation` of a program that gives an image, `VNCoreMLFeatureValueObservation` of any other.
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

_CLASS_MAP = """\
    /// The best class of each point of the image, row by row, and the extents of the map.
    func segment(_ image: CGImage) throws -> (classes: [Int32], height: Int, width: Int) {
        let map = try MLShapedArray<Int32>(converting: predict(image)["class_map"]!)
        return (map.scalars, map.shape[0], map.shape[1])
    }"""

_DEPTH_IMAGE = """\
    /// The distance of each point of the image, as an image of one channel in Float16. Vision gives no arrays of a
    /// program that gives an image.
    func depth(_ image: CGImage) throws -> CVPixelBuffer {
        let images = try observations(image).compactMap { $0 as? VNPixelBufferObservation }
        return images.first { $0.featureName == "depth" }!.pixelBuffer
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
    method = _method(package, task)
    option, how = _FITS.get(image.fit, _FITS["fill"])
    return _FRAME.format(
        type_name=type_name,
        constants="" if manifest.form.class_labels else constants,
        mlpackage=program.path,
        load_model=load_model(program).replace("        model = ", "        let loaded = "),
        height=image.height,
        width=image.width,
        how=how,
        option=option,
        task=method,
        call=call,
    )


def _method(package: CardPackage, task: str) -> str:
    """The method of a task, with what it calls."""
    form = package.manifest.form
    if form.class_labels:
        return _CLASSIFIER
    if form.postprocess and form.task == "depth-estimation":
        return _DEPTH_IMAGE
    dtypes = {tensor.dtype for tensor in package.default_function.outputs if tensor.dtype.startswith("float")}
    is_map = form.postprocess and form.task == "image-segmentation"
    return _PREDICT.format(
        dtype="Float16" if dtypes == {"float16"} else "Float32", task=_CLASS_MAP if is_map else of_image(task)
    )


def of_image(task: str) -> str:
    """A method that takes the numbers of a row, taking an image."""
    return task.replace("_ values: [Float]", "_ image: CGImage").replace("predict(values)", "predict(image)")
