"""The graph of a module, captured by `torch.export`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch._decomp import decomposition_table
from torch.fx.node import map_aggregate

from optimum_ane.targets.coreml.hidden_states import hidden_states_met
from optimum_ane.targets.coreml.memory import check_exported_memory
from optimum_ane.targets.coreml.module_names import named_root, traced_name, without_prefix
from optimum_ane.targets.coreml.probabilities import WithProbabilities
from optimum_ane.targets.coreml.translations import is_translated

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram
    from torch.fx import Node

_NO_OPERATIONS = tuple(f"aten.{name}.default" for name in ("alias", "clone", "contiguous", "detach", "dropout"))
"""Of these nothing is left in a program, their names neither: what they are given bears the name."""
_INFINITY = 3.4e38


class _WithHiddenStates(nn.Module):
    """Returns, after what the module returns, the hidden states that were met while it ran."""

    def __init__(self, module: nn.Module, states: Callable[[], Iterable[Tensor]]) -> None:
        super().__init__()
        self.module, self.states = module, states  # a function: an export undoes what happens to a module's containers

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        answer = self.module(*inputs)
        outputs = (answer,) if isinstance(answer, torch.Tensor) else tuple(answer)
        return *outputs, *self.states()


def export(module: nn.Module, inputs: Mapping[str, Tensor], *, with_probabilities: bool = False) -> ExportedProgram:
    """Exports a stock module for one fixed shape, with names on its hidden states and each value's module in its name.

    Operations that coremltools does not translate are decomposed, and no others: from larger ones it makes fewer of
    its own.

    Args:
        module: In float32 and evaluation mode.
        inputs: Example inputs by name, in the order of the module's arguments.
        with_probabilities: Whether the probabilities of a classifier are added as the last output; the module's first
            output are its logits (B, labels).

    Returns:
        The program, in the ATen dialect; it shares the parameters of `module`.

    Raises:
        UnsupportedModelError: The module declares other layers than it has, or reads memory by places in it.
    """
    root: nn.Module = WithProbabilities(module) if with_probabilities else module
    met: dict[str, Tensor] = {}
    outer = _WithHiddenStates(root, met.values)
    prefix = next(name for name, each in outer.named_modules() if each is named_root(module))
    states = hidden_states_met(module, met.__setitem__) if hasattr(module, "layer_stack") else nullcontext()
    examples = tuple(value.float() if value.is_floating_point() else value for value in inputs.values())
    with torch.no_grad(), states:
        program = torch.export.export(outer, examples, strict=False)
    program = program.run_decompositions(_decompositions())
    check_exported_memory(program)
    _name_values(program, prefix, list(met))
    return program


def _decompositions() -> dict[Any, Callable[..., Any]]:
    """PyTorch's decompositions of the operations that have no translation."""
    known = {**decomposition_table, **dict(torch.export.default_decompositions().items())}
    return {operation: known[operation] for operation in known if not is_translated(operation.name())}


def _name_values(program: ExportedProgram, prefix: str, hidden_states: list[str]) -> None:
    """Writes the modules' paths into the names of the values, in place, and takes hidden states off the outputs."""
    signature, nodes = program.graph_signature, list(program.graph.nodes)
    (output,) = (node for node in nodes if node.op == "output")
    kept = len(signature.output_specs) - len(hidden_states)
    states = {_computed(node): name for node, name in zip(output.args[0][kept:], hidden_states, strict=True)}
    del signature.output_specs[kept:]
    output.args = (output.args[0][:kept],)
    weights = {spec.arg.name: spec.target for spec in signature.input_specs if spec.target is not None}
    new_names = {}
    for node in nodes:
        if node.op == "call_function":
            new_names[node.name] = traced_name(_path(node, prefix), states.get(node, node.name))
        elif node.name in weights:
            new_names[node.name] = without_prefix(weights[node.name], prefix)
    for node in nodes:
        node.args, node.kwargs = map_aggregate(node.args, _finite), map_aggregate(node.kwargs, _finite)
        if node.name in new_names:
            node.name = new_names[node.name]
            node.meta["stack_trace"] = node.name  # which coremltools keeps for each operation that it makes of a node
    for spec in (*signature.input_specs, *signature.output_specs):
        spec.arg.name = new_names.get(spec.arg.name, spec.arg.name)


def _finite(argument: Any) -> Any:
    """The number that coremltools puts for an infinity of a trace: its own triangles of infinities are NaN."""
    is_infinite = isinstance(argument, float) and math.isinf(argument)
    return math.copysign(_INFINITY, argument) if is_infinite else argument


def _computed(node: Node) -> Node:
    """The node itself, or what it hands on."""
    while node.op == "call_function" and str(node.target) in _NO_OPERATIONS:
        (node, *_) = node.all_input_nodes
    return node


def _path(node: Node, prefix: str) -> str:
    """The path of the innermost of the modules that are running."""
    modules = node.meta.get("nn_module_stack")
    innermost, _ = next(reversed(modules.values())) if modules else ("", None)
    return without_prefix(innermost, prefix)
