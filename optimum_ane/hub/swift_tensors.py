"""The Swift of a card for images and sounds: what is done with the outputs, and a type that takes processed numbers.

Packages that take images have another type around it, that of `swift_images`.
"""

from __future__ import annotations

from math import prod

from optimum_ane.hub.card_package import CardPackage
from optimum_ane.hub.markdown import swift_string
from optimum_ane.hub.swift import load_model
from optimum_ane.hub.swift_images import image_snippet, of_image
from optimum_ane.hub.swift_letterbox import letterboxed_snippet
from optimum_ane.package.manifest import ImageEntry, TensorEntry

_FRAME = """\
import CoreML
import Foundation

struct {type_name} {{
    let model: MLModel{constants}

    /// - Parameter folder: holds {mlpackage}, as downloaded.
    init(folder: URL) async throws {{
{load_model}
    }}

    /// - Parameter values: {values}
    func predict(_ values: [Float]) throws -> MLFeatureProvider {{
        precondition(values.count == {count}, "the package takes {count} numbers")
        {rows}
        return try model.prediction(from: MLDictionaryFeatureProvider(dictionary: [
{features}
        ]))
    }}

    /// An output without its batch dimension. It is {dtype} in the package.
    func row(_ name: String, of output: MLFeatureProvider) -> MLShapedArraySlice<Float> {{
        MLShapedArray<Float>(converting: output.featureValue(for: name)!.multiArrayValue!)[0]
    }}

{task}
}}

func example(folder: URL) async throws {{
    let model = try await {type_name}(folder: folder)
    // Zeros stand for what you read from a file.
    print(try model.{call}(Array(repeating: 0, count: {count})))
}}"""

_CLASSIFY = """\
    /// The most probable label, and its probability: the softmax of the scores.
    func classify(_ values: [Float]) throws -> (label: String, probability: Float) {
        let scores = try row("logits", of: predict(values)).scalars
        let best = scores.indices.max { scores[$0] < scores[$1] }!
        return (labels[best], 1 / scores.reduce(Float(0)) { $0 + exp($1 - scores[best]) })
    }"""

_ENCODE = """\
    /// The last hidden state, and its extents.
    func encode(_ values: [Float]) throws -> (states: [Float], shape: [Int]) {
        let states = try row("last_hidden_state", of: predict(values))
        return (states.scalars, states.shape)
    }"""


_DETECT = """\
    /// Boxes whose probability is above a threshold: centre x and y, width and height as parts of the image's extents.
    func detect(
        _ values: [Float], above threshold: Float = 0.5
    ) throws -> [(label: String, probability: Float, box: [Float])] {{
        let output = try predict(values)
        let scores = try row("logits", of: output), boxes = try row("pred_boxes", of: output)
        return scores.indices.compactMap {{ query in
            let own = scores[query].scalars
            {probabilities}
            let best = labels.indices.max {{ all[$0] < all[$1] }}!
            return all[best] > threshold ? (labels[best], all[best], boxes[query].scalars) : nil
        }}
    }}"""
_OF_ALL = """\
// The last score is that of no object.
            let sum = own.reduce(Float(0)) { $0 + exp($1) }
            let all = own.map { exp($0) / sum }"""
_EACH = "let all = own.map { 1 / (1 + exp(-$0)) }"

_SEGMENT = """\
    /// The best class of each point, row by row, and the extents of the map.
    func segment(_ values: [Float]) throws -> (classes: [Int], height: Int, width: Int) {
        let scores = try row("logits", of: predict(values))
        let (height, width) = (scores.shape[1], scores.shape[2])
        let all = scores.scalars, points = height * width
        let classes = (0..<points).map { point in
            labels.indices.max { all[$0 * points + point] < all[$1 * points + point] }!
        }
        return (classes, height, width)
    }"""

