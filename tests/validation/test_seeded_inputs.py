"""Inputs that are made up for a program: what integers may be is read off what they index."""

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import types
from stock_packages import convert_program, save

from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.runtimes.portable.graph import read_function
from optimum_ane.runtimes.portable.package import Package
from optimum_ane.runtimes.session import TensorSpec
from optimum_ane.validation.programs import compare_programs, make_examples
from optimum_ane.validation.seeded_inputs import Range, integer_ranges, seeded_inputs

TABLE = np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32)


def build(body, *shapes, target=ct.target.iOS17):
    specs = [mb.TensorSpec(shape=shape, dtype=types.int32) for shape in shapes]
    return convert_program(mb.program(input_specs=specs, opset_version=target)(body), target)


def plain(ids):
    return mb.gather(x=TABLE, indices=ids, axis=0)


def moved(ids):
    """Reshaped and cut, and looked up along the other axis."""
    cut = mb.slice_by_index(x=mb.reshape(x=ids, shape=[4]), begin=[1], end=[3])
    return mb.gather(x=TABLE, indices=mb.cast(x=cut, dtype="int16"), axis=1)


def positions(ids):
    """From 2 on, as some models count."""
    return mb.gather(x=TABLE, indices=mb.add(x=ids, y=2), axis=0)


def guarded(ids):
    """A negative index counts from the end: coremltools' guard."""
    positive = mb.greater_equal(x=ids, y=0)
    return mb.gather(x=TABLE, indices=mb.select(cond=positive, a=ids, b=mb.add(x=ids, y=9)), axis=0)


def twice(ids):
    """The smaller of two tables counts."""
    return mb.concat(values=[plain(ids), mb.gather(x=TABLE[:5], indices=ids, axis=0)], axis=0)


def flag(ids):
    return mb.cast(x=ids, dtype="fp32")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (plain, Range(0, 9)),
        (moved, Range(0, 3)),
        (positions, Range(0, 7)),
        (guarded, Range(0, 9)),
        (twice, Range(0, 5)),
        (flag, Range(0, None)),
    ],
)
def test_ranges_by_what_is_looked_up(body, expected, tmp_path):
    path = save(build(lambda ids: body(ids), (2, 2)), tmp_path / "program.mlpackage")
    graph = read_function(Package(path), "main")
    assert integer_ranges(graph) == {"ids": expected}
    session = PortableSession(path)
    examples = make_examples(session, graph)
    assert len(examples.answers) == 3
    assert len({example["ids"].tobytes() for example in examples.inputs}) > 1
    assert compare_programs(examples, session).worst == np.inf


def test_every_index_of_a_range_comes_up():
    made = seeded_inputs({"ids": TensorSpec("ids", (1, 200), "int32")}, {"ids": Range(0, 9)}, 0)["ids"]
    assert sorted({*made.flat}) == [*range(9)]


def test_flags_are_masks_of_three_lengths():
    masks = [seeded_inputs({"mask": TensorSpec("mask", (1, 16), "int32")}, {}, n)["mask"] for n in range(3)]
    assert [mask.shape for mask in masks] == [(1, 16)] * 3
    assert masks[0].sum() == 16
    assert masks[1].tolist() == [[1] + [0] * 15]
    assert 1 < masks[2].sum() < 16
    assert masks[2][0, : masks[2].sum()].all()
