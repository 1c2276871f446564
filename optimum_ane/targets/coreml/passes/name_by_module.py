"""The graph pass that names operations and their results by the module that computes them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping

from coremltools.converters.mil.mil import Block, Function, Operation, Program, Var
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.pass_registry import register_pass
from coremltools.converters.mil.mil.scope import ScopeSource

from optimum_ane.runtimes.session import HIDDEN_STATE
from optimum_ane.targets.coreml.module_names import read_name

_OF_NO_SUBMODULE = "model"
"""Begins the names of what the traced module computes by itself, outside of its submodules."""
_SCOPES = (ScopeSource.TORCHSCRIPT_MODULE_NAME, ScopeSource.EXIR_STACK_TRACE)
"""Where coremltools keeps the name of the value that an operation comes from: of a trace, and of an export."""
_VARIABLE = re.compile(r"(?P<variable>[A-Za-z_]+?)(\.\d+)?(_to_fp16)?")


@register_pass(namespace="optimum_ane")
class name_by_module(AbstractGraphPass):  # noqa: N801 - passes are named by their class
    """Names each operation by its module: the path with `_` for each dot, for a name in a program holds no dots.

        var_128_cast_fp16 = conv(…)       encoder_layer_0_attention_query = conv(…)          a module's result
        var_140_cast_fp16 = einsum(…)     encoder_layer_0_attention_einsum_0 = einsum(…)     on the way to it

    What would have the same name is numbered in the program's order. Inputs, outputs, states, hidden states, and
    weights, which bear the checkpoint's own names, keep theirs. Other constants are named by what they are to the
    first operation that reads them, `conv_strides`, and no longer: every function of a program holds its own. A table
    that was computed beforehand is named by its module and the variable that held it. What a pass has added belongs to
    the module of what it stands for, or else of what it reads.

    It comes last, and takes what a capture has named. A name depends on the module's
    own operations only, so that the functions of a program use the same ones.

    Source of what a name may hold: MIL.proto of coremltools, `[A-Za-z_][A-Za-z0-9_@]*`.
    """

    def apply(self, prog: Program) -> None:
        """Renames in every function of a program, in place."""
        for function in prog.functions.values():
            _name_function(function)


def _name_function(function: Function) -> None:
    everything = [*_operations(function)]
    operations = [operation for operation in everything if operation.op_type != "const"]
    constants = [operation for operation in everything if operation.op_type == "const"]
    weights = [constant for constant in constants if _is_weight(constant)]
    hidden_states = {operation: name for operation in operations if (name := _hidden_state(operation))}
    taken = {variable.name for variable in (*function.inputs.values(), *function.outputs)}
    taken |= {weight.outputs[0].name for weight in weights} | set(hidden_states.values())
    modules = _modules(operations)
    outputs = {output for block in _blocks(function) for output in block.outputs}
    wishes = {operation: _wish(operation, modules, outputs) for operation in operations}
    names = _unique({operation: wish for operation, wish in wishes.items() if operation not in hidden_states}, taken)
    of_constants = {each: _constant_wish(each, wishes | names) for each in constants if each not in weights}
    for operation, name in (hidden_states | names | _unique(of_constants, taken)).items():
        operation.name = name
        for result, new in zip(operation.outputs, _result_names(operation, name), strict=True):
            if result not in function.outputs:
                result.name = new


def _operations(block: Block) -> Iterator[Operation]:
    """Yields the operations of a block in order, those of the blocks inside before the one that holds them."""
    for operation in block.operations:
        for inner in operation.blocks:
            yield from _operations(inner)
        yield operation


def _blocks(block: Block) -> Iterator[Block]:
    yield block
    for operation in block.operations:
        for inner in operation.blocks:
            yield from _blocks(inner)


def _is_weight(constant: Operation) -> bool:
    """Whether a constant has a name of the checkpoint's: neither derived from a traced value nor a mere number."""
    name = constant.outputs[0].name
    return read_name(name) is None and not name[0].isdigit()


def _hidden_state(operation: Operation) -> str | None:
    """The name of a result that is a hidden state."""
    name = read_name(operation.outputs[0].name) if len(operation.outputs) == 1 else None
    return name.value if name is not None and name.value.startswith(HIDDEN_STATE) else None


def _modules(operations: list[Operation]) -> dict[Operation, str]:
    """The path of each operation's module; of one that comes from no traced value, that of what it reads."""
    found: dict[Operation, str] = {}
    for operation in operations:
        scope = next((operation.scopes[source] for source in _SCOPES if operation.scopes.get(source)), None)
        name = read_name(scope[-1]) if scope and scope[-1] else None
        before = (found[operand.op] for _, operand in _operands(operation) if operand.op in found)
        found[operation] = next(before, "") if name is None else name.module
    return found


def _operands(operation: Operation) -> Iterator[tuple[str, Var]]:
    """Yields what an operation reads, by the name of the parameter."""
    for parameter, given in operation.inputs.items():
        for each in given if isinstance(given, list | tuple) else [given]:
            if isinstance(each, Var):
                yield parameter, each


def _wish(operation: Operation, modules: Mapping[Operation, str], outputs: set[Var]) -> str:
    """The name that an operation would have if nothing else wanted it."""
    module = modules[operation]
    readers = {modules[child] for result in operation.outputs for child in result.child_ops if child in modules}
    leaves = any(not f"{reader}.".startswith(f"{module}.") for reader in readers)
    is_result = module and (leaves or any(result in outputs for result in operation.outputs))
    return _identifier(module) if is_result else f"{_identifier(module)}_{operation.op_type}"


def _constant_wish(constant: Operation, readers: Mapping[Operation, str]) -> str:
    result = constant.outputs[0]
    name = read_name(result.name)
    match = None if name is None else _VARIABLE.fullmatch(name.value)
    if name is not None and match is not None and result.rank > 1:
        return f"{_identifier(name.module)}_{match['variable']}"
    reader = next((child for child in result.child_ops if child in readers), None)
    if reader is None:  # an output that is computed beforehand
        return _OF_NO_SUBMODULE
    return f"{reader.op_type}_{next(name for name, each in _operands(reader) if each is result)}"


def _identifier(module: str) -> str:
    name = re.sub("[^A-Za-z0-9_]", "_", module) or _OF_NO_SUBMODULE
    return f"{_OF_NO_SUBMODULE}_{name}" if name[0].isdigit() else name


def _unique(wishes: Mapping[Operation, str], taken: set[str]) -> dict[Operation, str]:
    """Gives each operation a name of its own, and adds the names of the results to those that are taken."""
    times, used = Counter(wishes.values()), Counter[str]()
    names = {}
    for operation, wish in wishes.items():
        name = wish if times[wish] == 1 else f"{wish}_0"
        while not taken.isdisjoint(_result_names(operation, name)):
            used[wish] += 1
            name = f"{wish}_{used[wish]}"
        names[operation] = name
        taken.update(_result_names(operation, name))
    return names


def _result_names(operation: Operation, name: str) -> list[str]:
    """As coremltools numbers several results."""
    return [name] if len(operation.outputs) == 1 else [f"{name}_{index}" for index in range(len(operation.outputs))]