_MEASURE = """\
    /// The distance of each point, row by row, and the extents of the map.
    func depth(_ values: [Float]) throws -> (distances: [Float], height: Int, width: Int) {
        let depth = try row("predicted_depth", of: predict(values))
        return (depth.scalars, depth.shape[0], depth.shape[1])
    }"""


def classification(package: CardPackage) -> str:
    """A label with its probability."""
    return _snippet(package, "Classifier", _CLASSIFY, "classify", _labels(package))


def detection(package: CardPackage) -> str:
    """Labels with probabilities and boxes: a softmax where the scores have one more entry, for no object."""
    (queries_by_classes,) = (tensor.shape for tensor in package.default_function.outputs if tensor.name == "logits")
    has_none = queries_by_classes[-1] > len(package.labels)
    task = _DETECT.format(probabilities=_OF_ALL if has_none else _EACH)
    return _snippet(package, "Detector", task, "detect", _labels(package))


def segmentation(package: CardPackage) -> str:
    """A class for each point."""
    return _snippet(package, "Segmenter", _SEGMENT, "segment", _labels(package))


def depth(package: CardPackage) -> str:
    """A distance for each point."""
    return _snippet(package, "DepthEstimator", _MEASURE, "depth", "")


def features(package: CardPackage) -> str:
    """Hidden states."""
    return _snippet(package, "Encoder", _ENCODE, "encode", "")


def _labels(package: CardPackage) -> str:
    return f"\n    let labels = [{', '.join(map(swift_string, package.labels))}]"


def _snippet(package: CardPackage, kind: str, task: str, call: str, constants: str) -> str:
    manifest, function = package.manifest, package.default_function
    type_name = f"{package.task.modality.title()}{kind}"
    if manifest.image is not None and manifest.image.normalization is not None:
        if manifest.form.letterbox:
            return letterboxed_snippet(package, type_name, of_image(task), call, constants)
        return image_snippet(package, type_name, task, call, constants)
    rows = function.inputs[0].shape[0]
    count = prod(function.inputs[0].shape[1:])
    dtypes = {tensor.dtype for tensor in function.outputs if tensor.shape}
    return _FRAME.format(
        type_name=type_name,
        constants=constants,
        mlpackage=manifest.programs[0].path,
        load_model=load_model(manifest.programs[0]),
        values=_meaning(package, function.inputs[0]),
        count=count,
        rows="let scalars = values"
        if rows == 1
        else f"// {rows} rows at a time: all hold the same here.\n        "
        f"let scalars = Array(repeating: values, count: {rows}).flatMap {{ $0 }}",
        features="\n".join(
            f"            {swift_string(tensor.name)}: {_feature(tensor)}," for tensor in function.inputs
        ),
        dtype="Float16" if dtypes == {"float16"} else "Float32",
        task=task,
        call=call,
    )


def _feature(tensor: TensorEntry) -> str:
    shape = ", ".join(map(str, tensor.shape))
    if tensor.dtype == "int32":  # a mask
        return f"MLFeatureValue(shapedArray: MLShapedArray<Int32>(repeating: 1, shape: [{shape}]))"
    return f"MLFeatureValue(shapedArray: MLShapedArray<Float>(scalars: scalars, shape: [{shape}]))"


def _meaning(package: CardPackage, tensor: TensorEntry) -> str:
    """What the numbers are, in a comment."""
    extents = " × ".join(map(str, tensor.shape[1:]))
    image = package.manifest.image
    if image is None:
        return f"a sound as preprocessor_config.json says, {extents} numbers."
    return f"an image of {extents} numbers, channels first{_normalized(image)}."


def _normalized(image: ImageEntry) -> str:
    if not image.mean or not image.std:
        return ", resized and rescaled as preprocessor_config.json says"
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (image.mean, image.std))
    factor = "" if image.rescale_factor is None else f" · {image.rescale_factor:.8g}"
    return f": (value{factor} − [{mean}]) / [{std}], channel by channel, of values 0 to 255 in RGB"
