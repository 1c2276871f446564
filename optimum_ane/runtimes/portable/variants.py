"""Runs a program with other weights than it has, one change at a time; what a change leaves alone runs once.

All rows walk through the program together. Where an operation is the first to read a weight, the rest of the program
runs once for each array that stands in for that weight; then the rows go on with the weight itself. What is kept
between two operations is what a prediction keeps there, once for each row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from optimum_ane.runtimes.portable.graph import Graph, Node, read_function
from optimum_ane.runtimes.portable.limits import prediction
from optimum_ane.runtimes.portable.package import Package
from optimum_ane.runtimes.portable.program import Program, Step
from optimum_ane.runtimes.portable.session import PortableSession
from optimum_ane.runtimes.portable.values import Constant, by_name

Outputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Trial:
    """One change of a program, and what the program then answers.

    Attributes:
        weight: The name of the changed weight.
        name: Of the array that stood in for it.
        outputs: For each row the outputs by name.
    """

    weight: str
    name: str
    outputs: list[Outputs]


def weights_by_name(package: Package, function_name: str) -> dict[str, Constant]:
    """Returns every named tensor known at load that an operation of a function reads.

    Args:
        package: The package.
        function_name: Which function.

    Returns:
        The constants by name; compressed ones are decoded when they are asked for their array. Those that only blocks
        of control flow read are left out.

    Raises:
        PackageError: It is damaged.
    """
    found: dict[str, Constant] = {}
    for node in read_function(package, function_name).nodes:
        found |= {constant.name: constant for _, constant in _weights(node)}
    return found


def _weights(node: Node) -> Iterator[tuple[str, Constant]]:
    for parameter, operand in node.inputs.items():
        if isinstance(operand, Constant) and operand.type is not None and operand.name:
            yield parameter, operand


def _changed(node: Node, stand_ins: Mapping[str, Constant]) -> dict[str, Constant]:
    """Returns the parameters of an operation that read other constants, and these constants."""
    return {parameter: stand_ins[old.name] for parameter, old in _weights(node) if old.name in stand_ins}


class _BranchingProgram(Program):
    """A program that can be left at any step and taken up again, with some of its operations bound anew."""

    def begin(self, arguments: Sequence[Any]) -> list[Any]:
        """Returns the values before the first step."""
        slots = self._initial.copy()
        for slot, value in zip(self._inputs, arguments, strict=True):
            slots[slot] = value
        return slots

    def advance(self, slots: list[Any], steps: Iterable[Step]) -> None:
        """Runs some steps."""
        for call, operands, results, frees, _ in steps:
            value = call(*[slots[i] for i in operands])
            if isinstance(results, int):
                slots[results] = value
            else:
                for slot, item in zip(results, value or (), strict=True):
                    slots[slot] = item
            for slot in frees:
                slots[slot] = None

    def outputs(self, slots: list[Any]) -> list[Any]:
        """Returns the values of the function's outputs."""
        return [slots[slot] for slot in self._outputs]

    def bound_anew(self, step: Step, constants: Mapping[str, Constant]) -> tuple[Step, dict[int, Any]]:
        """Binds one operation to other constants.

        Args:
            step: Its step.
            constants: The other constants, by parameter.

        Returns:
            The new step, and the values of the slots that it reads besides.
        """
        node = step.node
        known = len(self._initial)
        changed = self._placed(Node(node.op, {**node.inputs, **constants}, node.outputs, node.blocks))
        added = dict(enumerate(self._initial[known:], known))
        # Taken out again, or each trial's weight would stay in memory.
        del self._initial[known:]
        self._slots = {value: slot for value, slot in self._slots.items() if slot < known}
        return changed._replace(frees=step.frees), added


class ChangedSession(PortableSession):
    """A package that answers as if it held other weights."""

    def __init__(self, package: Package, weights: Mapping[str, Constant], function_name: str) -> None:
        """Loads a function of a package.

        Args:
            package: The package.
            weights: The other weights by the names of those that they replace, of the same types and shapes.
            function_name: Which function.

        Raises:
            PackageError: The package is damaged.
        """
        self._weights = weights
        super().__init__(package, function_name)

    def _read(self, package: Package) -> Graph:
        graph = super()._read(package)
        for node in graph.nodes:
            node.inputs |= _changed(node, self._weights)
        return graph


