"""The Swift of a card for language models with a cache in states: prompts are read in blocks, answers token by token.

`MLModel.makeState()` and `prediction(from:using:)` are of iOS 18 and macOS 15, as is a model's choice of a function by
`MLModelConfiguration.functionName`. A state that one function of a program made is good for its others.
"""

from __future__ import annotations

from optimum_ane.hub.card_package import CardPackage
from optimum_ane.hub.markdown import swift_string
from optimum_ane.hub.swift import UNITS
from optimum_ane.hub.swift_tokenizer import load_tokenizer, tokenizer_imports

_FRAME = """\
import CoreML
import Foundation
{imports}

final class LanguageModel {{
    /// A program of the package: the functions that read one token and a block of them, and its keys and values.
    private struct Part {{
        let infer: MLModel
        let prefill: MLModel
        let state: MLState
    }}

    private let parts: [Part]
    private let tokenizer: any Tokenizer
    private let context = {context}, block = {block}
    private let ends: Set<Int> = [{ends}]
    private var read: [Int] = []  // the tokens whose keys and values are in the states

    /// - Parameter folder: holds {files} and the tokenizer's files, as downloaded.
    init(folder: URL) async throws {{
        // Compiling takes a while. Keep what it gives, or add the programs to the app in Xcode, which compiles them
        // when the app is built.
        var parts: [Part] = []
        for name in [{programs}] {{
            let compiled = try await MLModel.compileModel(at: folder.appendingPathComponent(name))
            func load(_ function: String) async throws -> MLModel {{
                let configuration = MLModelConfiguration()
                configuration.computeUnits = {units}
                configuration.functionName = function
                return try await MLModel.load(contentsOf: compiled, configuration: configuration)
            }}
            let infer = try await load("infer")
            parts.append(Part(infer: infer, prefill: try await load("prefill"), state: infer.makeState()))
        }}
        self.parts = parts
{load_tokenizer}
    }}

    /// Answers messages by the model's chat template, and gives each piece of text as it comes.
    func answer(_ messages: [[String: String]], maxNewTokens: Int = 256, onText: (String) -> Void) throws {{
        try write(after: tokenizer.applyChatTemplate(messages: messages), maxNewTokens, onText)
    }}

    /// Writes on from a text.
    func complete(_ text: String, maxNewTokens: Int = 256, onText: (String) -> Void) throws {{
        try write(after: tokenizer.encode(text: text), maxNewTokens, onText)
    }}

    private func write(after prompt: [Int], _ maxNewTokens: Int, _ onText: (String) -> Void) throws {{
        precondition(!prompt.isEmpty && prompt.count <= context, "the prompt has to fit into \\(context) tokens")
        // What the text has in common with the one before is in the states: masks hide the rows behind it.
        let common = zip(prompt.dropLast(), read).prefix {{ $0 == $1 }}.count
        read.removeSubrange(common...)
        while read.count < prompt.count - 1 {{
            // The last block begins earlier where it would run past the context, and writes the same rows again.
            let first = min(read.count, context - block)
            let tokens = Array(prompt[first..<min(first + block, prompt.count - 1)])
            _ = try run(tokens, first: first, length: block)
            read = Array(prompt[..<(first + tokens.count)])
        }}
        var token = prompt.last!
        var written: [Int] = []
        var shown = ""
        for _ in 0..<maxNewTokens where read.count < context {{
            let logits = try run([token], first: read.count, length: 1)!
            read.append(token)
            token = logits.indices.max {{ logits[$0] < logits[$1] }}!
            if ends.contains(token) {{ break }}
            written.append(token)
            let text = tokenizer.decode(tokens: written, skipSpecialTokens: true)
            if text.hasPrefix(shown) && !text.hasSuffix("\\u{{FFFD}}") {{
                onText(String(text.dropFirst(shown.count)))
                shown = text
            }}
        }}
    }}

    /// Reads tokens from a position on; gives the scores of what follows, where it is one token.
    private func run(_ tokens: [Int], first: Int, length: Int) throws -> [Float]? {{
        let ids = tokens.map {{ Int32($0) }} + Array(repeating: 0, count: length - tokens.count)
        var mask: [{dtype}] = Array(repeating: -3e4, count: length * context)
        for row in 0..<length {{
            for column in 0..<min(first + row + 1, context) {{ mask[row * context + column] = 0 }}
        }}
        let position = MLFeatureValue(shapedArray: MLShapedArray<Int32>(scalars: [Int32(first)], shape: [1]))
        let hidden = MLFeatureValue(shapedArray: MLShapedArray<{dtype}>(scalars: mask, shape: [1, 1, length, context]))
        var value = MLFeatureValue(shapedArray: MLShapedArray<Int32>(scalars: ids, shape: [1, length]))
        for (index, part) in parts.enumerated() {{
            let model = length == 1 ? part.infer : part.prefill
            let inputs = try MLDictionaryFeatureProvider(dictionary: [
                index == 0 ? "input_ids" : "hidden_states": value, "position": position, "causal_mask": hidden,
            ])
            let output = try model.prediction(from: inputs, using: part.state)
            value = output.featureValue(for: output.featureNames.first!)!
        }}
        return length == 1 ? MLShapedArray<Float>(converting: value.multiArrayValue!).scalars : nil
    }}
}}

func example(folder: URL) async throws {{
    let model = try await LanguageModel(folder: folder)
    {call} {{ print($0, terminator: "") }}
}}"""

