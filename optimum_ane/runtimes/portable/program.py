"""Binds a graph to functions: a flat list of calls, their operands numbered, with nothing left to look up by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optimum_ane.errors import ExecutionError, PackageError, UnsupportedOperationError
from optimum_ane.runtimes.portable import ops as _ops  # registers the operations  # noqa: F401
from optimum_ane.runtimes.portable.control import CONTROL, Branch, Loop, bind_control
from optimum_ane.runtimes.portable.fusions import find_fusions
from optimum_ane.runtimes.portable.graph import Graph, Node, Value
from optimum_ane.runtimes.portable.guard import Guard, each, limited_list
from optimum_ane.runtimes.portable.half_values import ARITHMETIC, MOVES, Conversion, HalfValues, Raw, declared_halves
from optimum_ane.runtimes.portable.in_place import NEW_MEMORY, Use, find_updates
from optimum_ane.runtimes.portable.left_out import LEFT_OUT
from optimum_ane.runtimes.portable.ops.scattering import write_slice
from optimum_ane.runtimes.portable.ops.state import take_state
from optimum_ane.runtimes.portable.registry import OPERATIONS, PREPARATIONS, Call, Operation, Prepared, Role
from optimum_ane.runtimes.portable.values import Constant, TensorType

_PLACES_SHOWN = 5
_STATES = frozenset({"read_state", "write_state"})
# What torch and Python raise on operands that do not fit: not our errors, but the package's.
_REFUSALS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Step(NamedTuple):
    """One bound call.

    Attributes:
        call: Takes the operands in order; returns a value for one result, a sequence of them otherwise.
        operands: The slots of its operands.
        results: The slot of its result, or the slots of its results.
        frees: The slots that nothing reads after this step.
        node: The operation, for messages and profiles.
    """

    call: Callable[..., Any]
    operands: tuple[int, ...]
    results: int | tuple[int, ...]
    frees: tuple[int, ...]
    node: Node


Observer = Callable[[Step, Any], None]
"""Called after each step with its result, for profiles and for bisecting a wrong answer.

