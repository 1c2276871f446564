"""A model of transformers, as it is, behind the interface of our modules: inputs by position, outputs as a tuple."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from optimum_ane.nn import LayerStack, SentencePooling
from optimum_ane.nn.find_layers import find_layers


class StockModule(nn.Module):
    """The original with its inputs in an order and its outputs reduced to those of a task.

    Args:
        model: A transformers model, in evaluation mode. It is neither copied nor changed.
        inputs: Names of the arguments of its `forward`, in the order of the program's inputs.
        outputs: Names of the fields of its `ModelOutput`, in the order of the program's outputs.
        adds_choices: Whether its inputs have an axis of choices, (N, choices, S), that those of the program lack.
        constants: Further arguments of every call.
        prepare: Modules that are called on inputs before the original sees them, by the inputs' names.
        finish: Makes further outputs of those of the original; takes them in order, and gives a tuple.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Sequence[str],
        outputs: Sequence[str],
        *,
        adds_choices: bool = False,
        constants: Mapping[str, Any] | None = None,
        prepare: Mapping[str, nn.Module] | None = None,
        finish: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self.adds_choices = adds_choices
        self.prepare = nn.ModuleDict({**(prepare or {})})
        self.finish = finish
        self.constants = {**_without_cache(model), **(constants or {})}
        self.sentence_pooling: SentencePooling | None = None
        """Set before the capture to make the graph's output a sentence embedding: (B, C) of the first output."""
        self._layers: LayerStack | None = None

    @property
    def original(self) -> nn.Module:
        """Whose modules the values of the program are named by."""
        return self.model

    def call(self, *values: Tensor) -> Any:
        """Calls the original with the program's inputs; gives its `ModelOutput`."""
        return self.model(**self.arguments(values), **self.constants)

    def arguments(self, values: Sequence[Tensor]) -> dict[str, Tensor]:
        """The original's arguments, of the program's inputs."""
        if self.adds_choices:
            values = tuple(value.unsqueeze(1) for value in values)
        arguments = dict(zip(self.inputs, values, strict=True))
        for name, module in self.prepare.items():
            arguments[name] = module(arguments[name])
        return arguments

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Gives the outputs, of the shapes that the original gives them."""
        answer = self.call(*values)
        outputs = tuple(answer[name] for name in self.outputs)
        if self.finish is not None:
            return (*outputs, *self.finish(*outputs))
        if self.sentence_pooling is None:
            return outputs
        hidden, mask = outputs[0], values[self.inputs.index("attention_mask")]
        return (self.sentence_pooling(hidden.transpose(1, 2).unsqueeze(2), mask),)

    def learn_layers(self, inputs: Mapping[str, Tensor]) -> None:
        """Runs the original once and looks which of its modules are its layers; see `find_layers`.

        Args:
            inputs: One of each of the program's inputs.
        """
        values = [value if value.is_floating_point() else value.long() for value in inputs.values()]
        self._layers = find_layers(self.model, lambda: self.call(*values))

    def layer_stack(self) -> LayerStack | None:
        """The layers that `learn_layers` found; None where it could not tell."""
        return self._layers


def _without_cache(model: nn.Module) -> dict[str, bool]:
    return {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
