"""Vision models by their graph: every architecture in every task, and boxes in pixels."""

from __future__ import annotations

import copy
import gc
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from optimum_ane.analysis.inspection import Inspection, inspect
from optimum_ane.errors import ANEError
from optimum_ane.exporters.stock_module import StockModule
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.targets.coreml.build import ConvertibleFunction, build_program
from optimum_ane.targets.coreml.conversion import GRAPH_CONVERSIONS, Conversion
from optimum_ane.targets.coreml.metadata import Metadata
from optimum_ane.tasks import OutputField
from optimum_ane.validation.comparison import Answers, compare_fields
from verification.row import REPOSITORY, Row
from verification.vision_boxes import measure_boxes
from verification.vision_models import VISION_MODELS, VisionModel

LEAST_EXACT, LEAST_HALF, LEAST_SHARE = 100.0, 50.0, 0.97
RECORDS = REPOSITORY / "out/vision_tasks.json"
"""What docs/coverage.md shows of this."""
_METADATA = Metadata("vision", "a tiny model with random weights", "apache-2.0", "0", {})
_SEEDS = (0, 1)


@dataclass(frozen=True)
class Measured:
    """One architecture in one task.

    Attributes:
        exact: The least dB of its outputs as a float32 program.
        half: The same as a float16 program.
        operations: Of the float16 program, without constants.
        transposes: Among them.
        share: Of the arithmetic, predicted on the engine.
        regions: That the program is predicted to be cut into.
        rank: The most axes of a value.
        capture: What recorded the graph.
    """

    exact: float
    half: float
    operations: int
    transposes: int
    share: float
    regions: int
    rank: int
    capture: str

    @property
    def is_met(self) -> bool:
        """Whether it keeps the limits."""
        return self.exact >= LEAST_EXACT and self.half >= LEAST_HALF and self.share >= LEAST_SHARE


def measure(folder: Path) -> Iterator[Row]:
    """Takes all of it, and writes what the page of architectures shows."""
    records: list[dict[str, Any]] = []
    for case in VISION_MODELS:
        yield _row(case, folder, records)
        gc.collect()
    RECORDS.parent.mkdir(parents=True, exist_ok=True)
    RECORDS.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    yield from measure_boxes(folder)


def _row(case: VisionModel, folder: Path, records: list[dict[str, Any]]) -> Row:
    asked = f"≥ {LEAST_EXACT:.0f} dB in float32, ≥ {LEAST_HALF:.0f} in float16, share ≥ {LEAST_SHARE}"
    try:
        found = measure_model(case, folder)
    except ANEError as error:
        return Row(case.name, asked, str(error)[:300], False)
    records.append({"model_type": case.model_type, "task": case.task, **asdict(found)})
    return Row(
        case.name,
        asked,
        f"{found.exact:.1f} dB, {found.half:.1f} in float16, share {found.share:.4f}, {found.operations} operations, "
        f"{found.transposes} transposes, {found.regions} regions, rank {found.rank}, {found.capture}",
        found.is_met,
    )


def measure_model(case: VisionModel, folder: Path) -> Measured:
    """Makes a model into programs of both precisions, by the first capture that takes it.

    Raises:
        ANEError: No capture takes it; what the first one said.
    """
    model = case.make()
    errors: list[ANEError] = []
    for conversion in GRAPH_CONVERSIONS[:2]:
        try:
            exact, half = (build(case, model, conversion, precision, folder) for precision in ("float32", "float16"))
        except ANEError as error:
            errors.append(error)
            continue
        return _measured(case, model, conversion, exact, half)
    raise errors[0]


def build(case: VisionModel, model: nn.Module, conversion: Conversion, precision: str, folder: Path) -> Path:
    """Makes a program of a copy of a model, for a capture changes what it records."""
    path = folder / f"{case.model_type}-{case.task}-{precision}.mlpackage"
    own, inputs = copy.deepcopy(model), case.inputs()
    function = ConvertibleFunction(
        "main",
        lambda: StockModule(own, [*inputs], case.outputs, constants=case.constants).eval(),
        inputs,
        case.outputs,
    )
    build_program(
        [function],
        path,
        precision=precision,
        minimum_deployment_target="iOS17",
        class_labels=None,
        metadata=_METADATA,
        conversion=conversion,
    )
    return path


def _measured(case: VisionModel, model: nn.Module, conversion: Conversion, exact: Path, half: Path) -> Measured:
    inspection = inspect(half)
    types = [placement.operation.type for placement in inspection.placements]
    return Measured(
        exact=min(compare(case, model, exact)),
        half=min(compare(case, model, half)),
        operations=len(types),
        transposes=types.count("transpose"),
        share=round(inspection.flops_share("ane"), 4),
        regions=len(inspection.regions),
        rank=highest_rank(inspection),
        capture=conversion.capture,
    )


def compare(case: VisionModel, model: nn.Module, path: Path) -> Sequence[float]:
    """Gives the dB of each output, over two inputs together; a detector's queries are compared as a set."""
    session = PortableSession(path)
    expected: dict[str, list[Tensor]] = {name: [] for name in case.outputs}
    actual: dict[str, list[Tensor]] = {name: [] for name in case.outputs}
    examples = [case.inputs(seed) for seed in _SEEDS]
    for inputs in examples:
        with torch.no_grad():
            answer = model(**inputs, **case.constants)
        given = session.predict(_as_arrays(inputs, session))
        for name in case.outputs:
            expected[name].append(answer[name])
            actual[name].append(torch.from_numpy(np.asarray(given[name], dtype=np.float32)))
    fields = [OutputField(name, "row", is_set=case.task == "object-detection") for name in case.outputs]
    return [*compare_fields(Answers(expected), Answers(actual), examples, fields).values()]


def _as_arrays(inputs: Mapping[str, Tensor], session: PortableSession) -> dict[str, np.ndarray[Any, Any]]:
    return {
        name: value.numpy().astype(np.float32 if value.is_floating_point() else np.int32)
        for name, value in inputs.items()
        if name in session.inputs
    }


def highest_rank(inspection: Inspection) -> int:
    """The most axes that a computed value has."""
    return max(len(value.shape) for each in inspection.placements for value in each.operation.outputs)
