"""The Swift of a card: a whole type that loads this package, builds its true inputs and reads its true outputs.

Every call is documented by Apple (Core ML: `MLModel.compileModel(at:)` and `load(contentsOf:configuration:)`,
`MLModelConfiguration.functionName`, `MLShapedArray`, `MLFeatureValue(shapedArray:)`) or is one of swift-transformers
1.3. Predictions are made in functions that are not async: there, `prediction(from:)` is the one that every system has.
"""

from __future__ import annotations

from optimum_ane.hub.card_package import CardPackage
from optimum_ane.hub.markdown import swift_string
from optimum_ane.hub.swift_clients import client_snippet
from optimum_ane.hub.swift_tasks import SwiftTask
from optimum_ane.hub.swift_tokenizer import load_tokenizer, tokenizer_imports
from optimum_ane.package.form import GENERATION, TEXT_TO_TEXT
from optimum_ane.package.layout import MLPACKAGE_SUFFIX
from optimum_ane.package.manifest import Manifest, ProgramEntry
from optimum_ane.tasks import resolve

UNITS = {
    "cpu_and_ne": ".cpuAndNeuralEngine",
    "all": ".all",
    "cpu_and_gpu": ".cpuAndGPU",
    "cpu_only": ".cpuOnly",
}
"""Core ML's names of compute units."""

_FRAME = """\
import CoreML
import Foundation
{imports}

struct {type_name} {{
{properties}

    /// - Parameter folder: holds {mlpackage} and the tokenizer's files, as downloaded.
    init(folder: URL) async throws {{
{load_model}
{load_tokenizer}
    }}

{encode}

{predict}

{task}
}}

func example(folder: URL) async throws {{
{usage}
}}"""

_COMPILE = """\
        // Compiling takes a while. Keep what it gives, or add {mlpackage} to the app in Xcode, which compiles it when
        // the app is built: its URL is then Bundle.main.url(forResource: {stem}, withExtension: "mlmodelc").
        let compiled = try await MLModel.compileModel(at: folder.appendingPathComponent({name}))"""

_LOAD = """\
        let configuration = MLModelConfiguration()
        configuration.computeUnits = {units}
{compile}
        model = try await MLModel.load(contentsOf: compiled, configuration: configuration)"""

_LOAD_FUNCTIONS = """\
{compile}
        var functions: [(length: Int, model: MLModel)] = []
        for (name, tokens) in [{functions}] {{
            let configuration = MLModelConfiguration()
            configuration.computeUnits = {units}
            configuration.functionName = name
            let model = try await MLModel.load(contentsOf: compiled, configuration: configuration)
            functions.append((length: tokens, model: model))
        }}
        self.functions = functions"""

_ENCODE = """\
    /// Token ids with the special tokens; a text that is too long loses its end{kept}.
    func encode(_ text: String) -> [Int] {{
        let tokens = tokenizer.encode(text: text)
        if tokens.count <= length {{ return tokens }}
        return {cut}
    }}"""

_ENCODE_PAIR = """\
    /// Token ids of two texts with the special tokens, and where the second one starts; if both are too long together,
    /// the second one loses its end{kept}.
    func encode(_ first: String, _ second: String) -> (tokens: [Int], start: Int) {{
        var tokens = tokenizer.encode(text: first){separators}
        let start = tokens.count
        precondition(start < length, "the first text fills the package")
        tokens += tokenizer.encode(text: second).dropFirst({leading})
        if tokens.count > length {{ tokens = {cut} }}
        return (tokens, start)
    }}"""

_PREDICT = """\
    /// {what}
    func predict(_ tokens: [Int]{parameter}) throws -> MLFeatureProvider {{{choose}
        func feature(_ values: [Int], padding: Int) -> MLFeatureValue {{
            let row = values.map {{ Int32($0) }} + Array(repeating: Int32(padding), count: length - values.count)
{array}
            return MLFeatureValue(shapedArray: array)
        }}
        return try model.prediction(from: MLDictionaryFeatureProvider(dictionary: [
{features}
        ]))
    }}"""

_CHOOSE = """
        let (length, model) = functions.first { tokens.count <= $0.length }!"""

_ROW = """\
    /// An output without its batch dimension. It is {dtype} in the package.
    func row(_ name: String, of output: MLFeatureProvider) -> MLShapedArraySlice<Float> {{
        MLShapedArray<Float>(converting: output.featureValue(for: name)!.multiArrayValue!)[0]
    }}"""