class VariantRunner:
    """A function of a package, run with one weight exchanged at a time.

    Attributes:
        session: The package as it is.
        baseline: For each row what the package as it is answers, by output.
    """

    def __init__(self, package: Package, rows: Sequence[Mapping[str, Any]], function_name: str) -> None:
        """Loads a package and runs it on some rows.

        Args:
            package: A package without states.
            rows: One array for each input, for each row.
            function_name: Which function.

        Raises:
            PackageError: The package is damaged.
            InputError: A row does not fit the package.
        """
        self.session = PortableSession(package, function_name)
        self._rows = rows
        graph = read_function(package, function_name)
        with torch.inference_mode():
            self._program = _BranchingProgram(graph, rounds=True, source=str(package.path))
        self._names = graph.names
        self._arguments = [value.name for value in graph.inputs]
        self.baseline: list[Outputs] = [_arrays(self.session.predict(row)) for row in rows]

    def trials(
        self,
        weights: Collection[str],
        stand_ins: Callable[[str], Mapping[str, Callable[[], Constant]]],
        row_done: Callable[[], None] = lambda: None,
    ) -> Iterator[Trial]:
        """Runs the program once for each array that may stand in for a weight, on every row.

        Args:
            weights: Names of weights.
            stand_ins: Returns for a weight the arrays to try, by name, each loaded when its turn comes.
            row_done: Is called after each row of each trial.

        Yields:
            The trials, in the order in which the program reads the weights.
        """
        first: dict[str, int] = {}
        for number, step in enumerate(self._program.steps):
            for _, constant in _weights(step.node):
                if constant.name in weights:
                    first.setdefault(constant.name, number)
        with torch.inference_mode(), prediction():
            states = [self._begin(row) for row in self._rows]
            position = 0
            for weight, start in sorted(first.items(), key=lambda item: item[1]):
                for slots in states:
                    self._program.advance(slots, self._program.steps[position:start])
                position = start
                for name, load in stand_ins(weight).items():
                    rest, added = self._rest(start, {weight: load()})
                    outputs = []
                    for slots in states:
                        outputs.append(self._finish(slots, rest, added))
                        row_done()
                    yield Trial(weight, name, outputs)

    def _begin(self, row: Mapping[str, Any]) -> list[Any]:
        arrays = self.session._check_inputs(row, None)
        return self._program.begin(
            [
                torch.from_numpy(arrays[name]).to(by_name(self.session.inputs[name].dtype).carrier)
                for name in self._arguments
            ]
        )

    def _rest(self, start: int, stand_ins: Mapping[str, Constant]) -> tuple[list[Step], dict[int, Any]]:
        """Returns the steps from one on, those that read a weight bound to what stands in for it."""
        rest = []
        values: dict[int, Any] = {}
        for step in self._program.steps[start:]:
            changed = _changed(step.node, stand_ins)
            if changed:
                step, added = self._program.bound_anew(step, changed)
                values |= added
            rest.append(step)
        return rest, values

    def _finish(self, slots: list[Any], rest: Iterable[Step], added: Mapping[int, Any]) -> Outputs:
        slots = slots.copy()
        slots.extend([None] * (max(added, default=-1) + 1 - len(slots)))
        for slot, value in added.items():
            slots[slot] = value
        self._program.advance(slots, rest)
        results = dict(zip(self._names, self._program.outputs(slots), strict=True))
        return _arrays({name: results[name] for name in self.session.outputs})


def _arrays(outputs: Mapping[str, Any]) -> Outputs:
    """Keeps the outputs that are arrays: a classifier's label and dictionary follow from its logits."""
    kept = {}
    for name, value in outputs.items():
        array = value.numpy() if isinstance(value, torch.Tensor) else value
        if isinstance(array, np.ndarray) and array.dtype.kind == "f":
            kept[name] = np.array(array, dtype=np.float32)
    return kept
