"""The graph pass that computes what does not depend on the program's inputs, once, when the program is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import Block, Operation, Program, Var, types
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.helper import block_context_manager
from coremltools.converters.mil.mil.passes.pass_registry import register_pass
from torch import Tensor

import optimum_ane.runtimes.portable.ops  # noqa: F401 - registers the operations
from optimum_ane.runtimes.portable.registry import OPERATIONS, Role
from optimum_ane.targets.coreml.passes.scopes import scope_of

LARGEST = 2**24
"""A result of more elements than this stays an operation: as a constant it would be 32 MB of float16."""

_NO_TENSORS = {Role.CELL, Role.LIST}


@register_pass(namespace="optimum_ane")
class fold_constants(AbstractGraphPass):  # noqa: N801 - passes are named by their class
    """Replaces each operation that reads constants only by its result.

    coremltools does so for the operations that have a `value_inference`. Those lack one that look rows up in tables of
    relative positions (BEiT, Swin), enlarge tables of positions for images of another size, or count and turn into
    sines what a mask of ones leaves visible (DETR). They are computed by the operations of the portable runtime.
    """

    def apply(self, prog: Program) -> None:
        """Rewrites every function of a program, in place."""
        for function in prog.functions.values():
            _fold_in_block(function)


@block_context_manager
def _fold_in_block(block: Block) -> None:
    for operation in list(block.operations):
        for inner in operation.blocks:
            _fold_in_block(inner)
        results = _results(operation) if _can_be_folded(operation, block) else None
        if results is None:
            continue
        for output, result in zip(operation.outputs, results, strict=True):
            with scope_of(operation):
                constant = mb.const(val=result, name=f"{output.name}_folded", before_op=operation)
            block.replace_uses_of_var_after_op(anchor_op=operation, old_var=output, new_var=constant)
        block.remove_ops([operation])


def _can_be_folded(operation: Operation, block: Block) -> bool:
    kind = operation.op_type
    known = OPERATIONS.get(kind)
    if known is None or kind.startswith("constexpr_") or operation.blocks or _NO_TENSORS & {*known.roles.values()}:
        return False
    outputs = operation.outputs
    if not outputs or any(each in block.outputs or each.val is not None or not _is_small(each) for each in outputs):
        return False
    given = [each for value in operation.inputs.values() for each in _all(value)]
    return bool(given) and all(each.val is not None for each in given)


def _is_small(value: Var) -> bool:
    if not types.is_tensor(value.sym_type) and not types.is_scalar(value.sym_type):
        return False
    extents = value.shape
    return all(isinstance(extent, int | np.integer) for extent in extents) and int(np.prod(extents)) <= LARGEST


def _all(value: Any) -> Sequence[Var]:
    return value if isinstance(value, list | tuple) else [] if value is None else [value]


def _results(operation: Operation) -> list[Any] | None:
    """The results as numpy arrays of the declared types; None where the runtime refuses the operands."""
    known = OPERATIONS[operation.op_type]
    arguments = {
        name: _argument(operation.inputs[name], role)
        for name, role in known.roles.items()
        if operation.inputs.get(name) is not None
    }
    if not known.required <= arguments.keys() or operation.inputs.keys() - known.roles.keys():
        return None
    # Functions of torch know the order of their parameters and not MIL's names; none of them can be left out.
    ordered = [arguments.pop(name) for name in known.roles if name in known.required]
    try:
        answer = known.function(*ordered, **arguments)
    except (IndexError, RuntimeError, TypeError, ValueError):
        return None
    answers = answer if isinstance(answer, tuple | list) else (answer,)
    made = [_as_declared(each, output) for each, output in zip(answers, operation.outputs, strict=False)]
    is_whole = len(made) == len(operation.outputs) and all(each is not None for each in made)
    return made if is_whole else None


def _argument(given: Any, role: Role) -> Any:
    if role is Role.TENSORS:
        return tuple(_tensor(each) for each in _all(given))
    if role is Role.EACH:
        return [_python(each) for each in _all(given)]
    return _python(given) if role is Role.PYTHON else _tensor(given)


def _tensor(value: Var) -> Tensor:
    """A constant as the runtime carries it: numbers of float16 in float32."""
    array = np.asarray(value.val)
    return torch.from_numpy(np.array(array, dtype=np.float32 if array.dtype == np.float16 else array.dtype))


def _python(value: Var) -> Any:
    return value.val.tolist() if isinstance(value.val, np.ndarray | np.generic) else value.val


def _as_declared(result: Any, output: Var) -> Any:
    """A result in the type of the value that it becomes; None where its shape is another."""
    shape = tuple(int(extent) for extent in output.shape)
    if not isinstance(result, Tensor) or tuple(result.shape) != shape:
        return None
    array = result.numpy().astype(types.nptype_from_builtin(output.dtype))
    return array if output.rank else array[()]
