"""Control flow: `cond` and `while_loop`, each of which runs blocks of its own.

A block is bound like a function. What it uses of its surroundings becomes an input of it, and an operand of the
operation that holds it: so the surroundings keep it alive as long as the block may run, and a program without control
flow knows nothing of all this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from optimum_ane.errors import PackageError
from optimum_ane.runtimes.portable.graph import Graph, Node, Value, values_of
from optimum_ane.runtimes.portable.limits import BUDGET
from optimum_ane.runtimes.portable.values import Constant

CONTROL = frozenset({"cond", "while_loop"})


class Block(Protocol):
    """A bound block; `observer` is told of each operation inside."""

    def run(self, inputs: Sequence[Any], observer: Any = None) -> list[Any]:
        """Runs it once: one value for each input in, one for each output out."""
        ...


class Branch:
    """`cond`: runs one of two blocks, which take nothing but what they use of their surroundings."""

    def __init__(self, true: Block, false: Block, captured: int) -> None:
        """Binds it.

        Args:
            true: Runs where the predicate holds.
            false: Runs where it does not.
            captured: How many of the operands after the predicate are the first block's; the rest are the second's.
        """
        self._true, self._false, self._captured = true, false, captured

    def __call__(self, *operands: Any, observer: Any = None) -> list[Any]:
        """Takes the predicate and what each block uses; returns the outputs."""
        predicate, *outer = operands
        if bool(predicate):
            return self._true.run(outer[: self._captured], observer)
        return self._false.run(outer[self._captured :], observer)


class Loop:
    """`while_loop`: hands values from turn to turn as long as a condition on them holds."""

    def __init__(self, condition: Block, body: Block, carried: int, captured: int) -> None:
        """Binds it.

        Args:
            condition: Takes the values carried and what it uses; its one output tells whether to go on.
            body: Takes the values carried and what it uses; returns the values of the next turn.
            carried: How many of the operands are carried from turn to turn.
            captured: How many of the operands after those are the condition's; the rest are the body's.
        """
        self._condition, self._body, self._carried, self._captured = condition, body, carried, captured

    def __call__(self, *operands: Any, observer: Any = None) -> list[Any]:
        """Takes the first values and what each block uses; returns the values of the last turn."""
        values = list(operands[: self._carried])
        outer = operands[self._carried :]
        for_condition, for_body = outer[: self._captured], outer[self._captured :]
        while bool(self._condition.run([*values, *for_condition], observer)[0]):
            BUDGET.turn()
            values = self._body.run([*values, *for_body], observer)
        return values


def bind_control(
    node: Node, bind: Callable[[Graph], Block], place: str
) -> tuple[Branch | Loop, list[Value | Constant]]:
    """Binds an operation of control flow.

    Args:
        node: The operation.
        bind: Binds a block.
        place: The package, operation and place, for messages.

    Returns:
        What runs it, and the operands that it takes.

    Raises:
        PackageError: Its blocks, parameters and results do not fit together.
    """
    given = node.inputs.get("pred" if node.op == "cond" else "loop_vars")
    if len(node.blocks) != 2 or given is None or len(node.inputs) != 1:
        raise PackageError(f"{place} has {len(node.blocks)} blocks and parameters {sorted(node.inputs)}")
    operands = list(given) if isinstance(given, tuple) else [given]
    first, second = node.blocks
    inputs, outputs = 0 if node.op == "cond" else len(operands), len(node.outputs)
    for block, wanted in ((first, outputs if node.op == "cond" else 1), (second, outputs)):
        if len(block.inputs) != inputs or len(block.outputs) != wanted:
            raise PackageError(
                f"{place}: a block of {len(block.inputs)} inputs and {len(block.outputs)} outputs stands where one "
                f"of {inputs} and {wanted} is needed"
            )
    if len(operands) != (1 if node.op == "cond" else outputs):
        raise PackageError(f"{place}: {len(operands)} operands for {outputs} results")
    captured = [captured_values(block) for block in node.blocks]
    bound = [
        bind(Graph([*block.inputs, *outer], block.nodes, block.outputs))
        for block, outer in zip(node.blocks, captured, strict=True)
    ]
    call: Branch | Loop
    if node.op == "cond":
        call = Branch(bound[0], bound[1], len(captured[0]))
    else:
        call = Loop(bound[0], bound[1], inputs, len(captured[0]))
    return call, [*operands, *captured[0], *captured[1]]


def captured_values(block: Graph) -> list[Value]:
    """Returns the values that a block, or one inside it, uses of its surroundings, each once, in order of use."""
    own = set(block.inputs)
    used: dict[Value, None] = {}
    for node in block.nodes:
        for operand in node.inputs.values():
            used.update(dict.fromkeys(values_of(operand)))
        for inner in node.blocks:
            used.update(dict.fromkeys(captured_values(inner)))
        own.update(node.outputs)
    used.update(dict.fromkeys(value for value in block.outputs if isinstance(value, Value)))
    return [value for value in used if value not in own]
