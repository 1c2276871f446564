"""Whether the numbers of a module have a place in the precision of its program."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from optimum_ane.errors import CheckpointError

LARGEST_FLOAT16 = 65504.0
"""The largest number of float16."""


def check_weight_range(
    module: nn.Module,
    precision: str,
    vocab_size: int | None = None,
    token_of: Callable[[int], str | None] | None = None,
    *,
    with_buffers: bool = True,
) -> None:
    """Refuses weights that the program cannot hold: a text that meets one would be answered with NaN.

    Args:
        module: With its weights as they will be converted, scales folded in.
        precision: Of the program, `"float16"` or `"float32"`.
        vocab_size: Rows of the table of words; None for a module without one.
        token_of: Gives the token of such a row, for the message; None without a tokenizer.
        with_buffers: Whether buffers count: a stock module keeps masks of minus infinities in them, which the
            conversion clamps.

    Raises:
        CheckpointError: A number is NaN, infinite, or beyond the precision; the message names tensor, row and number.
    """
    largest = LARGEST_FLOAT16 if precision == "float16" else math.inf
    for path, child in module.named_modules():
        words = token_of if isinstance(child, nn.Embedding) and child.num_embeddings == vocab_size else None
        buffers = child.named_buffers(recurse=False) if with_buffers else ()
        for name, values in (*child.named_parameters(recurse=False), *buffers):
            if values.is_floating_point() and values.numel():
                _check_tensor(f"{path}.{name}".lstrip("."), values, largest, words)


def _check_tensor(name: str, values: Tensor, largest: float, token_of: Callable[[int], str | None] | None) -> None:
    least, most = (each.item() for each in torch.aminmax(values))
    if not (math.isfinite(least) and math.isfinite(most)):
        place = _describe(name, values, ~values.isfinite(), token_of)
        raise CheckpointError(f"{place}: the checkpoint is damaged; download it again, or train it to a finite end")
    if max(-least, most) > largest:
        place = _describe(name, values, values.abs() > largest, token_of)
        raise CheckpointError(
            f"{place}, and float16 ends at {largest:,.0f}, so the Neural Engine cannot hold it; mend the checkpoint, "
            "or export with --precision float32 for CPU and GPU"
        )


def _describe(name: str, values: Tensor, is_wrong: Tensor, token_of: Callable[[int], str | None] | None) -> str:
    """Says where the first of the wrong numbers is."""
    index = tuple(int(places[0]) for places in is_wrong.nonzero(as_tuple=True))
    token = None if token_of is None else token_of(index[0])
    row = f", row {index[0]}" if index else ""
    word = "" if token is None else f" (the token {token!r})"
    return f"the weight {name}{row}{word} holds {values[index].item():.7g}"