_PASSED = """\
import CoreML
import Foundation

/// Reads one token after another. The cache is an input: what a token adds to it is written here.
final class LanguageModel {{
    private let model: MLModel
    private var cache = MLShapedArray<{dtype}>(repeating: 0, shape: {shape})
    private let context = {context}

    /// - Parameter folder: holds {files}, as downloaded.
    init(folder: URL) async throws {{
        let configuration = MLModelConfiguration()
        configuration.computeUnits = {units}{function}
        let compiled = try await MLModel.compileModel(at: folder.appendingPathComponent({programs}))
        model = try await MLModel.load(contentsOf: compiled, configuration: configuration)
    }}

    /// The scores of what follows a token at a position, which counts the tokens before it.
    func scores(after token: Int, at position: Int) throws -> [Float] {{
        precondition(position < context, "the cache holds \\(context) tokens")
        let mask: [{dtype}] = (0..<context).map {{ $0 <= position ? 0 : -3e4 }}
        let output = try model.prediction(from: MLDictionaryFeatureProvider(dictionary: [
            "input_ids": MLFeatureValue(shapedArray: MLShapedArray<Int32>(scalars: [Int32(token)], shape: [1, 1])),
            "position": MLFeatureValue(shapedArray: MLShapedArray<Int32>(scalars: [Int32(position)], shape: [1])),
            "causal_mask": MLFeatureValue(
                shapedArray: MLShapedArray<{dtype}>(scalars: mask, shape: [1, 1, 1, context])),
            "kv_cache": MLFeatureValue(shapedArray: cache),
        ]))
        let rows = MLShapedArray<{dtype}>(converting: output.featureValue(for: "new_rows")!.multiArrayValue!)
        for layer in 0..<{layers} {{
            for head in 0..<{heads} {{ cache[layer, head, position] = rows[layer, head, 0] }}
        }}
        return MLShapedArray<Float>(converting: output.featureValue(for: "logits")!.multiArrayValue!).scalars
    }}
}}

func example(folder: URL) async throws {{
    let model = try await LanguageModel(folder: folder)
    print(try model.scores(after: 1, at: 0).count)
}}"""

_SCALARS = {"float16": "Float16", "float32": "Float"}


def language_model(package: CardPackage) -> str:
    """Writes the Swift of a package whose cache is in states, or in inputs and outputs."""
    manifest = package.manifest
    form, first = manifest.form, manifest.programs[0]
    has_template = "chat_template.jinja" in manifest.files
    call = (
        'try model.answer([["role": "user", "content": "What is the capital of France?"]])'
        if has_template
        else 'try model.complete("Once upon a time")'
    )
    names = [swift_string(program.path) for program in manifest.programs]
    mask = next(tensor for tensor in first.functions[0].inputs if tensor.name == "causal_mask")
    if form.kv_cache == "io":
        cache = next(tensor for tensor in first.functions[0].inputs if tensor.name == "kv_cache")
        name = swift_string(first.functions[0].name)
        return _PASSED.format(
            dtype=_SCALARS.get(mask.dtype, "Float"),
            shape=list(cache.shape),
            layers=cache.shape[0],
            heads=cache.shape[1],
            context=form.context_length,
            files=first.path,
            programs=swift_string(first.path),
            units=UNITS.get(first.compute_units, ".all"),
            function=f"\n        configuration.functionName = {name}" if len(first.functions) > 1 else "",
        )
    return _FRAME.format(
        imports="\n".join(tokenizer_imports(manifest)),
        context=form.context_length,
        block=form.prefill_length,
        ends=", ".join(map(str, package.end_ids)),
        files=", ".join(program.path for program in manifest.programs),
        programs=", ".join(names),
        units=UNITS.get(first.compute_units, ".all"),
        load_tokenizer=load_tokenizer(manifest),
        dtype=_SCALARS.get(mask.dtype, "Float"),
        call=call,
    )