It may keep the result: of what lies in a state's memory, into which a later update may write, it is given a copy. One
that does not keep it says so with an attribute `only_looks` that is true, and spares the copies.
"""


class Program:
    """A bound function, ready to run. Nothing in it changes when it runs."""

    def __init__(self, graph: Graph, *, rounds: bool, source: str, is_block: bool = False) -> None:
        """Binds a graph.

        Args:
            graph: The function.
            rounds: Whether a result of type fp16 is rounded to fp16.
            source: The package's name, for messages.
            is_block: Whether it is a block of control flow, which does not know what its surroundings read later.

        Raises:
            UnsupportedOperationError: It uses operations that are not registered.
            PackageError: An operation lacks a parameter, or has one of a wrong kind.
        """
        refuse_unsupported(graph, source)
        self._slots: dict[Value | Constant, int] = {}
        self._initial: list[Any] = []
        self._rounds = rounds
        self._source = source
        self._is_block = is_block
        self._is_stateful = any(node.op in _STATES for node in graph.nodes)
        self._inputs = [self._slot(value) for value in graph.inputs]
        self._raw: dict[Node, Raw] = {}
        steps = [self._placed(node) for node in graph.nodes]
        self._outputs = [self._operand(value) for value in graph.outputs]
        self.steps, self._windows = self._with_updates(steps, self._outputs)
        unseen, self._outputs_unseen = self._with_halves(*self._with_fusions(graph, steps))
        self._steps_unseen, _ = self._with_updates(unseen, self._outputs_unseen)
        self._declared = [value.type and value.type.shape for value in graph.inputs]
        self._guard = Guard(graph, self._slots)

    def run(self, inputs: Sequence[Any], observer: Observer | None = None) -> list[Any]:
        """Runs the function once.

        Args:
            inputs: One tensor (a `Cell` for a state) for each input of the graph, in the types that carry them.
            observer: Called after each step.

        Returns:
            One value for each output of the graph.

        Raises:
            ExecutionError: An operation refused its operands: an index out of range, shapes that do not fit.
        """
        slots = self._initial.copy()
        for slot, value in zip(self._inputs, inputs, strict=True):
            slots[slot] = value
        step: Step
        watch = self._guard.watch(inputs)
        only_looks = getattr(observer, "only_looks", False)
        is_seen = watch is not None or observer is not None or not self._has_declared_shapes(inputs)
        try:
            if not is_seen:
                for step in self._steps_unseen:
                    call, operands, results, frees, _ = step
                    value = call(*[slots[i] for i in operands])
                    if isinstance(results, int):
                        slots[results] = value
                    else:
                        for slot, item in zip(results, value or (), strict=True):
                            slots[slot] = item
                    for slot in frees:
                        slots[slot] = None
                return [slots[slot] for slot in self._outputs_unseen]
            for step in self.steps:
                call, operands, results, frees, _ = step
                if watch is not None:
                    watch.before(step, slots)
                if observer is None or not isinstance(call, Branch | Loop):
                    value = call(*[slots[i] for i in operands])
                else:
                    value = call(*[slots[i] for i in operands], observer=observer)
                if isinstance(results, int):
                    slots[results] = value
                else:
                    for slot, item in zip(results, value or (), strict=True):
                        slots[slot] = item
                if watch is not None:
                    watch.after(step, slots)
                for slot in frees:
                    slots[slot] = None
                if observer is not None:
                    observer(step, value if only_looks else self._apart(step, value))
        except ExecutionError:
            raise  # of a block inside; it names the operation already
        except _REFUSALS as error:
            raise ExecutionError(f"{self._source}: {step.node.op} at {step.node.name!r}: {_reason(error)}") from error
        if watch is not None:
            watch.done()
        return [slots[slot] for slot in self._outputs]

    def _apart(self, step: Step, value: Any) -> Any:
        """Returns a step's result, what may lie in a state's memory as a copy."""
        if isinstance(step.results, int):
            return value.clone() if step.results in self._windows and isinstance(value, Tensor) else value
        return [
            item.clone() if slot in self._windows and isinstance(item, Tensor) else item
            for slot, item in zip(step.results, value or (), strict=True)
        ]

    def _has_declared_shapes(self, inputs: Sequence[Any]) -> bool:
        """Whether inputs are of the shapes that the program states; it may run with others, more rows for one."""
        return all(getattr(value, "shape", None) == shape for value, shape in zip(inputs, self._declared, strict=True))

    def _with_fusions(self, graph: Graph, steps: list[Step]) -> tuple[list[Step], dict[Node, Raw]]:
        """The steps with each fusion in the place of its last operation, and what each computes before rounding."""
        raw = {**self._raw}
        place = {node: index for index, node in enumerate(graph.nodes)}
        fused: list[list[Step]] = [[step] for step in steps]
        shared: dict[Any, int] = {}
        for fusion in sorted(find_fusions(graph, rounds=self._rounds), key=lambda each: place[each.nodes[-1]]):
            operands = tuple(self._operand(value) for value in fusion.operands)
            for node in fusion.nodes:
                fused[place[node]] = []
            last = steps[place[fusion.nodes[-1]]]
            result = last.results if isinstance(last.results, int) else last.results[0]
            before = []
            if fusion.once is not None:
                key = (fusion.once, operands[-1])
                if key not in shared:
                    shared[key] = len(self._initial)
                    self._initial.append(None)
                    before.append(Step(fusion.once, operands[-1:], shared[key], (), last.node))
                operands = (*operands, shared[key])
            fused[place[last.node]] = [*before, Step(fusion.call, operands, result, (), last.node)]
            raw[last.node] = Raw(fusion.call, True, fusion.takes)
        return [step for together in fused for step in together], raw

    def _with_halves(self, steps: list[Step], raw: Mapping[Node, Raw]) -> tuple[list[Step], list[int]]:
        """The steps with values of fp16 in fp16 where that spares passes, and the slots of the outputs then."""
        if not self._rounds:
            return steps, self._outputs
        constants = {slot for value, slot in self._slots.items() if isinstance(value, Constant)}
        halves = HalfValues(self._initial, declared_halves(self._slots), constants)
        done: list[Conversion | Step] = []
        for step in steps:
            change = halves.take(step.node, step.operands, step.results, raw.get(step.node))
            done += change.conversions
            done.append(step._replace(call=change.call or step.call, operands=change.operands))
        outputs, last = halves.in_float(self._outputs)
        return [_converting(each) if isinstance(each, Conversion) else each for each in (*done, *last)], outputs

    def _with_updates(self, steps: list[Step], outputs: list[int]) -> tuple[list[Step], frozenset[int]]:
        """Finishes a list of steps: updates of states without copies where that is right, and what each step frees.

        Args:
            steps: The steps.
            outputs: The slots of what is returned.

        Returns:
            The steps, and the slots of values that may lie in a state's memory.
        """
        if not any(step.node.op in _STATES or step.node.op in CONTROL for step in steps):
            return self._with_frees(steps, outputs), frozenset()
        uses = [self._use(step) for step in steps]
        updates = find_updates(uses, self._inputs, outputs, is_block=self._is_block)
        done = [*steps]
        for index in updates.in_place:
            done[index] = steps[index]._replace(call=self._bind(steps[index].node, write_slice).call)
        for index in updates.owned:
            done[index] = steps[index]._replace(call=self._bind(steps[index].node, take_state).call)
        return self._with_frees(done, outputs), frozenset(updates.windows)

    def _use(self, step: Step) -> Use:
        results = step.results if isinstance(step.results, tuple) else (step.results,)
        arguments = {}
        if step.node.op in _STATES or step.node.op == "slice_update":
            arguments = {
                name: self._slots[operand]
                for name, operand in step.node.inputs.items()
                if not isinstance(operand, tuple) and operand in self._slots
            }
        return Use(step.node.op, step.operands, results, arguments)

    def _slot(self, value: Value | Constant, initial: Any = None) -> int:
        """Returns the slot of a value, a new one where it has none."""
        if value not in self._slots:
            self._slots[value] = len(self._initial)
            self._initial.append(initial)
        return self._slots[value]

    def _operand(self, value: Value | Constant) -> int:
        """Returns the slot that an operand is read from; a constant stands in its slot from the start."""
        if isinstance(value, Constant) and value not in self._slots:
            return self._slot(value, value.tensor())
        return self._slot(value)

    def _placed(self, node: Node) -> Step:
        """Turns one operation into a call; an error of a parameter names the package and the operation."""
        try:
            return self._bind(node)
        except _REFUSALS as error:
            if isinstance(error, PackageError) and str(error).startswith(self._source):
                raise
            raise PackageError(f"{self._source}: {node.op} at {node.name!r}: {_reason(error)}") from error

    def _bind(self, node: Node, function: Callable[..., Any] | None = None) -> Step:
        """Turns one operation into a call; of another function of the same parameters where one is given."""
        place = f"{self._source}: {node.op} at {node.name!r}"
        results: Any = tuple(self._slot(value) for value in node.outputs)
        if node.op in CONTROL:
            control, values = bind_control(node, self._nested, place)
            return Step(control, tuple(self._operand(value) for value in values), results, (), node)
        operation = OPERATIONS[node.op]
        if function is not None:
            operation = replace(operation, function=function)
        missing = sorted(operation.required - node.inputs.keys())
        if missing:
            raise PackageError(f"{place} lacks {', '.join(missing)}")
        unknown = sorted(node.inputs.keys() - operation.roles.keys())
        if unknown:
            raise PackageError(f"{place} has parameters that this runtime does not know: {', '.join(unknown)}")
        prepared = self._prepared(node, operation)
        made, operands = prepared or self._general(node, operation, place)
        call = made.call if isinstance(made, Prepared) else made
        self._raw[node] = self._before_rounding(node, made, operation)
        is_new = node.op in NEW_MEMORY or (node.op == "einsum" and prepared is not None)
        finishers = [self._finisher(value, operation, is_new) for value in node.outputs]
        if len(results) == 1:
            call, results = _finish_one(call, finishers[0]), results[0]
        elif results:
            call = _finish_all(call, finishers)
        return Step(call, operands, results, (), node)

    def _before_rounding(self, node: Node, made: Callable[..., Any] | Prepared, operation: Operation) -> Raw:
        """What an operation computes before its results are rounded or brought into the type that carries them."""
        if isinstance(made, Prepared):
            return Raw(made.in_half, gives_half=True, takes="half")
        is_picked = node.op == "gather" and isinstance(node.inputs.get("x"), Constant)  # of a table as it is stored
        gives_half = len(node.outputs) == 1 and (not operation.exact or is_picked)
        return Raw(made, gives_half, "either" if node.op in MOVES | ARITHMETIC else "float")

    def _nested(self, block: Graph) -> Program:
        """Binds a block of control flow."""
        return Program(block, rounds=self._rounds, source=self._source, is_block=True)

    def _prepared(
        self, node: Node, operation: Operation
    ) -> tuple[Callable[..., Any] | Prepared, tuple[int, ...]] | None:
        """Asks the operation's preparation for a function of its own for this use."""
        preparation = PREPARATIONS.get(node.op)
        if preparation is None:
            return None
        constants: dict[str, Constant] = {}
        dynamic: list[str] = []
        slots: list[Value | Constant] = []
        types: dict[str, TensorType] = {}
        for key in operation.roles:
            operand = node.inputs.get(key)
            if operand is None:
                continue
            if isinstance(operand, Constant):
                constants[key] = operand
            else:
                items = operand if isinstance(operand, tuple) else (operand,)
                dynamic += [key] * len(items)
                slots += items
            if not isinstance(operand, tuple) and operand.type is not None:
                types[key] = operand.type
        type_ = node.outputs[0].type if len(node.outputs) == 1 else None
        rounds = self._rounds and type_ is not None and type_.dtype.name == "float16"
        call = preparation(Call(constants, tuple(dynamic), types, self._is_stateful, rounds))
        return None if call is None else (call, tuple(self._operand(value) for value in slots))

    def _general(self, node: Node, operation: Operation, place: str) -> tuple[Callable[..., Any], tuple[int, ...]]:
        """Binds the general function: tensors through slots, everything else known at load fixed in the call."""
        fixed: dict[str, Any] = {}
        layout: list[tuple[str, Role, int]] = []
        operands: list[int] = []
        for key, role in operation.roles.items():
            operand = node.inputs.get(key)
            if operand is None:
                continue
            if role is Role.TENSORS:
                items = operand if isinstance(operand, tuple) else (operand,)
                layout.append((key, role, len(items)))
                operands += [self._operand(item) for item in items]
            elif role is Role.EACH:
                fixed[key] = each(operand, key)
            elif isinstance(operand, tuple):
                raise PackageError(f"{place}: {key} is bound to {len(operand)} values and takes one")
            elif isinstance(operand, Constant) and role in (Role.PYTHON, Role.STORED):
                fixed[key] = operand.python() if role is Role.PYTHON else operand.derived("stored", operand.stored)
            else:
                layout.append((key, role, 1))
                operands.append(self._operand(operand))
        return _adapt(operation, layout, fixed), tuple(operands)

    def _finisher(self, value: Value, operation: Operation, is_new: bool) -> Callable[[Any], Any] | None:
        """Returns what enforces the declared type of a result; `is_new` where nothing else lies in its memory."""
        if value.type is None:
            return None
        dtype = value.type.dtype
        if dtype.name == "float16" and self._rounds and not operation.exact:
            return round_in_place if is_new else round_to_half
        carrier = dtype.carrier
        return lambda tensor: tensor if tensor.dtype is carrier else tensor.to(carrier)

    def _with_frees(self, steps: list[Step], outputs: list[int]) -> list[Step]:
        """Notes at each step the values that it is the last to read, or that nothing reads."""
        kept = set(outputs)
        kept.update(slot for value, slot in self._slots.items() if isinstance(value, Constant))
        done = []
        for step in reversed(steps):
            results = step.results if isinstance(step.results, tuple) else (step.results,)
            dead = {slot for slot in (*step.operands, *results) if slot not in kept}
            kept |= dead
            done.append(step._replace(frees=tuple(sorted(dead))))
        return done[::-1]


