"""Stand-ins built operation by operation, because they are too large to convert or transformers lacks them."""

from __future__ import annotations

from cost_calibration.program_builder import ProgramBuilder
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
) -> ProgramBuilder:
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
    builder = ProgramBuilder(bits, convolves)
    size = head_size or hidden // heads
    kv_heads = kv_heads or heads
    x = builder.input(1, tokens, hidden)
    for _ in range(layers):
        normed = builder.unary("layer_norm", x)
        query, key, value = (
            _heads(builder, builder.linear(normed, n * size), n, size) for n in (heads, kv_heads, kv_heads)
        )
        if rotates:
            query, key = _rotated(builder, query), _rotated(builder, key)
        if context:
            cached = builder.input(1, kv_heads, context, size)
            key, value = builder.concat((cached, key), 2), builder.concat((cached, value), 2)
        if kv_heads != heads:
            key, value = (builder.add("tile", (1, heads, *part.shape[2:]), x=part) for part in (key, value))
        scores = builder.matmul(query, builder.transpose(key, (0, 1, 3, 2)))
        scores = builder.unary("softmax", builder.binary("add", builder.binary("mul", scores)))
        mixed = builder.reshape(
            builder.transpose(builder.matmul(scores, value), (0, 2, 1, 3)), 1, tokens, heads * size
        )
        x = builder.binary("add", x, builder.linear(mixed, hidden))
        normed = builder.unary("layer_norm", x)
        inner = builder.unary("gelu", builder.linear(normed, intermediate))
        if gated:
            inner = builder.binary("mul", inner, builder.linear(normed, intermediate))
        x = builder.binary("add", x, builder.linear(inner, hidden))
    if vocabulary:
        # Of the last token only, as all conversions here do.
        builder.linear(builder.unary("layer_norm", builder.part(x, 1, 1)), vocabulary)
    return builder


def _heads(builder: ProgramBuilder, x: Tensor, heads: int, size: int) -> Tensor:
    return builder.transpose(builder.reshape(x, 1, x.shape[1], heads, size), (0, 2, 1, 3))


