"""The Swift of a card for detectors whose images keep their proportions: it draws the image, and says where it is.

Vision places an image in a larger one by rules of its own, so that the app draws it here, as the checkpoint's image
processor does: at the top and on the left. Every call is documented by Apple: `CGContext`, `CGContext.makeImage()`,
`MLFeatureValue(cgImage:pixelsWide:pixelsHigh:pixelFormatType:options:)`, `MLShapedArray`.
"""

from __future__ import annotations

from optimum_ane.hub.card_package import CardPackage
from optimum_ane.hub.markdown import swift_string
from optimum_ane.hub.swift import load_model

_FRAME = """\
import CoreGraphics
import CoreML
import Foundation
import ImageIO

struct {type_name} {{
    let model: MLModel{constants}

    /// - Parameter folder: holds {mlpackage}, as downloaded.
    init(folder: URL) async throws {{
{load_model}
    }}

    /// The outputs for an image that is drawn as large as it fits into {width} × {height} pixels, at the top left.
    /// Boxes are parts of the image itself. The package normalises it.
    func predict(_ image: CGImage) throws -> MLFeatureProvider {{
        let scale = min({width} / Double(image.width), {height} / Double(image.height))
        let wide = min({width}, Int((scale * Double(image.width)).rounded()))
        let high = min({height}, Int((scale * Double(image.height)).rounded()))
        let canvas = CGContext(
            data: nil, width: {width}, height: {height}, bitsPerComponent: 8, bytesPerRow: 0,
            space: CGColorSpace(name: CGColorSpace.sRGB)!, bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)!
        canvas.interpolationQuality = .high
        canvas.draw(image, in: CGRect(x: 0, y: {height} - high, width: wide, height: high))  // y counts from below
        var isImage = [Int32](repeating: 0, count: {width} * {height})
        for row in 0..<high {{
            for column in 0..<wide {{ isImage[row * {width} + column] = 1 }}
        }}
        let pixels = try MLFeatureValue(
            cgImage: canvas.makeImage()!, pixelsWide: {width}, pixelsHigh: {height},
            pixelFormatType: kCVPixelFormatType_32BGRA, options: nil)
        let mask = MLShapedArray<Int32>(scalars: isImage, shape: [1, {height}, {width}])
        return try model.prediction(from: MLDictionaryFeatureProvider(dictionary: [
            {pixels}: pixels, {mask}: MLFeatureValue(shapedArray: mask),
        ]))
    }}

    /// An output without its batch dimension. It is {dtype} in the package.
    func row(_ name: String, of output: MLFeatureProvider) -> MLShapedArraySlice<Float> {{
        MLShapedArray<Float>(converting: output.featureValue(for: name)!.multiArrayValue!)[0]
    }}

{task}
}}

func example(folder: URL, photo: URL) async throws {{
    let model = try await {type_name}(folder: folder)
    let source = CGImageSourceCreateWithURL(photo as CFURL, nil)!
    let image = CGImageSourceCreateImageAtIndex(source, 0, nil)!
    print(try model.{call}(image))
}}"""


def letterboxed_snippet(package: CardPackage, type_name: str, task: str, call: str, constants: str) -> str:
    """Writes a type around a task's method.

    Args:
        package: Its program takes an image and a mask.
        type_name: Of the struct.
        task: The method, for the outputs as arrays, of an image.
        call: The method's name.
        constants: Properties of the struct.
    """
    manifest, image = package.manifest, package.manifest.image
    assert image is not None
    dtypes = {tensor.dtype for tensor in package.default_function.outputs if tensor.dtype.startswith("float")}
    return _FRAME.format(
        type_name=type_name,
        constants=constants,
        mlpackage=manifest.programs[0].path,
        load_model=load_model(manifest.programs[0]),
        height=image.height,
        width=image.width,
        pixels=swift_string("pixel_values"),
        mask=swift_string("pixel_mask"),
        dtype="Float16" if dtypes == {"float16"} else "Float32",
        task=task,
        call=call,
    )
