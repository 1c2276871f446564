"""The graph pass that keeps one of equal strides, axes, equations and other small constants."""

from __future__ import annotations

import numpy as np
from coremltools.converters.mil.mil import Block, Operation, Program
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.helper import block_context_manager
from coremltools.converters.mil.mil.passes.pass_registry import register_pass

_FEWEST_IN_FILE = 10
"""Elements from which on coremltools writes a constant into the weight file. Source: its `should_use_weight_file`."""

_STATES_ITS_OWN = ("classify", "reshape_like")
"""The operations of which some arguments are written with them and not by name."""


@register_pass(namespace="optimum_ane")
class share_small_constants(AbstractGraphPass):  # noqa: N801 - passes are named by their class
    """Lets the operations of a block read one constant where several have equal ones of the same type.

        conv(strides=[1, 1], …), conv(strides=[1, 1], …)  ─►  strides = [1, 1]; conv(strides=strides, …), conv(…)

    Each operation comes with constants of its own, up to a dozen for a convolution, and coremltools merges large ones
    only. They are most of what a program takes beside its weights, and every function of a package holds its own.
    Constants of the weight file, those of compressed weights, and what a program returns stay as they are.
    """

    def apply(self, prog: Program) -> None:
        """Rewrites every function of a program, in place."""
        for function in prog.functions.values():
            _share_in_block(function)


@block_context_manager
def _share_in_block(block: Block) -> None:
    first: dict[tuple[str, str, bytes], Operation] = {}
    for operation in list(block.operations):
        for inner in operation.blocks:
            _share_in_block(inner)
        if operation.op_type != "const" or not _can_be_shared(operation):
            continue
        value = operation.outputs[0]
        array = np.asarray(value.val)
        key = (str(value.sym_type), f"{array.dtype}{array.shape}", array.tobytes())
        kept = first.setdefault(key, operation)
        if kept is not operation:
            block.replace_uses_of_var_after_op(anchor_op=operation, old_var=value, new_var=kept.outputs[0])
            block.remove_ops([operation])


def _can_be_shared(constant: Operation) -> bool:
    value = constant.outputs[0]
    if not isinstance(value.val, np.ndarray | np.generic | str | bool | int | float):
        return False
    readers = {child.op_type for child in value.child_ops}
    is_own = any(reader in _STATES_ITS_OWN or reader.startswith("constexpr_") for reader in readers)
    return np.size(value.val) < _FEWEST_IN_FILE and not is_own and not value.consuming_blocks
