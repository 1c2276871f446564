"""Builds small programs with coremltools, saves them and reads them back for analysis."""

from __future__ import annotations

import gc
import tempfile
from dataclasses import replace
from pathlib import Path

import coremltools as ct
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the name of coremltools' own documentation
from coremltools.converters.mil.mil import Function, types
from coremltools.converters.mil.mil import Program as MilProgram

from optimum_ane.analysis.operations import read_program

# coremltools collects garbage in each conversion: 0.23 s with torch's modules to look through, 0.01 s without them.
gc.freeze()

_TYPES = {"fp16": types.fp16, "fp32": types.fp32, "int32": types.int32, "bool": types.bool}


def save_program(path, build, inputs, target=ct.target.iOS17, states=None):
    """Saves a program as it is written, without coremltools' graph passes.

    Args:
        path: Where to.
        build: Takes one MIL variable for each input and state, and returns the output, or a tuple of them.
        inputs: `"fp16 1 8 1 64"` by name.
        target: The deployment target.
        states: As inputs.
    """
    placeholders = {name: mb.placeholder(shape=_shape(text), dtype=_dtype(text)) for name, text in inputs.items()}
    for name, text in (states or {}).items():
        placeholders[name] = mb.state_tensor_placeholder(shape=_shape(text), dtype=_dtype(text))
    program = MilProgram()
    with Function(placeholders, opset_version=target) as function:
        outputs = build(**function.inputs)
        function.set_outputs(list(outputs) if isinstance(outputs, tuple | list) else [outputs])
        program.add_function("main", function)
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


def program_of(build, target=ct.target.iOS17, states=None, **inputs):
    """The program that `build` makes of the inputs, as analysis reads it."""
    with tempfile.TemporaryDirectory() as directory:
        return read_program(save_program(Path(directory) / "a.mlpackage", build, inputs, target, states))


def edited(build, edit, **inputs):
    """A program whose operations are changed in the protobuf, to what coremltools would not write."""
    with tempfile.TemporaryDirectory() as directory:
        path = save_program(Path(directory) / "a.mlpackage", build, inputs)
        spec = ct.utils.load_spec(str(path))
        function = spec.mlProgram.functions["main"]
        for operation in function.block_specializations[function.opset].operations:
            if operation.type != "const":
                edit(operation)
        (path / "Data/com.apple.CoreML/model.mlmodel").write_bytes(spec.SerializeToString())
        return read_program(path)


def read_as(program, **facts):
    """A program of which the package would state something else: more weights, other functions, flexible inputs."""
    return replace(program, **facts)


def _shape(text):
    return tuple(int(n) for n in text.split()[1:])


def _dtype(text):
    return _TYPES[text.split()[0]]
