"""Small packages of many kinds, written by coremltools: what the fuzzer mutates."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import coremltools.optimize as cto
import numpy as np
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813  # its usual name
from coremltools.converters.mil.mil import types
from torch import nn


class _Attention(nn.Module):
    """One transformer layer over embedded tokens."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.embedding = nn.Embedding(32, width)
        self.projection = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        width = self.norm.normalized_shape[0]
        q, k, v = self.projection(x).view(1, -1, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-1, -2) * 0.3, -1)
        attended = (weights @ v).transpose(1, 2).reshape(1, -1, width)
        return self.norm(x + nn.functional.gelu(self.out(attended)))


class _Channels(nn.Module):
    """The Neural Engine's spelling: (B, C, 1, S), 1×1 convolutions, einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Conv2d(8, 8, 1) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = torch.einsum("bchq,bkhc->bkhq", self.q(x), self.k(x).transpose(1, 3))
        return torch.einsum("bkhq,bchk->bchq", scores.softmax(1), self.v(x)) + x


class _Counter(nn.Module):
    """A state, a cache into which each prediction writes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cache", torch.zeros(1, 4, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.cache[:, 1:2] = self.cache[:, 1:2] * 0.5 + x
        return self.cache.sum(1) + 1


def _convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, 1, 2, dilation=2, groups=4),
        nn.MaxPool2d(2, 2, ceil_mode=True),
        nn.Upsample(scale_factor=2.0, mode="bilinear"),
        nn.ConvTranspose2d(8, 4, 2, 2),
        nn.AvgPool2d(3, 1, 1),
        nn.Flatten(),
        nn.LazyLinear(5),
        nn.Softmax(-1),
    )


def _saved(path: Path, module: nn.Module, example: torch.Tensor, **options: Any) -> Any:
    torch.manual_seed(0)
    module = module.eval()
    module(example)
    traced = torch.jit.trace(module, example)
    dtype = np.int32 if example.dtype == torch.int32 else np.float32
    shape = options.pop("shape", example.shape)
    options.setdefault("inputs", [ct.TensorType("x", shape, dtype=dtype)])
    model = ct.convert(traced, skip_model_load=True, **options)
    model.save(str(path))
    return model


def _program(path: Path, shapes: list[tuple[int, ...]], build: Callable[..., Any], target: Any, dtype: Any) -> None:
    specs = [mb.TensorSpec(shape=shape, dtype=dtype) for shape in shapes]
    program = mb.program(input_specs=specs, opset_version=target)(build)
    ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=target,
        compute_precision=ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    ).save(str(path))


def _shaping(x: Any) -> Any:
    """Operations whose parameters set sizes."""
    extents = mb.shape(x=x)
    filled = mb.fill(shape=mb.concat(values=[extents, [2]], axis=0), value=1.5)
    tiled = mb.tile(x=mb.expand_dims(x=x, axes=[2]), reps=[1, 1, 2])
    padded = mb.pad(x=mb.add(x=filled, y=tiled), pad=[1, 2], mode="constant", constant_val=0.5)
    ranged = mb.range_1d(start=0, end=mb.squeeze(x=mb.slice_by_size(x=extents, begin=[1], size=[1])), step=1)
    hot = mb.one_hot(indices=ranged, one_hot_vector_size=5, axis=-1, on_value=1.0, off_value=0.0)
    windows = mb.sliding_windows(x=x, axis=1, size=2, stride=1)
    first, second = mb.split(x=padded, num_splits=2, axis=0)
    sliced = mb.slice_by_index(
        x=first, begin=[0, 0, 0], end=[0, -1, 4], stride=[1, 2, 1], end_mask=[True, False, True]
    )
    reshaped = mb.reshape(x=mb.transpose(x=second, perm=[1, 0, 2]), shape=[-1, 5])
    return (
        mb.reduce_sum(x=hot, axes=[0], keep_dims=False),
        mb.stack(values=[windows, windows], axis=0),
        mb.reverse(x=sliced, axes=[1]),
        mb.band_part(x=mb.cumsum(x=reshaped, axis=0), lower=1, upper=0),
    )


