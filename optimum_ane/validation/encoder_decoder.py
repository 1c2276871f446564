"""Does an encoder-decoder model over our caches answer as the original? Two sources, token by token, one state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutput

from optimum_ane.errors import CheckpointError
from optimum_ane.exporters.encoder_sides import HIDDEN_STATES
from optimum_ane.validation.cached_decoder import LogitsComparison, compare_logits
from optimum_ane.validation.psnr import psnr

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from optimum_ane.exporters.encoder_sides import Source
    from optimum_ane.modeling.encoder_decoder_programs import EncoderDecoderPrograms
    from optimum_ane.runtimes import TensorSpec

_RUBBISH = 7.0
"""What stands in the encoder's states where no source is: masks must hide it."""


@dataclass(frozen=True)
class WrittenAnswers:
    """What is answered to each source.

    Attributes:
        hidden: The encoder's states of its columns, (columns, C) float32 each.
        logits: Behind each token, (tokens, vocabulary) float32 each.
    """

    hidden: tuple[np.ndarray, ...]
    logits: tuple[np.ndarray, ...]


@torch.no_grad()
def answers_of_original(model: PreTrainedModel, sources: Sequence[Source], tokens: Tensor) -> WrittenAnswers:
    """What the original answers: each source alone, without padding, all tokens at once and without a cache.

    Args:
        model: In evaluation mode.
        sources: As the original takes them.
        tokens: (n,) int64, read of each source.

    Raises:
        CheckpointError: Its answers are not finite.
    """
    hidden, logits = [], []
    for source in sources:
        encoded = model.get_encoder()(**source.arguments, return_dict=True)
        states = encoded.last_hidden_state
        # Only what is handed on; Whisper's model takes no mask of a source.
        kept = BaseModelOutput(last_hidden_state=states)
        arguments: dict[str, Any] = {
            name: value for name, value in source.arguments.items() if name == "attention_mask"
        }
        answer = model(encoder_outputs=kept, decoder_input_ids=tokens[None], use_cache=False, **arguments).logits[0]
        if not (states.isfinite().all() and answer.isfinite().all()):
            raise CheckpointError("the original's own answers hold NaN or infinity; its weights are damaged")
        hidden.append(states[0].float().numpy())
        logits.append(answer.float().numpy())
    return WrittenAnswers(tuple(hidden), tuple(logits))


def answers_of_programs(programs: EncoderDecoderPrograms, sources: Sequence[Source], tokens: Tensor) -> WrittenAnswers:
    """What programs answer: token by token, all sources through one state, rubbish in the place of padding.

    Args:
        programs: Over sessions of any engine.
        sources: As the encoder's program takes them.
        tokens: (n,) int64, read of each source.
    """
    hidden, logits = [], []
    text = None
    for source in sources:
        arrays = {name: _array(source.inputs[name], spec) for name, spec in programs.inputs.items()}
        encoded = programs.encode(arrays)
        columns = encoded.hidden.shape[1] if source.columns is None else source.columns
        hidden.append(encoded.hidden[0, :columns].astype(np.float32))
        states = encoded.hidden.copy()
        states[:, columns:] = _RUBBISH
        text = programs.begin(type(encoded)(states, encoded.cache), source.columns, text)
        logits.append(np.stack([programs.step(text, token) for token in tokens.tolist()]))
    return WrittenAnswers(tuple(hidden), tuple(logits))


@dataclass(frozen=True)
class WrittenComparison:
    """How close programs are to the original, over all sources.

    Attributes:
        hidden: dB of the encoder's states; the least of the sources.
        logits: Token by token.
        least: dB of all logits of a source together; the least of the sources.
    """

    hidden: float
    logits: LogitsComparison
    least: float

    @property
    def ratios(self) -> Mapping[str, float]:
        """DB of the encoder's states, and that half of the tokens reach."""
        return {HIDDEN_STATES: self.hidden, "logits": self.logits.median}


def compare_written(expected: WrittenAnswers, actual: WrittenAnswers) -> WrittenComparison:
    """Compares what programs answered with the original's answers.

    Raises:
        ValidationError: The shapes differ, or nothing was compared.
    """
    hidden = min(psnr(theirs, ours) for theirs, ours in zip(expected.hidden, actual.hidden, strict=True))
    pairs = list(zip(expected.logits, actual.logits, strict=True))
    least = min(psnr(theirs, ours) for theirs, ours in pairs)
    together = compare_logits(*(np.concatenate(each) for each in zip(*pairs, strict=True)))
    return WrittenComparison(hidden, together, least)


def _array(value: Tensor, spec: TensorSpec) -> np.ndarray:
    return value.numpy().astype(spec.dtype)
