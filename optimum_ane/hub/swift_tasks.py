"""The part of a card's Swift that differs from task to task; `tasks.py` says which function here is whose."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

from optimum_ane.hub.card_package import CardPackage
from optimum_ane.hub.example_texts import EXAMPLE_TEXT, example_with_mask
from optimum_ane.hub.markdown import swift_string
from optimum_ane.package.problem_types import MULTI_LABEL, REGRESSION, problem_type_of


@dataclass(frozen=True)
class SwiftTask:
    """What a task adds to the frame of the snippet.

    Attributes:
        type_name: Of the struct.
        code: Its method, indented.
        usage: How to call it, indented.
        is_pair: Whether it takes two texts.
        constants: Properties of the struct, by name, as Swift expressions.
    """

    type_name: str
    code: str
    usage: str
    is_pair: bool = False
    constants: dict[str, str] = field(default_factory=dict)


_CLASSIFIER = """\
    /// The most probable label, and the probability of each.
    func classify(_ text: String) throws -> (label: String, probabilities: [String: Double]) {
        let output = try predict(encode(text))
        let label = output.featureValue(for: LABEL)!.stringValue
        let probabilities = output.featureValue(for: PROBABILITIES)!.dictionaryValue as! [String: NSNumber]
        return (label, probabilities.mapValues { $0.doubleValue })
    }"""
_SINGLE_LABEL = """\
    /// The most probable label, and its probability: the softmax of the scores.
    func classify(_ text: String) throws -> (label: String, probability: Float) {
        let scores = try row("logits", of: predict(encode(text))).scalars
        let best = scores.indices.max { scores[$0] < scores[$1] }!
        return (labels[best], 1 / scores.reduce(Float(0)) { $0 + exp($1 - scores[best]) })
    }"""
_MULTI_LABEL = """\
    /// The probability of each label, independent of the others: the sigmoid of its score.
    func classify(_ text: String) throws -> [(label: String, probability: Float)] {
        let scores = try row("logits", of: predict(encode(text))).scalars
        return zip(labels, scores).map { ($0, 1 / (1 + exp(-$1))) }
    }"""
_REGRESSION = """\
    /// The predicted values.
    func predictValues(_ text: String) throws -> [Float] {
        try row("logits", of: predict(encode(text))).scalars
    }"""
_TOKENS = """\
    /// The most probable label of each token; the special tokens are left out.
    func label(_ text: String) throws -> [(token: String, label: String)] {
        let tokens = encode(text)
        let scores = try row("logits", of: predict(tokens))
        return (LEADING..<tokens.count - TRAILING).map { index in
            let score = scores[index].scalars
            let best = score.indices.max { score[$0] < score[$1] }!
            return (tokenizer.convertIdToToken(tokens[index]) ?? "", labels[best])
        }
    }"""
_ANSWER = """\
    /// The most probable span of at most 30 tokens of the context, as the tokenizer spells it.
    func answer(_ question: String, in context: String) throws -> String {
        let (tokens, start) = encode(question, context)
        let output = try predict(tokensSTART)
        let starts = row("start_logits", of: output).scalars
        let ends = row("end_logits", of: output).scalars
        let end = tokens.count - TRAILING
        var best = (score: -Float.infinity, span: start..<start)
        for first in start..<max(start, end) {
            for last in first..<min(first + 30, end) where starts[first] + ends[last] > best.score {
                best = (starts[first] + ends[last], first..<last + 1)
            }
        }
        return tokenizer.decode(tokens: Array(tokens[best.span]), skipSpecialTokens: true)
    }"""
_FILL = """\
    /// The most probable tokens in the place of the first mask, with their probabilities.
    func fill(_ text: String, count: Int = 5) throws -> [(token: String, probability: Float)] {
        let tokens = encode(text)
        guard let position = tokens.firstIndex(of: mask) else { return [] }
        let scores = try row("logits", of: predict(tokens))[position].scalars
        let best = scores.indices.sorted { scores[$0] > scores[$1] }.prefix(count)
        let sum = scores.reduce(Float(0)) { $0 + exp($1 - scores[best[0]]) }
        return best.map { (tokenizer.decode(tokens: [$0]), exp(scores[$0] - scores[best[0]]) / sum) }
    }"""
_HIDDEN = """\
    /// A vector for each token, special tokens included.
    func encodeStates(_ text: String) throws -> [[Float]] {
        let tokens = encode(text)
        let states = try row("last_hidden_state", of: predict(tokens))
        return tokens.indices.map { states[$0].scalars }
    }"""
_NEXT = """\
    /// The token that is most probable to follow a text. Each call computes the whole row: there is no cache.
    func nextToken(after text: String) throws -> String {
        let tokens = encode(text)
        let scores = try row("logits", of: predict(tokens))[tokens.count - 1].scalars
        return tokenizer.decode(tokens: [scores.indices.max { scores[$0] < scores[$1] }!])
    }"""
_EMBED = """\
    /// One vector for the whole text.
    func embed(_ text: String) throws -> [Float] {
        try row("sentence_embedding", of: predict(encode(text))).scalars
    }"""
_CHOOSE = """\
    /// The index of the most probable choice. A row of the package is one choice, so there may be any number.
    func choose(_ prompt: String, among choices: [String]) throws -> Int {
        let scores = try choices.map { choice -> Float in
            let (tokens, START_NAME) = encode(prompt, choice)
            return try row("logits", of: predict(tokensSTART)).scalars[0]
        }
        return scores.indices.max { scores[$0] < scores[$1] }!
    }"""


def text_classification(package: CardPackage) -> SwiftTask:
    """A label with its probability, the probability of each, or the predicted values: by the kind of head."""
    usage = _usage("TextClassifier", "classifier", f"classify({swift_string(EXAMPLE_TEXT)})")
    if package.manifest.form.class_labels:
        by_dtype = {tensor.dtype: swift_string(tensor.name) for tensor in package.default_function.outputs}
        code = _CLASSIFIER.replace("LABEL", by_dtype.get("string", '"classLabel"'))
        code = code.replace("PROBABILITIES", by_dtype.get("dictionary", '"classLabel_probs"'))
        return SwiftTask("TextClassifier", code, usage)
    columns = next((tensor.shape[-1] for tensor in package.default_function.outputs if tensor.shape), 0)
    head = SimpleNamespace(problem_type=package.model_config.get("problem_type"), num_labels=columns)
    kind = problem_type_of(head)
    if kind == REGRESSION:
        usage = _usage("TextRegressor", "regressor", f"predictValues({swift_string(EXAMPLE_TEXT)})")
        return SwiftTask("TextRegressor", _REGRESSION, usage)
    code = _MULTI_LABEL if kind == MULTI_LABEL else _SINGLE_LABEL
    return SwiftTask("TextClassifier", code, usage, constants=_labels(package))


def token_classification(package: CardPackage) -> SwiftTask:
    """A label for each token."""
    leading, trailing = _specials(package)
    code = _TOKENS.replace("LEADING", str(leading)).replace(" - TRAILING", f" - {trailing}" if trailing else "")
    text = swift_string("Ada Lovelace was born in London.")
    usage = _usage("TokenClassifier", "classifier", f"label({text})")
    return SwiftTask("TokenClassifier", code, usage, constants=_labels(package))


def question_answering(package: CardPackage) -> SwiftTask:
    """A span of the context."""
    trailing = _specials(package)[1]
    code = _ANSWER.replace(" - TRAILING", f" - {trailing}" if trailing else "").replace("START", _start(package))
    call = 'answer("Where was she born?", in: "Ada Lovelace was born in London.")'
    return SwiftTask("QuestionAnswerer", code, _usage("QuestionAnswerer", "answerer", call), is_pair=True)


def fill_mask(package: CardPackage) -> SwiftTask:
    """Tokens in the place of a mask."""
    entry = package.manifest.tokenizer
    text = swift_string(example_with_mask(package))
    usage = _usage("MaskFiller", "filler", f"fill({text})")
    if entry is None or entry.mask_id is None:
        code = _FILL.replace("of: mask)", 'of: tokenizer.convertTokenToId("[MASK]") ?? -1)')
        return SwiftTask("MaskFiller", code, usage)
    return SwiftTask("MaskFiller", _FILL, usage, constants={"mask": str(entry.mask_id)})


def feature_extraction(package: CardPackage) -> SwiftTask:
    """A vector for each token."""
    usage = _usage("TextEncoder", "encoder", f"encodeStates({swift_string(EXAMPLE_TEXT)})")
    return SwiftTask("TextEncoder", _HIDDEN, usage)


def text_generation(package: CardPackage) -> SwiftTask:
    """The token that is most probable to follow a text."""
    usage = _usage("NextToken", "model", f"nextToken(after: {swift_string(EXAMPLE_TEXT)})")
    return SwiftTask("NextToken", _NEXT, usage)


def sentence_embedding(package: CardPackage) -> SwiftTask:
    """One vector for the whole text, the checkpoint's default prompt before it."""
    usage = _usage("SentenceEmbedder", "embedder", f"embed({swift_string(EXAMPLE_TEXT)})")
    if not package.default_prompt:
        return SwiftTask("SentenceEmbedder", _EMBED, usage)
    code = _EMBED.replace("encode(text)", "encode(prompt + text)")
    return SwiftTask("SentenceEmbedder", code, usage, constants={"prompt": swift_string(package.default_prompt)})


def multiple_choice(package: CardPackage) -> SwiftTask:
    """One of several texts."""
    start = _start(package)
    code = _CHOOSE.replace("START_NAME", "start" if start else "_").replace("START", start)
    call = 'choose("It rained, so she", among: ["took an umbrella.", "watered the garden."])'
    return SwiftTask("MultipleChoice", code, _usage("MultipleChoice", "model", call), is_pair=True)


def _usage(type_name: str, variable: str, call: str) -> str:
    return f"    let {variable} = try await {type_name}(folder: folder)\n    print(try {variable}.{call})"


def _labels(package: CardPackage) -> dict[str, str]:
    return {"labels": f"[{', '.join(map(swift_string, package.labels))}]"}


def _specials(package: CardPackage) -> tuple[int, int]:
    entry = package.manifest.tokenizer
    return (1, 1) if entry is None else (entry.leading, entry.trailing)


def _start(package: CardPackage) -> str:
    """The argument that tells where the second text starts, for packages with token types."""
    has_types = any(tensor.name == "token_type_ids" for tensor in package.default_function.inputs)
    return ", secondFrom: start" if has_types else ""