def _indexing(x: Any) -> Any:
    """Operations that take indices."""
    values, order = mb.topk(x=x, k=3, axis=1, ascending=False)
    gathered = mb.gather(x=x, indices=[[0, 1], [2, 0]], axis=1, batch_dims=0)
    along = mb.gather_along_axis(x=x, indices=order, axis=1)
    nd = mb.gather_nd(x=x, indices=[[0, 1], [1, 2]])
    scattered = mb.scatter(data=x, indices=[1, 0], updates=mb.mul(x=x, y=2.0), axis=0, mode="update")
    places = mb.scatter_nd(data=x, indices=[[0, 1], [1, 2]], updates=[1.0, 2.0], mode="add")
    positions = mb.cast(x=mb.non_zero(x=mb.greater(x=x, y=0.0)), dtype="fp32")
    number = mb.real_div(x=order, y=mb.sub(x=order, y=7))
    return mb.add(x=values, y=along), gathered, nd, mb.sub(x=scattered, y=places), positions, number


def _imaging(x: Any) -> Any:
    """Operations on images."""
    resized = mb.resize(
        x=x, shape=[0, 0, 6, 5], resized_dims=np.uint32(2), interpolation_mode="LINEAR", sampling_mode="ALIGN_CORNERS"
    )
    nearest = mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=3)
    boxes = np.array([[0.0, 0.0, 2.0, 2.0], [1.0, 0.5, 3.0, 3.0]], np.float32)
    cropped = mb.crop_resize(
        x=x, boxes=boxes, box_indices=np.zeros(2, np.int32), target_height=3, target_width=2, pad_value=0.0
    )
    places = np.linspace(-1, 1, 16).astype(np.float32).reshape(1, 2, 4, 2)
    sampled = mb.resample(
        x=x,
        coordinates=places,
        sampling_mode="bilinear",
        padding_mode="reflection",
        padding_value=0.0,
        coordinates_mode="normalized_minus_one_to_one",
        align_corners=False,
    )
    deep = mb.space_to_depth(x=x, block_size=2)
    shuffled = mb.pixel_shuffle(x=x, upscale_factor=2)
    batched = mb.space_to_batch(x=x, block_shape=[2, 2], paddings=[[1, 1], [1, 1]])
    normed = mb.instance_norm(x=x, gamma=np.ones(4, np.float32), beta=np.zeros(4, np.float32), epsilon=1e-5)
    pooled = mb.l2_pool(x=normed, kernel_sizes=[2, 2], strides=[1, 1], pad_type="same")
    transposed = mb.conv_transpose(
        x=x, weight=np.ones((4, 2, 3, 3), np.float32), strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1]
    )
    return resized, nearest, cropped, sampled, deep, shuffled, batched, pooled, transposed


def _detecting(x: Any) -> Any:
    """The selection of boxes as iOS 15 has it."""
    boxes, scores = mb.split(x=x, split_sizes=[4, 2], axis=-1)
    chosen = mb.non_maximum_suppression(
        boxes=boxes, scores=scores, iou_threshold=0.5, score_threshold=0.1, max_boxes=4, per_class_suppression=True
    )
    return (*chosen, mb.upsample_nearest_neighbor(x=x, scale_factor_height=1.3, scale_factor_width=0.7))


def _detecting_later(x: Any) -> Any:
    """The selection of boxes as iOS 17 has it, and its integers beside floats."""
    boxes, scores = mb.split(x=x, split_sizes=[4, 2], axis=1)
    chosen = mb.non_maximum_suppression(boxes=boxes, scores=scores, iou_threshold=0.5, max_boxes=4)
    mixed = mb.linear(x=x, weight=np.ones((3, 5), np.int32), bias=np.ones(3, np.int32))
    return (*chosen, mixed, mb.matmul(x=np.ones((2, 6), np.int32), y=x))


def _recurring(x: Any) -> Any:
    """Recurrent cells in all directions."""
    weights: dict[str, Any] = {}
    for suffix in ("", "_back"):
        weights |= {
            f"weight_ih{suffix}": np.ones((8, 3), np.float32),
            f"weight_hh{suffix}": np.ones((8, 2), np.float32),
        }
        weights |= {f"bias{suffix}": np.ones(8, np.float32), f"peephole{suffix}": np.ones(6, np.float32)}
    start = np.zeros((2, 4), np.float32)
    options = {"direction": "bidirectional", "output_sequence": True, "clip": np.float32(0.5)}
    sequence, _, memory = mb.lstm(x=x, initial_h=start, initial_c=start, **weights, **options)
    gates = {"weight_ih": np.ones((9, 4), np.float32), "weight_hh": np.ones((9, 3), np.float32)}
    biases = {"bias": np.ones(9, np.float32), "input_bias": np.ones(9, np.float32)}
    units = np.zeros((2, 3), np.float32)
    gated, _ = mb.gru(x=sequence, initial_h=units, direction="reverse", reset_after=True, **gates, **biases)
    plain = {"weight_ih": np.ones((2, 3), np.float32), "weight_hh": np.ones((2, 2), np.float32)}
    simple, last = mb.rnn(x=gated, initial_h=np.zeros((2, 2), np.float32), activation="relu", **plain)
    return memory, simple, last


