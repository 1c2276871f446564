"""The names that values bear between trace and program: of which module they are the work.

coremltools keeps for each operation the name of the traced value that it comes from, through all passes, fused ones
included; of a module's place it keeps the last part of each name only (`dense` for `layer.0.output.dense`). So the
place is written into the names of the traced values, and `name_by_module` makes names for a program of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn

_ROOT = "__module"
_NAME = re.compile(r"(?P<module>[^@]*)@(?P<value>.*)")


@dataclass(frozen=True)
class TracedName:
    """A name that a capture gave, or one that coremltools derived from it.

    Attributes:
        module: The path of the module that computes the value, `encoder.layer.0.attention.query`; empty for the one
            that was traced.
        value: The tracer's own name, with what coremltools has appended: a number, `hidden_state_0_cast_fp16`, or the
            variable of Python that held the value, `positions.1_to_fp16`.
    """

    module: str
    value: str


def name_values_by_module(traced: torch.jit.ScriptModule, root: nn.Module, module: nn.Module) -> None:
    """Writes before the name of each value of a trace which module computes it, in place.

    Args:
        traced: The trace; the calls in it are inlined, which coremltools does as well when it takes it.
        root: What was traced.
        module: The module whose paths count: `root`, or what it wraps.
    """
    prefix = next(name for name, each in root.named_modules() if each is module)
    graph = traced.forward.graph  # type: ignore[attr-defined]
    torch._C._jit_pass_inline(graph)
    for node in graph.nodes():
        if node.kind() != "prim::GetAttr":  # weights and buffers get their own names
            path = _path(node.scopeName(), prefix)
            for value in node.outputs():
                value.setDebugName(traced_name(path, value.debugName()))


def traced_name(module: str, value: str) -> str:
    """The name of a value that a module computes: what `read_name` reads."""
    return f"{module}@{value}"


def named_root(module: nn.Module) -> nn.Module:
    """The module whose paths count: what a wrapper of a stock module wraps (`original`), else the module itself."""
    original = getattr(module, "original", None)
    return module if original is None else original


def read_name(name: str) -> TracedName | None:
    """Reads a name as coremltools has made it of a traced value's; None if it comes from no traced value."""
    match = _NAME.fullmatch(name)
    return None if match is None else TracedName(match["module"], match["value"])


def _path(scope: str, prefix: str) -> str:
    """The path of the innermost of the modules that are running, `__module.a/__module.a.b`."""
    return without_prefix(scope.rsplit("/", 1)[-1].removeprefix(_ROOT).removeprefix("."), prefix)


def without_prefix(path: str, prefix: str) -> str:
    """A path below the module at `prefix`, as it is from there; any other, and all where there is none, as it is."""
    if prefix and f"{path}.".startswith(f"{prefix}."):
        return path[len(prefix) + 1 :]
    return path
