"""The file beside the programs of ANEMLL's layout that its clients read first.

Source of the entries: `anemll/utils/generate_meta_yaml.py`, `tests/chat.py` and `AnemllCore/YAMLConfig.swift` of
github.com/Anemll/Anemll.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

META_YAML = "meta.yaml"


@dataclass(frozen=True)
class AnemllNames:
    """The names of the programs, without their suffix.

    Attributes:
        prefix: Of all of them: letters, digits, dots, dashes and underscores.
        chunks: How many chunks of layers there are.
    """

    prefix: str
    chunks: int

    @property
    def embeddings(self) -> str:
        """Of the table."""
        return f"{self.prefix}_embeddings"

    @property
    def head(self) -> str:
        """Of the head."""
        return f"{self.prefix}_lm_head"

    def chunk(self, index: int) -> str:
        """Of a chunk, the first is 0; clients look for `FFN_PF` and `chunk_01ofNN` also where there is one."""
        return f"{self.prefix}_FFN_PF_chunk_{index + 1:02d}of{self.chunks:02d}"

    def all(self) -> tuple[str, ...]:
        """All, in the order in which a token goes through them."""
        return (self.embeddings, *(self.chunk(index) for index in range(self.chunks)), self.head)


def prefix_of(model_type: str) -> str:
    """The prefix of the names: clients choose how to write a chat by it."""
    return re.sub(r"[^A-Za-z0-9.-]+", "", model_type.split("_")[0]) or "model"


def meta_yaml(
    names: AnemllNames,
    *,
    name: str,
    version: str,
    license: str,
    author: str,
    architecture: str,
    context_length: int,
    batch_size: int,
    parts: int,
    vocab_size: int,
) -> str:
    """Returns the text of `meta.yaml`.

    Args:
        names: Of the programs.
        name: Of the model.
        version: Of the package.
        license: Of the model.
        author: Of the model.
        architecture: The model type.
        context_length: Rows of the state.
        batch_size: Tokens of a prompt that are read at once.
        parts: Of the logits.
        vocab_size: Words of the tokenizer.
    """
    entries: list[tuple[str, int | str | bool]] = [
        ("context_length", context_length),
        ("state_length", context_length),
        ("batch_size", batch_size),
        ("lut_embeddings", "none"),
        ("lut_ffn", "none"),
        ("lut_lmhead", "none"),
        ("num_chunks", names.chunks),
        ("model_prefix", names.prefix),
        ("embeddings", f"{names.embeddings}.mlmodelc"),
        ("lm_head", f"{names.head}.mlmodelc"),
        ("ffn", f"{names.chunk(0)}.mlmodelc"),
        ("split_lm_head", parts),
        ("vocab_size", vocab_size),
        ("argmax_in_model", False),
        # Without it later clients read a prompt token by token: rows are written by their position, not by a mask.
        ("prefill_dynamic_slice", True),
    ]
    # A string of JSON is one of YAML, whatever is in it.
    about = {"name": name, "version": version, "license": license, "author": author, "framework": "Core ML"}
    lines = ["model_info:", *(f"  {key}: {json.dumps(value)}" for key, value in about.items())]
    lines += [f"  architecture: {json.dumps(architecture)}", "  parameters:"]
    return "\n".join([*lines, *(f"    {key}: {json.dumps(value)}" for key, value in entries)]) + "\n"
