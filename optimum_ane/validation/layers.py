"""Parity layer by layer: which layer of a saved package is the first to leave the original.

How a value of the program is known to be a layer's: while the module is traced, hooks name what enters each layer,
and what leaves the last, `hidden_state_0`, `hidden_state_1` and so on. coremltools and our own passes keep the names
of values (with `_cast_fp16` behind them in a float16 program), also where they fuse or replace the operation that
computes them. Nothing is told by how it looks: a wrong layer is found under its own name and measures as wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from optimum_ane.errors import CheckpointError, ValidationError
from optimum_ane.runtimes.portable.inspection import Recorder
from optimum_ane.validation.psnr import psnr

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from optimum_ane.package.form import ExportSpec
    from optimum_ane.runtimes.portable import PortableSession

_NAME = "hidden_state_"
_VALUE = re.compile(rf"{_NAME}(\d+)(_cast_fp16)?")
_ROWS = 4
"""Rows that are compared, at least: hidden states are many numbers each."""


def measure_layers(
    session: PortableSession, model: PreTrainedModel, inputs: Mapping[str, Tensor], spec: ExportSpec
) -> dict[str, float]:
    """The PSNR of each layer's output in a saved package against the original's, over the positions of tokens.

    A norm's output stands in a float16 package scaled by the rounding of the norm's weight, which the next layers take
    back (`passes.carry_layer_norm_rounding`): by up to 2⁻¹¹ per channel, which is below the rounding of the values.

    Args:
        session: The package.
        model: The original, float32.
        inputs: (N, S) each; the batch size divides N.
        spec: The form of the package.

    Returns:
        dB, in the order of the model: `"embeddings"`, what enters the first layer, then `"layer.0"`, `"layer.1"` … Of
        layers that share their weights, each use counts. What the program does not name is left out; an original with
        another number of hidden states than the module, or with none, gives nothing.

    Raises:
        ValidationError: A hidden state has another shape than the original's.
        CheckpointError: The original's hidden states are not finite.
    """
    rows = -(-_ROWS // spec.batch_size) * spec.batch_size
    few = {name: value[:rows] for name, value in inputs.items()}
    theirs = _states_of_original(model, few, spec)
    ours = _states_of_package(session, few, spec.batch_size)
    tokens = few["attention_mask"].bool()
    ratios: dict[str, float] = {}
    if max(ours, default=-1) != len(theirs) - 1:
        return ratios
    for index in sorted(ours):
        state = theirs[index]
        name = "embeddings" if index == 0 else f"layer.{index - 1}"
        if ours[index].shape != state.shape:
            raise ValidationError(f"{name} has shape {tuple(ours[index].shape)}, the original's {tuple(state.shape)}")
        if not state[tokens].isfinite().all():
            raise CheckpointError(f"the original's own {name} holds NaN or infinity; its weights are damaged")
        ratios[name] = psnr(state[tokens], ours[index][tokens])
    return ratios


def find_fault(ratios: Mapping[str, float], limit: float) -> str:
    """Says in a few words where a package leaves the original.

    Args:
        ratios: From `measure_layers`.
        limit: dB that a sound layer reaches.
    """
    if not ratios:
        return ""
    for name, ratio in ratios.items():
        if not ratio >= limit:
            return f"first bad layer: {name}, {ratio:.1f} dB"
    name, ratio = min(ratios.items(), key=lambda item: item[1])
    return f"no layer is bad, the worst is {name} with {ratio:.1f} dB"


def _states_of_original(model: PreTrainedModel, inputs: Mapping[str, Tensor], spec: ExportSpec) -> list[Tensor]:
    """(N, S, C) each: the embeddings and the output of each layer."""
    values = {name: value.long() for name, value in inputs.items()}
    if spec.task == "multiple-choice":
        values = {name: value.unsqueeze(1) for name, value in values.items()}
    with torch.no_grad():
        answer = model(**values, output_hidden_states=True)
    return list(answer.hidden_states or ())


def _states_of_package(session: PortableSession, inputs: Mapping[str, Tensor], batch_size: int) -> dict[int, Tensor]:
    """(N, S, C) each, by index."""
    pieces: dict[int, list[Tensor]] = {}
    rows = next(iter(inputs.values())).shape[0]
    for start in range(0, rows, batch_size):
        recorder = Recorder([f"{_NAME}*"], rounded=session.precision == "program")
        batch: dict[str, Any] = {name: value[start : start + batch_size].numpy() for name, value in inputs.items()}
        session.predict(batch, observer=recorder)
        for name, array in recorder.values.items():
            match = _VALUE.fullmatch(name)
            if match is not None and array.ndim == 4:
                state = torch.from_numpy(array).float().squeeze(2).transpose(1, 2)
                pieces.setdefault(int(match[1]), []).append(state)
    return {index: torch.cat(states) for index, states in pieces.items()}
