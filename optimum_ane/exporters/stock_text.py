"""The export configuration of every text model of transformers that goes by its graph."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch

from optimum_ane.errors import ShapeError, UnsupportedModelError
from optimum_ane.exporters.stock import StockANEConfig
from optimum_ane.exporters.text import TextANEConfig
from optimum_ane.nn.pooling import SentencePooling

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig

    from optimum_ane.package.form import ExportForm

_OPTIONAL = ("token_type_ids",)
"""Inputs that an original may do without: taken where the tokenizer gives them."""


class StockTextANEConfig(TextANEConfig, StockANEConfig):
    """Inputs are those that both the original's `forward` and the tokenizer have, outputs the fields of the task."""

    @cached_property
    def text_config(self) -> PretrainedConfig:
        """The part of the configuration that is about text: most are about nothing else."""
        return self._config.get_text_config()

    @property
    def input_names(self) -> tuple[str, ...]:
        """See `TextANEConfig.input_names`."""
        taken = self.forward_arguments()
        return tuple(name for name in super().input_names if name in taken and name not in self._left_out)

    _left_out: frozenset[str] = frozenset()

    def limit_inputs(self, available: Collection[str]) -> None:
        """See `ANEConfig.limit_inputs`."""
        self._left_out = frozenset(_OPTIONAL).difference(available)

    @property
    def padding_id(self) -> int:
        """See `TextANEConfig.padding_id`."""
        return getattr(self.text_config, "pad_token_id", None) or 0

    @property
    def vocab_size(self) -> int:
        """See `TextANEConfig.vocab_size`."""
        return self.text_config.vocab_size

    def check(self, form: ExportForm) -> None:
        """See `ANEConfig.check`."""
        for name in ("input_ids", "attention_mask"):
            if name not in self.input_names:
                raise UnsupportedModelError(
                    f"the forward of {self._config.model_type} takes no {name}: padded rows could not be told from "
                    "full ones, and a program has rows of one length"
                )
        self.check_length(form)

    def check_length(self, form: ExportForm) -> None:
        """Refuses more tokens than the checkpoint has positions for.

        Raises:
            ShapeError: The message holds both numbers.
            UnsupportedModelError: The configuration does not say how many words there are.
        """
        if not isinstance(getattr(self.text_config, "vocab_size", None), int):
            raise UnsupportedModelError(f"the configuration of {self._config.model_type} states no vocab_size")
        positions = getattr(self.text_config, "max_position_embeddings", None)
        if isinstance(positions, int) and 0 < positions < form.longest:
            raise ShapeError(
                f"sequence length {form.longest} is above the {positions} positions of this checkpoint; choose "
                f"--sequence-length {positions} or less"
            )

    def view(self, form: ExportForm, length: int) -> Callable[[nn.Module], nn.Module]:
        """See `TextANEConfig.view`."""
        return partial(_pooled, form=form)

    def make_inputs(self, batch_size: int, sequence_length: int, seed: int = 0) -> dict[str, Tensor]:
        """See `TextANEConfig.make_inputs`. Rows of models that generate text are padded on the left, every other one.

        Batches of prompts are padded there, so that what follows stands at their end.
        """
        values = super().make_inputs(batch_size, sequence_length, seed)
        if getattr(self._config, "is_encoder_decoder", False) and isinstance(self.text_config.eos_token_id, int):
            values["input_ids"] = self._with_one_end(values["input_ids"], values["attention_mask"])
        if self.task != "text-generation":
            return values
        lengths = values["attention_mask"].sum(1)
        places = torch.arange(sequence_length)[None, :] - (sequence_length - lengths[:, None])
        is_left = torch.arange(batch_size)[:, None] % 2 == 1
        order = torch.where(is_left, places, torch.arange(sequence_length)[None, :]) % sequence_length
        return {name: value.gather(1, order) for name, value in values.items()}

    def _with_one_end(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Each row with the end of sequence as its last token and nowhere else: BART's classifiers look there."""
        end = self.text_config.eos_token_id
        another = next(index for index in range(self.vocab_size) if index not in (end, self.padding_id))
        last = mask.sum(1, keepdim=True).long() - 1
        return torch.where(ids == end, another, ids).scatter(1, last, end).to(ids.dtype)


def _pooled(module: nn.Module, form: ExportForm) -> nn.Module:
    if form.pools and module.sentence_pooling is None:
        module.sentence_pooling = SentencePooling(form.pooling, form.normalize)
    return module
