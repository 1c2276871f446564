"""The masks of a decoder over its state, in place of those that transformers makes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from optimum_ane.errors import NoCacheError, UnsupportedModelError

HIDDEN = -3e4
"""What is added to the score of a row that is not seen; float16 holds twice of it."""

_MAKERS = (
    "create_causal_mask",
    "create_sliding_window_causal_mask",
    "create_chunked_causal_mask",
    "create_masks_for_generate",
)
_OF_SOURCES = "create_bidirectional_mask"
"""Replaced by makers that have it; without, what looks at a source makes its own mask."""
_RECURRENT = "create_recurrent_attention_mask"


class MaskMakers:
    """Makes the masks that a modeling file asks for from that of the program.

    Args:
        mask: (1, 1, Q, context), added to the scores.
        positions: (Q,) integer, of the tokens.
    """

    def __init__(self, mask: Tensor, positions: Tensor) -> None:
        self._mask, self._positions = mask, positions
        self.calls = 0

    def create_causal_mask(self, config: Any, *_: Any, **arguments: Any) -> Tensor:
        """Gives the program's mask."""
        self._check(arguments)
        return self._mask

    def create_sliding_window_causal_mask(self, config: Any, *_: Any, **arguments: Any) -> Tensor:
        """Gives the program's mask, closed for rows that are a window or more before the token."""
        self._check(arguments)
        window = config.sliding_window
        if window is None:
            return self._mask
        return self._closed_before(self._positions - (window - 1))

    def create_chunked_causal_mask(self, config: Any, *_: Any, **arguments: Any) -> Tensor:
        """Gives the program's mask, closed for rows before the piece of the text that the token is in."""
        self._check(arguments)
        length = config.attention_chunk_size
        return self._closed_before(torch.div(self._positions, length, rounding_mode="floor") * length)

    def _closed_before(self, first: Tensor) -> Tensor:
        """The program's mask, closed for rows before the first that a token sees, (Q,)."""
        rows = torch.arange(self._mask.shape[-1], dtype=self._positions.dtype)
        closed = torch.where(rows[None, :] < first[:, None], HIDDEN, 0.0)
        return torch.minimum(self._mask, closed[None, None])

    def create_masks_for_generate(self, config: Any, *arguments: Any, **others: Any) -> Tensor | dict[str, Tensor]:
        """Gives one mask, or one for each type of layer where there are several."""
        kinds = getattr(config, "layer_types", None)
        if kinds is None:
            if getattr(config, "sliding_window", None) is not None:
                return self.create_sliding_window_causal_mask(config, *arguments, **others)
            return self.create_causal_mask(config, *arguments, **others)
        makers = {
            "full_attention": self.create_causal_mask,
            "sliding_attention": self.create_sliding_window_causal_mask,
            "chunked_attention": self.create_chunked_causal_mask,
        }
        unknown = sorted(set(kinds) - set(makers))
        if unknown:
            raise UnsupportedModelError(f"layers of the type {', '.join(unknown)} have no mask over a state")
        return {kind: makers[kind](config, *arguments, **others) for kind in dict.fromkeys(kinds)}

    def _check(self, arguments: dict[str, Any]) -> None:
        self.calls += 1
        for name in ("or_mask_function", "and_mask_function", "block_sequence_ids"):
            if arguments.get(name) is not None:
                raise UnsupportedModelError(f"the mask is changed by {name}, which is not understood")


@contextmanager
def mask_makers(model: nn.Module, makers: MaskMakers) -> Iterator[None]:
    """Lets the modeling files of a model call our makers while the block runs.

    Raises:
        UnsupportedModelError: None of them was called: the model makes its masks in another way, or none.
    """
    files = {sys.modules[type(module).__module__] for module in model.modules()}
    replaced: list[tuple[Any, str, Callable[..., Any]]] = []
    try:
        for file in files:
            for name in (*_MAKERS, *([_OF_SOURCES] if hasattr(makers, _OF_SOURCES) else []), _RECURRENT):
                if hasattr(file, name):
                    replaced.append((file, name, getattr(file, name)))
                    setattr(file, name, _refuse_recurrence if name == _RECURRENT else getattr(makers, name))
        yield
    finally:
        for file, name, function in replaced:
            setattr(file, name, function)
    if not makers.calls:
        raise UnsupportedModelError(
            f"{type(model).__name__} asks transformers for no causal mask, so that rows of a cache cannot be hidden"
        )


def _refuse_recurrence(*_: Any, **__: Any) -> Any:
    raise NoCacheError(
        "some layers keep one recurrent state of the whole text in place of keys and values of each token"
    )
