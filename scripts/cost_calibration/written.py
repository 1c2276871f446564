"""Stand-ins that are written down, because they are too large to convert or transformers lacks them."""

from __future__ import annotations

from cost_calibration.tape import Tape
from optimum_ane.analysis.operations import Tensor


def decoder(
    layers: int,
    hidden: int,
    intermediate: int,
    heads: int,
    tokens: int,
    *,
    vocabulary: int = 0,
    context: int = 0,
    rotates: bool = False,
    gated: bool = False,
    kv_heads: int = 0,
    head_size: int = 0,
    convolves: bool = False,
    bits: float = 16,
) -> Tape:
    """A decoder with batched heads, in (B, S, C) or with convolutions, as published conversions are.

    Args:
        layers: How many.
        hidden: Features of a token.
        intermediate: Features inside the feed-forward network.
        heads: Attention heads.
        tokens: Tokens processed in one prediction.
        vocabulary: Outputs of the head; 0 without one.
        context: Cached tokens that are attended to besides.
        rotates: Whether queries and keys are rotated by their position.
        gated: Whether the feed-forward network has a gate (Llama), which makes three products of it.
        kv_heads: Heads of keys and values where they are fewer.
        head_size: Features of a head where they are not hidden / heads.
        convolves: Whether linear layers are convolutions over (1, C, 1, S).
        bits: Of each weight.
    """
    tape = Tape(bits, convolves)
    size = head_size or hidden // heads
    kv_heads = kv_heads or heads
    x = tape.input(1, tokens, hidden)
    for _ in range(layers):
        normed = tape.unary("layer_norm", x)
        query, key, value = (_heads(tape, tape.linear(normed, n * size), n, size) for n in (heads, kv_heads, kv_heads))
        if rotates:
            query, key = _rotated(tape, query), _rotated(tape, key)
        if context:
            cached = tape.input(1, kv_heads, context, size)
            key, value = tape.concat((cached, key), 2), tape.concat((cached, value), 2)
        if kv_heads != heads:
            key, value = (tape.add("tile", (1, heads, *part.shape[2:]), x=part) for part in (key, value))
        scores = tape.matmul(query, tape.transpose(key, (0, 1, 3, 2)))
        scores = tape.unary("softmax", tape.binary("add", tape.binary("mul", scores)))
        mixed = tape.reshape(tape.transpose(tape.matmul(scores, value), (0, 2, 1, 3)), 1, tokens, heads * size)
        x = tape.binary("add", x, tape.linear(mixed, hidden))
        normed = tape.unary("layer_norm", x)
        inner = tape.unary("gelu", tape.linear(normed, intermediate))
        if gated:
            inner = tape.binary("mul", inner, tape.linear(normed, intermediate))
        x = tape.binary("add", x, tape.linear(inner, hidden))
    if vocabulary:
        # Of the last token only, as all conversions here do.
        tape.linear(tape.unary("layer_norm", tape.part(x, 1, 1)), vocabulary)
    return tape


def _heads(tape: Tape, x: Tensor, heads: int, size: int) -> Tensor:
    return tape.transpose(tape.reshape(x, 1, x.shape[1], heads, size), (0, 2, 1, 3))


