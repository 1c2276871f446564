"""The Swift of a card: a whole type that loads this package, builds its true inputs and reads its true outputs.

Every call is documented by Apple (Core ML: `MLModel.compileModel(at:)` and `load(contentsOf:configuration:)`,
`MLShapedArray`, `MLFeatureValue(shapedArray:)`) or is one of swift-transformers 1.3 (`AutoTokenizer`, `Tokenizer`).
Predictions are made in functions that are not async: there, `prediction(from:)` is the one that every system has.
"""

from __future__ import annotations

from optimum_ane.hub import swift_tasks
from optimum_ane.hub.card_values import CardPackage
from optimum_ane.hub.markdown import swift_string
from optimum_ane.package.layout import MLPACKAGE
from optimum_ane.package.manifest import Manifest

_UNITS = {
    "cpu_and_ne": ".cpuAndNeuralEngine",
    "all": ".all",
    "cpu_and_gpu": ".cpuAndGPU",
    "cpu_only": ".cpuOnly",
}
_ALGORITHMS = {
    "BertTokenizer": "WordPiece",
    "DistilBertTokenizer": "WordPiece",
    "RobertaTokenizer": "BPE",
    "PreTrainedTokenizer": "BPE",
    "TokenizersBackend": "BPE",
    "XLMRobertaTokenizer": "Unigram",
}
"""What swift-transformers 1.3 takes each tokenizer class for; it refuses those that it does not know."""
_STAND_INS = {"WordPiece": "BertTokenizer", "BPE": "RobertaTokenizer", "Unigram": "XLMRobertaTokenizer"}
"""A class that it reads an algorithm's `tokenizer.json` under."""

_FRAME = """\
import CoreML
import Foundation
{imports}

struct {type_name} {{
    let model: MLModel
    let tokenizer: any Tokenizer
    let length = {length}{constants}

    /// - Parameter folder: holds {mlpackage} and the tokenizer's files, as downloaded.
    init(folder: URL) async throws {{
        let configuration = MLModelConfiguration()
        configuration.computeUnits = {units}
        // Compiling takes a while. Keep what it gives, or add {mlpackage} to the app in Xcode, which compiles it when
        // the app is built: its URL is then Bundle.main.url(forResource: "{stem}", withExtension: "mlmodelc").
        let compiled = try await MLModel.compileModel(at: folder.appendingPathComponent("{mlpackage}"))
        model = try await MLModel.load(contentsOf: compiled, configuration: configuration)
{load_tokenizer}
    }}

{encode}

{predict}

{task}
}}

func example(folder: URL) async throws {{
{usage}
}}"""

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
    /// Pads a row to the package's length and runs the model.
    func predict(_ tokens: [Int]{parameter}) throws -> MLFeatureProvider {{
        func feature(_ values: [Int], padding: Int) -> MLFeatureValue {{
            let row = values.map {{ Int32($0) }} + Array(repeating: Int32(padding), count: length - values.count)
{array}
            return MLFeatureValue(shapedArray: array)
        }}
        return try model.prediction(from: MLDictionaryFeatureProvider(dictionary: [
{features}
        ]))
    }}"""

_ROW = """\
    /// An output without its batch dimension. It is {dtype} in the package.
    func row(_ name: String, of output: MLFeatureProvider) -> MLShapedArraySlice<Float> {{
        MLShapedArray<Float>(converting: output.featureValue(for: name)!.multiArrayValue!)[0]
    }}"""


def swift_snippet(package: CardPackage) -> str:
    """Writes the Swift that uses a package.

    Args:
        package: The package; its inputs are int32 arrays of its batch size and length, as the exporter makes them.
    """
    config = package.config
    task = swift_tasks.task_code(package)
    constants = [f"let {name} = {value}" for name, value in task.constants.items()]
    return _FRAME.format(
        imports="\n".join(_imports(config)),
        type_name=task.type_name,
        length=config.form.longest,
        constants="".join(f"\n    {line}" for line in constants),
        mlpackage=MLPACKAGE,
        stem=MLPACKAGE.removesuffix(".mlpackage"),
        units=_UNITS.get(config.form.compute_units, ".all"),
        load_tokenizer=_load_tokenizer(config),
        encode=_encode(config, task.is_pair),
        predict=_predict(package, task.is_pair),
        task=task.code,
        usage=task.usage,
    )


def stand_in(config: Manifest) -> str | None:
    """The tokenizer class that swift-transformers has to be given in place of the recorded one; None if none."""
    entry = config.tokenizer
    if entry is None or entry.model not in _STAND_INS:
        return None
    own = (entry.tokenizer_class or "").removesuffix("Fast")
    return None if _ALGORITHMS.get(own) == entry.model else _STAND_INS[entry.model]


def is_readable(config: Manifest) -> bool:
    """Whether swift-transformers knows the tokenizer's algorithm at all; a package that does not say is taken so."""
    return config.tokenizer is None or config.tokenizer.model in _STAND_INS


