"""What a decoder's functions do, as the cost model sees it, from the shape of the decoder alone.

The steps are those that the graph way makes of a stock decoder: products are convolutions over (1, C, 1, tokens), the
queries that share a key stand one behind the other, and the cache is one state. What is small beside the weights,
norms and rotations, is counted in whole passes over the tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from optimum_ane.analysis.chips import Chip, assume
from optimum_ane.analysis.cost import Parts, fixed_cost, step_cost, unfolded_bytes
from optimum_ane.analysis.cost_parameters import cost_parameters
from optimum_ane.analysis.decoder_shape import PRODUCT, TABLE, DecoderShape, DecoderWeight
from optimum_ane.analysis.steps import ALIGNMENT, Step
from optimum_ane.exporters.cached_decoder.chunk_plan import cut_layers
from optimum_ane.exporters.cached_decoder.chunks import Chunk
from optimum_ane.nn.projection import vocabulary_pieces

_NORM_PASSES, _ROTATION_PASSES = 8, 10
"""Passes over a value twice as wide as the tokens that a norm by `layer_norm` takes, and over queries and keys that a
rotation takes: counted in converted programs."""

_HEAD_PART = 16_384
"""Outputs of one part of a head that is split for chips up to A16 and M3."""


@dataclass(frozen=True)
class StoredWeight:
    """What a weight takes in the package.

    Attributes:
        bytes: With its palettes, scales and masks.
        dtype: `"int8"`, `"int4"`; None for float16 and for palettes, which every engine takes as they are.
    """

    bytes: int
    dtype: str | None = None


Compression = Callable[[DecoderWeight], StoredWeight]


def as_float16(weight: DecoderWeight) -> StoredWeight:
    """Stores a weight as it is."""
    return StoredWeight(weight.dense_bytes)


def weights_of(decoder: DecoderShape, chunk: Chunk, *, is_prefill: bool = False) -> Iterator[DecoderWeight]:
    """Yields the weights that a function of a chunk reads.

    A table that is the head as well is there once in a program that holds both, and in each of two programs else. A
    prefill has no head, and of the last layer it makes keys and values alone.
    """
    last = decoder.layers - 1
    if is_prefill and chunk.is_last:
        cache = decoder.caches[-1]
        made = cache.heads * (cache.key_width + cache.value_width)
        yield DecoderWeight("keys and values of the last layer", (made, decoder.width), (PRODUCT,), "layer", last)
    for weight in decoder.weights:
        if is_prefill and weight.layer == last:
            continue
        is_start = chunk.is_first and weight.place == "start"
        is_end = chunk.is_last and not is_prefill and (weight.place == "end" or len(weight.op_types) > 1)
        if is_start or is_end or chunk.first <= weight.layer < chunk.last:
            yield weight


def chunk_bytes(
    decoder: DecoderShape, chunk: Chunk, context: int, compress: Compression, *, is_prefill: bool = False
) -> int:
    """Returns what the weights of a chunk take in the package, with the tables of angles of the context."""
    weights = sum(compress(weight).bytes for weight in weights_of(decoder, chunk, is_prefill=is_prefill))
    return weights + 2 * context * decoder.rotary_width


def cut(decoder: DecoderShape, count: int | None = None) -> tuple[Chunk, ...]:
    """Cuts a decoder into programs as an export does: by its layers, and by their sizes in float16.

    Args:
        decoder: The decoder.
        count: How many programs; see `cut_layers`.
    """
    before, behind = (
        sum(weight.dense_bytes for weight in decoder.weights if belongs(weight))
        for belongs in (
            lambda weight: weight.place == "start",
            lambda weight: weight.place == "end" or len(weight.op_types) > 1,
        )
    )
    layers = [sum(weight.dense_bytes for weight in decoder.of_layer(layer)) for layer in range(decoder.layers)]
    return cut_layers([before, *layers, behind], 2 * decoder.parameters, count)


def call_cost(
    decoder: DecoderShape,
    chunks: tuple[Chunk, ...],
    tokens: int,
    context: int,
    compress: Compression,
    chip: Chip,
    *,
    is_prefill: bool = False,
) -> Parts:
    """Prices one call of a function: each of its programs once.

    Args:
        decoder: The decoder.
        chunks: Its programs.
        tokens: In one call.
        context: Rows of the cache, all of which are read.
        compress: How weights are stored.
        chip: The chip.
        is_prefill: Whether the function gives no logits.

    Returns:
        Milliseconds by cause, typically.
    """
    engine, parameters = assume(chip), cost_parameters()
    total = Parts()
    for chunk in chunks:
        # Tokens and angles are looked up by the CPU at the start: one change of device.
        total = total.plus(fixed_cost(True, 1, engine, parameters))
        for step in chunk_steps(decoder, chunk, tokens, context, compress, chip, is_prefill=is_prefill):
            total = total.plus(step_cost(step, engine, parameters))
    return total


def chunk_steps(
    decoder: DecoderShape,
    chunk: Chunk,
    tokens: int,
    context: int,
    compress: Compression,
    chip: Chip,
    *,
    is_prefill: bool = False,
) -> Iterator[Step]:
    """Yields what a function of a chunk does; see `call_cost` for the arguments."""

    def product(weight: DecoderWeight) -> Step:
        outputs, inputs = weight.shape
        stored = compress(weight)
        bytes_read = stored.bytes + unfolded_bytes(weight.dense_bytes, stored.bytes, stored.dtype, chip)
        moved = _padded(inputs, tokens) + _padded(outputs, tokens)
        return Step("convolution", 2 * tokens * outputs * inputs, bytes_read, moved)

    # A table that is the head's weight as well lies in its pieces, and a row of each is read.
    is_in_pieces = decoder.is_tied and chunk.is_first and chunk.is_last
    pieces = len(vocabulary_pieces(decoder.vocabulary)) if is_in_pieces else 1
    looked_up = 2 * tokens * (pieces * decoder.width * chunk.is_first + decoder.rotary_width)
    yield Step("host", 0, looked_up, looked_up)
    for weight in weights_of(decoder, chunk, is_prefill=is_prefill):
        if len(weight.shape) != 2:
            continue
        is_table = chunk.is_first and TABLE in weight.op_types
        is_head = chunk.is_last and not is_prefill and len(weight.op_types) > 1
        if is_table and not is_head:
            continue
        yield product(weight)
    for layer in range(chunk.first, chunk.last):
        yield from _attention(decoder, layer, tokens, context, is_last=is_prefill and layer == decoder.layers - 1)
        yield Step("movement", 0, 0, 2 * _NORM_PASSES * _padded(2 * decoder.width, tokens))


def _attention(decoder: DecoderShape, layer: int, tokens: int, context: int, *, is_last: bool) -> Iterator[Step]:
    """Yields the steps of a layer's attention; layers beyond the caches read that of the last."""
    cache = decoder.caches[min(layer, len(decoder.caches) - 1)]
    written = cache.rows_bytes(tokens)
    yield Step("movement", 0, 0, 2 * written)
    if is_last:
        return
    queries = decoder.query_heads * cache.key_width + cache.heads * cache.key_width
    yield Step("movement", 0, 0, _ROTATION_PASSES * 2 * tokens * queries)
    rows = cache.rows_bytes(context)
    yield Step("movement", 0, rows, rows)  # out of the state
    scores = _padded(decoder.query_heads * tokens, context)
    for width in (cache.key_width, cache.value_width):
        moved = 2 * width * (cache.heads * context + decoder.query_heads * tokens) + scores
        yield Step("linear", 2 * decoder.query_heads * tokens * context * width, 0, moved)
    yield Step("movement", 0, 0, 2 * scores + 2 * tokens * context)  # the softmax, and the mask


def peak_bytes(decoder: DecoderShape, tokens: int, context: int, *, is_prefill: bool = False) -> int:
    """Estimates the activations of one call that are alive at once, bytes: of attention, feed-forward or head."""
    cache = decoder.caches[0]
    stream = 3 * _padded(decoder.width, tokens)
    attention = cache.rows_bytes(context) + 2 * _padded(decoder.query_heads * tokens, context)
    matrices = [w.shape[0] for w in decoder.weights if w.place == "layer" and len(w.shape) == 2]
    feed_forward = 3 * _padded(max(matrices, default=0), tokens)
    logits = 2 * 2 * decoder.vocabulary * tokens  # in parts, and joined
    head = 0 if is_prefill else logits + _padded(min(decoder.vocabulary, _HEAD_PART), tokens)
    return stream + max(attention, feed_forward, head)


def _padded(rows: int, row: int) -> int:
    """Bytes of a float16 value of so many rows, each padded: (1, channels, 1, tokens) has a row for each channel."""
    return rows * math.ceil(2 * row / ALIGNMENT) * ALIGNMENT
