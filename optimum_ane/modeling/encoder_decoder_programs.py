"""The programs of an encoder-decoder model: a source is encoded, kept once, and written of token by token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from optimum_ane.errors import InputError, PackageError
from optimum_ane.exporters.cached_decoder.crossed import SOURCE_STATE
from optimum_ane.exporters.cached_decoder.inputs import causal_mask
from optimum_ane.exporters.cached_decoder.masks import HIDDEN
from optimum_ane.exporters.cached_decoder.module import STATE
from optimum_ane.exporters.decoder import INFER, NEW_ROWS
from optimum_ane.exporters.encoder_decoder import BEGIN, DECODER
from optimum_ane.exporters.encoder_sides import ENCODER, HIDDEN_STATES
from optimum_ane.exporters.text import MAIN
from optimum_ane.modeling.decoder_programs import CacheArray, CachedTokens

if TYPE_CHECKING:
    from optimum_ane.runtimes import Session

_OF_A_TOKEN = frozenset({"input_ids", "position", "causal_mask", "encoder_mask"})
_CACHES = frozenset({STATE, SOURCE_STATE})


@dataclass(frozen=True)
class EncodedSource:
    """What the encoder gives of one source.

    Attributes:
        hidden: Its states, (1, T, C).
        cache: Keys and values of the source, (2 · layers, heads, columns, width), where the encoder's program gives
            them: before iOS 18.
    """

    hidden: np.ndarray
    cache: np.ndarray | None = None


@dataclass
class CachedText(CachedTokens):
    """The caches of one text that is written of a source.

    Attributes:
        encoder_mask: Over the source's columns, as the decoder's program takes it.
        source: What the decoder's program takes of the source at each step; None where it is in the state.
    """

    encoder_mask: np.ndarray
    source: np.ndarray | None

    def copy(self) -> CachedText:
        """The caches of the same tokens and source; where the source is no state, it is not written to and shared."""
        return CachedText([state.copy() for state in self.states], list(self.tokens), self.encoder_mask, self.source)


class EncoderDecoderPrograms:
    """Runs the programs `encoder` and `decoder`.

    Args:
        sessions: The loaded programs by name; others are not looked at.

    Raises:
        PackageError: One is missing, or takes something else than an encoder-decoder model's programs do.
    """

    def __init__(self, sessions: Mapping[str, Session]) -> None:
        missing = [name for name in (ENCODER, DECODER) if name not in sessions]
        if missing:
            raise PackageError(f"the package has no program {missing[0]!r}; it has {', '.join(sessions)}")
        self._encoder, decoder = sessions[ENCODER], sessions[DECODER]
        is_single = set(decoder.functions) == {MAIN}
        self._step = decoder if is_single else _function(decoder, INFER)
        self._begin = None if is_single else _function(decoder, BEGIN)
        _check(self._step, self._begin)
        _check_outputs(self._encoder, self._step)
        self.context_length = self._step.inputs["causal_mask"].shape[3]
        self.inputs = self._encoder.inputs

    def encode(self, inputs: Mapping[str, np.ndarray]) -> EncodedSource:
        """Runs the encoder on one source.

        Args:
            inputs: Of the shapes and types that its program declares.
        """
        answer = self._encoder.predict(inputs)
        cache = answer.get(SOURCE_STATE)
        return EncodedSource(np.asarray(answer[HIDDEN_STATES]), None if cache is None else np.asarray(cache))

    def begin(self, source: EncodedSource, columns: int | None = None, again: CachedText | None = None) -> CachedText:
        """Keeps a source, for texts to be written of it.

        Args:
            source: What the encoder gave.
            columns: How many of its states, from the first on, are of the source; None for all.
            again: Caches that are not used any more, whose state is taken; None makes one.

        Raises:
            InputError: What is given is not of this package.
        """
        mask = self._step.inputs["encoder_mask"]
        length = source.hidden.shape[1] if columns is None else columns
        is_open = np.arange(mask.shape[3]) < length
        encoder_mask = np.where(is_open, 0.0, HIDDEN).astype(mask.dtype)[None, None, None]
        if self._begin is not None:
            state = self._begin.make_state() if again is None else again.states[0]
            spec = self._begin.inputs[HIDDEN_STATES]
            self._begin.predict({HIDDEN_STATES: _of_shape(source.hidden, spec.shape).astype(spec.dtype)}, state)
            return CachedText([state], [], encoder_mask, None)
        name = SOURCE_STATE if SOURCE_STATE in self._step.inputs else HIDDEN_STATES
        taken, spec = source.cache if name == SOURCE_STATE else source.hidden, self._step.inputs[name]
        if taken is None:
            raise InputError(
                "encoder_outputs of another model were given: this one needs the keys and values of its own"
            )
        own = self._step.inputs[STATE]
        cache = CacheArray(np.zeros(own.shape, own.dtype)) if again is None else again.states[0]
        return CachedText([cache], [], encoder_mask, _of_shape(taken, spec.shape).astype(spec.dtype))

    def gives(self, name: str) -> bool:
        """Whether a step has an output of this name."""
        return name in self._step.outputs

    def step(self, text: CachedText, token: int) -> np.ndarray:
        """Reads one token; gives the logits of what follows, (vocabulary,) float32.

        Raises:
            InputError: The context is full.
        """
        return np.asarray(self.read(text, token)["logits"])[0, 0].astype(np.float32)

    def read(self, text: CachedText, token: int) -> Mapping[str, np.ndarray]:
        """Reads one token; gives the outputs by name, as the program gives them.

        Raises:
            InputError: The context is full.
        """
        position = len(text.tokens)
        if position >= self.context_length:
            raise InputError(
                f"{position + 1} tokens do not fit into the context of this package, which holds "
                f"{self.context_length}; write fewer, or export with --context-length {position + 1}"
            )
        inputs: dict[str, Any] = {
            "input_ids": np.array([[token]], np.int32),
            "position": np.array([position], np.int32),
            "causal_mask": causal_mask(position, 1, self.context_length, self._step.inputs["causal_mask"].dtype),
            "encoder_mask": text.encoder_mask,
        }
        state = text.states[0]
        if isinstance(state, CacheArray):
            name = SOURCE_STATE if SOURCE_STATE in self._step.inputs else HIDDEN_STATES
            answer = self._step.predict(inputs | {STATE: state.value, name: text.source})
            state.value[:, :, position : position + 1] = np.asarray(answer[NEW_ROWS])
        else:
            answer = self._step.predict(inputs, state)
        text.tokens.append(token)
        return answer


def _function(program: Session, name: str) -> Session:
    if name not in program.functions:
        raise PackageError(f"the program {DECODER} has no function {name!r}; it has {', '.join(program.functions)}")
    return program if program.function_name == name else program.function(name)


def _check(step: Session, begin: Session | None) -> None:
    """Refuses programs that are not a decoder's.

    Raises:
        PackageError: The message names what a function takes.
    """
    own = step.inputs.keys() | step.states.keys()
    passed = own - _OF_A_TOKEN
    is_known = passed == _CACHES or (begin is None and passed == {STATE, HIDDEN_STATES})
    if not own >= _OF_A_TOKEN or not is_known or (begin is not None and set(step.states) != _CACHES):
        raise PackageError(
            f"function {step.function_name} of the program {DECODER} takes {', '.join(sorted(own))}; that of a "
            f"decoder takes {', '.join(sorted(_OF_A_TOKEN | _CACHES))}"
        )
    if begin is not None and (set(begin.inputs) != {HIDDEN_STATES} or dict(begin.states) != dict(step.states)):
        raise PackageError(
            f"function {BEGIN} of the program {DECODER} takes {', '.join([*begin.inputs, *begin.states])}; it should "
            f"take {HIDDEN_STATES} and the states of {INFER}"
        )
    masks = [step.inputs[name].shape for name in ("causal_mask", "encoder_mask")]
    if any(len(shape) != 4 or shape[:3] != (1, 1, 1) or shape[3] < 1 for shape in masks):
        raise PackageError(f"the masks of function {step.function_name} have the shapes {masks[0]} and {masks[1]}")
    given = {name: step.inputs[name].shape for name in ("input_ids", "position")}
    if given != {"input_ids": (1, 1), "position": (1,)}:
        raise PackageError(f"function {step.function_name} takes {given}; a decoder of sources reads one token")
    own_cache, source = ((step.states.get(name) or step.inputs.get(name)) for name in (STATE, SOURCE_STATE))
    for cache, mask in ((own_cache, masks[0]), (source, masks[1])):
        if cache is not None and (len(cache.shape) != 4 or cache.shape[2] != mask[3]):
            raise PackageError(
                f"function {step.function_name} keeps {cache.name} {cache.shape}, and its mask is of {mask[3]} rows"
            )


def _check_outputs(encoder: Session, step: Session) -> None:
    """Refuses programs that do not give what the others take.

    Raises:
        PackageError: The message names what is missing.
    """
    needed = [(encoder, HIDDEN_STATES), (step, "logits")]
    if not step.states:
        needed.append((step, NEW_ROWS))
    if SOURCE_STATE in step.inputs:
        needed.append((encoder, SOURCE_STATE))
    for session, name in needed:
        if name not in session.outputs:
            raise PackageError(
                f"function {session.function_name} gives {', '.join(session.outputs)}, and the model class needs "
                f"{name}; export or download the package again"
            )


def _of_shape(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if value.shape != shape:
        raise InputError(
            f"what the encoder gave has shape {value.shape}, and the decoder of this package takes {shape}"
        )
    return value
