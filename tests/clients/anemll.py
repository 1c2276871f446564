"""What ANEMLL's clients call, in order and with the numbers that they give, on programs of any engine.

Written from github.com/Anemll/Anemll: `tests/chat.py` at 0.3.4, which pads the last block of a prompt, and later,
which reads the rest of a prompt token by token; and `AnemllCore/InferenceManager.swift`, whose mask of one token is
that of the position behind it. All of them choose the most probable word, and keep one state over all turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from optimum_ane.runtimes.portable import PortableSession

Model = Any
"""A loaded function: `predict(inputs, state)` and `make_state()`."""


@dataclass
class Loaded:
    """The parts of a package as a client holds them.

    Attributes:
        embeddings: One function for one token and for a block.
        chunks: For each its functions by name.
        head: Gives `logits1` … `logitsN`.
        parameters: Of `meta.yaml`.
    """

    embeddings: Model
    chunks: list[Mapping[str, Model]]
    head: Model
    parameters: Mapping[str, Any]


def load(directory: Path) -> Loaded:
    """Opens a package by its `meta.yaml`, as `chat.py --meta` does; what it looks for compiled is a package here."""
    parameters = yaml.safe_load((directory / "meta.yaml").read_text())["model_info"]["parameters"]
    prefix, count = parameters["model_prefix"], int(parameters["num_chunks"])
    for name in ("lut_embeddings", "lut_ffn", "lut_lmhead"):
        assert parameters[name] == "none"
    names = {
        "embeddings": f"{prefix}_embeddings",
        "lm_head": f"{prefix}_lm_head",
        "ffn": f"{prefix}_FFN_PF_chunk_01of{count:02d}",
    }
    for key, name in names.items():  # what older clients put together, and newer ones read
        assert parameters[key] == f"{name}.mlmodelc"
    chunks = sorted(directory.glob(f"{prefix}_FFN_PF_chunk_*of{count:02d}.mlpackage"))
    assert len(chunks) == count
    functions = []
    for path in chunks:
        infer = PortableSession(path, "infer")
        functions.append({"infer": infer, "prefill": infer.function("prefill")})
    embeddings, head = (PortableSession(directory / f"{names[key]}.mlpackage") for key in ("embeddings", "lm_head"))
    return Loaded(embeddings, functions, head, parameters)


class Client:
    """A conversation of which every turn is a new text over the same state.

    Args:
        models: The package.
        kind: `chat.py 0.3.4`, `chat.py` or `swift`.
    """

    def __init__(self, models: Loaded, kind: str) -> None:
        self._models = models
        self._context = int(models.parameters["context_length"])
        self._batch = int(models.parameters["batch_size"])
        self._state = models.chunks[0]["prefill"].make_state()
        self._whole_blocks = kind == "chat.py"
        self._ahead = int(kind == "swift")
        if self._whole_blocks:  # without one of these it reads all tokens one by one
            assert models.parameters.get("prefill_dynamic_slice") or models.parameters.get("update_mask_prefill")

    def turn(self, prompt: list[int], new_tokens: int, ends: Callable[[int], bool] = lambda _: False) -> list[int]:
        """Reads a prompt from position 0 on, whatever the state holds, and gives what is written after it."""
        tokens = list(prompt)
        self._prefill(tokens)
        for _ in range(new_tokens):
            if len(tokens) >= self._context - 1:
                break
            tokens.append(self._next(tokens[-1], len(tokens)))
            if ends(tokens[-1]):
                break
        return tokens[len(prompt) :]

    def _prefill(self, tokens: list[int]) -> None:
        position = 0
        while position < len(tokens):
            block = tokens[position : position + self._batch]
            if self._whole_blocks and len(block) < self._batch:
                for offset, token in enumerate(block):
                    self._infer(token, position + offset, self._mask(position + offset, 1))
                return
            ids = np.zeros((1, self._batch), np.int32)
            ids[0, : len(block)] = block
            self._run("prefill", ids, np.arange(position, position + self._batch), self._mask(position, self._batch))
            position += len(block)

    def _next(self, token: int, count: int) -> int:
        """The token that follows `count` others, the last of which is given."""
        hidden_states = self._infer(token, count - 1, self._mask(min(count - 1 + self._ahead, self._context - 1), 1))
        answer = self._models.head.predict({"hidden_states": hidden_states})
        parts = [answer[f"logits{index}"] for index in range(1, int(self._models.parameters["split_lm_head"]) + 1)]
        assert len(parts) == len(answer)
        assert len({part.shape for part in parts}) == 1
        assert parts[0].shape[:2] == (1, 1)
        best = [int(part.argmax()) for part in parts]
        values = [float(part.ravel()[place]) for part, place in zip(parts, best, strict=True)]
        winner = int(np.argmax(values))
        return winner * parts[0].size + best[winner]

    def _infer(self, token: int, position: int, mask: np.ndarray) -> np.ndarray:
        return self._run("infer", np.array([[token]], np.int32), np.array([position]), mask)

    def _run(self, function: str, ids: np.ndarray, positions: np.ndarray, mask: np.ndarray) -> np.ndarray:
        hidden_states = self._models.embeddings.predict({"input_ids": ids})["hidden_states"]
        shape = hidden_states.shape
        assert shape[:2] == ids.shape
        for chunk in self._models.chunks:
            inputs = {
                "hidden_states": hidden_states.astype(np.float16),
                "position_ids": positions.astype(np.int32),
                "causal_mask": mask,
                "current_pos": positions[:1].astype(np.int32),
            }
            hidden_states = chunk[function].predict(inputs, self._state)["output_hidden_states"]
            assert hidden_states.shape == shape  # the backings that clients give are of this shape
        return hidden_states.astype(np.float16)

    def _mask(self, position: int, tokens: int) -> np.ndarray:
        """(1, 1, tokens, context): −inf for the rows behind each token's."""
        rows, own = np.arange(self._context), position + np.arange(tokens)
        return np.where(rows[None] <= own[:, None], 0, -np.inf).astype(np.float16)[None, None]


KINDS = ("chat.py 0.3.4", "chat.py", "swift")
