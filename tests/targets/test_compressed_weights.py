"""Weights of another shape whose compression is kept: coremltools decompresses the same values, packed as before."""

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.scope import ScopeInfo, ScopeSource
from coremltools.optimize._utils import pack_elements_into_bits

from optimum_ane.targets.coreml.passes.compressed_weights import (
    can_take_trailing_axes,
    can_transpose,
    is_constant_expression,
    transposed,
    with_trailing_axes,
)

OUT, IN = 6, 8
RANDOM = np.random.default_rng(0)
MASK = RANDOM.random((OUT, IN)) < 0.4


def halves(*shape):
    return RANDOM.standard_normal(shape).astype(np.float16)


def integers(dtype, shape, low, high):
    return RANDOM.integers(low, high, shape).astype(types.nptype_from_builtin(dtype))


def affine(axis=0):
    data = integers(types.int8, (OUT, IN), -128, 128)
    return mb.constexpr_affine_dequantize(
        quantized_data=data, zero_point=np.int8(3), scale=halves(data.shape[axis]), axis=np.int32(axis)
    )


def cast():
    return mb.constexpr_cast(source_val=halves(OUT, IN), output_dtype="fp32")


def packed_palette(bits=6):
    indices = pack_elements_into_bits(RANDOM.integers(0, 2**bits, OUT * IN).astype(np.uint8), bits)
    return mb.constexpr_lut_to_dense(indices=indices, lut=halves(2**bits), shape=np.array([OUT, IN], np.uint32))


def packed_mask():
    mask = np.packbits(MASK.reshape(-1), bitorder="little")
    return mb.constexpr_sparse_to_dense(
        nonzero_data=halves(MASK.sum()), mask=mask, shape=np.array([OUT, IN], np.uint32)
    )


def blocks(scale=(OUT, 2), offset=True, dtype=types.uint4):
    data, zeros = integers(dtype, (OUT, IN), 0, 8), integers(dtype, scale, 0, 8)
    return mb.constexpr_blockwise_shift_scale(data=data, scale=halves(*scale), offset=zeros if offset else None)


def palette(groups=(3, 1), vector=1, axis=None, bits=types.uint4):
    size = 2 ** bits.get_bitwidth()
    shape = [OUT, IN]
    if axis is not None:
        shape[axis] //= vector
    axis = None if axis is None else np.int32(axis)
    indices = integers(bits, shape, 0, size)
    return mb.constexpr_lut_to_dense(indices=indices, lut=halves(*groups, size, vector), vector_axis=axis)


def palette_of_integers():
    """Looked-up integers that are scaled, as palettes of 8-bit entries are stored."""
    lut = integers(types.int8, (1, 1, 4, 1), -128, 128)
    indices = integers(types.uint2, (OUT, IN), 0, 4)
    looked_up = mb.constexpr_lut_to_dense(indices=indices, lut=lut)
    return mb.constexpr_blockwise_shift_scale(data=looked_up, scale=halves(OUT, 1))


def quantized_palette():
    """A palette whose own entries are scaled integers."""
    lut = mb.constexpr_blockwise_shift_scale(
        data=integers(types.int8, (3, 1, 4, 1), -128, 128), scale=halves(1, 1, 1, 1)
    )
    return mb.constexpr_lut_to_dense(indices=integers(types.uint2, (OUT, IN), 0, 4), lut=lut)


def bits_of_mask():
    return MASK.astype(types.nptype_from_builtin(types.uint1))


def mask_of_bits():
    return mb.constexpr_sparse_to_dense(nonzero_data=halves(MASK.sum()), mask=bits_of_mask())


