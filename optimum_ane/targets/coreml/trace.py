"""The graph of a module, captured by running it once."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from optimum_ane.nn import raise_epsilons_for_float16
from optimum_ane.targets.coreml.autograd_functions import forwards_traced
from optimum_ane.targets.coreml.hidden_states import named_hidden_states
from optimum_ane.targets.coreml.module_names import name_values_by_module, named_root
from optimum_ane.targets.coreml.mutations import make_functional
from optimum_ane.targets.coreml.probabilities import WithProbabilities


def trace(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    *,
    precision: str,
    with_probabilities: bool = False,
    is_stock: bool = False,
) -> torch.jit.ScriptModule:
    """Traces a module for one fixed shape, with names on its hidden states and each value's module in its name.

    `torch.jit.trace` and not `torch.export`: the latter decomposes the einsums, which Core ML maps as they are.

    Args:
        module: In float32 and evaluation mode. Its epsilons are raised, in place, where float16 could not hold them.
        inputs: Example inputs by name, in the order of the module's arguments.
        precision: Of the program to be, `"float16"` or `"float32"`.
        with_probabilities: Whether the probabilities of a classifier are added as the last output; the module's first
            output are its logits (B, labels).
        is_stock: Whether the module is written for PyTorch: what it writes in place is made functional, and where it
            declares no layers, its hidden states have no names.

    Returns:
        The traced module; it shares the parameters of `module`.

    Raises:
        UnsupportedModelError: The module does not declare its layers, or other ones than it has.
    """
    if precision == "float16":
        raise_epsilons_for_float16(module)
    traced = WithProbabilities(module) if with_probabilities else module
    examples = tuple(value.float() if value.is_floating_point() else value for value in inputs.values())
    has_layers = not is_stock or hasattr(module, "layer_stack")
    names = named_hidden_states(module) if has_layers else nullcontext()
    functions = forwards_traced() if is_stock else nullcontext()
    with torch.no_grad(), names, functions, warnings.catch_warnings():
        # The tracer warns of every shape that becomes a constant; all of ours are meant to.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        graph = torch.jit.trace(traced, examples, check_trace=False)
    torch._C._jit_pass_inline(graph.forward.graph)
    if is_stock:
        make_functional(graph)
    name_values_by_module(graph, traced, named_root(module))
    return graph
