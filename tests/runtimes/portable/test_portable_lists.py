"""Lists of tensors, against Python's lists, and numbers that coremltools' tests hold Core ML to."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder
from portable_attacks import edit, find, integers, refused
from portable_programs import save_program

from optimum_ane.errors import ExecutionError, PackageError
from optimum_ane.runtimes.portable import PortableSession, limits
from optimum_ane.runtimes.portable.registry import OPERATIONS
from optimum_ane.runtimes.portable.tensor_list import TensorList

INT = np.int32
TARGETS = [ct.target.iOS15, ct.target.iOS16, ct.target.iOS17, ct.target.iOS18]


@pytest.mark.parametrize("target", TARGETS)
def test_the_numbers_of_coremltools_own_test(run, target):
    """`TestList.test_builder_to_backend_smoke`: a list begins with zeros and grows where it is written."""

    def build(a, b):
        ls = Builder.make_list(init_length=2, elem_shape=(2,))
        before = Builder.list_read(ls=ls, index=0)
        ls = Builder.list_write(ls=ls, index=0, value=a)
        ls = Builder.list_write(ls=ls, index=4, value=b)
        values = np.array([[-1, -2], [-4, -5]], np.float32)
        ls = Builder.list_scatter(ls=ls, indices=[2, 1], value=values)
        picked = Builder.list_gather(ls=ls, indices=[4, 2, 3])
        return before, Builder.list_read(ls=ls, index=0), picked, Builder.list_length(ls=ls)

    before, first, picked, length = run(
        build, np.array([1, 3], np.float32), np.array([2, 4], np.float32), target=target
    )
    assert before.tolist() == [0, 0]
    assert first.tolist() == [1, 3]
    assert picked.tolist() == [[2, 4], [-1, -2], [0, 0]]
    assert length == 5


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("turns", [0, 1, 5])
def test_a_loop_gathers_what_its_turns_give(run, target, turns):
    """`TestList.test_builder_to_backend_while`, and a length that is computed."""

    def body(i, ls, update):
        element = Builder.mul(x=update, y=Builder.cast(x=i, dtype="fp32"))
        return Builder.add(x=i, y=INT(1)), Builder.list_write(ls=ls, index=i, value=element), update

    def build(count, update):
        ls = Builder.make_list(init_length=1, elem_shape=(2,))
        limit = Builder.squeeze(x=count)
        _, ls, _ = Builder.while_loop(
            _cond=lambda i, ls, update: Builder.less(x=i, y=limit), _body=body, loop_vars=(INT(0), ls, update)
        )
        length = Builder.list_length(ls=ls)
        return Builder.list_gather(ls=ls, indices=Builder.range_1d(start=INT(0), end=length, step=INT(1)))

    (result,) = run(build, np.array([turns], INT), np.array([1, 2], np.float32), target=target)
    assert result.tolist() == [[i, 2 * i] for i in range(max(1, turns))]


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int32", "bool"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_elements_of_every_type_and_shape(run, rng, dtype, shape):
    x = (rng.integers(0, 2, (4, *shape)) * 3).astype(np.float32)

    def build(a):
        elements = Builder.cast(x=a, dtype=dtype)
        ls = Builder.make_list(init_length=1, elem_shape=shape, dtype=dtype)
        ls = Builder.list_scatter(ls=ls, indices=[3, 1, 1, 4], value=elements)
        read = Builder.list_read(ls=ls, index=3)
        picked = Builder.list_gather(ls=ls, indices=[4, 0, 1, 1])
        return Builder.cast(x=read, dtype="fp32"), Builder.cast(x=picked, dtype="fp32")

    read, picked = run(build, x)
    values = x != 0 if dtype == "bool" else x
    np.testing.assert_array_equal(read, values[0].reshape(shape or (1,)))
    np.testing.assert_array_equal(picked, np.stack([values[3], values[0] * 0, values[2], values[2]]))


def test_integers_are_kept_as_they_are(run):
    x = np.array([2**24 + 1, -(2**31)], np.int32)

    def build(a):
        ls = Builder.make_list(init_length=1, elem_shape=(2,), dtype="int32")
        ls = Builder.list_write(ls=ls, index=1, value=a)
        return Builder.list_read(ls=ls, index=1), Builder.list_gather(ls=ls, indices=[0, 1])

    read, picked = run(build, x)
    np.testing.assert_array_equal(read, x)
    np.testing.assert_array_equal(picked, [x * 0, x])


def test_a_list_is_what_it_was_before_it_was_written(run):
    """Both ways of a branch write into one list, and the list itself is read afterwards."""

    def build(a):
        empty = Builder.make_list(init_length=2, elem_shape=(2,))
        first = Builder.list_write(ls=empty, index=0, value=a)
        second = Builder.list_write(ls=first, index=0, value=Builder.mul(x=a, y=np.float32(2)))
        third = Builder.list_write(ls=first, index=1, value=a)
        return tuple(Builder.list_gather(ls=ls, indices=[0, 1]) for ls in (empty, first, second, third))

    results = run(build, np.array([1, 3], np.float32))
    assert [r.tolist() for r in results] == [
        [[0, 0], [0, 0]],
        [[1, 3], [0, 0]],
        [[2, 6], [0, 0]],
        [[1, 3], [1, 3]],
    ]


def test_places_that_are_computed(run):
    def build(a, index, indices):
        ls = Builder.make_list(init_length=2, elem_shape=(2,))
        ls = Builder.list_write(ls=ls, index=Builder.squeeze(x=index), value=a)
        ls = Builder.list_scatter(ls=ls, indices=indices, value=np.array([[5, 6], [7, 8]], np.float32))
        return Builder.list_gather(ls=ls, indices=[0, 1, 2, 3]), Builder.list_read(
            ls=ls, index=Builder.squeeze(x=index)
        )

    picked, read = run(build, np.array([1, 3], np.float32), np.array([3], INT), np.array([0, 2], INT))
    assert picked.tolist() == [[5, 6], [0, 0], [7, 8], [1, 3]]
    assert read.tolist() == [1, 3]


def test_an_element_shape_that_the_first_element_decides(run, rng):
    def build(a):
        ls = Builder.make_list(init_length=2, elem_shape=("rows", 3))
        ls = Builder.list_write(ls=ls, index=1, value=a)
        return Builder.list_gather(ls=ls, indices=[0, 1])

    x = rng.standard_normal((4, 3)).astype(np.float32)
    (result,) = run(build, x)
    np.testing.assert_array_equal(result, np.stack([x * 0, x]))


def test_an_element_of_a_shape_that_nothing_has_decided_is_refused(run):
    def build(a):
        ls = Builder.make_list(init_length=2, elem_shape=("rows", 3))
        return Builder.add(x=Builder.list_read(ls=ls, index=1), y=a)

    with pytest.raises(ExecutionError, match=r"nothing was written at 1, and the shape \(-1, 3\) is not known"):
        run(build, np.ones((4, 3), np.float32))


READS = {
    "list_read": lambda ls, a, at: Builder.list_read(ls=ls, index=at),
    "list_gather": lambda ls, a, at: Builder.list_gather(ls=ls, indices=Builder.expand_dims(x=at, axes=[0])),
}
WRITES = {
    "list_write": lambda ls, a, at: Builder.list_write(ls=ls, index=at, value=a),
    "list_scatter": lambda ls, a, at: Builder.list_scatter(
        ls=ls, indices=Builder.expand_dims(x=at, axes=[0]), value=Builder.expand_dims(x=a, axes=[0])
    ),
}


@pytest.mark.parametrize("op", [*READS, *WRITES])
@pytest.mark.parametrize("grows", [True, False])
def test_places_outside_are_refused(run, op, grows):
    def build(a, place):
        ls = Builder.make_list(init_length=3, dynamic_length=grows, elem_shape=(2,))
        at = Builder.squeeze(x=place)
        if op in READS:
            return READS[op](ls, a, at)
        return Builder.list_length(ls=WRITES[op](ls, a, at))

    x = np.array([1, 3], np.float32)
    for place in (0, 2):
        run(build, x, np.array([place], INT))
    for place in (-1, 3, 2**31 - 1, -(2**31)):
        if place == 3 and op in WRITES and grows:
            assert run(build, x, np.array([place], INT))[0] == 4
            continue
        with pytest.raises(ExecutionError, match=f"{op} at .*(outside a list of 3|at most 1048576|impossible)"):
            run(build, x, np.array([place], INT))


def test_a_long_list_of_large_elements_is_refused_before_memory_is_taken(tmp_path, monkeypatch):
    """The elements are never made: what they would take together is what counts."""
    monkeypatch.setattr(limits, "memory", lambda: 2**24)

    def build(x):
        ls = Builder.make_list(init_length=2, elem_shape=(2, 3))
        ls = Builder.list_write(ls=ls, index=99, value=x)
        return Builder.list_read(ls=ls, index=50)

    path = save_program(tmp_path / "m.mlpackage", build, {"x": np.ones((2, 3), np.float32)})
    PortableSession(path).predict({"x": np.ones((2, 3), np.float32)})
    edit(path, lambda spec, block: integers(block, "list_write", "index").__setitem__(0, 2**20 - 1))
    refused(path, "list_write at .*bytes would be held at once", ExecutionError)
    edit(path, lambda spec, block: integers(block, "list_write", "index").__setitem__(0, 2**30))
    refused(path, "list_write at .*a list of 1073741825 elements; at most 1048576 are taken", ExecutionError)


@pytest.mark.parametrize("length", [2**31 - 1, -1])
def test_a_length_that_is_impossible_is_refused(tmp_path, length):
    def build(x):
        ls = Builder.make_list(init_length=2, elem_shape=(2, 3))
        return Builder.add(x=Builder.list_read(ls=ls, index=0), y=x)

    path = save_program(tmp_path / "m.mlpackage", build, {"x": np.ones((2, 3), np.float32)})
    edit(path, lambda spec, block: integers(block, "make_list", "init_length").__setitem__(0, length))
    refused(path, f"make_list at .*a list of {length} elements; at most 1048576", PackageError)


def test_a_list_that_a_loop_fills_is_refused_when_it_takes_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "memory", lambda: 2**20)

    def body(i, ls):
        return Builder.add(x=i, y=INT(1)), Builder.list_write(
            ls=ls, index=i, value=Builder.fill(shape=[100], value=1.0)
        )

    def build(x):
        ls = Builder.make_list(init_length=1, elem_shape=(100,))
        _, ls = Builder.while_loop(
            _cond=lambda i, ls: Builder.less(x=i, y=INT(10**6)), _body=body, loop_vars=(INT(0), ls)
        )
        return Builder.add(x=Builder.reduce_sum(x=Builder.list_read(ls=ls, index=0)), y=x)

    path = save_program(tmp_path / "m.mlpackage", build, {"x": np.ones((2, 3), np.float32)})
    refused(path, "list_write at .*bytes would be held at once", ExecutionError)


def test_lists_that_are_held_at_once_are_counted(tmp_path, monkeypatch):
    """None of them is too large by itself."""
    monkeypatch.setattr(limits, "memory", lambda: 2**20)

    def build(x):
        lists = [
            Builder.list_write(
                ls=Builder.make_list(init_length=200, elem_shape=(100,)),
                index=i,
                value=Builder.fill(shape=[100], value=1.0),
            )
            for i in range(8)
        ]
        reads = [Builder.list_read(ls=ls, index=0) for ls in lists]
        return tuple(Builder.add(x=Builder.reduce_sum(x=read), y=x) for read in reads)

    path = save_program(tmp_path / "m.mlpackage", build, {"x": np.ones((2, 3), np.float32)})
    refused(path, "bytes would be held at once", ExecutionError)


def test_an_element_of_another_shape_is_refused(tmp_path):
    def build(x):
        ls = Builder.make_list(init_length=2, elem_shape=(2, 3))
        return Builder.list_length(ls=Builder.list_write(ls=ls, index=0, value=x))

    path = save_program(tmp_path / "m.mlpackage", build, {"x": np.ones((2, 3), np.float32)})
    edit(path, lambda spec, block: integers(block, "make_list", "elem_shape").__setitem__(0, 7))
    refused(path, r"list_write at .*an element of shape \(2, 3\) in a list of shapes \(7, 3\)", ExecutionError)


def test_a_tensor_where_a_list_is_needed_is_refused(tmp_path):
    def build(x):
        ls = Builder.make_list(init_length=2, elem_shape=(2, 3))
        return Builder.add(x=Builder.list_read(ls=ls, index=0), y=x)

    path = save_program(tmp_path / "m.mlpackage", build, {"x": np.ones((2, 3), np.float32)})
    edit(path, lambda spec, block: setattr(find(block, "list_read").inputs["ls"].arguments[0], "name", "x"))
    refused(path, "list_read at .*a tensor stands where a list is needed", ExecutionError)


def test_an_element_shape_that_is_computed_is_refused(tmp_path):
    def build(x):
        ls = Builder.make_list(init_length=2, elem_shape=(2, 3))
        return Builder.add(x=Builder.list_read(ls=ls, index=0), y=x)

    path = save_program(tmp_path / "m.mlpackage", build, {"x": np.ones((2, 3), np.float32)})
    edit(path, lambda spec, block: setattr(find(block, "make_list").inputs["elem_shape"].arguments[0], "name", "x"))
    refused(path, "make_list at .*elem_shape is bound to 2 values, some of them computed", PackageError)


def test_an_element_keeps_no_larger_tensor_alive():
    """A list counts what its elements take, and no more than that is held."""
    large = torch.ones(1000, 3)
    blank = TensorList.blank(1, (3,), torch.float32, True)
    (element,) = blank.written([(0, large[5])]).elements
    assert element.untyped_storage().nbytes() == 12
    ls = OPERATIONS["list_scatter"].function(blank, [0, 1], large[:2].expand(2, 3))
    assert ls.nbytes == sum(e.untyped_storage().nbytes() for e in ls.elements) == 24


def test_gathering_nothing():
    blank = TensorList.blank(2, (3, 4), torch.int32, True)
    nothing = OPERATIONS["list_gather"].function(blank, [])
    assert nothing.shape == (0, 3, 4)
    assert nothing.dtype == torch.int32