def _converting(conversion: Conversion) -> Step:
    """The step of a conversion, which is no operation of the program."""
    source, result, call = conversion
    return Step(call, (source,), result, (), Node("cast", {}, []))


def round_to_half(tensor: Tensor) -> Tensor:
    """Rounds to the nearest fp16 value, ties to even, infinity where it overflows; carried as float32."""
    return tensor.half().float()


def round_in_place(tensor: Tensor) -> Tensor:
    """Rounds as `round_to_half` does, in the memory of a float32 tensor."""
    return tensor.copy_(tensor.half()) if tensor.dtype is torch.float32 else round_to_half(tensor)


def _reason(error: Exception) -> str:
    """Returns the first line of an error, or its kind where it says nothing; a KeyError says the key alone."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if isinstance(error, LookupError) or not text else text


def refuse_unsupported(graph: Graph, source: str) -> None:
    """Raises an error that names all operations of a graph that are not registered, where they are used, and why."""
    places: dict[str, list[str]] = {}
    pending = [graph]
    while pending:
        for node in pending.pop().nodes:
            pending += node.blocks
            if node.op not in OPERATIONS and node.op not in CONTROL:
                places.setdefault(node.op, []).append(node.name)
    if places:
        texts = []
        for name, uses in sorted(places.items()):
            more = f" and {len(uses) - _PLACES_SHOWN} more" if len(uses) > _PLACES_SHOWN else ""
            reason = LEFT_OUT.get(name, "no operation of coremltools' core set")
            texts.append(f"{name} (at {', '.join(uses[:_PLACES_SHOWN])}{more}): {reason}")
        raise UnsupportedOperationError(f"{source}: operations that the portable runtime lacks: {'; '.join(texts)}")


def _adapt(operation: Operation, layout: list[tuple[str, Role, int]], fixed: Mapping[str, Any]) -> Callable[..., Any]:
    """Returns a function of the operands in order, the straightest that the layout allows."""
    function = operation.function
    names = [name for name, _, _ in layout]
    plain = all(role in (Role.TENSOR, Role.STORED, Role.CELL, Role.LIST) for _, role, _ in layout)
    if plain and names == list(operation.roles)[: len(names)]:
        return partial(function, **fixed) if fixed else function
    if [role for _, role, _ in layout] == [Role.TENSORS]:
        (name,) = names
        return lambda *operands: function(**{name: operands}, **fixed)

    def call(*operands: Any) -> Any:
        arguments, start = {}, 0
        for name, role, width in layout:
            if role is Role.TENSORS:
                arguments[name] = operands[start : start + width]
            else:
                arguments[name] = limited_list(operands[start], name) if role is Role.PYTHON else operands[start]
            start += width
        return function(**arguments, **fixed)

    return call


def _finish_one(call: Callable[..., Any], finish: Callable[[Any], Any] | None) -> Callable[..., Any]:
    if finish is None:
        return call

    def finished(*operands: Any) -> Any:
        value = call(*operands)
        return finish(value[0] if value.__class__ is tuple else value)

    return finished


def _finish_all(call: Callable[..., Any], finishers: list[Callable[[Any], Any] | None]) -> Callable[..., Any]:
    if not any(finishers):
        return call
    return lambda *operands: [
        value if finish is None else finish(value) for value, finish in zip(call(*operands), finishers, strict=True)
    ]
