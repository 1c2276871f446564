"""From a traced module to a saved ML Program of one function."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.targets.coreml.capture import reason
from optimum_ane.targets.coreml.conversion import HANDWRITTEN, Conversion
from optimum_ane.targets.coreml.module_names import read_name
from optimum_ane.targets.coreml.passes import graph_pass_pipeline, pass_pipeline
from optimum_ane.targets.coreml.quiet import is_write_error, quiet, writing
from optimum_ane.targets.coreml.translations import missing_translations
from optimum_ane.targets.coreml.validated_once import validated_once

PROBABILITIES = "probabilities"
"""The output that a Core ML classifier takes its label from; coremltools replaces it by the label and a dictionary."""

_TYPES = {torch.float16: np.float16, torch.float32: np.float32}
"""Every other type is an integer or a flag, and int32 in Core ML."""


_PLACE = re.compile("located at: '(?P<value>.*)'")


def convert(
    captured: torch.jit.ScriptModule | ExportedProgram,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    path: Path,
    *,
    precision: str,
    minimum_deployment_target: str,
    class_labels: Sequence[str] | None = None,
    states: Mapping[str, Sequence[int]] | None = None,
    other_shapes: Mapping[str, Sequence[Sequence[int]]] | None = None,
    images: Mapping[str, str] | None = None,
    float32_outputs: Collection[str] = (),
    float16_outputs: Collection[str] = (),
    conversion: Conversion = HANDWRITTEN,
) -> Any:
    """Converts a captured module to an ML Program and saves it, its function called `main`.

    Beside the module's own memory this takes that of the converted weights. coremltools holds them in circles of
    references: they are free again after a collection of garbage.

    Args:
        captured: From `capture`; with the probabilities as last output where there are class labels.
        inputs: The example inputs; the program's have the same names, shapes and types (integers become int32).
        outputs: The names of what the module returns, in order, the probabilities left out.
        path: The `.mlpackage` to write.
        precision: Of weights and arithmetic, `"float16"` or `"float32"`.
        minimum_deployment_target: Oldest system that runs the program, by coremltools' name.
        class_labels: Makes it a Core ML classifier with these labels.
        states: What the function keeps between predictions, float16: shapes by the names of the module's buffers.
        other_shapes: Further shapes that inputs may have, by name.
        images: Colour layouts of the inputs and outputs that are Core ML's images, by name.
        float32_outputs: Names of outputs that are float32 whatever the precision; others have its type.
        float16_outputs: The same of float16, from iOS 16 on.
        conversion: How it was captured; says which translations and passes it gets.

    Returns:
        The `Model` protobuf that was written.

    Raises:
        OSError: The package could not be written.
        OutputError: coremltools could not write its temporary files, outside of `temporary_files_in`.
        UnsupportedModelError: coremltools cannot convert a stock module; the message says why.
    """
    classifier = None
    if class_labels is not None:
        classifier = ct.ClassifierConfig(list(class_labels), predicted_probabilities_output=PROBABILITIES)
    names = [*outputs] if class_labels is None else [*outputs, PROBABILITIES]
    kept = [ct.StateType(ct.TensorType(shape=tuple(s), dtype=np.float16), name=n) for n, s in (states or {}).items()]
    is_classifier = class_labels is not None
    types = dict.fromkeys(float32_outputs, np.float32) | dict.fromkeys(float16_outputs, np.float16)
    arguments = {
        "inputs": [
            _image(name, value, (images or {})[name])
            if name in (images or {})
            else _input(name, value, (other_shapes or {}).get(name, ()))
            for name, value in inputs.items()
        ],
        "outputs": [_output(name, (images or {}).get(name), types.get(name)) for name in names],
        "states": kept or None,
        "classifier_config": classifier,
        "minimum_deployment_target": ct.target[minimum_deployment_target],
        "compute_precision": getattr(ct.precision, precision.upper()),
        "pass_pipeline": graph_pass_pipeline(precision, is_classifier, conversion.engine_layout)
        if conversion.is_stock
        else pass_pipeline(precision, is_classifier),
        "skip_model_load": True,
    }
    with quiet(), writing(), validated_once():
        model = _convert_stock(captured, arguments) if conversion.is_stock else ct.convert(captured, **arguments)
        # Moved, where `save` would copy the weights once more.
        shutil.move(model.package_path, path)
    return model.get_spec()


def _convert_stock(
    captured: torch.jit.ScriptModule | ExportedProgram, arguments: Mapping[str, Any]
) -> ct.models.MLModel:
    """Converts with our translations; coremltools raises whatever it stumbles over."""
    places = _Places()
    logger = logging.getLogger("coremltools")
    logger.addHandler(places)
    try:
        with missing_translations():
            return ct.convert(captured, **arguments)
    except Exception as error:
        if is_write_error(error):
            raise
        where = f"{places.last} of " if places.last else ""
        raise UnsupportedModelError(
            f"coremltools {ct.__version__} cannot convert {where}the module as it is: {reason(error)}"
        ) from error
    finally:
        logger.removeHandler(places)


class _Places(logging.Handler):
    """Remembers at which of the captured module's parts coremltools says that it stopped."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Reads `ERROR - converting 'op' op (located at: 'a/b/path@value')`."""
        match = _PLACE.search(record.getMessage())
        name = None if match is None else read_name(match["value"].rsplit("/", 1)[-1])
        if name is not None:
            self.last = name.module


def _image(name: str, value: Tensor, layout: str) -> ct.ImageType:
    return ct.ImageType(name=name, shape=tuple(value.shape), color_layout=getattr(ct.colorlayout, layout))


def _output(name: str, image: str | None, dtype: type | None) -> ct.TensorType | ct.ImageType:
    if image is not None:
        return ct.ImageType(name=name, color_layout=getattr(ct.colorlayout, image))
    return ct.TensorType(name=name, dtype=dtype)


def _input(name: str, value: Tensor, other_shapes: Sequence[Sequence[int]]) -> ct.TensorType:
    shape: Any = tuple(value.shape)
    if other_shapes:
        shape = ct.EnumeratedShapes(shapes=[shape, *map(tuple, other_shapes)], default=shape)
    return ct.TensorType(name=name, shape=shape, dtype=_TYPES.get(value.dtype, np.int32))
