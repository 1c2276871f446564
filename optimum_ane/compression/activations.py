"""8-bit activations, calibrated: `quantize` and `dequantize` around the convolutions, for int8 arithmetic.

coremltools' `linear_quantize_activations` calls Core ML to see the ranges of values, which works on macOS only, and
of several samples it keeps the range of the last one (coremltools 9.0, `record_intermediate_output`). Its graph passes
are sound. So the ranges are measured here, in the portable runtime over all samples, and handed to these passes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from optimum_ane.analysis.operations import Operation, Program, Tensor, read_program
from optimum_ane.compression.calibration_data import Calibration
from optimum_ane.compression.round_trip import gathers_as_they_are
from optimum_ane.compression.targets import target_of_program
from optimum_ane.errors import CompressionError
from optimum_ane.package.deployment_targets import TARGETS
from optimum_ane.progress import Progress, silent
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.runtimes.portable.package import Package
from optimum_ane.runtimes.portable.program import Step
from optimum_ane.targets.coreml.multifunction import MAIN, functions_of
from optimum_ane.targets.coreml.quiet import quiet, writing
from optimum_ane.targets.coreml.temporary_files import temporary_files_in

INT8_ACTIVATIONS = "int8-activations"
"""The name by which the command line asks for it: these activations, and the weights of the recipe `int8`."""

TARGET = "iOS17"
LEAST_SNR = 23.0
"""dB. An operation keeps float16 where 8 bits would leave less of a value that it reads or gives: a few channels that
are many times larger than the others, as after a norm and a GELU, take all of one range for the whole tensor."""

_OPERATIONS = ("conv", "linear")
_ACTIVATIONS = ("hard_sigmoid", "leaky_relu", "relu", "relu6", "scaled_tanh", "sigmoid", "tanh")
_RATIOS = np.linspace(0.3, 1.0, 29)
_LEVELS = 127


@dataclass(frozen=True)
class QuantizedActivations:
    """What was done.

    Attributes:
        quantized: Names of the operations that take and give 8-bit values.
        kept: dB that 8 bits would leave at the worst value of an operation that keeps float16, by its name.
        calibration: What the ranges were measured on.
    """

    quantized: tuple[str, ...]
    kept: Mapping[str, float]
    calibration: str


def quantize_activations(
    source: Path, target: Path, calibration: Calibration, progress: Progress = silent
) -> QuantizedActivations:
    """Writes a package whose convolutions take and give 8-bit values; its weights stay as they are.

    The range of each value is the one with the least squared error on the calibration, which cuts off what is rare
    and large; symmetric, one for the whole tensor.

    Args:
        source: The `.mlpackage`.
        target: The `.mlpackage` to write.
        calibration: What the ranges are measured on.
        progress: Is called with (predictions done, predictions in all); each row is run twice.

    Returns:
        Which operations were changed.

    Raises:
        CompressionError: The package is for a system that has no such arithmetic, has several functions, or no
            operation can take it.
        PackageError: The package is damaged.
    """
    import coremltools as ct

    spec = Package(source).spec
    given = target_of_program(spec, str(source))
    if TARGETS.index(given) < TARGETS.index(TARGET):
        raise CompressionError(
            f"{INT8_ACTIVATIONS} needs {TARGET} and the package is for {given}; export with "
            f"--minimum-deployment-target {TARGET}"
        )
    functions = functions_of(spec)
    if functions != (MAIN,):
        raise CompressionError(
            f"{INT8_ACTIVATIONS} fits the values of one function and {source} has {', '.join(functions)}; export one "
            "sequence length, or take the recipe int8, which leaves activations as they are"
        )
    session = PortableSession(source)
    operations = _values(read_program(source))
    watched = {name for names in operations.values() for name in names}
    count = len(calibration.batches)
    ranges = _Ranges(watched)
    for number, batch in enumerate((*calibration.batches, *calibration.batches)):
        session.predict(batch, observer=ranges.look if number < count else ranges.compare)
        progress(number + 1, 2 * count)
    snr = {name: min(ranges.snr(value) for value in names) for name, names in operations.items()}
    chosen = {name for name, ratio in snr.items() if ratio >= LEAST_SNR}
    if not chosen:
        raise CompressionError(f"{source}: no convolution whose values fit into 8 bits at {LEAST_SNR:.0f} dB")
    with (
        tempfile.TemporaryDirectory(dir=target.parent, prefix="activations-") as folder,
        temporary_files_in(Path(folder)),
        quiet(),
        writing(),
        gathers_as_they_are(),
    ):
        model = ct.models.MLModel(str(source), skip_model_load=True)
        _insert(model, chosen, ranges.bounds()).save(str(target))
    kept = {name: ratio for name, ratio in snr.items() if name not in chosen}
    return QuantizedActivations(tuple(sorted(chosen)), kept, calibration.name)


def _values(program: Program) -> dict[str, tuple[str, str]]:
    """By name of a convolution: the value that it reads, and the one behind which its result becomes 8 bits.

    That is the result itself, or that of an activation which alone reads it: coremltools' passes take the two as one.
    """
    readers: dict[Tensor, list[Operation]] = {}
    for operation in program.operations:
        for tensor in operation.operands:
            readers.setdefault(tensor, []).append(operation)
    values = {}
    for operation in program.operations:
        if operation.type in _OPERATIONS:
            first = readers.get(operation.outputs[0], [operation])[0]
            given = first if first.type in _ACTIVATIONS else operation
            values[operation.name] = (operation.inputs["x"][0].name, given.name)
    return values


class _Ranges:
    """The largest magnitude of each value, then what 8 bits leave of it when the range is cut short."""

    def __init__(self, names: set[str]) -> None:
        self._names = names
        self._largest = dict.fromkeys(names, 0.0)
        self._power = dict.fromkeys(names, 0.0)
        self._errors = {name: np.zeros(len(_RATIOS)) for name in names}

    def look(self, step: Step, value: Any) -> None:
        """Takes in the magnitude of a value; an observer of predictions."""
        name = step.node.name
        if name in self._names:
            self._largest[name] = max(self._largest[name], float(value.abs().max()))
            self._power[name] += float(value.square().sum())

    def compare(self, step: Step, value: Any) -> None:
        """Adds up the squared errors of a value under each range; an observer of predictions."""
        name = step.node.name
        if name in self._names and self._largest[name] > 0:
            for index, ratio in enumerate(_RATIOS):
                scale = self._largest[name] * ratio / _LEVELS
                rounded = torch.round(value / scale).clamp_(-_LEVELS - 1, _LEVELS).mul_(scale)
                self._errors[name][index] += float((rounded - value).square_().sum())

    def snr(self, name: str) -> float:
        """Returns in dB what 8 bits leave of a value under its best range; -inf where it is always 0."""
        error = float(self._errors[name].min())
        power = self._power[name]
        if power == 0 or not np.isfinite(power):
            return float("-inf")
        return 10 * float(np.log10(power / error)) if error > 0 else float("inf")

    def bounds(self) -> dict[str, float]:
        """The best range of each value, as its largest magnitude."""
        return {
            name: self._largest[name] * float(_RATIOS[int(errors.argmin())]) for name, errors in self._errors.items()
        }


def _insert(model: Any, chosen: set[str], bounds: Mapping[str, float]) -> Any:
    """Runs coremltools' own passes, as `linear_quantize_activations` does."""
    from coremltools import _SPECIFICATION_VERSION_IOS_17
    from coremltools.converters.mil.mil.passes.graph_pass import PassOption
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY
    from coremltools.models.utils import _apply_graph_pass
    from coremltools.optimize.coreml import OpLinearQuantizerConfig, OptimizationConfig

    function = model.get_spec().mlProgram.functions[MAIN]
    stats: dict[str, dict[str, np.float32]] = {}
    skipped: list[str] = []
    for operation in function.block_specializations[function.opset].operations:
        # A program that is read back goes by the names of its operations, of which some differ from their results'.
        own = operation.attributes["name"].immediateValue.tensor.strings.values
        names = {*own, *(output.name for output in operation.outputs)}
        for name in names:
            bound = bounds.get(operation.outputs[0].name) if operation.outputs else None
            if bound is not None:
                stats[name] = {"rmin": np.float32(-bound), "rmax": np.float32(bound)}
            if operation.type in _OPERATIONS and not names & chosen:
                skipped.append(name)
    quantizer = OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8")
    config = OptimizationConfig(
        op_type_configs=dict.fromkeys(_OPERATIONS, quantizer), op_name_configs=dict.fromkeys(skipped)
    )
    passes = []
    for name in ("insert_prefix_quantize_dequantize_pair", "insert_suffix_quantize_dequantize_pair"):
        graph_pass = PASS_REGISTRY[f"compression::{name}"]
        graph_pass.set_options([PassOption("config", config)])
        graph_pass.set_options([PassOption("activation_stats", stats)])
        passes.append(graph_pass)
    passes.append(PASS_REGISTRY["common::dequantize_quantize_pair_elimination"])
    return _apply_graph_pass(model, passes, spec_version=_SPECIFICATION_VERSION_IOS_17, skip_model_load=True)
