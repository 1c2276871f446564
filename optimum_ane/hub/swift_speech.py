"""The Swift of a card for speech: a file becomes samples by AVFoundation, samples become text by the package.

`AVAudioFile`, `AVAudioConverter` and `AVAudioPCMBuffer` are documented by Apple (AVFAudio).
"""

from __future__ import annotations

from optimum_ane.hub.card_package import CardPackage
from optimum_ane.hub.swift import load_model
from optimum_ane.hub.swift_tensors import features

READ_SAMPLES = """\
    /// The samples of a sound file of any rate and number of channels, in one channel and at the model's rate.
    static func samples(of url: URL) throws -> [Float] {
        let file = try AVAudioFile(forReading: url)
        let format = AVAudioFormat(
            commonFormat: .pcmFormatFloat32, sampleRate: rate, channels: 1, interleaved: false)!
        let source = AVAudioPCMBuffer(
            pcmFormat: file.processingFormat, frameCapacity: AVAudioFrameCount(file.length))!
        try file.read(into: source)
        let ratio = rate / file.processingFormat.sampleRate
        let target = AVAudioPCMBuffer(
            pcmFormat: format, frameCapacity: AVAudioFrameCount(Double(source.frameLength) * ratio) + 1024)!
        let converter = AVAudioConverter(from: file.processingFormat, to: format)!
        var isGiven = false
        var failure: NSError?
        converter.convert(to: target, error: &failure) { _, status in
            status.pointee = isGiven ? .endOfStream : .haveData
            defer { isGiven = true }
            return isGiven ? nil : source
        }
        if let failure { throw failure }
        return Array(UnsafeBufferPointer(start: target.floatChannelData![0], count: Int(target.frameLength)))
    }"""
"""A static function of a type that has a static `rate`."""

_CTC = """\
import AVFoundation
import CoreML
import Foundation

struct SpeechRecognizer {{
    static let rate = {rate}.0
    let model: MLModel
    let vocabulary: [Int: String]
    let length = {length}, blank = {blank}

    /// - Parameter folder: holds {mlpackage} and vocab.json, as downloaded.
    init(folder: URL) async throws {{
{load_model}
        let file = try Data(contentsOf: folder.appendingPathComponent("vocab.json"))
        let ids = try JSONDecoder().decode([String: Int].self, from: file)
        vocabulary = Dictionary(uniqueKeysWithValues: ids.map {{ ($0.value, $0.key) }})
    }}

{read_samples}

    /// What is said in a sound that fits into the package; cut a longer one into parts that overlap.
    func transcribe(_ samples: [Float]) throws -> String {{
        precondition(!samples.isEmpty && samples.count <= length, "the package takes \\(length) samples")
{normalize}
        let padding = [Float](repeating: {padding}, count: length - samples.count)
        let input = MLShapedArray<Float>(scalars: values + padding, shape: [1, length]){mask}
        let output = try model.prediction(from: MLDictionaryFeatureProvider(dictionary: [
{features}
        ]))
        let logits = MLShapedArray<Float>(converting: output.featureValue(for: "logits")!.multiArrayValue!)[0]
        // The frames of the sound itself, without those of what it was filled up with.
        var frames = samples.count
        for (kernel, stride) in zip({kernels}, {strides}) {{ frames = (frames - kernel) / stride + 1 }}
        // CTC: of a letter that stays for several frames one is read, and of blanks none.
        var text = "", last = blank
        for frame in 0..<max(0, min(frames, logits.shape[0])) {{
            let scores = logits[frame].scalars
            let best = scores.indices.max {{ scores[$0] < scores[$1] }}!
            if best != last && best != blank {{ text += vocabulary[best] ?? "" }}
            last = best
        }}
        return text.replacingOccurrences(of: "|", with: " ").trimmingCharacters(in: .whitespaces)
    }}
}}

func example(folder: URL, sound: URL) async throws {{
    let recognizer = try await SpeechRecognizer(folder: folder)
    print(try recognizer.transcribe(SpeechRecognizer.samples(of: sound)))
}}"""

_NORMALIZE = """\
        // The feature extractor brings each sound to mean 0 and variance 1.
        let mean = samples.reduce(0, +) / Float(samples.count)
        let variance = samples.reduce(Float(0)) { $0 + ($1 - mean) * ($1 - mean) } / Float(samples.count)
        let values = samples.map { ($0 - mean) / (variance + 1e-7).squareRoot() }"""

_MASK = """
        let mask = [Int32](repeating: 1, count: samples.count) + [Int32](repeating: 0, count: padding.count)"""

_FEATURES = {
    "input_values": '            "input_values": MLFeatureValue(shapedArray: input),',
    "attention_mask": '            "attention_mask": MLFeatureValue(\n'
    "                shapedArray: MLShapedArray<Int32>(scalars: mask, shape: [1, length])),",
}


def ctc(package: CardPackage) -> str:
    """A sound of samples to text. Of spectrograms, whose making is the app's, the numbers alone."""
    manifest, function = package.manifest, package.default_function
    names = [tensor.name for tensor in function.inputs]
    kernels, strides = (package.model_config.get(name) for name in ("conv_kernel", "conv_stride"))
    is_known = isinstance(kernels, list) and isinstance(strides, list)
    if manifest.audio is None or not is_known or not set(names) <= _FEATURES.keys() or manifest.form.batch_size != 1:
        return features(package)
    audio = manifest.audio
    return _CTC.format(
        rate=audio.sampling_rate or 16_000,
        length=audio.length,
        blank=package.padding_id,
        mlpackage=manifest.programs[0].path,
        load_model=load_model(manifest.programs[0]),
        read_samples=READ_SAMPLES,
        normalize=_NORMALIZE if audio.is_normalized else "        let values = samples",
        padding=f"{audio.padding_value:g}",
        mask=_MASK if "attention_mask" in names else "",
        features="\n".join(_FEATURES[name] for name in names),
        kernels=[int(each) for each in kernels or ()],
        strides=[int(each) for each in strides or ()],
    )
