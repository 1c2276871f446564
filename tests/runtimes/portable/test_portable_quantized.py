"""Quantised activations and attention as one operation."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder
from coremltools.converters.mil.mil import types
from coremltools.optimize import _utils as reference
from portable_programs import close, save_module

from optimum_ane.runtimes.portable import PortableSession

EXTENTS = {None: (), 0: (2,), 1: (3,), -1: (5,)}


def _parameters(rng, axis, output):
    limits = np.iinfo(output)
    scale = np.asarray(rng.uniform(0.01, 0.3, EXTENTS[axis]))
    return scale, np.asarray(rng.integers(limits.min, limits.max + 1, EXTENTS[axis])).astype(output)


def _broadcast(parameter, axis, rank=3):
    if parameter is None or axis is None:
        return parameter
    return parameter.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("output", ["int8", "uint8"])
@pytest.mark.parametrize("axis", EXTENTS)
@pytest.mark.parametrize("shifted", [False, True])
def test_quantize(run, rng, dtype, output, axis, shifted):
    x = (rng.standard_normal((2, 3, 5)) * 12).astype(dtype)
    x[0, 0] = [np.inf, -np.inf, np.nan, 0, -0.0]
    scale, zero = _parameters(rng, axis, output)
    scale = scale.astype(dtype)
    options = {"axis": axis} if axis is not None else {}
    if shifted:
        options["zero_point"] = zero

    def build(a):
        return Builder.cast(x=Builder.quantize(input=a, scale=scale, output_dtype=output, **options), dtype="int32")

    with np.errstate(invalid="ignore"):
        expected = reference.quantize_by_scale_and_zp(
            x.astype(np.float32),
            np.asarray(_broadcast(scale, axis), np.float32),
            _broadcast(zero, axis) if shifted else None,
            types.int8 if output == "int8" else types.uint8,
        )
    np.testing.assert_array_equal(run(build, x)[0], expected)


def test_quantize_rounds_halves_to_even(run):
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127.5, -128.5], np.float32)
    result = run(
        lambda a: Builder.cast(x=Builder.quantize(input=a, scale=np.float32(1), output_dtype="int8"), dtype="int32"), x
    )[0]
    assert result.tolist() == [0, 2, 2, 0, -2, 126, 127, -128]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("axis", EXTENTS)
@pytest.mark.parametrize("shifted", [False, True])
def test_dequantize(run, rng, dtype, kind, axis, shifted):
    limits = np.iinfo(kind)
    x = rng.integers(limits.min, limits.max + 1, (2, 3, 5)).astype(np.int32)
    scale, zero = _parameters(rng, axis, kind)
    scale = scale.astype(dtype)
    options = {"axis": axis} if axis is not None else {}
    if shifted:
        options["zero_point"] = zero
    result = run(lambda a: Builder.dequantize(input=Builder.cast(x=a, dtype=kind), scale=scale, **options), x)[0]
    expected = reference.dequantize_by_scale_and_zp(
        x.astype(kind), _broadcast(scale, axis), _broadcast(zero, axis) if shifted else None
    )
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, expected)


def test_a_model_with_quantized_activations(tmp_path, rng):
    class Quantized(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(16, 8)

        def forward(self, x):
            x = torch.quantize_per_tensor(x, 1 / 32, 3, torch.qint8).dequantize()
            return torch.quantize_per_tensor(self.linear(x), 1 / 64, 7, torch.quint8).dequantize()

    torch.manual_seed(2)
    net, x = Quantized(), torch.from_numpy(rng.standard_normal((4, 16)).astype(np.float32))
    options = {"minimum_deployment_target": ct.target.iOS17, "compute_precision": ct.precision.FLOAT32}
    session = PortableSession(save_module(tmp_path / "m.mlpackage", net, {"x": x}, **options))
    seen = []
    (result,) = session.predict({"x": x}, observer=lambda step, _: seen.append(step.node.op)).values()
    assert seen.count("quantize") == seen.count("dequantize") == 2
    with torch.no_grad():
        close(result, net(x).numpy(), 1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("batch", [(2,), (1, 3), (2, 2, 2)])
@pytest.mark.parametrize("mask", [None, "row", "float", "bool"])
def test_attention(run, rng, dtype, batch, mask):
    q, k, v = (rng.standard_normal((*batch, *shape)).astype(dtype) for shape in ((4, 8), (6, 8), (6, 5)))
    given = {"row": rng.standard_normal(6), "float": rng.standard_normal((4, 6))}.get(mask)
    inputs = [q, k, v]
    if mask in ("row", "float"):
        inputs.append(given.astype(dtype))
    allowed = rng.random((*batch, 4, 6)) < 0.6
    allowed[..., 0] = True

    def build(a, b, c, m=None):
        options = {} if m is None else {"attn_mask": m}
        if mask == "bool":
            options["attn_mask"] = allowed
        return Builder.scaled_dot_product_attention(query=a, key=b, value=c, **options)

    q, k, v = (np.float64(a) for a in (q, k, v))
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(8)
    if mask == "bool":
        scores = np.where(allowed, scores, -np.inf)
    elif mask is not None:
        scores = scores + inputs[3].astype(np.float64)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = weights / weights.sum(-1, keepdims=True) @ v
    (result,) = run(build, *inputs, target=ct.target.iOS18)
    assert result.dtype == dtype
    close(result, expected, 2e-6 if dtype is np.float32 else 2e-3)


def test_attention_to_nothing_is_no_number(run):
    """As coremltools' value inference and the softmax of its docstring; torch's own attention returns zeros."""
    x = np.ones((1, 2, 4), np.float32)
    allowed = np.array([[True, True], [False, False]])
    (result,) = run(
        lambda a: Builder.scaled_dot_product_attention(query=a, key=a, value=a, attn_mask=allowed),
        x,
        target=ct.target.iOS18,
    )
    assert (result[0, 0] == 1).all()
    assert np.isnan(result[0, 1]).all()


def test_attention_of_torch(tmp_path, rng):
    class Attention(torch.nn.Module):
        def forward(self, q, k, v, m):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, m)

    shapes = {"q": (1, 2, 5, 8), "k": (1, 2, 7, 8), "v": (1, 2, 7, 8), "m": (1, 1, 5, 7)}
    given = {name: torch.from_numpy(rng.standard_normal(shape).astype(np.float32)) for name, shape in shapes.items()}
    options = {"minimum_deployment_target": ct.target.iOS18, "compute_precision": ct.precision.FLOAT32}
    session = PortableSession(save_module(tmp_path / "m.mlpackage", Attention(), given, **options))
    seen = []
    (result,) = session.predict(given, observer=lambda step, _: seen.append(step.node.op)).values()
    assert "scaled_dot_product_attention" in seen
    close(result, Attention()(*given.values()).numpy(), 1e-6)
