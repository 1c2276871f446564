"""What of an encoder-decoder model takes the source: the programs that encode it, and sources to compare on.

The decoder's programs are the same whatever the source is (`encoder_decoder.EncoderDecoderANEConfig`); for another
kind of source, write another `EncoderSide`, and a configuration that names it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.exporters.cached_decoder.crossed import encoder_width
from optimum_ane.exporters.programs import FunctionSpec, ProgramSpec, ValueSpec
from optimum_ane.exporters.stock_module import StockModule
from optimum_ane.exporters.stock_text import StockTextANEConfig
from optimum_ane.exporters.text import MAIN

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig

    from optimum_ane.exporters.config import Processor
    from optimum_ane.package.form import ExportForm
    from optimum_ane.runtimes import Session

ENCODER = "encoder"
"""The program, and its one function is `main`."""
HIDDEN_STATES = "encoder_hidden_states"
"""Its output, (1, T, C)."""


Answer: TypeAlias = "tuple[np.ndarray, np.ndarray]"
"""What was expected, and what was given."""


@dataclass(frozen=True)
class Source:
    """One source that the original and a package are compared on.

    Attributes:
        inputs: Of the encoder's program, filled up to its shapes with what must not matter, by name.
        arguments: The same as the original takes it, without what fills it up.
        columns: How many of the encoder's states, from the first on, are of the source; None for all.
    """

    inputs: Mapping[str, Tensor]
    arguments: Mapping[str, Tensor]
    columns: int | None = None


class EncoderSide(ABC):
    """One kind of source.

    Args:
        config: The checkpoint's configuration.
        task: Optimum's name.
    """

    def __init__(self, config: PretrainedConfig, task: str) -> None:
        self.config, self.task = config, task

    def complete(self, form: ExportForm, processor: Processor | None) -> ExportForm:
        """See `ANEConfig.complete`."""
        return form

    @abstractmethod
    def check(self, form: ExportForm) -> None:
        """See `ANEConfig.check`."""

    @abstractmethod
    def inputs(self, form: ExportForm) -> tuple[ValueSpec, ...]:
        """The inputs of the encoder's program, of one row."""

    def programs(self, form: ExportForm) -> tuple[ProgramSpec, ...]:
        """The programs before the decoder's, the last of which is `encoder`."""
        function = FunctionSpec(MAIN, self.inputs(form), (ValueSpec(HIDDEN_STATES, None, form.precision),))
        return (ProgramSpec(ENCODER, (function,), form.precision, form.compute_units),)

    def wrap(self, original: nn.Module, program: ProgramSpec) -> Any:
        """Puts the original's encoder behind the interface of a program; see `StockANEConfig.wrap`."""
        names = [value.name for value in program.functions[0].inputs]
        return StockModule(original.get_encoder(), names, ["last_hidden_state"])

    @abstractmethod
    def function_inputs(self, function: FunctionSpec, seed: int = 0) -> dict[str, Tensor]:
        """See `ANEConfig.function_inputs`."""

    @abstractmethod
    def sources(self, form: ExportForm, seed: int = 0) -> tuple[Source, ...]:
        """Two seeded sources at least, the first of the full length and the last of an odd, smaller one, if any is."""

    def further_answers(self, sessions: Mapping[str, Session]) -> Mapping[str, Sequence[Answer]]:
        """Runs programs before the encoder, and what makes their outputs elsewhere.

        Args:
            sessions: Of all programs by name, in PyTorch or saved.

        Returns:
            What is expected and what a program gave, by a name that tells what it is; nothing where there are no such
            programs.
        """
        return {}

    def hidden_shape(self, empty_model: nn.Module, form: ExportForm) -> tuple[int, int]:
        """Columns and width of the encoder's states, by a run without memory for the weights.

        Args:
            empty_model: The whole model, on torch's meta device.
            form: Of the package.

        Raises:
            UnsupportedModelError: The encoder cannot be run on these inputs.
        """
        program = self.programs(form)[-1]
        inputs = self.function_inputs(program.functions[0])
        values = [
            value.to("meta", torch.float32 if value.is_floating_point() else torch.int64) for value in inputs.values()
        ]
        try:
            with torch.no_grad():
                hidden = self.wrap(empty_model, program)(*values)[0]
        except Exception as error:  # a model raises whatever it stumbles over
            lines = str(error).strip().splitlines()
            raise UnsupportedModelError(
                f"the encoder of {self.config.model_type} cannot be run on {', '.join(inputs)}: "
                f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
            ) from error
        return int(hidden.shape[1]), int(hidden.shape[2])


class TextSide(EncoderSide):
    """Texts, padded on the right, with a mask."""

    def __init__(self, config: PretrainedConfig, task: str) -> None:
        super().__init__(config, task)
        self.texts = StockTextANEConfig(config, task)

    def check(self, form: ExportForm) -> None:
        """See `EncoderSide.check`."""
        self.texts.check(form)

    def inputs(self, form: ExportForm) -> tuple[ValueSpec, ...]:
        """See `EncoderSide.inputs`."""
        return tuple(ValueSpec(name, (1, form.longest), "int32") for name in ("input_ids", "attention_mask"))

    def function_inputs(self, function: FunctionSpec, seed: int = 0) -> dict[str, Tensor]:
        """See `EncoderSide.function_inputs`: one text, two thirds as long as the row."""
        shape = function.inputs[0].shape
        assert shape is not None
        values = self.texts.make_inputs(1, shape[1], seed)
        values["attention_mask"][:, max(1, 2 * shape[1] // 3) :] = 0
        return {value.name: values[value.name] for value in function.inputs}

    def hidden_shape(self, empty_model: nn.Module, form: ExportForm) -> tuple[int, int]:
        """See `EncoderSide.hidden_shape`: a column for each token. A run is of no use: it would look at the mask."""
        return form.longest, encoder_width(self.config)

    def sources(self, form: ExportForm, seed: int = 0) -> tuple[Source, ...]:
        """See `EncoderSide.sources`: words that must not matter stand in the place of padding."""
        length = form.longest
        found = []
        for index, count in enumerate(dict.fromkeys((length, max(1, length // 3) | 1))):
            ids = self.texts.make_inputs(1, length, seed + index)["input_ids"].long()
            mask = (torch.arange(length)[None] < count).long()
            alone = {"input_ids": ids[:, :count], "attention_mask": mask[:, :count]}
            found.append(Source({"input_ids": ids, "attention_mask": mask}, alone, count))
        return tuple(found)