def _imports(config: Manifest) -> list[str]:
    names = ["Hub"] if stand_in(config) else []
    return [f"import {name}" for name in names] + [
        "import Tokenizers  // the package https://github.com/huggingface/swift-transformers, from 1.3"
    ]


def _load_tokenizer(config: Manifest) -> str:
    name = stand_in(config)
    if name is None or config.tokenizer is None:
        return "        tokenizer = try await AutoTokenizer.from(modelFolder: folder)"
    own = "".join(c for c in config.tokenizer.tokenizer_class or "the class" if c.isalnum() or c in " _")
    own = f"{own} for the {config.tokenizer.model} tokenizer that it is"
    return "\n".join(
        [
            f"        // swift-transformers does not take {own}.",
            "        let files = LanguageModelConfigurationFromHub(modelFolder: folder)",
            "        var settings = try await files.tokenizerConfig?.dictionary() ?? [:]",
            f'        settings["tokenizer_class"] = Config({swift_string(name)})',
            '        settings["do_lower_case"] = Config(false)  // tokenizer.json lowers where it should',
            "        let vocabulary = try await files.tokenizerData",
            "        tokenizer = try AutoTokenizer.from(tokenizerConfig: Config(settings), tokenizerData: vocabulary)",
        ]
    )


def _encode(config: Manifest, is_pair: bool) -> str:
    entry = config.tokenizer
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
    config = package.config
    has_types = any(tensor.name == "token_type_ids" for tensor in config.functions[0].inputs)
    types = "tokens.indices.map { $0 < start ? 0 : 1 }" if is_pair else "Array(repeating: 0, count: tokens.count)"
    values = {
        "input_ids": f"feature(tokens, padding: {package.padding_id})",
        "attention_mask": "feature(Array(repeating: 1, count: tokens.count), padding: 0)",
        "token_type_ids": f"feature({types}, padding: 0)",
    }
    lines = [
        f"            {swift_string(tensor.name)}: {values[tensor.name]},"
        for tensor in config.functions[0].inputs
        if tensor.name in values
    ]
    array = f"            let array = MLShapedArray<Int32>(scalars: row, shape: [{config.form.batch_size}, length])"
    if config.form.batch_size > 1:
        array = (
            f"            // {config.form.batch_size} rows at a time: all hold the same text here.\n"
            f"            let rows = Array(repeating: row, count: {config.form.batch_size}).flatMap {{ $0 }}\n"
            + array.replace("scalars: row", "scalars: rows")
        )
    code = _PREDICT.format(
        parameter=", secondFrom start: Int" if is_pair and has_types else "", array=array, features="\n".join(lines)
    )
    if config.form.class_labels:  # label and probabilities are no arrays
        return code
    dtypes = {tensor.dtype for tensor in config.functions[0].outputs if tensor.shape}
    return f"{code}\n\n{_ROW.format(dtype='Float16' if dtypes == {'float16'} else 'Float32')}"
