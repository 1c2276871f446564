"""The Swift of a card for an encoder and a decoder that writes of what it read: of texts, of images, of sounds.

`MLModel.makeState()` and `prediction(from:using:)` are of iOS 18 and macOS 15, as is a model's choice of a function by
`MLModelConfiguration.functionName`. Core ML makes an image of a program's size of a `CGImage`:
`MLFeatureValue(cgImage:pixelsWide:pixelsHigh:pixelFormatType:options:)`.
"""

from __future__ import annotations

from optimum_ane.hub.card_package import CardPackage
from optimum_ane.hub.markdown import swift_string
from optimum_ane.hub.swift import UNITS
from optimum_ane.hub.swift_speech import READ_SAMPLES
from optimum_ane.hub.swift_tokenizer import load_tokenizer, tokenizer_imports
from optimum_ane.package.manifest import TensorEntry

_STATES = """\
{imports}

final class Writer {{
{constants}
    private let encoder: MLModel, begin: MLModel, infer: MLModel{mel_property}
    private let state: MLState
    private let tokenizer: any Tokenizer
    private let context = {context}, columns = {columns}
    private let ends: Set<Int> = [{ends}], padding = {padding}

    /// - Parameter folder: holds {files} and the tokenizer's files, as downloaded.
    init(folder: URL) async throws {{
        // Compiling takes a while. Keep what it gives, or add the programs to the app in Xcode, which compiles them
        // when the app is built.
        func load(_ name: String, _ function: String? = nil, _ units: MLComputeUnits) async throws -> MLModel {{
            let configuration = MLModelConfiguration()
            configuration.computeUnits = units
            if let function {{ configuration.functionName = function }}
            let compiled = try await MLModel.compileModel(at: folder.appendingPathComponent(name))
            return try await MLModel.load(contentsOf: compiled, configuration: configuration)
        }}
        encoder = try await load({encoder}, nil, {units})
        begin = try await load({decoder}, "begin", {units})
        infer = try await load({decoder}, "infer", {units}){load_mel}
        state = infer.makeState()
{load_tokenizer}
    }}

{source}

    /// Writes on from the tokens that a text begins with, always taking the most probable one.
    private func write(of encoded: MLFeatureValue, seen: Int, after prompt: [Int]) throws -> String {{
        // Keys and values of the source are made once and stay in the state.
        _ = try begin.prediction(
            from: MLDictionaryFeatureProvider(dictionary: ["encoder_hidden_states": encoded]), using: state)
        let source: [{dtype}] = (0..<columns).map {{ $0 < seen ? 0 : -3e4 }}
        let shown = MLFeatureValue(shapedArray: MLShapedArray<{dtype}>(scalars: source, shape: [1, 1, 1, columns]))
        var tokens = prompt
        for position in 0..<context {{
            let mask: [{dtype}] = (0..<context).map {{ $0 <= position ? 0 : -3e4 }}
            let output = try infer.prediction(from: MLDictionaryFeatureProvider(dictionary: [
                "input_ids": MLFeatureValue(
                    shapedArray: MLShapedArray<Int32>(scalars: [Int32(tokens[position])], shape: [1, 1])),
                "position": MLFeatureValue(shapedArray: MLShapedArray<Int32>(scalars: [Int32(position)], shape: [1])),
                "causal_mask": MLFeatureValue(
                    shapedArray: MLShapedArray<{dtype}>(scalars: mask, shape: [1, 1, 1, context])),
                "encoder_mask": shown,
            ]), using: state)
            if position + 1 < tokens.count {{ continue }}
            var logits = MLShapedArray<Float>(converting: output.featureValue(for: "logits")!.multiArrayValue!).scalars
            if !ends.contains(padding) {{ logits[padding] = -.infinity }}
            let token = logits.indices.max {{ logits[$0] < logits[$1] }}!
            if ends.contains(token) {{ break }}
            tokens.append(token)
        }}
        return tokenizer.decode(tokens: Array(tokens.dropFirst(prompt.count)), skipSpecialTokens: true)
    }}
}}

func example(folder: URL{argument}) async throws {{
    let writer = try await Writer(folder: folder)
    print(try writer.write({call}))
}}"""

