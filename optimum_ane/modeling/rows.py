"""The base of the model classes whose rows are tensors of one fixed shape: images and sounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.modeling_outputs import ModelOutput

from optimum_ane.errors import InputError, PackageError
from optimum_ane.modeling.base import ANEModel
from optimum_ane.modeling.batching import run_fixed_rows
from optimum_ane.runtimes import Session, TensorSpec
from optimum_ane.tasks import resolve, task_row


class ANERowsModel(ANEModel):
    """Runs rows of any number through a function of fixed shape, batch by batch."""

    @property
    def _session(self) -> Session:
        return self.sessions["model"] if "model" in self.sessions else next(iter(self.sessions.values()))

    def _check_inputs(self, known: frozenset[str]) -> None:
        """Refuses a program with inputs that the model class does not know.

        Raises:
            PackageError: The message names them.
        """
        names, (first, *_) = self._session.inputs.keys(), self._session.inputs.values()
        if not names or not names <= known:
            raise PackageError(
                f"function {self._session.function_name} takes {', '.join(names)}; {type(self).__name__} knows "
                f"{', '.join(sorted(known))}"
            )
        if any(not spec.shape or spec.shape[0] != first.shape[0] for spec in self._session.inputs.values()):
            raise PackageError(f"the inputs of function {self._session.function_name} have other numbers of rows")

    def _answer(
        self, inputs: Mapping[str, Tensor], output_hidden_states: bool | None, return_dict: bool | None
    ) -> ModelOutput | tuple[Any, ...]:
        """Runs rows, (N, …) each and of the program's shapes; gives transformers' output class on their device."""
        device = next(iter(inputs.values())).device
        outputs, hidden = self._run(inputs, with_hidden_states=bool(output_hidden_states))
        task = task_row(self.task, modality=self.modality)
        fields: dict[str, Any] = {
            field.name: torch.from_numpy(outputs[field.in_package]).to(device) for field in task.fields
        }
        if output_hidden_states:
            fields["hidden_states"] = tuple(torch.from_numpy(state).to(device) for state in hidden)
        answer = resolve(task.output_class)(**fields)
        return answer if return_dict is not False else answer.to_tuple()

    def _run(
        self, inputs: Mapping[str, Tensor], *, with_hidden_states: bool = False
    ) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
        """Runs rows, (N, …) each and of the program's shapes; gives float32 outputs by their names in the package."""
        arrays = {name: _array(inputs[name], spec) for name, spec in self._session.inputs.items()}
        return run_fixed_rows(self._session, arrays, self._wanted, with_hidden_states=with_hidden_states)

    @property
    def _wanted(self) -> tuple[str, ...]:
        """The outputs that are read, by their names in the package."""
        return tuple(field.in_package for field in task_row(self.task, modality=self.modality).fields)


def check_numbers(name: str, values: Tensor) -> None:
    """Refuses what holds no finite numbers.

    Raises:
        InputError: The type is none of floating point, or a number is NaN or infinite.
    """
    if not values.is_floating_point():
        raise InputError(f"{name} holds {values.dtype}; expected floating point numbers, as the processor gives them")
    if not torch.isfinite(values).all():
        row = int((~torch.isfinite(values)).flatten(1).any(1).nonzero()[0])
        raise InputError(f"{name} holds NaN or infinity in row {row}")


def _array(value: Tensor, spec: TensorSpec) -> np.ndarray:
    array = value.detach().cpu()
    if array.shape[1:] != spec.shape[1:]:
        raise InputError(
            f"{spec.name} has shape {tuple(array.shape)}, and this package takes rows of {spec.shape[1:]}"
        )
    return (array.float() if array.is_floating_point() else array).numpy().astype(spec.dtype)