def _rotated(tape: Tape, x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = tape.concat((tape.part(x, half, -1), tape.part(x, half, -1)), -1)
    return tape.binary("add", tape.binary("mul", x), tape.binary("mul", turned))


def stable_diffusion_unet(batch: int = 2, *, head_size: int = 64, text: int = 1024, bits: float = 16) -> Tape:
    """The UNet of Stable Diffusion 2.1 base at 512 × 512 with attention split by heads, as Apple converts it.

    Args:
        batch: 2: the prompt and the empty prompt.
        head_size: Features of a head; 0 for version 1's eight heads.
        text: Features of the text encoder.
        bits: Of each weight.
    """
    tape = Tape(bits)
    channels = (320, 640, 1280, 1280)
    prompt = tape.input(batch, text, 1, 77)
    x = tape.conv(tape.input(batch, 4, 64, 64), channels[0], 3)
    skips = [x]
    for level, width in enumerate(channels):
        for _ in range(2):
            x = _resnet(tape, x, width)
            x = _transformer(tape, x, prompt, head_size) if level < 3 else x
            skips.append(x)
        if level < 3:
            x = tape.conv(x, width, 3, 2)
            skips.append(x)
    x = _resnet(tape, _transformer(tape, _resnet(tape, x, 1280), prompt, head_size), 1280)
    for level, width in reversed(list(enumerate(channels))):
        for _ in range(3):
            x = _resnet(tape, tape.concat((x, skips.pop()), 1), width)
            x = _transformer(tape, x, prompt, head_size) if level < 3 else x
        if level:
            larger = (*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
            x = tape.conv(tape.add("upsample_nearest_neighbor", larger, x=x), width, 3)
    tape.conv(_group_norm(tape, x), 4, 3)
    return tape


def _group_norm(tape: Tape, x: Tensor) -> Tensor:
    # Apple's conversion decomposes it: mean, difference, variance, scaling, gain and bias.
    mean = tape.add("reduce_mean", (x.shape[0], 32, 1, 1), x=x)
    centred = tape.binary("sub", x, mean)
    variance = tape.add("reduce_mean", (x.shape[0], 32, 1, 1), x=tape.unary("square", centred))
    return tape.unary("batch_norm", tape.binary("mul", centred, variance))


def _resnet(tape: Tape, x: Tensor, width: int) -> Tensor:
    inner = tape.conv(tape.unary("silu", _group_norm(tape, x)), width, 3)
    time = tape.conv(tape.input(x.shape[0], 1280, 1, 1), width)
    inner = tape.binary("add", inner, time)
    inner = tape.conv(tape.unary("silu", _group_norm(tape, inner)), width, 3)
    return tape.binary("add", inner, x if x.shape[1] == width else tape.conv(x, width))


def _transformer(tape: Tape, x: Tensor, prompt: Tensor, head_size: int) -> Tensor:
    batch, width, height, breadth = x.shape
    y = tape.conv(_group_norm(tape, x), width)
    y = tape.reshape(y, batch, width, 1, height * breadth)
    for source in (None, prompt):
        normed = tape.unary("layer_norm", y)
        y = tape.binary("add", y, _attention(tape, normed, source or normed, head_size or width // 8))
    normed = tape.unary("layer_norm", y)
    gate = tape.unary("gelu", tape.conv(normed, 4 * width))
    y = tape.binary("add", y, tape.conv(tape.binary("mul", tape.conv(normed, 4 * width), gate), width))
    return tape.binary("add", x, tape.conv(tape.reshape(y, *x.shape), width))


def _attention(tape: Tape, x: Tensor, source: Tensor, size: int, most: int = 512) -> Tensor:
    """Split einsums, and the queries in parts of `most` where there are more, as SPLIT_EINSUM_V2 has it."""
    width = x.shape[1]
    query, key, value = tape.conv(x, width), tape.conv(source, width), tape.conv(source, width)
    key = tape.transpose(key, (0, 3, 2, 1))
    mixed = []
    for _ in range(width // size):
        part_of_key, part_of_value = tape.part(key, size, 3), tape.part(value, size, 1)
        tokens = query.shape[3]
        parts = []
        for start in range(0, tokens, most):
            part = tape.part(tape.part(query, size, 1), min(most, tokens - start), 3)
            scores = tape.binary("mul", tape.einsum("bchq,bkhc->bkhq", part, part_of_key))
            parts.append(tape.einsum("bkhq,bchk->bchq", tape.unary("softmax", scores), part_of_value))
        mixed.append(tape.concat(parts, 3) if len(parts) > 1 else parts[0])
    return tape.conv(tape.concat(mixed, 1), width)


# Kernel, expansion, outputs, squeeze-and-excite, activation, stride: table 2 of "Searching for MobileNetV3" (2019).
_MOBILENET_V3_SMALL = (
    (3, 16, 16, True, "relu", 2),
    (3, 72, 24, False, "relu", 2),
    (3, 88, 24, False, "relu", 1),
    (5, 96, 40, True, "hardswish", 2),
    (5, 240, 40, True, "hardswish", 1),
    (5, 240, 40, True, "hardswish", 1),
    (5, 120, 48, True, "hardswish", 1),
    (5, 144, 48, True, "hardswish", 1),
    (5, 288, 96, True, "hardswish", 2),
    (5, 576, 96, True, "hardswish", 1),
    (5, 576, 96, True, "hardswish", 1),
)


def mobilenet_v3_small(bits: float = 16) -> Tape:
    """MobileNetV3-small at 224 × 224."""
    tape = Tape(bits)
    x = _activated(tape, tape.conv(tape.input(1, 3, 224, 224), 16, 3, 2), "hardswish")
    for kernel, expanded, width, squeezes, activation, stride in _MOBILENET_V3_SMALL:
        y = x if expanded == x.shape[1] else _activated(tape, tape.conv(x, expanded), activation)
        y = _activated(tape, tape.conv(y, expanded, kernel, stride, expanded), activation)
        if squeezes:
            pooled = tape.add("reduce_mean", (1, expanded, 1, 1), x=y)
            gate = tape.conv(tape.unary("relu", tape.conv(pooled, -(-expanded // 32) * 8)), expanded)
            y = tape.binary("mul", y, tape.unary("sigmoid_hard", gate))
        y = tape.conv(y, width)
        x = tape.binary("add", y, x) if stride == 1 and x.shape[1] == width else y
    x = _activated(tape, tape.conv(x, 576), "hardswish")
    pooled = tape.reshape(tape.add("reduce_mean", (1, 576, 1, 1), x=x), 1, 576)
    tape.linear(tape.unary("relu", tape.linear(pooled, 1024)), 1000)
    return tape


def _activated(tape: Tape, x: Tensor, activation: str) -> Tensor:
    if activation == "relu":
        return tape.unary("relu", x)
    return tape.binary("mul", x, tape.unary("sigmoid_hard", x))


def distilbert_of_2022(length: int, batch: int = 1) -> Tape:
    """DistilBERT-base as transformers had it in 2022: scores are filled where the mask is 0, and that runs on the CPU.

    Each layer compares the mask, spreads it over the scores and selects: three operations of the 38 that the
    published count puts off the engine in 266; the rest are copies beside them.
    """
    tape = Tape()
    x = tape.unary("layer_norm", tape.input(batch, length, 768))
    mask = tape.input(batch, length)
    for _ in range(6):
        query, key, value = (
            tape.transpose(tape.reshape(tape.linear(x, 768), batch, length, 12, 64), (0, 2, 1, 3)) for _ in range(3)
        )
        scores = tape.matmul(tape.binary("mul", query), tape.transpose(key, (0, 1, 3, 2)))
        filled = tape.add("tile", scores.shape, x=tape.binary("equal", mask))
        scores = tape.unary("softmax", tape.add("select", scores.shape, cond=filled, b=scores))
        mixed = tape.reshape(tape.transpose(tape.matmul(scores, value), (0, 2, 1, 3)), batch, length, 768)
        x = tape.unary("layer_norm", tape.binary("add", tape.linear(mixed, 768), x))
        inner = tape.linear(tape.unary("gelu", tape.linear(x, 3072)), 768)
        x = tape.unary("layer_norm", tape.binary("add", inner, x))
    first = tape.reshape(tape.part(x, 1, 1), batch, 768)
    tape.linear(tape.unary("relu", tape.linear(first, 768)), 2)
    return tape


def whisper_encoder_split(width: int, layers: int) -> Tape:
    """Whisper's encoder of 30 s in (B, C, 1, S) with one einsum for each head, whisper.cpp's `--optimize-ane`."""
    tape = Tape()
    x = tape.unary("gelu", tape.conv(tape.input(1, 80, 1, 3000), width, 3))
    x = tape.binary("add", tape.unary("gelu", tape.conv(x, width, 3, 2)))
    for _ in range(layers):
        normed = tape.unary("layer_norm", x)
        x = tape.binary("add", x, _attention(tape, normed, normed, 64, most=1500))
        inner = tape.unary("gelu", tape.conv(tape.unary("layer_norm", x), 4 * width))
        x = tape.binary("add", x, tape.conv(inner, width))
    tape.unary("layer_norm", x)
    return tape
