"""The stock layout: the original traced as it is and converted, which is what a person gets without this library.

On today's versions a plain `coremltools.convert` of a traced transformers model fails for most architectures, for two
reasons that have nothing to do with layout: coremltools does not translate `new_ones`, with which transformers starts
its masks, and its translation of `int(…)` and `bool(…)` calls Python's own on an array of one element, which numpy
refuses since 2.4 where the array has axes. Both are translated here, for the time of one conversion.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import coremltools as ct
import numpy as np
import torch
import transformers
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the name that coremltools' own documentation uses
from coremltools.converters.mil import register_torch_op
from coremltools.converters.mil.frontend.torch.ops import _get_inputs
from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY
from coremltools.converters.mil.frontend.torch.utils import NUM_TO_DTYPE_STRING
from coremltools.converters.mil.mil import types

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.targets.coreml.passes import stock_pass_pipeline
from optimum_ane.targets.coreml.quiet import quiet, writing
from optimum_ane.tasks import TASKS

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from optimum_ane.package.form import ExportForm

_translations = threading.Lock()
"""coremltools has one table of translations for the whole process."""


class _Head(torch.nn.Module):
    """The original with its outputs reduced to those of the task, as a tuple: the tracer takes no dictionaries."""

    def __init__(self, model: nn.Module, task: str, inputs: list[str]) -> None:
        super().__init__()
        self.model, self.inputs = model, inputs
        self.outputs = output_names(task)
        self.adds_choices = TASKS[task].has_choices

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        if self.adds_choices:
            values = tuple(value.unsqueeze(1) for value in values)
        answer = self.model(**dict(zip(self.inputs, values, strict=True)))
        return tuple(answer[name] for name in self.outputs)


def output_names(task: str) -> tuple[str, ...]:
    """The outputs of a task, by transformers' names, which are also those of our packages."""
    return tuple(field.name for field in TASKS[task].fields)


def convert_stock(model: PreTrainedModel, form: ExportForm, inputs: Mapping[str, Tensor]) -> ct.models.MLModel:
    """Traces a transformers model as it is and converts it with coremltools, for one fixed shape.

    Inputs and outputs bear the names that our own packages give them, so that one model class serves both.

    Args:
        model: The original, in evaluation mode; it is not changed.
        form: Its task says what the outputs are; its precision and deployment target are those of the program. The
            program does not pool, whatever the form says.
        inputs: Example inputs by the names of the model's arguments, integer, (B, S) each, which are its shape.

    Returns:
        The model, not loaded; `save` writes it as an `.mlpackage`.

    Raises:
        UnsupportedModelError: The architecture cannot be traced or converted as it is; the message says why.
        OSError: coremltools could not write its temporary files.
    """
    head = _Head(model, form.task, list(inputs)).eval()
    try:
        with torch.no_grad(), _quiet_tracing():
            traced = torch.jit.trace(head, tuple(value.long() for value in inputs.values()), check_trace=False)
        with _missing_translations(), quiet(), writing():
            return ct.convert(
                traced,
                inputs=[ct.TensorType(name=name, shape=tuple(x.shape), dtype=np.int32) for name, x in inputs.items()],
                outputs=[ct.TensorType(name=name) for name in head.outputs],
                minimum_deployment_target=ct.target[form.target],
                compute_precision=getattr(ct.precision, form.precision.upper()),
                pass_pipeline=stock_pass_pipeline(form.precision),
                skip_model_load=True,
            )
    except OSError:
        raise
    except Exception as error:  # tracer and converter raise whatever they stumble over
        reason = str(error).strip().splitlines()
        raise UnsupportedModelError(
            f"{type(model).__name__} has no stock-layout conversion: coremltools {ct.__version__} stops with "
            f"{type(error).__name__}: {reason[-1] if reason else 'no reason given'}"
        ) from error


@contextmanager
def _quiet_tracing() -> Iterator[None]:
    """Keeps off the screen what tracing sets off: a warning for each shape, and remarks on attributes of the model."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)


@contextmanager
def _missing_translations() -> Iterator[None]:
    """Translates what coremltools does not, and leaves its table as it was."""
    table = _TORCH_OPS_REGISTRY.name_to_func_mapping
    with _translations:
        before = {name: table.get(name) for name in ("new_ones", "int", "bool")}
        try:
            # One that knows `new_ones` is left to it.
            if _TORCH_OPS_REGISTRY.get_func("new_ones") is None:
                register_torch_op(new_ones)
            for name, python_type in (("int", int), ("bool", bool)):
                register_torch_op(_scalar_cast(name, python_type), override=True)
            yield
        finally:
            for name, translation in before.items():
                if translation is None:
                    table.pop(name, None)
                else:
                    table[name] = translation


def new_ones(context: Any, node: Any) -> None:
    """Translates `x.new_ones(size, dtype)`: ones of that type, or of x's. coremltools registers it by its name."""
    x, size, dtype = _get_inputs(context, node)[:3]
    name = types.builtin_to_string(x.dtype) if dtype is None else NUM_TO_DTYPE_STRING[dtype.val]
    if isinstance(size, list):
        size = mb.concat(values=size, axis=0)
    if size.val is None:
        ones = mb.cast(x=mb.fill(shape=size, value=1.0), dtype=name, name=node.name)
    else:
        # Core ML's fill takes no empty shape, which is what transformers asks for.
        numpy_type = types.nptype_from_builtin(types.string_to_builtin(name))
        ones = mb.const(val=np.ones(tuple(int(n) for n in size.val), numpy_type)[()], name=node.name)
    context.add(ones)


def _scalar_cast(name: str, python_type: type) -> Callable[[Any, Any], None]:
    """`int(x)` or `bool(x)`: of a constant of one element here, of anything else as coremltools does it."""
    otherwise = _TORCH_OPS_REGISTRY.get_func(name)

    def cast(context: Any, node: Any) -> None:
        (x,) = _get_inputs(context, node, expected=1)
        if x.can_be_folded_to_const() and np.size(x.val) == 1:
            context.add(mb.const(val=python_type(np.asarray(x.val).item()), name=node.name))
        else:
            otherwise(context, node)

    cast.__name__ = name  # coremltools registers it by this
    return cast