def _listing(x: Any) -> Any:
    """A list that a loop fills, and places that are computed."""
    blank = mb.make_list(init_length=2, elem_shape=(2, 3))

    def body(count: Any, ls: Any) -> Any:
        element = mb.mul(x=x, y=mb.cast(x=count, dtype="fp32"))
        return mb.add(x=count, y=1), mb.list_write(ls=ls, index=count, value=element)

    _, ls = mb.while_loop(_cond=lambda count, ls: mb.less(x=count, y=5), _body=body, loop_vars=(0, blank))
    ls = mb.list_scatter(ls=ls, indices=[7, 1], value=mb.stack(values=[x, x], axis=0))
    length = mb.list_length(ls=ls)
    every = mb.list_gather(ls=ls, indices=mb.range_1d(start=0, end=length, step=1))
    return every, mb.list_read(ls=ls, index=mb.sub(x=length, y=2)), mb.list_gather(ls=blank, indices=[1, 0])


def _controlled(x: Any) -> Any:
    """A loop with a branch in it."""
    zero = np.float32(0)

    def body(count: Any, value: Any) -> Any:
        positive = mb.greater(x=mb.reduce_sum(x=value, keep_dims=False), y=zero)
        value = mb.cond(pred=positive, _true_fn=lambda: mb.mul(x=value, y=0.5), _false_fn=lambda: mb.add(x=value, y=x))
        return mb.add(x=count, y=1), value

    return mb.while_loop(_cond=lambda count, value: mb.less(x=count, y=5), _body=body, loop_vars=(0, x))


def _attending(q: Any, k: Any, v: Any) -> Any:
    """Attention as iOS 18 has it, and updates of slices."""
    attended = mb.scaled_dot_product_attention(query=q, key=k, value=v)
    return mb.slice_update(
        x=attended, update=mb.slice_by_size(x=v, begin=[0, 0, 0], size=[1, 1, 4]), begin=[0, 1, 0], end=[1, 2, 4]
    )


