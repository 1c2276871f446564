"""The bases of all text models' export configurations; an architecture states only what differs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
from optimum.utils import NormalizedTextConfig

from optimum_ane.errors import ShapeError, UnsupportedModelError
from optimum_ane.exporters.class_labels import class_labels_of
from optimum_ane.exporters.config import ANEConfig
from optimum_ane.exporters.programs import FunctionSpec, ProgramSpec, ValueSpec
from optimum_ane.tasks import TASKS, compared_fields

if TYPE_CHECKING:
    from torch import Tensor, nn

    from optimum_ane.package.form import ExportForm

MAIN = "main"

_ROWS_PER_TOKEN, _ROWS_PER_SEQUENCE = 4, 16
"""Rows of the examples: one full, the others padded to shorter and shorter lengths. A task that gives a few numbers
per row needs more of them, or a ratio over them says little."""


def function_of_length(length: int) -> str:
    """The name of the function for one length, in a package that has several."""
    return f"seq_{length}"


class TextANEConfig(ANEConfig):
    """Shared by all models that take rows of tokens, whatever their modules are: programs, labels and examples."""

    NORMALIZED_CONFIG_CLASS = NormalizedTextConfig

    @property
    def input_names(self) -> tuple[str, ...]:
        """Of the inputs, in the order of the module's arguments."""
        names = ("input_ids", "attention_mask")
        has_token_types = getattr(self._config, "type_vocab_size", 0) > 1
        return (*names, "token_type_ids") if has_token_types else names

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """Input names and axes, in the order of the module's arguments."""
        return {name: {0: "batch_size", 1: "sequence_length"} for name in self.input_names}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        """Output names and axes, in the order in which the module returns them."""
        axes = {"row": {0: "batch_size"}}
        tokens = {0: "batch_size", 1: "sequence_length"}
        return {field.name: dict(axes.get(field.per, tokens)) for field in TASKS[self.task].fields}

    def programs(self, form: ExportForm) -> tuple[ProgramSpec, ...]:
        """See `ANEConfig.programs`: one program, with one function for each length."""
        names = [field.in_package for field in compared_fields(self.task, form.pools)]
        single = len(form.sequence_length) == 1
        functions = tuple(
            FunctionSpec(
                name=MAIN if single else function_of_length(length),
                inputs=tuple(ValueSpec(name, (form.batch_size, length), "int32") for name in self.inputs),
                outputs=tuple(ValueSpec(name, None, form.precision) for name in names),
                view=self.view(form, length),
            )
            # The longest is the default: it takes what a caller who does not choose may give.
            for length in reversed(form.sequence_length)
        )
        labels = class_labels_of(self._config) if form.class_labels else None
        return (ProgramSpec("model", functions, form.precision, form.compute_units, labels),)

    def view(self, form: ExportForm, length: int) -> Callable[[nn.Module], nn.Module]:
        """What is traced of a program's module for one length; see `FunctionSpec.view`."""
        raise NotImplementedError

    @property
    def padding_id(self) -> int:
        """The id of padding; 0 where the configuration names none."""
        return self._config.pad_token_id or 0

    @property
    def vocab_size(self) -> int:
        """Rows of the table of words."""
        return self._config.vocab_size

    def examples(self, form: ExportForm, seed: int = 0) -> tuple[dict[str, Tensor], ...]:
        """See `ANEConfig.examples`: (N, S) each, or (N, 1, S) with choices, one batch for each length, int64."""
        per_row = all(field.per == "row" for field in TASKS[self.task].fields)
        rows = _ROWS_PER_SEQUENCE if per_row else _ROWS_PER_TOKEN
        batches = tuple(self.make_inputs(rows, length, seed) for length in reversed(form.sequence_length))
        if TASKS[self.task].has_choices:
            return tuple({name: value.long().unsqueeze(1) for name, value in batch.items()} for batch in batches)
        return tuple({name: value.long() for name, value in batch.items()} for batch in batches)

    def function_inputs(self, function: FunctionSpec, seed: int = 0) -> dict[str, Tensor]:
        """See `ANEConfig.function_inputs`."""
        shape = function.inputs[0].shape
        assert shape is not None
        return self.make_inputs(shape[0], shape[1], seed)

    def make_inputs(self, batch_size: int, sequence_length: int, seed: int = 0) -> dict[str, Tensor]:
        """Makes seeded inputs, each (B, S) int32.

        The first row is full; the others are padded on the right to lengths spread over 1 … S. The ids spread over
        the whole vocabulary and avoid the padding id, which is used for padding only.
        """
        generator = torch.Generator().manual_seed(seed)
        padding_id, shape = self.padding_id, (batch_size, sequence_length)
        ids = torch.randint(0, self.vocab_size - 1, shape, generator=generator, dtype=torch.int32)
        ids += (ids >= padding_id).int()
        lengths = torch.linspace(sequence_length, 1, batch_size).round().int()
        mask = (torch.arange(sequence_length)[None, :] < lengths[:, None]).int()
        values = {"input_ids": torch.where(mask.bool(), ids, padding_id).int(), "attention_mask": mask}
        if "token_type_ids" in self.input_names:
            values["token_type_ids"] = (torch.arange(sequence_length)[None, :] >= lengths[:, None] // 2).int() * mask
        return values


class TextEncoderANEConfig(TextANEConfig):
    """Shared by all text encoders that are written by hand."""

    POSITIONS_AFTER_PADDING: ClassVar[bool] = False
    """Whether positions are counted from the padding id on, as RoBERTa does."""

    def view(self, form: ExportForm, length: int) -> Callable[[nn.Module], nn.Module]:
        """See `TextANEConfig.view`."""
        return partial(_at_length, form=form, length=length)

    @property
    def max_sequence_length(self) -> int:
        """The longest sequence that the position table holds."""
        offset = self.padding_id + 1 if self.POSITIONS_AFTER_PADDING else 0
        return self._config.max_position_embeddings - offset

    def check(self, form: ExportForm) -> None:
        """See `ANEConfig.check`."""
        config = self._config
        if form.longest > self.max_sequence_length:
            raise ShapeError(
                f"sequence length {form.longest} is above the {self.max_sequence_length} positions of this "
                f"checkpoint; choose --sequence-length {self.max_sequence_length} or less"
            )
        if config.num_attention_heads < 1 or config.hidden_size % config.num_attention_heads:
            raise ShapeError(
                f"{config.num_attention_heads} attention heads do not divide the width {config.hidden_size}; "
                "config.json contradicts itself"
            )
        if getattr(config, "is_decoder", False):
            raise UnsupportedModelError("is_decoder is set in config.json; only encoders are supported")
        position_type = getattr(config, "position_embedding_type", "absolute")
        if position_type not in ("absolute", None):
            raise UnsupportedModelError(
                f"position_embedding_type {position_type!r} is not supported (transformers 5 ignores it as well); "
                "only 'absolute' is"
            )


def _at_length(module: nn.Module, form: ExportForm, length: int) -> nn.Module:
    """What is traced of an encoder for one length: what depends on the length is computed once, parameters shared."""
    from optimum_ane.nn.fixed_length import at_length
    from optimum_ane.nn.pooling import SentencePooling

    view = at_length(module, length)
    if form.pools and view.sentence_pooling is None:
        view.sentence_pooling = SentencePooling(form.pooling, form.normalize)
    return view
