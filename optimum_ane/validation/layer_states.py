"""An original that gives the states between its layers as its program has them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from optimum_ane.nn import LayerStack, find_layers, first_argument, first_tensor

if TYPE_CHECKING:
    from torch import Tensor, nn

    from optimum_ane.validation.comparison import Model


class WithLayerStates:
    """A model whose `hidden_states` are what enters and what leaves its layers, where `find_layers` tells them.

    What transformers itself gives as hidden states stands before or behind a norm in some models, and is one state
    more or less in others. The program's states are named where the layers are, so they are read there here too.

    Args:
        model: What is called: the original, or what pools its states.
        original: The transformers model with the layers.
    """

    def __init__(self, model: Model, original: nn.Module) -> None:
        self.model, self.original = model, original
        self.forward = getattr(model, "forward", model.__call__)
        """What says which inputs are taken."""
        self._stack: LayerStack | None = None
        self._is_known = False

    def __call__(self, output_hidden_states: bool = False, **inputs: Any) -> Any:
        """Takes what the model takes."""
        if not output_hidden_states:
            return self.model(**inputs)
        if not self._is_known:
            self._stack, self._is_known = find_layers(self.original, lambda: self.model(**inputs)), True
        states: list[Tensor] = []

        def enter(layer: nn.Module, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> None:
            states.append(first_argument(arguments, dict(named)))  # type: ignore[arg-type]

        def leave(layer: nn.Module, arguments: tuple[Any, ...], result: Any) -> None:
            states.append(first_tensor(result))  # type: ignore[arg-type]

        with ExitStack() as hooks:
            if self._stack is not None:
                for layer in self._stack.layers:
                    hooks.callback(layer.register_forward_pre_hook(enter, with_kwargs=True).remove)
                hooks.callback(self._stack.output.register_forward_hook(leave).remove)
            answer = self.model(**inputs)
        answer["hidden_states"] = tuple(states)
        return answer
