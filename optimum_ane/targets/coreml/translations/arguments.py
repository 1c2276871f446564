"""What a node of a captured graph is given."""

from __future__ import annotations

from typing import Any

import numpy as np
from coremltools.converters.mil.frontend.torch.ops import _get_inputs, _get_kwinputs
from coremltools.converters.mil.frontend.torch.utils import NUM_TO_DTYPE_STRING
from coremltools.converters.mil.mil import Var


def arguments(context: Any, node: Any, *names: str) -> list[Any]:
    """The arguments of a node, by the names and in the order of PyTorch's signature; None for one that is left out.

    A trace gives all of them by position, an export leaves out defaults and gives some by name.

    Raises:
        NotImplementedError: The node has others.
    """
    given = dict(zip(names, _get_inputs(context, node), strict=False))
    named = {name: _get_kwinputs(context, node, name) for name in node.kwinputs or {}}
    given |= {name: values[0] for name, values in named.items() if values}  # an export's device and layout are empty
    unknown = set(given) - set(names)
    if unknown or len(node.inputs) > len(names):
        raise NotImplementedError(f"{node.kind} with other arguments than {', '.join(names)}")
    return [given.get(name) for name in names]


def constant(value: Any, what: str) -> Any:
    """The value of an argument that must be known when the program is made, as numpy or Python has it.

    Raises:
        NotImplementedError: It is computed by the program.
    """
    if isinstance(value, list | tuple):
        return [constant(each, what) for each in value]
    if isinstance(value, Var):
        if not value.can_be_folded_to_const():
            raise NotImplementedError(f"{what} that the program computes")
        return value.val
    return value


def integers(value: Any, what: str) -> list[int]:
    """The integers of an argument that must be known when the program is made.

    Raises:
        NotImplementedError: They are computed by the program.
    """
    known = constant(value, what)
    each = known if isinstance(known, list) else np.reshape(known, -1)
    return [int(np.asarray(number).item()) for number in each]


def type_name(number: Any) -> str:
    """The type of a program's values for a `dtype` of PyTorch, which captures give as a number: 64 bits become 32.

    Raises:
        NotImplementedError: Programs have no such type.
    """
    code = int(constant(number, "a type"))
    if code not in NUM_TO_DTYPE_STRING:
        raise NotImplementedError(f"PyTorch's type number {code}, which programs lack")
    return NUM_TO_DTYPE_STRING[code]


def add_results(context: Any, node: Any, *results: Any) -> None:
    """Adds the several results of a node: a trace names each of them, an export takes them out of one tuple."""
    if len(node.outputs) == 1:
        context.add(results, torch_name=node.name)
        return
    for name, result in zip(node.outputs, results, strict=True):
        context.add(result, torch_name=name)
