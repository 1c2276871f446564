"""A package in ANEMLL's layout as one decoder: tokens in, logits out, whatever lies between in programs of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from optimum_ane.errors import PackageError
from optimum_ane.exporters.decoder import INFER, PREFILL
from optimum_ane.runtimes.session import TensorSpec

if TYPE_CHECKING:
    from optimum_ane.runtimes import Session


class AnemllSession:
    """See `runtimes.Session`: the functions `infer` and `prefill` over embeddings, chunks and head.

    Args:
        sessions: The loaded programs in the order in which a token goes through them, by name.
        function_name: Which function.
        vocab_size: Words; what the parts of the head hold behind them is dropped.

    Raises:
        PackageError: They take something else than programs of that layout do.
    """

    def __init__(self, sessions: Mapping[str, Session], vocab_size: int, function_name: str = INFER) -> None:
        self._sessions, self._vocab_size, self.function_name = sessions, vocab_size, function_name
        if len(sessions) < 3:
            raise PackageError(f"ANEMLL's layout has three programs at least; found: {', '.join(sessions)}")
        self._embeddings, *chunks, self._head = sessions.values()
        self._chunks = [
            each if each.function_name == function_name else each.function(function_name) for each in chunks
        ]
        self.runtime = self._embeddings.runtime
        needed = {"hidden_states", "position_ids", "causal_mask", "current_pos"}
        for chunk in self._chunks:
            if set(chunk.inputs) != needed or set(chunk.states) != set(self._chunks[0].states):
                raise PackageError(
                    f"a chunk of ANEMLL's layout takes {', '.join(sorted(needed))} over the same state as all others; "
                    f"one takes {', '.join([*chunk.inputs, *chunk.states])}"
                )
        first = self._chunks[0]
        tokens = first.inputs["hidden_states"].shape[1]
        self.inputs: Mapping[str, TensorSpec] = {
            "input_ids": TensorSpec("input_ids", (1, tokens), "int32"),
            "position": TensorSpec("position", (1,), "int32"),
            "causal_mask": first.inputs["causal_mask"],
        }
        name = "logits" if function_name == INFER else "next_position"
        self.outputs: Mapping[str, TensorSpec] = {name: TensorSpec(name, (), "float16")}
        self.states = first.states

    @property
    def functions(self) -> tuple[str, ...]:
        """See `Session`."""
        return (INFER, PREFILL)

    def function(self, name: str) -> AnemllSession:
        """See `Session`."""
        return AnemllSession(self._sessions, self._vocab_size, name)

    def with_rows(self, rows: int) -> AnemllSession:
        """See `Session`: a cache is of one row."""
        return self

    def make_state(self) -> Any:
        """See `Session`."""
        return self._chunks[0].make_state()

    def predict(
        self, inputs: Mapping[str, Any], state: Any = None, *, intermediates: Sequence[str] = ()
    ) -> dict[str, Any]:
        """See `Session`."""
        position = np.asarray(inputs["position"])
        tokens = np.asarray(inputs["input_ids"]).shape[1]
        (values,) = self._embeddings.predict({"input_ids": inputs["input_ids"]}).values()
        beside = {
            "position_ids": (position + np.arange(tokens)).astype(np.int32),
            "causal_mask": inputs["causal_mask"],
            "current_pos": position,
        }
        for chunk in self._chunks:
            (values,) = chunk.predict({"hidden_states": values, **beside}, state).values()
        if self.function_name == PREFILL:
            return {"next_position": position + tokens}
        answers = self._head.predict({"hidden_states": values})
        parts = [answers[f"logits{number}"] for number in range(1, len(answers) + 1)]
        return {"logits": np.concatenate(parts, -1)[..., : self._vocab_size]}
