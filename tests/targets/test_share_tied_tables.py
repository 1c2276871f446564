"""Tied embeddings: looked up in the weight that scores, so that the table is there once."""

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY
from stock_packages import convert_program, save

import optimum_ane.targets.coreml.passes  # noqa: F401 - registers them
from optimum_ane.runtimes.portable import PortableSession

WORDS, WIDTH, TOKENS = 40, 8, 5
TABLE = np.random.default_rng(0).standard_normal((WORDS, WIDTH)).astype(np.float16)
INTEGERS = np.random.default_rng(1).integers(-128, 128, (WORDS, WIDTH)).astype(np.int8)
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


def plain(shape):
    return TABLE.reshape(shape)


def compressed(shape):
    return mb.constexpr_affine_dequantize(
        quantized_data=INTEGERS.reshape(shape), zero_point=np.int8(0), scale=np.float16(0.01), axis=np.int32(0)
    )


def build(weight, other=False, readers=()):
    """Words looked up and scored; `other`: with another table, `readers`: what reads the table besides."""

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, TOKENS), dtype=types.int32)], opset_version=ct.target.iOS16)
    def program(ids):
        table = weight((WORDS, WIDTH))
        if isinstance(table, np.ndarray):
            table = mb.const(val=table, name="table")
        x = mb.gather(x=table, indices=ids, axis=0)
        x = mb.expand_dims(x=mb.transpose(x=x, perm=[0, 2, 1]), axes=[2])
        scores = weight((WORDS, WIDTH, 1, 1)) if not other else (2 * TABLE).reshape(WORDS, WIDTH, 1, 1)
        y = mb.conv(x=x, weight=scores, name="y")
        return (y, *(read(table) for read in readers))

    return program


def share(program):
    for name in ("optimum_ane::share_tied_tables", "common::dead_code_elimination"):
        PASS_REGISTRY[name](program)
    program.validate()
    return program


def answers(program, path):
    session = PortableSession(save(convert_program(program, ct.target.iOS16), path))
    ids = np.random.default_rng(2).integers(0, WORDS, (1, TOKENS)).astype(np.int32)
    return session.predict({"ids": ids})["y"], (path / WEIGHTS).stat().st_size


@pytest.mark.parametrize("weight", [plain, compressed])
def test_one_table_and_the_same_answer(weight, tmp_path):
    expected, before = answers(build(weight), tmp_path / "before.mlpackage")
    actual, after = answers(share(build(weight)), tmp_path / "after.mlpackage")
    np.testing.assert_array_equal(actual, expected)
    bytes_of_table = TABLE.nbytes if weight is plain else INTEGERS.nbytes
    assert before - after >= bytes_of_table
    kinds = [op.op_type for op in share(build(weight)).functions["main"].operations if op.op_type != "const"]
    assert [kind for kind in kinds if not kind.startswith("constexpr")][:2] == ["gather", "reshape"]
    assert sum(kind.startswith("constexpr") for kind in kinds) == (weight is compressed)


@pytest.mark.parametrize(
    "program",
    [
        lambda: build(plain, other=True),
        lambda: build(plain, readers=[lambda table: mb.reduce_sum(x=table, axes=[0])]),
        lambda: build(plain, readers=[lambda table: mb.gather(x=table, indices=[1, 0], axis=1)]),
    ],
    ids=["another table", "summed", "looked up by column"],
)
def test_what_else_needs_the_table_leaves_it(program):
    before = [op.op_type for op in program().functions["main"].operations]
    assert [op.op_type for op in share(program()).functions["main"].operations] == before