_OF_TEXT = """\
    /// Writes of a text, which loses its end where it is longer than the package.
    func write(_ text: String) throws -> String {{
        var tokens = tokenizer.encode(text: text)
        if tokens.count > {length} {{ tokens = Array(tokens.prefix({kept})){trailing} }}
        let filling = {length} - tokens.count
        let ids = tokens.map {{ Int32($0) }} + [Int32](repeating: {padding}, count: filling)
        let mask = [Int32](repeating: 1, count: tokens.count) + [Int32](repeating: 0, count: filling)
        let output = try encoder.prediction(from: MLDictionaryFeatureProvider(dictionary: [
            "input_ids": MLFeatureValue(shapedArray: MLShapedArray<Int32>(scalars: ids, shape: [1, {length}])),
            "attention_mask": MLFeatureValue(shapedArray: MLShapedArray<Int32>(scalars: mask, shape: [1, {length}])),
        ]))
        let encoded = output.featureValue(for: "encoder_hidden_states")!
        return try write(of: encoded, seen: tokens.count, after: [{prompt}])
    }}"""

_OF_IMAGE = """\
    /// Writes of an image, which Core ML makes {height} × {width} pixels of.
    func write(_ image: CGImage) throws -> String {{
        let pixels = try MLFeatureValue(
            cgImage: image, pixelsWide: {width}, pixelsHigh: {height}, pixelFormatType: kCVPixelFormatType_32BGRA,
            options: [.cropAndScale: VNImageCropAndScaleOption.scaleFill.rawValue])
        let output = try encoder.prediction(from: MLDictionaryFeatureProvider(dictionary: ["pixel_values": pixels]))
        let encoded = output.featureValue(for: "encoder_hidden_states")!
        return try write(of: encoded, seen: {seen}, after: [{prompt}])
    }}"""

_OF_TENSOR = """\
    /// Writes of an image of {count} numbers, channels first, as preprocessor_config.json says.
    func write(_ values: [Float]) throws -> String {{
        let pixels = MLFeatureValue(shapedArray: MLShapedArray<Float>(scalars: values, shape: {shape}))
        let output = try encoder.prediction(from: MLDictionaryFeatureProvider(dictionary: ["pixel_values": pixels]))
        let encoded = output.featureValue(for: "encoder_hidden_states")!
        return try write(of: encoded, seen: {seen}, after: [{prompt}])
    }}"""

_OF_SOUND = """\
{read_samples}

    /// Writes what is said in up to {samples} samples; cut a longer sound into windows.
    func write(_ samples: [Float]) throws -> String {{
        let filling = [Float](repeating: 0, count: {samples} - samples.count)
        let audio = MLShapedArray<Float>(scalars: samples + filling, shape: [1, {samples}])
        let spectrum = try mel.prediction(from: MLDictionaryFeatureProvider(dictionary: [
            "audio": MLFeatureValue(shapedArray: audio),
        ]))
        let output = try encoder.prediction(from: MLDictionaryFeatureProvider(dictionary: [
            "input_features": spectrum.featureValue(for: "input_features")!,
        ]))
        let prompt = [{tokens}].map {{ tokenizer.convertTokenToId($0)! }}
        return try write(of: output.featureValue(for: "encoder_hidden_states")!, seen: {seen}, after: prompt)
    }}"""

_PASSED = """\
import CoreML

// Load encoder.mlpackage and decoder.mlpackage. What the encoder gives goes into the decoder with each token.
// For each token, from position 0 on and with the start token first: decoder.prediction(from: input_ids, position,
// causal_mask (0 up to position, −3e4 behind), encoder_mask (0 for the source's columns, −3e4 behind), kv_cache and
// what the encoder gave); copy new_rows into kv_cache at position; the next token is the best of logits. It ends with
// one of the end tokens, or with the context of {context} tokens."""

_SCALARS = {"float16": "Float16", "float32": "Float"}
_ENGLISH_ALONE = 51_864
"""Words of Whisper's vocabulary without languages; more are of those that know some."""
_ENGLISH = ("<|startoftranscript|>", "<|notimestamps|>")
_OF_LANGUAGES = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")


