"""From the Neural Engine module to an ML Program: trace, convert, and fill in what the package says of itself."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import coremltools as ct
import numpy as np
import torch
from torch import Tensor, nn

from optimum_ane.nn import SentencePooling, raise_epsilons_for_float16
from optimum_ane.package.meanings import DESCRIPTIONS
from optimum_ane.targets.coreml.hidden_states import named_hidden_states
from optimum_ane.targets.coreml.passes import pass_pipeline
from optimum_ane.targets.coreml.quiet import quiet, writing
from optimum_ane.version import __version__

if TYPE_CHECKING:
    from optimum_ane.checkpoints.checkpoint import Checkpoint
    from optimum_ane.exporters.config import ANEConfig
    from optimum_ane.package.form import ExportSpec

_PROBABILITIES = "probabilities"
"""The output that a Core ML classifier takes its label from; coremltools replaces it by the label and a dictionary."""


class _WithProbabilities(nn.Module):
    """Adds the softmax of the logits, from which coremltools makes the label and the probabilities, as an output."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.module(*inputs)
        return logits, logits.softmax(dim=1)


def output_names(ane_config: ANEConfig, spec: ExportSpec) -> list[str]:
    """The names of the tensors that the package gives, in order."""
    return ["sentence_embedding"] if spec.pooling else list(ane_config.outputs)


def prepare(module: nn.Module, spec: ExportSpec) -> None:
    """Readies a module, in place, for the form that the specification asks for."""
    if spec.pooling is not None:
        module.sentence_pooling = SentencePooling(spec.pooling, spec.normalize)
    module.fix_length(spec.sequence_length)


def trace(module: nn.Module, inputs: Mapping[str, Tensor], spec: ExportSpec) -> torch.jit.ScriptModule:
    """Traces the module for one fixed shape, with names on its hidden states (see `layers`).

    `torch.jit.trace` and not `torch.export`: the latter decomposes the einsums, which Core ML maps as they are.

    Args:
        module: A prepared module; its epsilons are raised for a float16 package.
        inputs: Example inputs by name, (B, S) each, in the order of the module's arguments.
        spec: The form of the package.
    """
    if spec.precision == "float16":
        raise_epsilons_for_float16(module)
    traced = _WithProbabilities(module) if spec.class_labels else module
    with torch.no_grad(), named_hidden_states(module), warnings.catch_warnings():
        # The tracer warns of every shape that becomes a constant; all of ours are meant to.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return torch.jit.trace(traced, tuple(inputs.values()), check_trace=False)


def convert(
    traced: torch.jit.ScriptModule,
    inputs: Mapping[str, Tensor],
    outputs: list[str],
    spec: ExportSpec,
    labels: list[str],
) -> ct.models.MLModel:
    """Converts a traced module to an ML Program.

    Args:
        traced: From `trace`.
        inputs: The example inputs; the package's have the same names and shapes, as int32.
        outputs: From `output_names`.
        spec: The form of the package.
        labels: The checkpoint's labels by id; used for a classifier only.

    Raises:
        OutputError: coremltools could not write the weights to the directory for temporary files.
    """
    names = [*outputs, _PROBABILITIES] if spec.class_labels else outputs
    classifier = ct.ClassifierConfig(labels, predicted_probabilities_output=_PROBABILITIES)
    with quiet(), writing():
        return ct.convert(
            traced,
            inputs=[ct.TensorType(name=name, shape=tuple(x.shape), dtype=np.int32) for name, x in inputs.items()],
            outputs=[ct.TensorType(name=name) for name in names],
            classifier_config=classifier if spec.class_labels else None,
            minimum_deployment_target=ct.target[spec.minimum_deployment_target],
            compute_precision=getattr(ct.precision, spec.precision.upper()),
            pass_pipeline=pass_pipeline(spec.precision, spec.class_labels),
            skip_model_load=True,
        )


def describe(package: ct.models.MLModel, checkpoint: Checkpoint, spec: ExportSpec, labels: list[str]) -> None:
    """Fills in the metadata that Xcode shows and Swift code can read, in place."""
    source = checkpoint.source
    package.short_description = (
        f"{checkpoint.config.model_type} for {spec.task}, written for the Apple Neural Engine; "
        f"converted from {source.name} by optimum-ane."
    )
    package.author = source.author or "unknown"
    package.license = source.license or "unknown"
    package.version = source.revision or "1.0"
    entries = {
        "source_model": source.name,
        "source_revision": source.revision,
        "task": spec.task,
        "sequence_length": spec.sequence_length,
        "batch_size": spec.batch_size,
        "pooling": spec.pooling,
        "tokenizer_class": None if checkpoint.tokenizer is None else type(checkpoint.tokenizer).__name__,
        "labels": json.dumps(labels, ensure_ascii=False) if labels else None,
        "optimum_ane_version": __version__,
    }
    package.user_defined_metadata.update({key: str(value) for key, value in entries.items() if value is not None})
    for feature in package.get_spec().description.input:
        package.input_description[feature.name] = DESCRIPTIONS[feature.name]
    for feature in package.get_spec().description.output:
        package.output_description[feature.name] = DESCRIPTIONS[feature.name]
