"""The stock layout: the original traced as it is and converted, which is what a person gets without this library.

On today's versions a plain `coremltools.convert` of a traced transformers model fails for most architectures, for
reasons that have nothing to do with layout: operations that coremltools does not translate. It gets those of
`missing_translations`, for the time of one conversion.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import coremltools as ct
import numpy as np
import torch

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.targets.coreml.capture import quiet_capture, reason
from optimum_ane.targets.coreml.passes import stock_pass_pipeline
from optimum_ane.targets.coreml.quiet import quiet, writing
from optimum_ane.targets.coreml.translations import missing_translations
from optimum_ane.tasks import TASKS

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from optimum_ane.package.form import ExportForm


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
        inputs: Example inputs by the names of the model's arguments, integer or floating point, which are its shape.

    Returns:
        The model, not loaded; `save` writes it as an `.mlpackage`.

    Raises:
        UnsupportedModelError: The architecture cannot be traced or converted as it is; the message says why.
        OSError: coremltools could not write its temporary files.
    """
    head = _Head(model, form.task, list(inputs)).eval()
    try:
        with torch.no_grad(), quiet_capture():
            examples = tuple(value if value.is_floating_point() else value.long() for value in inputs.values())
            traced = torch.jit.trace(head, examples, check_trace=False)
        with missing_translations(), quiet(), writing():
            return ct.convert(
                traced,
                inputs=[_input(name, value) for name, value in inputs.items()],
                outputs=[ct.TensorType(name=name) for name in head.outputs],
                minimum_deployment_target=ct.target[form.target],
                compute_precision=getattr(ct.precision, form.precision.upper()),
                pass_pipeline=stock_pass_pipeline(form.precision),
                skip_model_load=True,
            )
    except OSError:
        raise
    except Exception as error:  # tracer and converter raise whatever they stumble over
        raise UnsupportedModelError(
            f"{type(model).__name__} has no stock-layout conversion: coremltools {ct.__version__} stops with "
            f"{reason(error)}"
        ) from error


def _input(name: str, value: Tensor) -> ct.TensorType:
    dtype = np.float32 if value.is_floating_point() else np.int32
    return ct.TensorType(name=name, shape=tuple(value.shape), dtype=dtype)
