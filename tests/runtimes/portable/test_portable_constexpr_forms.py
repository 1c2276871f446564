"""The decoders of compressed weights over all their parameters, against coremltools' own, and what they refuse."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from coremltools.converters.mil.mil.ops.defs.iOS16 import constexpr_ops as ios16
from coremltools.converters.mil.mil.ops.defs.iOS18 import compression as ios18
from coremltools.optimize import _utils as packing

from optimum_ane.errors import PackageError
from optimum_ane.runtimes.portable import constexpr
from optimum_ane.runtimes.portable.constexpr import decoded
from optimum_ane.runtimes.portable.values import Constant, TensorType, by_name, unpack

AXES = [(1, 1, 1), (3, 1, 2), (1, 2, 4), (6, 4, 8)]


def known(array, dtype=None):
    """Returns an array, or a string, as a constant of a program."""
    if isinstance(array, str):
        return Constant(None, lambda: array)
    array = np.asarray(array)
    return Constant(TensorType(by_name(dtype or array.dtype.name), array.shape), lambda: array)


def decode(op, result, dtype="float16", /, **arguments):
    """Decodes a weight and returns its array, or its arrays; `result` is a shape, or the types of several."""
    constants = {k: v if isinstance(v, Constant) else known(v) for k, v in arguments.items()}
    types = [TensorType(by_name(dtype), result)] if isinstance(result, tuple) else result
    arrays = [c.array() for c in decoded(f"constexpr_{op}", constants, types, "here")]
    return arrays[0] if len(arrays) == 1 else arrays


def same(actual, expected):
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert actual.tobytes() == expected.tobytes()


@pytest.fixture(autouse=True, params=[1 << 18, 40], ids=["whole", "in slices"])
def slices(request, monkeypatch):
    """Small weights are decoded in one go and, with smaller slices, in many."""
    monkeypatch.setattr(constexpr, "_SLICE", request.param)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("scale_dtype", [np.float16, np.float32])
@pytest.mark.parametrize("zero_dtype", [None, np.float32])
@pytest.mark.parametrize("axis", [0, 1, 2, -1, None])
def test_affine(rng, dtype, scale_dtype, zero_dtype, axis):
    limits = np.iinfo(dtype)
    data = rng.integers(limits.min, limits.max + 1, (5, 6, 7)).astype(dtype)
    extent = () if axis is None else (data.shape[axis],)
    scale = np.asarray(rng.uniform(1e-4, 900, extent)).astype(scale_dtype)  # fp16 overflows here and there
    zeros = np.asarray(rng.integers(limits.min, limits.max + 1, extent)).astype(zero_dtype or dtype)
    axis = np.int32(0 if axis is None else axis)
    with np.errstate(over="ignore"):
        expected = ios16.constexpr_affine_dequantize.decompress(data, zeros, scale, axis)
    name = np.dtype(scale_dtype).name
    result = decode(
        "affine_dequantize", data.shape, name, quantized_data=data, zero_point=zeros, scale=scale, axis=axis
    )
    same(result, expected)


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
@pytest.mark.parametrize("shape", [(1,), (13,), (3, 5), (2, 3, 5, 7)])
@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "uint8"])
def test_packed_palettes(rng, bits, shape, dtype):
    lut = rng.integers(-100, 100, 2**bits).astype(dtype)
    indices = packing.pack_elements_into_bits(rng.integers(0, 2**bits, int(np.prod(shape))).astype(np.uint8), bits)
    expected = ios16.constexpr_lut_to_dense.decompress(lut, indices, shape)
    same(decode("lut_to_dense", shape, dtype, indices=indices, lut=lut, shape=np.array(shape, np.uint32)), expected)


@pytest.mark.parametrize("shape", [(1,), (13,), (3, 5), (2, 3, 5, 7)])
@pytest.mark.parametrize("density", [0, 0.4, 1])
def test_packed_masks(rng, shape, density):
    ones = rng.random(shape) < density
    mask = np.packbits(ones.reshape(-1), bitorder="little")
    data = rng.standard_normal(int(ones.sum())).astype(np.float16)
    expected = np.zeros(shape, np.float16)
    expected[ones] = data
    same(decode("sparse_to_dense", shape, nonzero_data=data, mask=mask, shape=np.array(shape, np.uint32)), expected)


@pytest.mark.parametrize("vector_axis", [0, 1, 2, -1, -3])
@pytest.mark.parametrize("groups", AXES)
@pytest.mark.parametrize("vector", [1, 3])
@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
def test_grouped_palettes(rng, vector_axis, groups, vector, dtype):
    for shape in ((6, 4, 8), (6, 4, 8)) if groups != (1, 1, 1) else ((6, 4, 8), (1, 1, 90), (1, 7, 9), (90, 1, 1)):
        indices = rng.integers(0, 8, shape).astype(np.uint8)
        lut = rng.integers(0, 200, (*groups, 8, vector)).astype(dtype)
        expected = ios18.constexpr_lut_to_dense.decompress(indices, lut, np.int32(vector_axis))
        result = decode(
            "lut_to_dense",
            expected.shape,
            dtype,
            indices=known(indices, "uint3"),
            lut=lut,
            vector_axis=np.int32(vector_axis),
        )
        same(result, np.ascontiguousarray(expected))


@pytest.mark.parametrize("groups", AXES)
@pytest.mark.parametrize("data_dtype", ["int4", "uint4", "int8", "uint8", "float16", "float32"])
@pytest.mark.parametrize("scale_dtype", ["float16", "float32"])
@pytest.mark.parametrize("offset_dtype", [None, "own", "float16", "float32"])
def test_blocks(rng, groups, data_dtype, scale_dtype, offset_dtype):
    def quantities(shape, dtype):
        low, high = {"int4": (-8, 8), "uint4": (0, 16), "int8": (-128, 128)}.get(dtype, (0, 256))
        return rng.integers(low, high, shape).astype(dtype.replace("4", "8"))

    for shape in ((6, 4, 8), (1, 1, 90)) if groups == (1, 1, 1) else ((6, 4, 8),):
        data = quantities(shape, data_dtype)
        scale = rng.uniform(0.001, 400, groups).astype(scale_dtype)
        if offset_dtype == "own":
            offset = quantities(groups, data_dtype)
        else:
            offset = None if offset_dtype is None else (rng.standard_normal(groups) * 9).astype(offset_dtype)
        with np.errstate(over="ignore"):
            expected = ios18.constexpr_blockwise_shift_scale.decompress(data, scale, offset)
            expected = expected.astype(scale_dtype)  # an fp32 offset makes it fp32, which the declaration forbids
        given = {"data": known(data, data_dtype), "scale": scale}
        if offset is not None:
            given["offset"] = known(offset, data_dtype if offset_dtype == "own" else None)
        same(decode("blockwise_shift_scale", shape, scale_dtype, **given), expected)


@pytest.mark.parametrize("vector_axis", [0, 2])
@pytest.mark.parametrize("vector", [1, 2])
@pytest.mark.parametrize("groups", AXES)
def test_sparse_palettes(rng, vector_axis, vector, groups):
    mask = (rng.random((6, 4, 8)) < 0.5).astype(np.uint8)
    indices = rng.integers(0, 4, int(mask.sum())).astype(np.uint8)
    lut = rng.standard_normal((*groups, 4, vector)).astype(np.float16)
    expected = ios18.constexpr_lut_to_sparse.decompress(mask, indices, lut, np.int32(vector_axis))
    types = [TensorType(by_name(d), a.shape) for d, a in zip(("uint1", "float16"), expected, strict=True)]
    pair = decode(
        "lut_to_sparse",
        types,
        indices_mask=known(mask, "uint1"),
        indices_nonzero_data=known(indices, "uint2"),
        lut=lut,
        vector_axis=np.int32(vector_axis),
    )
    for actual, wanted in zip(pair, expected, strict=True):
        same(actual, wanted)
    wide, data = (known(a, t.dtype.name) for a, t in zip(pair, types, strict=True))
    dense = decode("sparse_to_dense", types[0].shape, nonzero_data=data, mask=wide)
    same(dense, ios18.constexpr_sparse_to_dense.decompress(expected[1], expected[0]))


@pytest.mark.parametrize("dtype", ["int4", "uint8"])
@pytest.mark.parametrize("groups", AXES)
@pytest.mark.parametrize("shifted", [False, True])
def test_sparse_blocks(rng, dtype, groups, shifted):
    mask = (rng.random((6, 4, 8)) < 0.5).astype(np.uint8)
    data = rng.integers(0, 8, int(mask.sum())).astype(dtype.replace("4", "8"))
    scale = rng.uniform(0.01, 4, groups).astype(np.float16)
    offset = rng.integers(0, 8, groups).astype(data.dtype) if shifted else None
    expected = ios18.constexpr_sparse_blockwise_shift_scale.decompress(mask, data, scale, offset)
    types = [TensorType(by_name("uint1"), mask.shape), TensorType(by_name("float16"), data.shape)]
    given = {"data_mask": known(mask, "uint1"), "nonzero_data": known(data, dtype), "scale": scale}
    if shifted:
        given["offset"] = known(offset, dtype)
    for actual, wanted in zip(decode("sparse_blockwise_shift_scale", types, **given), expected, strict=True):
        same(actual, wanted)


def test_cast(rng):
    source = np.array([1, -0.0, 6e-8, np.inf, np.nan, 65504], np.float16)
    same(decode("cast", (6,), "float32", source_val=source, output_dtype="fp32"), source.astype(np.float32))


@pytest.mark.parametrize("name", ["uint1", "uint2", "uint3", "uint4", "uint6", "int4"])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 7, 8, 9, 31, 3 * 65536 * 8 + 5])
def test_packed_elements(rng, name, count):
    dtype = by_name(name)
    low = -8 if name == "int4" else 0
    array = rng.integers(low, low + 2**dtype.bits, count).astype(dtype.numpy)
    packed = packing.pack_elements_into_bits(array, dtype.bits) if count else np.zeros(0, np.uint8)
    same(unpack(packed, dtype, (count,)), array)


def test_memory_of_one_weight(rng, monkeypatch):
    """Beyond its result, decoding takes a byte for each index: half the float32 weight in all, and a quarter."""
    monkeypatch.undo()
    packed = rng.integers(0, 256, 1 << 20).astype(np.uint8)
    lut = rng.standard_normal((64, 1, 16, 1)).astype(np.float16)
    indices = Constant(
        TensorType(by_name("uint4"), (1024, 2048)), lambda: unpack(packed, by_name("uint4"), (1024, 2048))
    )
    given = {"indices": indices, "lut": known(lut)}
    tracemalloc.start()
    (weight,) = decoded("constexpr_lut_to_dense", given, [TensorType(by_name("float16"), (1024, 2048))], "here")
    _, peak = tracemalloc.get_traced_memory()
    assert peak < 1 << 16  # nothing is decoded before it is asked for
    array = weight.array()
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    whole = array.size * 4
    assert peak < 1.4 * whole
    assert kept < 0.51 * whole  # and of all that the result alone remains


def test_equal_parameters_give_the_same_weight():
    data = known(np.zeros((300, 4), np.int8))

    def weight(scale):
        given = {"data": data, "scale": known(np.full((300, 1), scale, np.float16)), "offset": known(np.int8(0))}
        given["scale"] = known(np.full((1, 1), scale, np.float16))
        given["offset"] = known(np.zeros((1, 1), np.int8))
        type_ = TensorType(by_name("float16"), (300, 4))
        return decoded("constexpr_blockwise_shift_scale", given, [type_], "here")[0]

    assert weight(1) is weight(1)
    assert weight(1) is not weight(2)


U8 = np.uint8
SIX = {"data": np.zeros((4, 6), np.int8), "scale": np.ones((2, 3), np.float16)}
LUT = {"indices": known(np.zeros((4, 6), U8), "uint2"), "lut": np.ones((1, 1, 4, 1), np.float16)}
PACKED = {"indices": np.zeros(3, U8), "lut": np.ones(4, np.float16), "shape": np.array([3, 4], np.uint32)}
MASKED = {"nonzero_data": np.ones(2, np.float16), "mask": known(np.eye(2, dtype=U8), "uint1")}
AFFINE = {"quantized_data": np.zeros((4, 6), np.int8), "zero_point": np.int8(0), "scale": np.float16(1), "axis": 0}


@pytest.mark.parametrize(
    ("op", "arguments", "change", "says"),
    [
        ("blockwise_shift_scale", SIX, {"scale": None}, "lacks scale"),
        ("blockwise_shift_scale", SIX, {"scale": np.ones((4, 4), np.float16)}, "do not divide"),
        ("blockwise_shift_scale", SIX, {"scale": np.ones((4, 0), np.float16)}, "do not divide"),
        ("blockwise_shift_scale", SIX, {"scale": np.ones(6, np.float16)}, "do not divide"),
        ("blockwise_shift_scale", SIX, {"scale": np.ones((2, 3), np.int8)}, "scale is of int8"),
        ("blockwise_shift_scale", SIX, {"offset": np.ones((1, 1), np.int8)}, "offset"),
        ("blockwise_shift_scale", SIX, {"data": np.int8(0), "scale": np.float16(1)}, "a scalar"),
        ("blockwise_shift_scale", SIX, {"scale": "text"}, "scale should be a tensor"),
        ("blockwise_shift_scale", SIX, {"data": np.zeros((8, 6), np.int8)}, "and declares"),
        ("lut_to_dense", LUT, {"lut": np.ones((1, 1, 8, 1), np.float16)}, "lut of 8 values for indices of uint2"),
        ("lut_to_dense", LUT, {"lut": np.ones((1, 4, 1), np.float16)}, "lut of rank 3"),
        ("lut_to_dense", LUT, {"lut": np.ones((1, 5, 4, 1), np.float16)}, "do not divide"),
        ("lut_to_dense", LUT, {"lut": np.ones((1, 1, 4, 2), np.float16)}, "lacks vector_axis"),
        ("lut_to_dense", LUT, {"lut": np.ones((1, 1, 4, 2), np.float16), "vector_axis": 2}, r"vector_axis is \[2\]"),
        ("lut_to_dense", LUT, {"lut": np.ones((1, 1, 4, 4096), np.float16), "vector_axis": 0}, "vectors of 4096"),
        ("lut_to_dense", LUT, {"lut": np.ones((1, 1, 4, 0), np.float16)}, "vectors of 0"),
        ("lut_to_dense", LUT, {"indices": np.zeros((4, 6), np.int8)}, "indices is of int8"),
        ("lut_to_dense", PACKED, {"lut": np.ones(3, np.float16)}, "lut of 3 values"),
        ("lut_to_dense", PACKED, {"lut": np.ones(32, np.float16)}, "lut of 32 values"),
        ("lut_to_dense", PACKED, {"shape": np.array([3, 5], np.uint32)}, "needs 4 bytes"),
        ("lut_to_dense", PACKED, {"shape": np.array([2**31, 2**31], np.uint32)}, "needs"),
        ("lut_to_dense", PACKED, {"shape": np.array([3.0], np.float32)}, "shape should be of integers"),
        ("sparse_to_dense", MASKED, {"nonzero_data": np.ones(3, np.float16)}, "3 values, and the mask has 2 ones"),
        ("sparse_to_dense", MASKED, {"nonzero_data": np.ones((1, 2), np.float16)}, r"nonzero_data of shape \(1, 2\)"),
        ("sparse_to_dense", MASKED, {"mask": np.eye(2, dtype=U8)}, "mask is of uint8"),
        ("affine_dequantize", AFFINE, {"axis": 2}, r"axis is \[2\], of a tensor of rank 2"),
        ("affine_dequantize", AFFINE, {"scale": np.ones(6, np.float16)}, "does not fit axis 0"),
        ("affine_dequantize", AFFINE, {"zero_point": np.zeros(3, np.int8)}, "does not fit axis 0"),
        ("cast", {"source_val": np.ones((4, 6), np.float16), "output_dtype": "int8"}, {}, "cannot be cast"),
        ("cast", {}, {}, "has no parameters"),
    ],
)
def test_weights_that_contradict_themselves(op, arguments, change, says):
    given = {key: value for key, value in {**arguments, **change}.items() if value is not None}
    shape = {"sparse_to_dense": (2, 2), "lut_to_dense": (4, 6)}.get(op, (4, 6))
    with pytest.raises(PackageError, match=f"here.*{says}"):
        decode(op, shape, **given)


def test_a_weight_is_known_when_it_is_loaded():
    with pytest.raises(PackageError, match="scale is computed by the program"):
        decoded(
            "constexpr_blockwise_shift_scale", {"data": known(np.zeros(2, np.int8)), "scale": object()}, [], "here"
        )
