"""Are two programs the same up to the names of what is in between?"""

from __future__ import annotations

import numpy as np

from optimum_ane.runtimes.portable.graph import Graph, Operand, Value, read_function
from optimum_ane.runtimes.portable.package import Package
from optimum_ane.runtimes.portable.values import Constant


def is_same_program(first: Package, second: Package) -> bool:
    """Whether all functions of two packages consist of equal operations in the same order over equal weights.

    Weights are compared as they are stored, compressed ones by what they are made of.

    Args:
        first: A package.
        second: Another.

    Raises:
        PackageError: One is damaged.
    """
    functions = sorted(first.spec.mlProgram.functions)
    if first.spec.specificationVersion != second.spec.specificationVersion:
        return False
    if functions != sorted(second.spec.mlProgram.functions):
        return False
    return all(_is_same(read_function(first, name), read_function(second, name), {}) for name in functions)


def _is_same(first: Graph, second: Graph, same: dict[Value, Value]) -> bool:
    """Compares two graphs in step; `same` holds which value of the one is which of the other, and grows."""
    if [value.type for value in first.inputs] != [value.type for value in second.inputs]:
        return False
    if len(first.nodes) != len(second.nodes) or first.names != second.names:
        return False
    same.update(zip(first.inputs, second.inputs, strict=True))
    for one, other in zip(first.nodes, second.nodes, strict=True):
        if one.op != other.op or one.inputs.keys() != other.inputs.keys() or len(one.blocks) != len(other.blocks):
            return False
        if not all(_is_same_operand(operand, other.inputs[key], same) for key, operand in one.inputs.items()):
            return False
        if [value.type for value in one.outputs] != [value.type for value in other.outputs]:
            return False
        if not all(_is_same(*blocks, same) for blocks in zip(one.blocks, other.blocks, strict=True)):
            return False
        same.update(zip(one.outputs, other.outputs, strict=True))
    return _is_same_operand(tuple(first.outputs), tuple(second.outputs), same)


def _is_same_operand(first: Operand, second: Operand, same: dict[Value, Value]) -> bool:
    if isinstance(first, tuple) or isinstance(second, tuple):
        if not isinstance(first, tuple) or not isinstance(second, tuple) or len(first) != len(second):
            return False
        return all(_is_same_operand(*pair, same) for pair in zip(first, second, strict=True))
    if isinstance(first, Value) or isinstance(second, Value):
        return isinstance(first, Value) and isinstance(second, Value) and same.get(first) is second
    return _is_same_constant(first, second)


def _is_same_constant(first: Constant, second: Constant) -> bool:
    if first.type != second.type or len(first.sources) != len(second.sources):
        return False
    if first.sources:
        return all(_is_same_constant(*pair) for pair in zip(first.sources, second.sources, strict=True))
    if first.type is None:
        return bool(first.python() == second.python())
    one, other = first.array(), second.array()
    return one.shape == other.shape and np.ascontiguousarray(one).tobytes() == np.ascontiguousarray(other).tobytes()
