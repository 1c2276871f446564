"""How many chunks a decoder is cut into, and where."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from transformers import PreTrainedModel

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.exporters.cached_decoder.chunks import Chunk, DecoderLayers

MOST_LAYERS = 15
MOST_BYTES = 950_000_000
"""Of a program that loads and runs on the engine of every iPhone: the habit of those who ship them (ANEMLL)."""


def plan_chunks(model: PreTrainedModel, layers: DecoderLayers, count: int | None = None) -> tuple[Chunk, ...]:
    """Shares layers out to programs so that the largest is as small as can be.

    Args:
        model: The whole; it may be on the meta device.
        layers: From `find_decoder_layers`.
        count: Of chunks; see `cut_layers`.

    Raises:
        UnsupportedModelError: There are more chunks than layers.
    """
    if count and not 1 <= count <= layers.count:
        raise UnsupportedModelError(
            f"{count} chunks of {layers.count} layers: each has one at least; choose --chunks {layers.count} or less"
        )
    sizes = [_bytes(model.get_submodule(f"{layers.path}.{index}").parameters()) for index in range(layers.count)]
    whole = _bytes(model.parameters())
    table = _bytes(model.get_input_embeddings().parameters())
    head = model.get_output_embeddings()
    behind = 0 if head is None else _bytes(head.parameters())
    others = max(0, whole - sum(sizes) - table - (0 if head is None or _is_tied(model) else behind))
    return cut_layers([table + others, *sizes, behind], whole, count)


def cut_layers(sizes: Sequence[int], whole: int, count: int | None = None) -> tuple[Chunk, ...]:
    """Shares layers out by their sizes; see `plan_chunks`.

    Args:
        sizes: Bytes of what lies before the layers, of each layer, and of what lies behind them.
        whole: Bytes of all in one program, where a table that is both before and behind is there once.
        count: Of chunks. 0 takes as few as there may be with at most `MOST_LAYERS` layers and
            `MOST_BYTES` of float16 weights in each; None takes one where all is within the latter. What no cut makes
            smaller, an embedding with one layer say, may exceed that.
    """
    if count is None and whole <= MOST_BYTES:
        count = 1
    layers = len(sizes) - 2
    least = max(sizes[0] + sizes[1], sizes[-2] + sizes[-1], *sizes[1:-1])
    for number in [count] if count else range(1, layers + 1):
        if number == 1:
            bounds, largest = [0, layers], whole
        else:
            bounds, largest = _shared_out(sizes, number)
        if count or (largest <= max(MOST_BYTES, least) and max(b - a for a, b in pairwise(bounds)) <= MOST_LAYERS):
            break
    return tuple(Chunk(a, b, layers) for a, b in pairwise(bounds))


def _is_tied(model: PreTrainedModel) -> bool:
    head = model.get_output_embeddings()
    return head is not None and getattr(head, "weight", None) is getattr(model.get_input_embeddings(), "weight", ())


def _bytes(parameters: Any) -> int:
    return sum(2 * parameter.numel() for parameter in {id(each): each for each in parameters}.values())


def _shared_out(sizes: Sequence[int], number: int) -> tuple[list[int], int]:
    """Cuts layers into runs whose largest is least; the first and the last size belong to the first and last layer.

    Returns:
        Where the runs begin, and where the last ends; and the largest run's size.
    """
    before, layers, behind = sizes[0], list(sizes[1:-1]), sizes[-1]
    layers[0], layers[-1] = layers[0] + before, layers[-1] + behind
    count = len(layers)
    sums = [sum(layers[:index]) for index in range(count + 1)]
    # best[k][j]: the first j layers in k runs.
    best: list[dict[int, tuple[int, list[int]]]] = [{0: (0, [0])}]
    for run in range(1, number + 1):
        best.append({})
        for end in range(run, count + 1):
            ways = [
                (max(size, sums[end] - sums[start]), [*bounds, end])
                for start, (size, bounds) in best[run - 1].items()
                if start < end
            ]
            best[run][end] = min(ways)
    largest, bounds = best[number][count]
    return bounds, largest
