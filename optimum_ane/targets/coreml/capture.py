"""The graph of a module as coremltools takes it, by one of the ways to record it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import transformers

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.targets.coreml.conversion import Conversion
from optimum_ane.targets.coreml.export import export
from optimum_ane.targets.coreml.memory import order_traced_memory
from optimum_ane.targets.coreml.trace import trace

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.export import ExportedProgram


_FUNCTIONS = {"trace": "torch.jit.trace", "export": "torch.export"}


def capture(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    *,
    precision: str,
    conversion: Conversion,
    with_probabilities: bool = False,
) -> torch.jit.ScriptModule | ExportedProgram:
    """Records the graph of a module for one fixed shape, with each value's module in its name.

    Args:
        module: In float32 and evaluation mode. Its epsilons are raised, in place, where float16 could not hold them.
        inputs: Example inputs by name, in the order of the module's arguments. A stock module gets int64 for each
            integer, as tokenizers give it.
        precision: Of the program to be, `"float16"` or `"float32"`.
        conversion: How the graph is recorded, and whether the module is a stock one.
        with_probabilities: Whether the probabilities of a classifier are added as the last output; the module's first
            output are its logits (B, labels).

    Returns:
        What `convert` takes; it shares the parameters of `module`.

    Raises:
        UnsupportedModelError: The module cannot be recorded in this way; a stock module's message says why. Or it
            does not declare its layers, which a stock module need not, or other ones than it has.
    """
    if not conversion.is_stock:
        return trace(module, inputs, precision=precision, with_probabilities=with_probabilities)
    examples = {name: value if value.is_floating_point() else value.long() for name, value in inputs.items()}
    try:
        with quiet_capture():
            if conversion.capture == "export":
                return export(module, examples, with_probabilities=with_probabilities)
            traced = trace(
                module,
                examples,
                precision=precision,
                with_probabilities=with_probabilities,
                is_stock=True,
            )
        order_traced_memory(traced)
        return traced
    except UnsupportedModelError:
        raise
    except Exception as error:  # a stock module raises whatever it stumbles over
        raise UnsupportedModelError(
            f"{type(module).__name__} cannot be captured by {_FUNCTIONS[conversion.capture]}: {reason(error)}"
        ) from error


@contextmanager
def quiet_capture() -> Iterator[None]:
    """Keeps off the screen what a capture sets off: a warning for each shape, and remarks on a model's attributes."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)


def reason(error: Exception) -> str:
    """The kind of an error and the last line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1] if lines else 'no reason given'}"