def _rotated(builder: ProgramBuilder, x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = builder.concat((builder.part(x, half, -1), builder.part(x, half, -1)), -1)
    return builder.binary("add", builder.binary("mul", x), builder.binary("mul", turned))


def stable_diffusion_unet(
    batch: int = 2, *, head_size: int = 64, text: int = 1024, bits: float = 16
) -> ProgramBuilder:
    """The UNet of Stable Diffusion 2.1 base at 512 × 512 with attention split by heads, as Apple converts it.

    Args:
        batch: 2: the prompt and the empty prompt.
        head_size: Features of a head; 0 for version 1's eight heads.
        text: Features of the text encoder.
        bits: Of each weight.
    """
    builder = ProgramBuilder(bits)
    channels = (320, 640, 1280, 1280)
    prompt = builder.input(batch, text, 1, 77)
    x = builder.conv(builder.input(batch, 4, 64, 64), channels[0], 3)
    skips = [x]
    for level, width in enumerate(channels):
        for _ in range(2):
            x = _resnet(builder, x, width)
            x = _transformer(builder, x, prompt, head_size) if level < 3 else x
            skips.append(x)
        if level < 3:
            x = builder.conv(x, width, 3, 2)
            skips.append(x)
    x = _resnet(builder, _transformer(builder, _resnet(builder, x, 1280), prompt, head_size), 1280)
    for level, width in reversed(list(enumerate(channels))):
        for _ in range(3):
            x = _resnet(builder, builder.concat((x, skips.pop()), 1), width)
            x = _transformer(builder, x, prompt, head_size) if level < 3 else x
        if level:
            larger = (*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
            x = builder.conv(builder.add("upsample_nearest_neighbor", larger, x=x), width, 3)
    builder.conv(_group_norm(builder, x), 4, 3)
    return builder


def _group_norm(builder: ProgramBuilder, x: Tensor) -> Tensor:
    # Apple's conversion decomposes it: mean, difference, variance, scaling, gain and bias.
    mean = builder.add("reduce_mean", (x.shape[0], 32, 1, 1), x=x)
    centred = builder.binary("sub", x, mean)
    variance = builder.add("reduce_mean", (x.shape[0], 32, 1, 1), x=builder.unary("square", centred))
    return builder.unary("batch_norm", builder.binary("mul", centred, variance))


def _resnet(builder: ProgramBuilder, x: Tensor, width: int) -> Tensor:
    inner = builder.conv(builder.unary("silu", _group_norm(builder, x)), width, 3)
    time = builder.conv(builder.input(x.shape[0], 1280, 1, 1), width)
    inner = builder.binary("add", inner, time)
    inner = builder.conv(builder.unary("silu", _group_norm(builder, inner)), width, 3)
    return builder.binary("add", inner, x if x.shape[1] == width else builder.conv(x, width))


def _transformer(builder: ProgramBuilder, x: Tensor, prompt: Tensor, head_size: int) -> Tensor:
    batch, width, height, breadth = x.shape
    y = builder.conv(_group_norm(builder, x), width)
    y = builder.reshape(y, batch, width, 1, height * breadth)
    for source in (None, prompt):
        normed = builder.unary("layer_norm", y)
        y = builder.binary("add", y, _attention(builder, normed, source or normed, head_size or width // 8))
    normed = builder.unary("layer_norm", y)
    gate = builder.unary("gelu", builder.conv(normed, 4 * width))
    y = builder.binary("add", y, builder.conv(builder.binary("mul", builder.conv(normed, 4 * width), gate), width))
    return builder.binary("add", x, builder.conv(builder.reshape(y, *x.shape), width))


def _attention(builder: ProgramBuilder, x: Tensor, source: Tensor, size: int, most: int = 512) -> Tensor:
    """Split einsums, and the queries in parts of `most` where there are more, as SPLIT_EINSUM_V2 has it."""
    width = x.shape[1]
    query, key, value = builder.conv(x, width), builder.conv(source, width), builder.conv(source, width)
    key = builder.transpose(key, (0, 3, 2, 1))
    mixed = []
    for _ in range(width // size):
        part_of_key, part_of_value = builder.part(key, size, 3), builder.part(value, size, 1)
        tokens = query.shape[3]
        parts = []
        for start in range(0, tokens, most):
            part = builder.part(builder.part(query, size, 1), min(most, tokens - start), 3)
            scores = builder.binary("mul", builder.einsum("bchq,bkhc->bkhq", part, part_of_key))
            parts.append(builder.einsum("bkhq,bchk->bchq", builder.unary("softmax", scores), part_of_value))
        mixed.append(builder.concat(parts, 3) if len(parts) > 1 else parts[0])
    return builder.conv(builder.concat(mixed, 1), width)


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


def mobilenet_v3_small(bits: float = 16) -> ProgramBuilder:
    """MobileNetV3-small at 224 × 224."""
    builder = ProgramBuilder(bits)
    x = _activated(builder, builder.conv(builder.input(1, 3, 224, 224), 16, 3, 2), "hardswish")
    for kernel, expanded, width, squeezes, activation, stride in _MOBILENET_V3_SMALL:
        y = x if expanded == x.shape[1] else _activated(builder, builder.conv(x, expanded), activation)
        y = _activated(builder, builder.conv(y, expanded, kernel, stride, expanded), activation)
        if squeezes:
            pooled = builder.add("reduce_mean", (1, expanded, 1, 1), x=y)
            gate = builder.conv(builder.unary("relu", builder.conv(pooled, -(-expanded // 32) * 8)), expanded)
            y = builder.binary("mul", y, builder.unary("sigmoid_hard", gate))
        y = builder.conv(y, width)
        x = builder.binary("add", y, x) if stride == 1 and x.shape[1] == width else y
    x = _activated(builder, builder.conv(x, 576), "hardswish")
    pooled = builder.reshape(builder.add("reduce_mean", (1, 576, 1, 1), x=x), 1, 576)
    builder.linear(builder.unary("relu", builder.linear(pooled, 1024)), 1000)
    return builder


def _activated(builder: ProgramBuilder, x: Tensor, activation: str) -> Tensor:
    if activation == "relu":
        return builder.unary("relu", x)
    return builder.binary("mul", x, builder.unary("sigmoid_hard", x))


def distilbert_of_2022(length: int, batch: int = 1) -> ProgramBuilder:
    """DistilBERT-base as transformers had it in 2022: scores are filled where the mask is 0, and that runs on the CPU.

    Each layer compares the mask, spreads it over the scores and selects: three operations of the 38 that the
    published count puts off the engine in 266; the rest are copies beside them.
    """
    builder = ProgramBuilder()
    x = builder.unary("layer_norm", builder.input(batch, length, 768))
    mask = builder.input(batch, length)
    for _ in range(6):
        query, key, value = (
            builder.transpose(builder.reshape(builder.linear(x, 768), batch, length, 12, 64), (0, 2, 1, 3))
            for _ in range(3)
        )
        scores = builder.matmul(builder.binary("mul", query), builder.transpose(key, (0, 1, 3, 2)))
        filled = builder.add("tile", scores.shape, x=builder.binary("equal", mask))
        scores = builder.unary("softmax", builder.add("select", scores.shape, cond=filled, b=scores))
        mixed = builder.reshape(builder.transpose(builder.matmul(scores, value), (0, 2, 1, 3)), batch, length, 768)
        x = builder.unary("layer_norm", builder.binary("add", builder.linear(mixed, 768), x))
        inner = builder.linear(builder.unary("gelu", builder.linear(x, 3072)), 768)
        x = builder.unary("layer_norm", builder.binary("add", inner, x))
    first = builder.reshape(builder.part(x, 1, 1), batch, 768)
    builder.linear(builder.unary("relu", builder.linear(first, 768)), 2)
    return builder


def whisper_encoder_split(width: int, layers: int) -> ProgramBuilder:
    """Whisper's encoder of 30 s in (B, C, 1, S) with one einsum for each head, whisper.cpp's `--optimize-ane`."""
    builder = ProgramBuilder()
    x = builder.unary("gelu", builder.conv(builder.input(1, 80, 1, 3000), width, 3))
    x = builder.binary("add", builder.unary("gelu", builder.conv(x, width, 3, 2)))
    for _ in range(layers):
        normed = builder.unary("layer_norm", x)
        x = builder.binary("add", x, _attention(builder, normed, normed, 64, most=1500))
        inner = builder.unary("gelu", builder.conv(builder.unary("layer_norm", x), 4 * width))
        x = builder.binary("add", x, builder.conv(inner, width))
    builder.unary("layer_norm", x)
    return builder
