"""In which module of a network an error arose, while it ran or while its graph was converted."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

from optimum_ane.targets.coreml.module_names import read_name

if TYPE_CHECKING:
    from torch import nn


def module_of_error(error: BaseException, *networks: nn.Module) -> str | None:
    """Finds the innermost module that was at work, by the frames of an error and of its causes.

    While a network runs, a frame's `self` is one of its modules. While coremltools translates its graph, a frame's
    `node` bears the name of a traced value, with its module in it.

    Args:
        error: What was caught.
        networks: What the paths are of.

    Returns:
        The path, `encoder.layer.0.attention`; None where no frame tells.
    """
    paths = {id(module): path for network in networks for path, module in network.named_modules()}
    cause: BaseException | None = error
    found = None
    while cause is not None:  # the causes are closer to the place
        for frame, _ in traceback.walk_tb(cause.__traceback__):
            found = _path(frame.f_locals, paths) or found
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return found


def _path(variables: dict[str, Any], paths: dict[int, str]) -> str | None:
    at_work = paths.get(id(variables.get("self")))
    if at_work:
        return at_work
    node = variables.get("node")
    name = getattr(node, "name", None)
    traced = read_name(name) if isinstance(name, str) else None
    return None if traced is None else traced.module or None