def sparse_palette(vector=1):
    mask = MASK if vector == 1 else MASK[: OUT // vector]
    indices = integers(types.uint2, (int(mask.sum()),), 0, 4)
    made = mb.constexpr_lut_to_sparse(
        indices_mask=mask.astype(types.nptype_from_builtin(types.uint1)),
        indices_nonzero_data=indices,
        lut=halves(1, 1, 4, vector),
        vector_axis=None if vector == 1 else np.int32(0),
    )
    return mb.constexpr_sparse_to_dense(mask=made[0], nonzero_data=made[1])


def sparse_blocks():
    made = mb.constexpr_sparse_blockwise_shift_scale(
        data_mask=bits_of_mask(),
        nonzero_data=integers(types.int8, (int(MASK.sum()),), -128, 128),
        scale=halves(OUT, 1),
    )
    return mb.constexpr_sparse_to_dense(mask=made[0], nonzero_data=made[1])


def plain():
    return mb.const(val=halves(OUT, IN), name="plain")


KINDS = {
    ct.target.iOS16: [plain, affine, lambda: affine(1), cast, packed_palette, lambda: packed_palette(1), packed_mask],
    ct.target.iOS18: [
        cast,
        blocks,
        lambda: blocks((1, IN), offset=False),
        lambda: blocks(dtype=types.int8),
        palette,
        lambda: palette((1, 1), 2, axis=0),
        lambda: palette((1, 2), 2, axis=-1, bits=types.uint3),
        palette_of_integers,
        quantized_palette,
        mask_of_bits,
        sparse_palette,
        lambda: sparse_palette(2),
        sparse_blocks,
    ],
}
CASES = [(target, kind) for target, kinds in KINDS.items() for kind in kinds]


def program_of(target, kind):
    """A program that reads a weight, and comes from PyTorch, so that each operation must tell of which module."""
    scopes = (
        ScopeInfo(source=ScopeSource.TORCHSCRIPT_MODULE_TYPE, data=["Linear"]),
        ScopeInfo(source=ScopeSource.TORCHSCRIPT_MODULE_NAME, data=["layer"]),
    )

    @mb.program(input_specs=[mb.TensorSpec(shape=(OUT, IN), dtype=types.fp16)], opset_version=target)
    def program(x):
        with mb.scope(*scopes):
            weight = kind()
            given = mb.cast(x=x, dtype="fp32") if weight.dtype == types.fp32 else x
            return mb.add(x=given, y=weight, name="sum")

    program.functions["main"]._add_essential_scope_source([scope.source for scope in scopes])
    return program


def stored(var):
    """The size and type of each constant that a value is made of; a shape, which is stated in uint32, is none."""
    found, left = {}, [var]
    while left:
        operation = left.pop().op
        if operation.op_type == "const":
            found[id(operation)] = operation.outputs[0]
        left += [each for each in operation.inputs.values() if operation.op_type != "const" and each is not None]
    arrays = [each for each in found.values() if each.rank and each.dtype != types.uint32]
    return sorted((each.val.size, types.builtin_to_string(each.dtype)) for each in arrays)


def values(var):
    """What coremltools makes of a weight; of a palette that is itself compressed it makes nothing."""
    if var.val is not None:
        return var.val
    if var.op.op_type == "constexpr_lut_to_dense" and var.op.lut.val is None:
        return var.op.decompress(var.op.indices.val, values(var.op.lut), None)
    return var.op.materialized_val_inference()


@pytest.mark.parametrize(("target", "kind"), CASES)
@pytest.mark.parametrize("change", ["axes", "transposed", "both"])
def test_the_same_values_in_another_shape_with_the_compression_kept(target, kind, change):
    program = program_of(target, kind)
    function = program.functions["main"]
    reader = function.find_ops(op_type="add")[0]
    weight = reader.y
    expected = values(weight)
    assert is_constant_expression(weight)
    assert can_take_trailing_axes(weight)
    assert can_transpose(weight)
    result = weight
    with function:
        if change != "axes":
            result, expected = transposed(result, reader), expected.T
        if change != "transposed":
            result, expected = with_trailing_axes(result, reader), expected[:, :, None, None]
    assert result.shape == expected.shape
    assert result.dtype == weight.dtype
    assert result.name == weight.name
    assert values(result).dtype == expected.dtype
    assert values(result).tobytes() == expected.tobytes()
    assert result.op.op_type == weight.op.op_type
    assert stored(result) == stored(weight)
    program.validate(check_essential_scope=True)


def test_what_a_program_computes_is_no_weight():
    program = program_of(ct.target.iOS16, affine)
    function = program.functions["main"]
    for var in (function.inputs["x"], function.outputs[0]):
        assert not is_constant_expression(var)
        assert not can_transpose(var)
        assert not can_take_trailing_axes(var)
        with function, pytest.raises(ValueError, match="no pass here gives another shape"):
            transposed(var, function.operations.end.op)


def test_elements_that_are_compressed_by_themselves_keep_their_order():
    """What lies between zeros may be scaled before it is spread; in another order it would be a weight anew."""

    def kind():
        count = int(MASK.sum())
        elements = mb.constexpr_blockwise_shift_scale(
            data=integers(types.int8, (count,), -128, 128), scale=halves(1), offset=None
        )
        return mb.constexpr_sparse_to_dense(nonzero_data=elements, mask=bits_of_mask())

    program = program_of(ct.target.iOS18, kind)
    function = program.functions["main"]
    reader = function.find_ops(op_type="add")[0]
    assert not can_transpose(reader.y)
    assert can_take_trailing_axes(reader.y)
    expected = values(reader.y)
    with function:
        result = with_trailing_axes(reader.y, reader)
    assert values(result).tobytes() == expected.tobytes()