def encoder_decoder(package: CardPackage) -> str:
    """Writes a type that reads a source and writes its text; of caches that go in and out, how programs are called."""
    manifest = package.manifest
    form = manifest.form
    if form.kv_cache != "state":
        return _PASSED.format(context=form.context_length)
    programs = {program.name: program for program in manifest.programs}
    encoder, decoder = programs["encoder"], programs["decoder"]
    functions = {function.name: function for function in decoder.functions}
    mask = _named(functions["infer"].inputs, "encoder_mask")
    (encoded,) = functions["begin"].inputs
    (first, *_) = encoder.functions[0].inputs
    kind = "sound" if "mel" in programs else first.name
    imports = ["import CoreML", "import Foundation"]
    constants, argument, call = "", "", '"The film was worth every minute."'
    if kind == "sound":
        imports.insert(0, "import AVFoundation")
        audio = _named(programs["mel"].functions[0].inputs, "audio")
        rate = (manifest.audio.sampling_rate if manifest.audio is not None else None) or 16_000
        constants, argument, call = f"    static let rate = {rate}.0", ", sound: URL", "Writer.samples(of: sound)"
        words = package.model_config.get("vocab_size")
        tokens = _ENGLISH if words == _ENGLISH_ALONE else _OF_LANGUAGES
        source = _OF_SOUND.format(
            read_samples=READ_SAMPLES,
            samples=audio.shape[-1],
            tokens=", ".join(map(swift_string, tokens)),
            seen=encoded.shape[1],
        )
    elif kind == "pixel_values":
        argument, call = ", image: CGImage", "image"
        source = _image_source(package, first, encoded.shape[1])
        if not _is_image(package):
            argument, call = ", values: [Float]", "values"
        else:
            imports += ["import Vision"]
    else:
        trailing = 1 if manifest.tokenizer is None else manifest.tokenizer.trailing
        source = _OF_TEXT.format(
            length=first.shape[-1],
            kept=f"{first.shape[-1]} - {trailing}" if trailing else first.shape[-1],
            trailing=f" + tokens.suffix({trailing})" if trailing else "",
            padding=package.padding_id,
            prompt=_prompt(package),
        )
    snippet = _STATES.format(
        imports="\n".join([*imports, *tokenizer_imports(manifest)]),
        constants=constants,
        mel_property=", mel: MLModel" if kind == "sound" else "",
        context=form.context_length,
        columns=mask.shape[-1],
        ends=", ".join(map(str, _ends(package))),
        padding=package.padding_id,
        files=", ".join(program.path for program in manifest.programs),
        encoder=swift_string(encoder.path),
        decoder=swift_string(decoder.path),
        units=UNITS.get(encoder.compute_units, ".all"),
        load_mel=_load_mel(package) if kind == "sound" else "",
        load_tokenizer=load_tokenizer(manifest),
        source=source,
        dtype=_SCALARS.get(mask.dtype, "Float"),
        argument=argument,
        call=call,
    )
    return snippet.replace("final class Writer {\n\n", "final class Writer {\n")


def _image_source(package: CardPackage, pixels: TensorEntry, seen: int) -> str:
    image = package.manifest.image
    if image is not None and _is_image(package):
        return _OF_IMAGE.format(height=image.height, width=image.width, seen=seen, prompt=_prompt(package))
    count = " × ".join(map(str, pixels.shape[1:]))
    return _OF_TENSOR.format(count=count, shape=list(pixels.shape), seen=seen, prompt=_prompt(package))


def _is_image(package: CardPackage) -> bool:
    """Whether the program takes an image of Core ML's, and normalises it."""
    return package.manifest.image is not None and package.manifest.image.normalization is not None


def _prompt(package: CardPackage) -> str:
    """What every text begins with: the start token, and the one that is forced behind it, of languages say.

    As `generate` has it, what the configuration of generation says comes first.
    """
    decoder = package.model_config.get("decoder")
    places = (package.generation_config, package.model_config, decoder if isinstance(decoder, dict) else {})
    found: list[int] = []
    for names in (("decoder_start_token_id", "bos_token_id"), ("forced_bos_token_id",)):
        values = [place.get(name) for name in names for place in places]
        found += [value for value in values if isinstance(value, int)][:1]
    return ", ".join(map(str, found or [package.padding_id]))


def _ends(package: CardPackage) -> tuple[int, ...]:
    ends = package.end_ids
    own = package.model_config.get("eos_token_id")
    return ends or ((own,) if isinstance(own, int) else ())


def _load_mel(package: CardPackage) -> str:
    mel = package.manifest.program("mel")
    units = UNITS.get(mel.compute_units, ".all")
    return f"\n        mel = try await load({swift_string(mel.path)}, nil, {units})"


def _named(tensors: tuple[TensorEntry, ...], name: str) -> TensorEntry:
    return next(tensor for tensor in tensors if tensor.name == name)
