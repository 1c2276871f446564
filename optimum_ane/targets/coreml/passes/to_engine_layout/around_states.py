"""The operations around a state, which the pass leaves in the original's layout: the attention of a decoder."""

from __future__ import annotations

from collections.abc import Iterator

from coremltools.converters.mil.mil import Block, Operation, Var

_STATES = frozenset(("read_state", "coreml_update_state", "slice_update"))
"""Their results are a state, or what becomes one: a cache that is passed in and out is written to as a state is."""

_VIEWS = frozenset(
    ("cast", "slice_by_index", "slice_by_size", "transpose", "reshape", "expand_dims", "squeeze", "split", "tile")
)
"""What these make of a state is a part of it. The cast is from its float16, in a program that is float32 as yet."""

_PROJECTIONS = frozenset(("linear", "conv", "gather", "const"))


def around_states(block: Block) -> set[Operation]:
    """Finds what lies between a decoder's projections and its products with the rows of a state.

        linear ─► heads ─► rotary positions ─► slice_update ─► matmul ─► softmax ─► matmul ─► heads joined ─► linear
                 └──────────────────────────────── these ────────────────────────────────┘

    A state is (rows, width) in each head, and all heads of it lie in one tensor. To give each head a tensor of its own
    would take a slice and a transpose of the state for every head, where one product over all heads, with the queries
    that share keys one behind the other, reads the state as it is. ANEMLL's stateful models, which were measured on
    devices, take the product of all heads at once as well (`anemll/models/llama_model.py`).

    Returns:
        The products, and all that leads to them and to what is written into the state, back to the projections.
    """
    states: set[Var] = set()
    found: set[Operation] = set()
    for operation in block.operations:
        if operation.op_type in _STATES or (
            operation.op_type in _VIEWS and any(each in states for each in _operands(operation))
        ):
            states.update(operation.outputs)
        if operation.op_type == "slice_update" or _is_product_with(operation, states):
            found.add(operation)
    ahead = list(found)
    while ahead:
        for operand in _operands(ahead.pop()):
            maker = operand.op
            if maker is not None and maker not in found and not _is_projection(maker):
                found.add(maker)
                ahead.append(maker)
    return found


def _operands(operation: Operation) -> Iterator[Var]:
    for given in operation.inputs.values():
        if given is not None:
            yield from given if isinstance(given, list | tuple) else [given]


def _is_product_with(operation: Operation, states: set[Var]) -> bool:
    return operation.op_type == "matmul" and (operation.x in states or operation.y in states)


def _is_projection(operation: Operation) -> bool:
    if operation.op_type == "matmul":
        return operation.x.val is not None or operation.y.val is not None
    return operation.op_type in _PROJECTIONS