def swift_snippet(package: CardPackage) -> str:
    """Writes the Swift that uses a package of one program, with one function or with one for each length.

    Args:
        package: The package; its inputs are int32 arrays of its batch size and length, as the exporter makes them.

    Raises:
        PackageError: The task is none that packages are made for.
    """
    manifest = package.manifest
    if manifest.form.layout != "native":
        return client_snippet(package)
    if manifest.form.has_cache and manifest.form.task == GENERATION:
        from optimum_ane.hub.swift_language_model import language_model

        return language_model(package)
    if package.task.modality != "text" or manifest.form.task == TEXT_TO_TEXT:
        snippet: str = resolve(package.task.swift)(package)
        return snippet
    task: SwiftTask = resolve(package.task.swift)(package)
    return _FRAME.format(
        imports="\n".join(tokenizer_imports(manifest)),
        type_name=task.type_name,
        properties=_properties(manifest, task),
        mlpackage=manifest.programs[0].path,
        load_model=load_model(manifest.programs[0]),
        load_tokenizer=load_tokenizer(manifest),
        encode=_encode(manifest, task.is_pair),
        predict=_predict(package, task.is_pair),
        task=task.code,
        usage=task.usage,
    )


def _properties(manifest: Manifest, task: SwiftTask) -> str:
    lines = ["let model: MLModel", "let tokenizer: any Tokenizer", f"let length = {manifest.form.longest}"]
    if _lengths(manifest.programs[0]):
        lines[0] = "let functions: [(length: Int, model: MLModel)]"
        lines.insert(0, "/// The package's functions with the tokens of their rows, the shortest first.")
    lines += [f"let {name} = {value}" for name, value in task.constants.items()]
    return "\n".join(f"    {line}" for line in lines)


def _lengths(program: ProgramEntry) -> list[tuple[int, str]]:
    """The tokens that each function takes, and its name, the shortest first; empty for a program with one function."""
    if len(program.functions) == 1:
        return []
    return sorted(
        (max((tensor.shape[-1] for tensor in function.inputs if tensor.shape), default=0), function.name)
        for function in program.functions
    )


def load_model(program: ProgramEntry) -> str:
    """The lines that compile and load a program, and set `model`, or `functions` of several."""
    stem = swift_string(program.path.removesuffix(MLPACKAGE_SUFFIX))
    compile = _COMPILE.format(mlpackage=program.path, stem=stem, name=swift_string(program.path))
    units = UNITS.get(program.compute_units, ".all")
    lengths = _lengths(program)
    if not lengths:
        return _LOAD.format(compile=compile, units=units)
    functions = ", ".join(f"({swift_string(name)}, {length})" for length, name in lengths)
    return _LOAD_FUNCTIONS.format(compile=compile, units=units, functions=functions)


def _encode(manifest: Manifest, is_pair: bool) -> str:
    entry = manifest.tokenizer
    leading, trailing, separators = (
        (1, 1, 0) if entry is None else (entry.leading, entry.trailing, entry.separators or 0)
    )
    cut = f"Array(tokens.prefix(length - {trailing})) + tokens.suffix({trailing})"
    if trailing == 0:
        cut = "Array(tokens.prefix(length))"
    kept = ", and keeps its last special token" if trailing else ""
    if not is_pair:
        return _ENCODE.format(cut=cut, kept=kept)
    between = "\n        tokens.append(tokens.last!)  // the separator, twice between two texts" * separators
    return _ENCODE_PAIR.format(cut=cut, kept=kept, leading=leading, separators=between)


def _predict(package: CardPackage, is_pair: bool) -> str:
    manifest, function = package.manifest, package.default_function
    has_types = any(tensor.name == "token_type_ids" for tensor in function.inputs)
    types = "tokens.indices.map { $0 < start ? 0 : 1 }" if is_pair else "Array(repeating: 0, count: tokens.count)"
    values = {
        "input_ids": f"feature(tokens, padding: {package.padding_id})",
        "attention_mask": "feature(Array(repeating: 1, count: tokens.count), padding: 0)",
        "token_type_ids": f"feature({types}, padding: 0)",
    }
    lines = [
        f"            {swift_string(tensor.name)}: {values[tensor.name]},"
        for tensor in function.inputs
        if tensor.name in values
    ]
    is_one = not _lengths(manifest.programs[0])
    code = _PREDICT.format(
        what="Pads a row to the package's length and runs the model."
        if is_one
        else "Pads a row to the shortest length that it fits into, and runs the function of that length.",
        choose="" if is_one else _CHOOSE,
        parameter=", secondFrom start: Int" if is_pair and has_types else "",
        array=_array(manifest.form.batch_size),
        features="\n".join(lines),
    )
    if manifest.form.class_labels:  # label and probabilities are no arrays
        return code
    dtypes = {tensor.dtype for tensor in function.outputs if tensor.shape}
    return f"{code}\n\n{_ROW.format(dtype='Float16' if dtypes == {'float16'} else 'Float32')}"


def _array(batch_size: int) -> str:
    if batch_size == 1:
        return "            let array = MLShapedArray<Int32>(scalars: row, shape: [1, length])"
    return f"""\
            // {batch_size} rows at a time: all hold the same text here.
            let rows = Array(repeating: row, count: {batch_size}).flatMap {{ $0 }}
            let array = MLShapedArray<Int32>(scalars: rows, shape: [{batch_size}, length])"""
