"""Passes that leave less to be done for the same result, on programs that have what a decoder's layers have."""

from collections import Counter
from itertools import pairwise

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY
from stock_packages import convert_program, save

import optimum_ane.targets.coreml.passes  # noqa: F401 - registers them
from optimum_ane.runtimes.portable import PortableSession

RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.standard_normal((8, 6, 1, 1)).astype(np.float32)
BIAS = RANDOM.standard_normal(8).astype(np.float32)
INPUTS = {
    "x": RANDOM.standard_normal((1, 6, 1, 5)).astype(np.float32),
    "cosines": RANDOM.standard_normal((1, 1, 5, 4)).astype(np.float32),
    "sines": RANDOM.standard_normal((1, 1, 5, 4)).astype(np.float32),
}


def program(build):
    @mb.program(
        input_specs=[mb.TensorSpec(shape=value.shape) for value in INPUTS.values()], opset_version=ct.target.iOS17
    )
    def made(x, cosines, sines):
        return build(x, cosines, sines)

    return made


def heads(x, weight=WEIGHT):
    """Two heads of four channels, (1, 2, 5, 4)."""
    projected = mb.conv(x=x, weight=weight, bias=BIAS)
    return mb.transpose(x=mb.reshape(x=projected, shape=[1, 2, 4, 5]), perm=[0, 1, 3, 2])


def rotate(x, cosines, sines, sign=-1.0):
    first = mb.slice_by_index(x=x, begin=[0, 0, 0, 0], end=[1, 2, 5, 2])
    second = mb.slice_by_index(x=x, begin=[0, 0, 0, 2], end=[1, 2, 5, 4])
    turned = mb.concat(values=[mb.mul(x=second, y=np.float32(sign)), first], axis=-1)
    return mb.add(x=mb.mul(x=x, y=cosines), y=mb.mul(x=turned, y=sines))


def scaled(x, factor=0.5):
    return mb.identity(x=mb.mul(x=x, y=np.float32(factor)))  # a program's outputs keep their names


def halves(x):
    first, second = mb.split(x=heads(x), num_splits=2, axis=1)
    return mb.mul(x=first, y=second)


def two_of_one_weight(x, *_):
    weight = mb.const(val=WEIGHT)
    return scaled(heads(x, weight)), heads(x, weight)


def read_elsewhere(x, *_):
    value = heads(x)
    return scaled(value), mb.relu(x=value)


def run(made, path):
    session = PortableSession(save(convert_program(made, ct.target.iOS17), path))
    return session.predict(INPUTS)


def check(name, build, tmp_path, **expected):
    """A pass changes no answer, and leaves so many operations of some types."""
    made = program(build)
    for each in (name, "common::dead_code_elimination"):
        PASS_REGISTRY[each](made)
    made.validate()
    counts = Counter(operation.op_type for operation in made.functions["main"].operations)
    assert {kind: counts[kind] for kind in expected} == expected
    before, after = run(program(build), tmp_path / "before.mlpackage"), run(made, tmp_path / "after.mlpackage")
    for (_, one), (_, other) in zip(before.items(), after.items(), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


def test_the_sign_of_a_rotation_is_that_of_the_sines(tmp_path):
    def two(x, cosines, sines):
        queries, keys = heads(x), scaled(heads(x))
        return rotate(queries, cosines, sines), rotate(keys, cosines, sines)

    # Two products each, one for the sines of both, and the scale.
    check("optimum_ane::fold_rotation_sign", two, tmp_path, mul=2 * 2 + 1 + 1, concat=2)


def test_another_factor_than_a_sign_stays(tmp_path):
    check("optimum_ane::fold_rotation_sign", lambda *x: rotate(heads(x[0]), *x[1:], sign=-2.0), tmp_path, mul=3)


def test_slices_side_by_side_are_a_split(tmp_path):
    check("optimum_ane::split_at_once", lambda *x: rotate(heads(x[0]), *x[1:]), tmp_path, split=1, slice_by_index=0)


def test_slices_of_slices_are_splits_of_splits(tmp_path):
    def some(x, *_):  # as where a part of a head is rotated
        rotated, kept = parts(heads(x), 0, 2, 4)
        return tuple(mb.relu(x=each) for each in (*parts(rotated, 0, 1, 2), kept))

    def parts(value, *bounds):
        return [
            mb.slice_by_index(x=value, begin=[0, 0, 0, start], end=[1, 2, 5, stop]) for start, stop in pairwise(bounds)
        ]

    check("optimum_ane::split_at_once", some, tmp_path, split=2, slice_by_index=0)


@pytest.mark.parametrize(
    "bounds",
    [((0, 2), (3, 4)), ((0, 3), (2, 4)), ((1, 2), (2, 4))],
    ids=["a gap", "an overlap", "not from the first"],
)
def test_other_slices_stay(bounds, tmp_path):
    def some(x, cosines, sines):
        value = heads(x)
        return tuple(mb.slice_by_index(x=value, begin=[0, 0, 0, start], end=[1, 2, 5, stop]) for start, stop in bounds)

    check("optimum_ane::split_at_once", some, tmp_path, split=0, slice_by_index=2)


def test_the_scale_of_rotated_queries_is_their_projections(tmp_path):
    check("optimum_ane::fold_scale_backwards", lambda *x: scaled(rotate(heads(x[0]), *x[1:])), tmp_path, mul=3)


KEPT = {
    "read elsewhere": read_elsewhere,
    "a function between": lambda x, *_: scaled(mb.sigmoid(x=heads(x))),
    "a product of two halves": lambda x, *_: scaled(halves(x)),
    "a sum with an input": lambda x, cosines, _: scaled(mb.add(x=heads(x), y=cosines)),
    "a weight that others read": two_of_one_weight,
    "a factor beyond float16": lambda x, *_: scaled(heads(x), 1e-4),
}


@pytest.mark.parametrize("name", KEPT)
def test_other_factors_stay(name, tmp_path):
    before = Counter(op.op_type for op in program(KEPT[name]).functions["main"].operations)
    check("optimum_ane::fold_scale_backwards", KEPT[name], tmp_path, mul=before["mul"])
