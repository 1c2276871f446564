"""Packages of modules outside of transformers: named tensors in, named tensors out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.modeling_outputs import ModelOutput

from optimum_ane.errors import InputError
from optimum_ane.modeling.base import ANEModel
from optimum_ane.package.form import CUSTOM


class ANEModelForCustomTasks(ANEModel):
    """A package that `export(module, …, example_inputs=…)` made: its inputs by name, its outputs by name.

    Example:
        >>> model = ANEModelForCustomTasks.from_pretrained("out")
        >>> model(sample=torch.randn(1, 4, 32, 32), timestep=torch.tensor([10.0])).noise
    """

    task = CUSTOM
    config_class = PretrainedConfig

    @classmethod
    def _load_config(cls, directory: Path) -> PretrainedConfig:
        """A module has no configuration."""
        return PretrainedConfig()

    def forward(self, **inputs: Tensor | np.ndarray) -> ModelOutput:
        """Runs the package once.

        Args:
            inputs: Each of the program's inputs by name, of its very shape; `model.inputs` lists them. Floats and
                integers are converted to its type.

        Returns:
            The outputs by name, in order, float32 where they are floats; attributes and entries alike.

        Raises:
            InputError: A name, shape or kind of number that is not the program's.
        """
        (session,) = self.sessions.values()
        if inputs.keys() != session.inputs.keys():
            raise InputError(f"inputs {', '.join(inputs)} were given; the package takes {', '.join(session.inputs)}")
        arrays = {}
        for name, spec in session.inputs.items():
            value = torch.as_tensor(inputs[name]).detach().cpu()
            if tuple(value.shape) != spec.shape:
                raise InputError(f"{name} has shape {tuple(value.shape)}; the package takes {spec.shape}")
            if value.is_floating_point() != spec.dtype.startswith("float"):
                raise InputError(f"{name} holds {value.dtype}; the package takes {spec.dtype}")
            arrays[name] = value.numpy().astype(spec.dtype)
        answer = ModelOutput()
        for name, value in session.predict(arrays).items():
            tensor = torch.from_numpy(np.asarray(value))
            answer[name] = tensor.float() if tensor.is_floating_point() else tensor
        return answer

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the inputs by name."""
        (session,) = self.sessions.values()
        return {name: spec.shape for name, spec in session.inputs.items()}

    def __repr__(self) -> str:
        """What it is, in one line."""
        taken = ", ".join(f"{name} {shape}" for name, shape in self.inputs.items())
        return f"{type(self).__name__}({self.manifest.model_type}: {taken}; {self.runtime} runtime)"
