"""How the Swift of a card loads a tokenizer with swift-transformers 1.3 (`AutoTokenizer`, `Tokenizer`)."""

from __future__ import annotations

from optimum_ane.hub.markdown import swift_string
from optimum_ane.package.manifest import Manifest

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


def stand_in(manifest: Manifest) -> str | None:
    """The tokenizer class that swift-transformers has to be given in place of the recorded one; None if none."""
    entry = manifest.tokenizer
    if entry is None or entry.model not in _STAND_INS:
        return None
    own = (entry.tokenizer_class or "").removesuffix("Fast")
    return None if _ALGORITHMS.get(own) == entry.model else _STAND_INS[entry.model]


def is_readable(manifest: Manifest) -> bool:
    """Whether swift-transformers knows the tokenizer's algorithm at all; a package that does not say is taken so."""
    return manifest.tokenizer is None or manifest.tokenizer.model in _STAND_INS


def tokenizer_imports(manifest: Manifest) -> list[str]:
    """The lines that import what loads the tokenizer."""
    names = ["Hub"] if stand_in(manifest) else []
    return [f"import {name}" for name in names] + [
        "import Tokenizers  // the package https://github.com/huggingface/swift-transformers, from 1.3"
    ]


def load_tokenizer(manifest: Manifest) -> str:
    """The lines that load the tokenizer from the folder, indented."""
    name = stand_in(manifest)
    if name is None or manifest.tokenizer is None:
        return "        tokenizer = try await AutoTokenizer.from(modelFolder: folder)"
    own = "".join(c for c in manifest.tokenizer.tokenizer_class or "the class" if c.isalnum() or c in " _")
    own = f"{own} for the {manifest.tokenizer.model} tokenizer that it is"
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
