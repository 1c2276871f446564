"""What swift-transformers' `LanguageModel` calls, in order and with the numbers that it gives.

Written from `Sources/Models/LanguageModel.swift` of github.com/huggingface/swift-transformers: the class for models
without a cache, and what it looks at to choose it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from optimum_ane.runtimes.portable import PortableSession


class LanguageModel:
    """A model that computes the whole row for each new token.

    Args:
        path: The package that is compiled.
        padding_id: Of the configuration of the generation; 0 where it has none.
    """

    def __init__(self, path: Path, padding_id: int = 0) -> None:
        self._session = PortableSession(path)
        # Any state but its two ends in a crash, and so does a cache among inputs and outputs.
        assert not self._session.states
        assert not {"keyCache", "valueCache"} & set(self._session.inputs)
        assert not {"presentKeys", "presentValues"} & set(self._session.outputs)
        self._length = self._session.inputs["inputIds"].shape[1]
        self._padding_id = padding_id

    def write(self, prompt: list[int], new_tokens: int) -> list[int]:
        """Gives what is written after a prompt, the most probable token each time."""
        tokens = list(prompt)
        for _ in range(new_tokens):
            tokens.append(int(self._scores(tokens).argmax()))
        return tokens[len(prompt) :]

    def _scores(self, tokens: list[int]) -> np.ndarray:
        padding = self._length - len(tokens)
        assert padding >= 0  # a negative extent is a crash there
        inputs = {"inputIds": np.array([[*tokens, *[self._padding_id] * padding]], np.int32)}
        if "attentionMask" in self._session.inputs:
            inputs["attentionMask"] = np.array([[1] * len(tokens) + [0] * padding], np.int32)
        assert set(inputs) == set(self._session.inputs)
        logits = self._session.predict(inputs)["logits"]
        assert logits.ndim == 3
        return logits[0, len(tokens) - 1]
