"""Chains of reshapes and transposes: fewer operations, and every element where it was."""

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb  # noqa: N813

from optimum_ane.targets.coreml.passes import merge_moves

MOVES = {
    "reshape": lambda x, shape: x.reshape(shape),
    "transpose": lambda x, perm: x.transpose(perm),
    "expand_dims": lambda x, axes: np.expand_dims(x, tuple(axes)),
    "squeeze": lambda x, axes: np.squeeze(x, tuple(axes)),
}
ARGUMENTS = {"reshape": "shape", "transpose": "perm", "expand_dims": "axes", "squeeze": "axes"}


def program(shape, chain, read_after=None):
    """x ─► the chain ─► out; where `read_after` names a step, something else reads the value after it."""

    @mb.program(input_specs=[mb.TensorSpec(shape=shape)])
    def made(x):
        others = []
        for index, (kind, numbers) in enumerate(chain):
            x = getattr(mb, kind)(x=x, **{ARGUMENTS[kind]: numbers}, name=f"step_{index}")
            if index == read_after:
                others.append(mb.relu(x=x, name="other"))
        return (mb.relu(x=x, name="out"), *others)

    return made


def merged(shape, chain, read_after=None):
    """The types of the moves that are left, and the numbers 0, 1, … as they leave them."""
    made = program(shape, chain, read_after)
    merge_moves().apply(made)
    values = {"x": np.arange(np.prod(shape)).reshape(shape)}
    left = []
    for operation in made.functions["main"].operations:
        kind = operation.op_type
        if kind in MOVES:
            left.append(kind)
            numbers = [int(n) for n in operation.inputs[ARGUMENTS[kind]].val]
            values[operation.outputs[0].name] = MOVES[kind](values[operation.x.name], numbers)
        elif kind == "relu":
            values[operation.outputs[0].name] = values[operation.x.name]
    return left, values["out"]


CHAINS = {
    # The queries of 9 heads, of 5 tokens and of one.
    "heads": (
        (1, 36, 1, 5),
        [("squeeze", [2]), ("transpose", [0, 2, 1]), ("reshape", [1, 5, 9, 4]), ("transpose", [0, 2, 1, 3])],
        ["reshape", "transpose"],
    ),
    "heads of one token": (
        (1, 36, 1, 1),
        [("squeeze", [2]), ("transpose", [0, 2, 1]), ("reshape", [1, 1, 9, 4]), ("transpose", [0, 2, 1, 3])],
        ["reshape"],
    ),
    # Back from 3 groups of 3 heads.
    "heads joined": (
        (1, 3, 15, 4),
        [
            ("reshape", [1, 9, 5, 4]),
            ("transpose", [0, 2, 1, 3]),
            ("reshape", [1, 5, 36]),
            ("transpose", [0, 2, 1]),
            ("expand_dims", [2]),
        ],
        ["reshape", "transpose", "reshape"],
    ),
    "there and back": ((2, 3, 4), [("transpose", [2, 0, 1]), ("transpose", [1, 2, 0])], []),
    "an axis of one": ((1, 7), [("expand_dims", [0]), ("transpose", [2, 1, 0]), ("squeeze", [1])], ["reshape"]),
    "transposed at once": ((2, 3, 4), [("reshape", [2, 12]), ("transpose", [1, 0]), ("reshape", [3, 4, 2])], None),
    "parted unevenly": ((4, 6), [("transpose", [1, 0]), ("reshape", [8, 3]), ("transpose", [1, 0])], None),
    "ones in other places": (
        (1, 4, 1, 5, 1),
        [("transpose", [0, 3, 2, 1, 4]), ("squeeze", [0]), ("expand_dims", [0]), ("reshape", [5, 1, 4])],
        ["reshape", "transpose"],  # the other way round it would transpose five axes
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_becomes_the_shortest_of_the_same_result(name):
    shape, chain, expected = CHAINS[name]
    value = np.arange(np.prod(shape)).reshape(shape)
    for kind, numbers in chain:
        value = MOVES[kind](value, numbers)
    left, result = merged(shape, chain)
    np.testing.assert_array_equal(result, value)
    if expected is None:
        assert len(left) <= len(chain)
    else:
        assert left == expected


def test_random_chains_keep_every_element_in_place():
    random = np.random.default_rng(0)
    shorter = 0
    for _ in range(60):
        shape = tuple(int(n) for n in random.choice([1, 2, 3, 4, 6], size=random.integers(2, 5)))
        value, chain = np.arange(np.prod(shape)).reshape(shape), []
        for _ in range(random.integers(2, 7)):
            if random.random() < 0.5:
                step = ("transpose", [int(axis) for axis in random.permutation(value.ndim)])
            else:
                primes = [factor for n in value.shape for factor in {4: [2, 2], 6: [2, 3]}.get(n, [n])]
                cuts = sorted(random.integers(0, len(primes) + 1, size=random.integers(1, 4)))
                parts = np.split(np.array(primes), cuts)
                step = ("reshape", [int(np.prod(part)) for part in parts])
            chain.append(step)
            value = MOVES[step[0]](value, step[1])
        left, result = merged(shape, chain)
        np.testing.assert_array_equal(result, value)
        shorter += len(left) < len(chain)
    assert shorter > 20


def test_a_value_that_is_read_between_cuts_the_chain():
    shape, chain, _ = CHAINS["there and back"]
    left, result = merged(shape, chain, read_after=0)
    assert left == ["transpose", "transpose"]
    np.testing.assert_array_equal(result, np.arange(24).reshape(shape))