def build(folder: Path) -> list[Path]:
    """Writes the packages.

    Args:
        folder: Where to; what lies there already is taken as it is.

    Returns:
        Their paths.
    """
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    folder.mkdir(parents=True, exist_ok=True)
    tokens, image, channels = torch.zeros(1, 6, dtype=torch.int32), torch.rand(1, 3, 8, 8), torch.rand(1, 8, 1, 6)
    fp16, fp32 = {"compute_precision": ct.precision.FLOAT16}, {"compute_precision": ct.precision.FLOAT32}
    t15, t16, t17, t18 = (getattr(ct.target, f"iOS{n}") for n in (15, 16, 17, 18))
    flexible = ct.Shape((1, ct.RangeDim(1, 8, default=6)))
    linear = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    rows = torch.rand(2, 64)
    label = {"classifier_config": ct.ClassifierConfig(["a", "b", "c", "d", "e"])}
    cache = {"states": [ct.StateType(ct.TensorType(shape=(1, 4, 8), dtype=np.float16), "cache")]}
    palette = cto.coreml.OptimizationConfig(cto.coreml.OpPalettizerConfig(nbits=2, mode="uniform", weight_threshold=9))
    grouped = cto.coreml.OptimizationConfig(
        cto.coreml.OpPalettizerConfig(
            nbits=2, mode="uniform", weight_threshold=9, granularity="per_grouped_channel", group_size=16
        )
    )
    int8 = cto.coreml.OptimizationConfig(cto.coreml.OpLinearQuantizerConfig(weight_threshold=9))
    int4 = cto.coreml.OptimizationConfig(
        cto.coreml.OpLinearQuantizerConfig(dtype="int4", granularity="per_block", block_size=16, weight_threshold=9)
    )
    sparse = cto.coreml.OptimizationConfig(cto.coreml.OpMagnitudePrunerConfig(target_sparsity=0.5, weight_threshold=9))

    def compressed(path: Path, function: Callable[..., Any], config: Any, target: Any) -> None:
        model = _saved(folder / "plain.mlpackage", linear, rows, minimum_deployment_target=target, **fp16)
        function(model, config).save(str(path))

    def pictures(path: Path) -> None:
        sizes = ct.Shape((1, 3, ct.RangeDim(4, 8, default=5), ct.RangeDim(4, 8, default=6)))
        inputs = [ct.ImageType("x", sizes, scale=0.5, bias=[1, 2, 3], color_layout=ct.colorlayout.BGR)]
        outputs = [ct.ImageType("y", color_layout=ct.colorlayout.RGB)]
        module = nn.Sequential(nn.Conv2d(3, 3, 3, 1, 1), nn.Sigmoid())
        example = torch.rand(1, 3, 5, 6)
        _saved(path, module, example, inputs=inputs, outputs=outputs, minimum_deployment_target=t16, **fp32)

    def functions(path: Path) -> None:
        one, two = folder / "one.mlpackage", folder / "two.mlpackage"
        _saved(one, linear, rows, minimum_deployment_target=t18, **fp16)
        _saved(two, nn.Sequential(linear, nn.Tanh()), rows, minimum_deployment_target=t18, **fp16)
        descriptor = ct.utils.MultiFunctionDescriptor()
        descriptor.add_function(str(one), "main", "first")
        descriptor.add_function(str(two), "main", "second")
        descriptor.default_function_name = "second"
        ct.utils.save_multifunction(descriptor, str(path))

    recipes: dict[str, Callable[[Path], Any]] = {
        "attention16": lambda p: _saved(p, _Attention(), tokens, minimum_deployment_target=t16, **fp16),
        "attention18": lambda p: _saved(p, _Attention(), tokens, minimum_deployment_target=t18, **fp32),
        "flexible": lambda p: _saved(p, _Attention(), tokens, shape=flexible, minimum_deployment_target=t17, **fp16),
        "images15": lambda p: _saved(p, _convolutional(), image, minimum_deployment_target=t15, **fp32),
        "classifier": lambda p: _saved(p, _convolutional(), image, minimum_deployment_target=t16, **label),
        "channels": lambda p: _saved(p, _Channels(), channels, minimum_deployment_target=t17, **fp16),
        "states": lambda p: _saved(
            p, _Counter().half().float(), torch.rand(1, 1, 8), minimum_deployment_target=t18, **cache, **fp16
        ),
        "functions": functions,
        "palette16": lambda p: compressed(p, cto.coreml.palettize_weights, palette, t16),
        "palette18": lambda p: compressed(p, cto.coreml.palettize_weights, grouped, t18),
        "int8": lambda p: compressed(p, cto.coreml.linear_quantize_weights, int8, t16),
        "int4": lambda p: compressed(p, cto.coreml.linear_quantize_weights, int4, t18),
        "sparse16": lambda p: compressed(p, cto.coreml.prune_weights, sparse, t16),
        "sparse18": lambda p: compressed(p, cto.coreml.prune_weights, sparse, t18),
        "shaping": lambda p: _program(p, [(2, 3)], _shaping, t17, types.fp32),
        "indexing": lambda p: _program(p, [(2, 3)], _indexing, t16, types.fp32),
        "imaging": lambda p: _program(p, [(1, 4, 4, 4)], _imaging, t17, types.fp32),
        "detecting15": lambda p: _program(p, [(1, 8, 6)], _detecting, t15, types.fp32),
        "detecting17": lambda p: _program(p, [(1, 6, 5)], _detecting_later, t17, types.fp32),
        "recurring": lambda p: _program(p, [(4, 2, 3)], _recurring, t18, types.fp32),
        "listing": lambda p: _program(p, [(2, 3)], _listing, t16, types.fp32),
        "pictures": pictures,
        "controlled": lambda p: _program(p, [(2, 3)], _controlled, t16, types.fp32),
        "attending": lambda p: _program(p, [(1, 3, 4)] * 3, _attending, t18, types.fp32),
    }
    for name, recipe in recipes.items():
        path = folder / f"{name}.mlpackage"
        if not path.exists():
            recipe(path)
    return [folder / f"{name}.mlpackage" for name in recipes]
