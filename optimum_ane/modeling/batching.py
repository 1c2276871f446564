"""Rows of any number and length through functions of fixed shape: each row takes the shortest that it fits into."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from optimum_ane.errors import InputError
from optimum_ane.runtimes.session import HIDDEN_STATE

if TYPE_CHECKING:
    from optimum_ane.runtimes import Session

_HIDDEN_STATE = re.compile(rf"{HIDDEN_STATE}(\d+)(_cast_fp16)?")


@dataclass(frozen=True)
class FixedLength:
    """A function for rows of up to so many tokens."""

    length: int
    session: Session

    @property
    def batch(self) -> int:
        """Rows per prediction."""
        return self.session.inputs["input_ids"].shape[0]


def run_rows(
    functions: Sequence[FixedLength],
    inputs: Mapping[str, np.ndarray],
    padding: Mapping[str, int],
    per_token: Collection[str],
    *,
    with_hidden_states: bool = False,
) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """Sorts rows by the function that they fit into, pads, runs batch by batch, and puts the answers in order.

    Args:
        functions: By length, ascending.
        inputs: int32 (N, S) each, all that the functions take; `attention_mask` says how many tokens a row has.
        padding: What an input is padded with, where that is not 0.
        per_token: Names of the outputs whose axis 1 runs over the tokens.
        with_hidden_states: Whether the hidden states are returned, which Core ML does not give.

    Returns:
        Float32 outputs by name, (N, …) or (N, S, …), and the hidden states, (N, S, C) each; positions beyond the
        function that a row took, which hold padding, are 0.

    Raises:
        InputError: A row has more tokens than the longest function takes.
    """
    mask = inputs["attention_mask"]
    rows, width = mask.shape
    tokens = _needed(mask)
    longest = functions[-1].length
    if rows and tokens.max() > longest:
        row = int(tokens.argmax())
        raise InputError(
            f"row {row} has {tokens[row]} tokens, and this package takes {longest}; tokenize with truncation=True and "
            f"max_length={longest}, or export with --sequence-length {tokens[row]}"
        )
    chosen = np.searchsorted([function.length for function in functions], tokens)
    collected = _Collected(rows, width)
    for index, function in enumerate(functions):
        own = np.flatnonzero(chosen == index)
        if not rows and index == 0:
            own = np.zeros(0, np.int64)
            _run(function, own, inputs, padding, per_token, with_hidden_states, collected)
        while own.size:
            wide = FixedLength(function.length, function.session.with_rows(len(own)))
            _run(wide, own[: wide.batch], inputs, padding, per_token, with_hidden_states, collected)
            own = own[wide.batch :]
    return collected.outputs, collected.hidden_states()


def run_fixed_rows(
    session: Session, inputs: Mapping[str, np.ndarray], outputs: Collection[str], *, with_hidden_states: bool = False
) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """Runs rows of the one shape that a function takes, batch by batch, and puts the answers in order.

    Args:
        session: The function.
        inputs: (N, …) each, all that the function takes, of its types.
        outputs: Names of those that are wanted.
        with_hidden_states: Whether the hidden states are returned, which Core ML does not give.

    Returns:
        The outputs by name, float32 (N, …), and the hidden states, (N, S, C) each.
    """
    rows = len(next(iter(inputs.values())))
    collected = _Collected(rows, None)
    patterns = (f"{HIDDEN_STATE}*",) if with_hidden_states else ()
    left = np.arange(rows)
    while True:
        wide = session.with_rows(len(left))
        count = next(iter(wide.inputs.values())).shape[0]
        own, left = left[:count], left[count:]
        batch = {name: _filled(inputs[name][own], spec.shape) for name, spec in wide.inputs.items()}
        answer = wide.predict(batch, intermediates=patterns)
        for name in outputs:
            collected.put(name, own, np.asarray(answer[name]), is_per_token=False)
        if with_hidden_states:
            _collect_hidden(answer, own, collected)
        if not left.size:
            return collected.outputs, [collected.hidden[index] for index in sorted(collected.hidden)]


def _filled(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A whole batch: one that is not full repeats its last row, whose answer is thrown away."""
    missing = shape[0] - len(values)
    last = values[-1:] if len(values) else np.zeros((1, *shape[1:]), values.dtype)
    return np.concatenate([values, np.repeat(last, missing, axis=0)]) if missing else values


