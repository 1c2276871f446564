"""Packages in WhisperKit's layout behind the interface of the native one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from optimum_ane.errors import PackageError
from optimum_ane.exporters.cached_decoder.crossed import padded_columns
from optimum_ane.exporters.cached_decoder.module import STATE
from optimum_ane.exporters.decoder import NEW_ROWS
from optimum_ane.exporters.encoder_decoder import DECODER
from optimum_ane.exporters.encoder_sides import ENCODER, HIDDEN_STATES
from optimum_ane.exporters.whisper import AUDIO, FEATURES, MEL
from optimum_ane.exporters.whisperkit import KIT_DECODER, KIT_ENCODER, KIT_MEL
from optimum_ane.runtimes.session import TensorSpec

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from optimum_ane.runtimes import Session

_LEAST = -1e4
"""What the host adds to the scores of a column that is not seen."""


def whisperkit_sessions(sessions: Mapping[str, Session], config: PretrainedConfig) -> dict[str, Session]:
    """The sessions of the native programs `encoder`, `decoder` and `mel`, over those of WhisperKit's.

    Args:
        sessions: By name.
        config: The checkpoint's.

    Raises:
        PackageError: They are not those of the layout.
    """
    missing = [name for name in (KIT_MEL, KIT_ENCODER, KIT_DECODER) if name not in sessions]
    if missing:
        raise PackageError(f"WhisperKit's layout has the program {missing[0]!r}; found: {', '.join(sessions)}")
    return {
        ENCODER: _encoder(sessions[KIT_ENCODER]),
        DECODER: _decoder(sessions[KIT_DECODER], config),
        MEL: _mel(sessions[KIT_MEL]),
    }


class AdaptedSession:
    """See `runtimes.Session`: another session whose inputs and outputs are put into other names and shapes.

    Args:
        session: The other, of one function without states.
        inputs: What this one takes.
        outputs: What it gives.
        given: Makes the other's inputs of this one's.
        taken: Makes this one's outputs of the other's.
    """

    def __init__(
        self,
        session: Session,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        given: Callable[[Mapping[str, Any]], dict[str, np.ndarray]],
        taken: Callable[[Mapping[str, Any]], dict[str, np.ndarray]],
    ) -> None:
        self._session, self._given, self._taken = session, given, taken
        self.runtime, self.function_name = session.runtime, session.function_name
        self.inputs: Mapping[str, TensorSpec] = {spec.name: spec for spec in inputs}
        self.outputs: Mapping[str, TensorSpec] = {spec.name: spec for spec in outputs}
        self.states: Mapping[str, TensorSpec] = {}

    @property
    def functions(self) -> tuple[str, ...]:
        """See `Session`."""
        return self._session.functions

    def function(self, name: str) -> AdaptedSession:
        """See `Session`: there is one."""
        return self

    def with_rows(self, rows: int) -> AdaptedSession:
        """See `Session`: a row at a time."""
        return self

    def make_state(self) -> Any:
        """See `Session`."""
        return self._session.make_state()

    def predict(
        self, inputs: Mapping[str, Any], state: Any = None, *, intermediates: Sequence[str] = ()
    ) -> dict[str, Any]:
        """See `Session`."""
        return self._taken(self._session.predict(self._given(inputs), state, intermediates=intermediates))


def _spec(session: Session, name: str) -> TensorSpec:
    if name not in session.inputs:
        raise PackageError(f"a program of WhisperKit's layout takes no {name}, but {', '.join(session.inputs)}")
    return session.inputs[name]


def _mel(session: Session) -> AdaptedSession:
    (samples,) = _spec(session, "audio").shape
    return AdaptedSession(
        session,
        (TensorSpec(AUDIO, (1, samples), "float32"),),
        (TensorSpec(FEATURES, (), "float16"),),
        lambda inputs: {"audio": _of(session, "audio", np.asarray(inputs[AUDIO])[0])},
        lambda answer: {FEATURES: np.asarray(answer["melspectrogram_features"])[:, :, 0]},
    )


def _encoder(session: Session) -> AdaptedSession:
    features = "melspectrogram_features"
    _, mels, _, frames = _spec(session, features).shape
    return AdaptedSession(
        session,
        (TensorSpec(FEATURES, (1, mels, frames), "float32"),),
        (TensorSpec(HIDDEN_STATES, (), "float16"),),
        lambda inputs: {features: _of(session, features, np.asarray(inputs[FEATURES])[:, :, None])},
        lambda answer: {HIDDEN_STATES: np.asarray(answer["encoder_output_embeds"])[:, :, 0].swapaxes(1, 2)},
    )


def _decoder(session: Session, config: PretrainedConfig) -> AdaptedSession:
    _, _, _, columns = _spec(session, "key_cache").shape
    _, width, _, positions = _spec(session, "encoder_output_embeds").shape
    layers, heads = config.decoder_layers, config.decoder_attention_heads
    own = width // heads
    dtype = session.inputs["key_cache"].dtype

    def given(inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Rows of the cache become columns, and a position becomes the mark of its column."""
        position, rows = np.asarray(inputs["position"]), np.asarray(inputs[STATE])
        by_layer = rows.reshape(layers, 2, heads, columns, own).swapaxes(3, 4)
        values = {
            "input_ids": np.asarray(inputs["input_ids"])[0],
            "cache_length": position,
            "key_cache": by_layer[:, 0].reshape(1, -1, 1, columns),
            "value_cache": by_layer[:, 1].reshape(1, -1, 1, columns),
            "kv_cache_update_mask": (np.arange(columns) == position[0])[None],
            "encoder_output_embeds": np.asarray(inputs[HIDDEN_STATES]).swapaxes(1, 2)[:, :, None],
            "decoder_key_padding_mask": np.maximum(np.asarray(inputs["causal_mask"])[0, 0], _LEAST),
        }
        return {name: _of(session, name, value) for name, value in values.items()}

    def taken(answer: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The token's column becomes a row."""
        both = [np.asarray(answer[f"{kind}_cache_updates"]).reshape(layers, heads, own) for kind in ("key", "value")]
        rows = np.stack(both, axis=1).reshape(2 * layers, heads, 1, own)
        return {"logits": np.asarray(answer["logits"]), NEW_ROWS: rows}

    return AdaptedSession(
        session,
        (
            TensorSpec("input_ids", (1, 1), "int32"),
            TensorSpec("position", (1,), "int32"),
            TensorSpec("causal_mask", (1, 1, 1, columns), dtype),
            # It is not looked at: every position of a window counts.
            TensorSpec("encoder_mask", (1, 1, 1, padded_columns(positions)), dtype),
            TensorSpec(STATE, (2 * layers, heads, columns, own), dtype),
            TensorSpec(HIDDEN_STATES, (1, positions, width), dtype),
        ),
        (TensorSpec("logits", (), dtype), TensorSpec(NEW_ROWS, (), dtype)),
        given,
        taken,
    )


def _of(session: Session, name: str, value: np.ndarray) -> np.ndarray:
    """An input in the type that the program declares."""
    return np.ascontiguousarray(value).astype(session.inputs[name].dtype)
