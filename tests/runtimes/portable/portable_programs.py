"""Builds small packages with coremltools, the independent side of these tests."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil import Builder
from coremltools.converters.mil.mil import types

# coremltools collects garbage in each conversion: 0.23 s with torch's modules to look through, 0.01 s without them.
gc.freeze()

_MIL_TYPES = {"float16": types.fp16, "float32": types.fp32, "int32": types.int32}


def save_program(
    path: Path, build: Callable[..., Any], inputs: Mapping[str, np.ndarray], target: Any = ct.target.iOS17
) -> Path:
    """Saves a program as it is written, without coremltools' graph passes.

    Args:
        path: Where to.
        build: Takes one MIL variable for each input and returns the output, or a tuple of them.
        inputs: Arrays that state name, shape and element type of each input.
        target: The deployment target.
    """
    specs = [Builder.TensorSpec(shape=a.shape, dtype=_MIL_TYPES[a.dtype.name]) for a in inputs.values()]
    # MIL takes the names of the inputs from the code of the function, so that it must be written for them.
    scope: dict[str, Any] = {"build": build}
    exec(f"def program({', '.join(inputs)}): return build({', '.join(inputs)})", scope)
    program = Builder.program(input_specs=specs, opset_version=target)(scope["program"])
    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=target,
        compute_precision=ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )
    model.save(str(path))
    return path


def stateful(path: Path, build: Callable[..., Any], states: Mapping[str, Sequence[int]], **inputs: np.ndarray) -> Path:
    """Saves a program with states, of these shapes, which come after its inputs; all are fp16."""
    specs = [Builder.TensorSpec(shape=a.shape, dtype=types.fp16) for a in inputs.values()]
    specs += [Builder.StateTensorSpec(shape=shape, dtype=types.fp16) for shape in states.values()]
    names = ", ".join([*inputs, *states])
    scope: dict[str, Any] = {"build": build}
    exec(f"def program({names}): return build({names})", scope)
    program = Builder.program(input_specs=specs, opset_version=ct.target.iOS18)(scope["program"])
    options = {"convert_to": "mlprogram", "minimum_deployment_target": ct.target.iOS18, "skip_model_load": True}
    ct.convert(program, pass_pipeline=ct.PassPipeline.EMPTY, **options).save(str(path))
    return path


def save_module(path: Path, module: torch.nn.Module, examples: Mapping[str, torch.Tensor], **options: Any) -> Path:
    """Traces, converts and saves a torch module; `options` go to coremltools.convert."""
    traced = torch.jit.trace(module.eval(), tuple(examples.values()))
    inputs = [
        ct.TensorType(name, example.shape, dtype=np.int32 if example.dtype == torch.int32 else np.float32)
        for name, example in examples.items()
    ]
    options.setdefault("inputs", inputs)
    options.setdefault("minimum_deployment_target", ct.target.iOS16)
    ct.convert(traced, skip_model_load=True, **options).save(str(path))
    return path


def close(actual: np.ndarray, expected: Any, tolerance: float = 2e-6) -> None:
    """Compares arrays; an expected scalar comes back as shape (1,)."""
    expected = np.asarray(expected)
    assert actual.shape == (expected.shape or (1,))
    np.testing.assert_allclose(actual, expected.reshape(actual.shape), rtol=tolerance, atol=tolerance)