def _needed(mask: np.ndarray) -> np.ndarray:
    """Tokens of each row, (N,): up to the last that is not padding; 1 for a row that is all padding."""
    width = mask.shape[1]
    return np.where(mask != 0, np.arange(1, width + 1)[None, :], 1).max(axis=1, initial=1)


class _Collected:
    """The answers so far, in the order of the rows."""

    def __init__(self, rows: int, width: int | None) -> None:
        """Takes the number of rows, and that of the tokens of each; None where rows have no tokens of any number."""
        self.outputs: dict[str, np.ndarray] = {}
        self.hidden: dict[int, np.ndarray] = {}
        self._rows, self._width = rows, width

    def put(self, name: str, own: np.ndarray, values: np.ndarray, is_per_token: bool) -> None:
        """Adds the values of an output, (B, …) with rows that only fill a batch at the end."""
        self._put(self.outputs, name, own, values, is_per_token)

    def put_hidden(self, index: int, own: np.ndarray, values: np.ndarray) -> None:
        """Adds a hidden state, (B, C, 1, S), or (B, S, C) of a program in its original's own layout."""
        states = values[:, :, 0].transpose(0, 2, 1) if values.ndim == 4 else values
        self._put(self.hidden, index, own, states, self._width is not None)

    def hidden_states(self) -> list[np.ndarray]:
        """The hidden states from the first on, up to one that the program does not have."""
        return [self.hidden[index] for index in itertools.takewhile(self.hidden.__contains__, itertools.count())]

    def _put(self, place: dict, key: object, own: np.ndarray, values: np.ndarray, is_per_token: bool) -> None:
        if key not in place:
            shape = (self._width, *values.shape[2:]) if is_per_token else values.shape[1:]
            place[key] = np.zeros((self._rows, *shape), np.float32)
        if is_per_token:
            assert self._width is not None
            length = min(self._width, values.shape[1])
            place[key][own, :length] = values[: len(own), :length]
        else:
            place[key][own] = values[: len(own)]


def _run(
    function: FixedLength,
    own: np.ndarray,
    inputs: Mapping[str, np.ndarray],
    padding: Mapping[str, int],
    per_token: Collection[str],
    with_hidden_states: bool,
    collected: _Collected,
) -> None:
    """Runs one batch; one that is not full repeats its last row, whose answer is thrown away."""
    width = min(inputs["attention_mask"].shape[1], function.length)
    batch = {}
    for name in function.session.inputs:
        full = np.full((function.batch, function.length), padding.get(name, 0), dtype=np.int32)
        full[: len(own), :width] = inputs[name][own, :width]
        full[len(own) :] = full[max(len(own) - 1, 0)]
        batch[name] = full
    patterns = (f"{HIDDEN_STATE}*",) if with_hidden_states else ()
    answer = function.session.predict(batch, intermediates=patterns)
    _collect(answer, function.session, own, per_token, with_hidden_states, collected)


def _collect(
    answer: Mapping[str, np.ndarray],
    session: Session,
    own: np.ndarray,
    per_token: Collection[str],
    with_hidden_states: bool,
    collected: _Collected,
) -> None:
    for name, spec in session.outputs.items():
        if spec.dtype.startswith("float"):
            collected.put(name, own, np.asarray(answer[name]), name in per_token)
    if with_hidden_states:
        _collect_hidden(answer, own, collected)


def _collect_hidden(answer: Mapping[str, np.ndarray], own: np.ndarray, collected: _Collected) -> None:
    for name, value in answer.items():
        match = _HIDDEN_STATE.fullmatch(name)
        if match is not None and value.ndim in (3, 4):
            collected.put_hidden(int(match[1]), own, value)
