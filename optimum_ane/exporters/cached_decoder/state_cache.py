"""A cache of transformers' interface over one tensor of fixed shape, the state of a program."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from optimum_ane.errors import UnsupportedModelError


class StateCache:
    """Keys and values of all layers in one tensor, (2 · layers, heads, context, width).

    A layer's keys are at 2 · index, its values behind them: both are written by one slice assignment, which becomes
    one update of the state. A layer gets all rows back, those to come included: the mask hides them. Where keys and
    values, or layers, differ in shape, the state has the largest, and what is beyond a layer's own is zeros that it
    does not get back.

    It stands for transformers' `Cache` and is none: what a modeling file asks of a cache beside these methods is not
    understood, and ends in an `AttributeError` that names it.

    Args:
        state: The tensor; it is written to.
        position: () integer, the row of the first token.
        first_layer: The number of the state's first layer in the model.
    """

    is_compileable = False
    layers: tuple[()] = ()

    def __init__(self, state: Tensor, position: Tensor, first_layer: int = 0) -> None:
        self._state, self._first_layer = state, first_layer
        self._position = position
        self.updated: list[int] = []

    @property
    def context_length(self) -> int:
        """How many rows there are."""
        return self._state.shape[2]

    @property
    def is_sliding(self) -> list[bool]:
        """No layer forgets rows: a window is a matter of the mask."""
        return [False] * (self._first_layer + self._state.shape[0] // 2)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, cache_kwargs: Any = None
    ) -> tuple[Tensor, Tensor]:
        """Writes the rows of new tokens, and gives all rows of the layer.

        Args:
            key_states: (1, heads, tokens, width), with at most the state's heads and width.
            value_states: As `key_states`, with heads and a width of their own.
            layer_idx: Of the layer.
            cache_kwargs: Not used.

        Returns:
            Keys and values, (1, heads, context, width) each.

        Raises:
            UnsupportedModelError: A layer's keys or values are larger than the state.
        """
        most = (1, self._state.shape[1], key_states.shape[2], self._state.shape[3])
        for name, value in (("keys", key_states), ("values", value_states)):
            if any(own > there for own, there in zip(value.shape, most, strict=True)):
                raise UnsupportedModelError(
                    f"the {name} of layer {layer_idx} are {tuple(value.shape)}, and the state holds {most}"
                )
        self.updated.append(layer_idx)
        rows = torch.cat((self._filled_up(key_states), self._filled_up(value_states)))
        keys, values = self.write(2 * (layer_idx - self._first_layer), rows)
        return _like(key_states, keys), _like(value_states, values)

    def _filled_up(self, value: Tensor) -> Tensor:
        """Keys or values with zeros up to the state's heads and width."""
        heads, width = (self._state.shape[axis] - value.shape[axis] for axis in (1, 3))
        return F.pad(value, (0, width, 0, 0, 0, heads)) if heads or width else value

    def write(self, first: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Writes a layer's new rows, (2, heads, tokens, width); gives all its keys and all its values.

        Args:
            first: Where the layer's keys are; its values are behind them.
            rows: Keys and values.
        """
        last = first + 2
        self._state[first:last, :, self._position : self._position + rows.shape[2]] = rows
        return self._state[first : first + 1], self._state[first + 1 : last]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Gives 0: positions are given to the model, and rows are counted by the mask."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Gives the number of rows, and the first one's position."""
        return self.context_length, 0

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """Gives the number of rows."""
        return self.context_length

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """Gives the number of rows."""
        return self.context_length


def _like(value: Tensor, rows: Tensor) -> Tensor:
    """The part of the state's rows that holds what was filled up."""
    heads, width = value.shape[1], value.shape[3]
    return rows if rows.shape[1::2] == (heads, width) else rows[:, :heads, :, :width]
