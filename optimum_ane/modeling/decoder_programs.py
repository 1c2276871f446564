"""The programs of a language model with a cache: one token, a block without logits, or a block with those of each."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from optimum_ane.errors import InputError, PackageError
from optimum_ane.exporters.cached_decoder.inputs import causal_mask
from optimum_ane.exporters.cached_decoder.module import STATE
from optimum_ane.exporters.decoder import INFER, NEW_ROWS, PREFILL, SCORE
from optimum_ane.exporters.text import MAIN

if TYPE_CHECKING:
    from optimum_ane.runtimes import Session

_BESIDE_TOKENS = {"position", "causal_mask"}


@dataclass
class CachedTokens:
    """The cache of one row: what the programs keep, and the tokens that it is of.

    Attributes:
        states: One of each program.
        tokens: Ids whose rows are in the cache, from the first on. Rows behind them hold what was there before; the
            masks hide it, so that a cache is rewound by shortening this list.
    """

    states: list[Any]
    tokens: list[int]

    def copy(self) -> CachedTokens:
        """A cache of the same tokens that shares nothing with this one."""
        return CachedTokens([state.copy() for state in self.states], list(self.tokens))


class DecoderPrograms:
    """Runs a chain of programs, each with the same functions, over the caches of rows.

    Args:
        sessions: The loaded programs in the order of their layers, by name.

    Raises:
        PackageError: They lack the function `infer`, or take something else than a decoder's programs do.
    """

    def __init__(self, sessions: Mapping[str, Session]) -> None:
        self._programs = list(sessions.values())
        self._functions: dict[str, list[Session]] = {}
        names = set.intersection(*(set(program.functions) for program in self._programs))
        if names == {MAIN}:  # Systems before iOS 18 know programs of one function, and this reads one token.
            self._functions[INFER] = self._programs
        elif INFER not in names:
            raise PackageError(f"a language model with a cache has the function {INFER}; found: {', '.join(names)}")
        self.context_length = check_chain(self._sessions(INFER))
        self._has_prefill, self._has_score = PREFILL in names, SCORE in self._programs[-1].functions

    def new_cache(self) -> CachedTokens:
        """An empty cache for one row."""
        return CachedTokens([_new_state(session) for session in self._sessions(INFER)], [])

    def read(self, cache: CachedTokens, tokens: Sequence[int]) -> None:
        """Reads tokens that follow those of the cache, in blocks.

        Raises:
            InputError: The context does not hold them.
        """
        self._check_room(cache, tokens)
        if not self._has_prefill or len(tokens) == 1:
            # A block of one token costs more than the token.
            for token in tokens:
                self._run(INFER, cache, [token])
            return
        deque(self._blocks(PREFILL, cache, tokens), maxlen=0)

    def step(self, cache: CachedTokens, token: int) -> np.ndarray:
        """Reads one token; gives the logits of what follows, (vocabulary,) float32.

        Raises:
            InputError: The context is full.
        """
        self._check_room(cache, [token])
        return self._run(INFER, cache, [token])[0]

    def score(self, cache: CachedTokens, tokens: Sequence[int]) -> np.ndarray:
        """Reads tokens; gives the logits behind each, (tokens, vocabulary) float32.

        Raises:
            InputError: The context does not hold them.
        """
        self._check_room(cache, tokens)
        if not self._has_score or len(tokens) == 1:
            return np.concatenate([self._run(INFER, cache, [token]) for token in tokens])
        return np.concatenate([*self._blocks(SCORE, cache, tokens)])

    def _blocks(self, function: str, cache: CachedTokens, tokens: Sequence[int]) -> Iterator[np.ndarray]:
        """Runs a function over blocks of its shape; yields what it answers of the new tokens of each.

        The last block ends with padding, whose rows the mask hides until they are written again. Where it would run
        past the context it begins earlier instead, with tokens that were read before: they write the same rows again.
        """
        block = self._block_of(function)
        start, done = len(cache.tokens), 0
        everything = [*cache.tokens, *tokens]
        while done < len(tokens):
            first = min(start + done, self.context_length - block)
            own = everything[first : first + block]
            again = start + done - first
            answer = self._run(function, cache, own, first=first)
            done += len(own) - again
            yield answer[again : len(own)] if answer.ndim > 1 else answer

    def _run(self, function: str, cache: CachedTokens, tokens: Sequence[int], first: int | None = None) -> np.ndarray:
        """Runs a function once over the chain of programs.

        Args:
            function: Which.
            cache: Of the row.
            tokens: At most as many as the function takes.
            first: Position of the first; None puts them behind those of the cache.

        Returns:
            The last program's only output; logits as (tokens, vocabulary) float32.
        """
        position = len(cache.tokens) if first is None else first
        chain, block = self._sessions(function), self._block_of(function)
        ids = np.zeros((1, block), np.int32)
        ids[0, : len(tokens)] = tokens
        value: Any = ids
        for index, session in enumerate(chain):
            mask = session.inputs["causal_mask"]
            inputs = {
                next(name for name in session.inputs if name not in {*_BESIDE_TOKENS, STATE}): value,
                "position": np.array([position], np.int32),
                "causal_mask": causal_mask(position, block, self.context_length, mask.dtype),
            }
            answers = _predict(session, inputs, cache.states, index, position)
            (value,) = answers.values()
        del cache.tokens[position:]
        cache.tokens.extend(tokens)
        array = np.asarray(value)
        return array[0].astype(np.float32) if array.ndim > 1 else array

    def _block_of(self, function: str) -> int:
        return self._sessions(function)[0].inputs["input_ids"].shape[1]

    def _sessions(self, function: str) -> list[Session]:
        """The chain of a function, loaded when it is first called: each that is loaded holds weights of its own."""
        if function not in self._functions:
            # All but the last program give hidden states of a block, whether logits are wanted in the end or not.
            names = [function if function in each.functions else PREFILL for each in self._programs]
            self._functions[function] = [
                program if program.function_name == name else program.function(name)
                for program, name in zip(self._programs, names, strict=True)
            ]
            check_chain(self._functions[function])
        return self._functions[function]

    def _check_room(self, cache: CachedTokens, tokens: Sequence[int]) -> None:
        total = len(cache.tokens) + len(tokens)
        if total > self.context_length:
            raise InputError(
                f"{total} tokens do not fit into the context of this package, which holds {self.context_length}; "
                f"shorten the text, or export with --context-length {total}"
            )


def check_chain(chain: Sequence[Session]) -> int:
    """Refuses functions that are not those of a decoder's programs.

    Args:
        chain: The same function of each program, in the order of the layers.

    Returns:
        The context: rows of the cache.

    Raises:
        PackageError: The message names what a function takes.
    """
    contexts = set()
    for index, session in enumerate(chain):
        first = "input_ids" if index == 0 else "hidden_states"
        needed = {first, *_BESIDE_TOKENS}
        if set(session.inputs) - {STATE} != needed or not (STATE in session.states or STATE in session.inputs):
            raise PackageError(
                f"function {session.function_name} takes {', '.join([*session.inputs, *session.states])}; that of a "
                f"language model takes {', '.join(sorted(needed))} and {STATE}"
            )
        mask = session.inputs["causal_mask"].shape
        if len(mask) != 4 or min(mask) < 1 or session.inputs[first].shape[:2] != (1, mask[2]):
            raise PackageError(
                f"function {session.function_name}: causal_mask {mask} and {first} {session.inputs[first].shape} do "
                "not fit each other"
            )
        contexts.add(mask[3])
    if len(contexts) > 1:
        raise PackageError(f"the programs have contexts of {', '.join(map(str, sorted(contexts)))} tokens")
    return contexts.pop()


class CacheArray:
    """The cache of a program that takes it as an input and gives the new rows as an output."""

    def __init__(self, value: np.ndarray) -> None:
        self.value = value

    def copy(self) -> CacheArray:
        """A cache of the same rows that shares nothing with this one."""
        return CacheArray(self.value.copy())


def _new_state(session: Session) -> Any:
    if session.states:
        return session.make_state()
    spec = session.inputs[STATE]
    return CacheArray(np.zeros(spec.shape, spec.dtype))


def _predict(
    session: Session, inputs: dict[str, np.ndarray], states: list[Any], index: int, position: int
) -> dict[str, Any]:
    """Runs one program, and writes the rows that it gives where its cache is no state of its own."""
    state = states[index]
    if not isinstance(state, CacheArray):
        return session.predict(inputs, state)
    answers = session.predict(inputs | {STATE: state.value})
    rows = np.asarray(answers.pop(NEW_ROWS))
    state.value[:, :, position : position + rows.shape[2]] = rows
    return answers
