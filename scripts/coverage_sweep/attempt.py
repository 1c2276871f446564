"""One case: made, converted in one way after another until one answers as the original does, and inspected."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from coverage_sweep.catalogue import Case
from coverage_sweep.original import NotTinyError, Original, make_original
from coverage_sweep.record import Attempt, Record
from optimum_ane.analysis.inspection import inspect
from optimum_ane.errors import ANEError
from optimum_ane.exporters.stock_experts import batched_experts
from optimum_ane.exporters.stock_module import StockModule
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.targets.coreml.build import ConvertibleFunction, build_program
from optimum_ane.targets.coreml.conversion import GRAPH_CONVERSIONS, Conversion
from optimum_ane.targets.coreml.metadata import Metadata
from optimum_ane.validation.comparison import PACKAGE_PSNR
from optimum_ane.validation.determinism import check_draws_nothing
from optimum_ane.validation.module_of_error import module_of_error
from optimum_ane.validation.psnr import psnr
from optimum_ane.validation.unread_inputs import check_unread_inputs

SEED, CHECK_SEED = 0, 20_261

_LIMIT = PACKAGE_PSNR["float16"]
_METADATA = Metadata("coverage", "a tiny model with random weights", "apache-2.0", "0", {})


def try_case(case: Case) -> Record:
    """Tries one case as an export by graph does: the first conversion that passes every check is taken."""
    start = time.process_time()
    try:
        original = make_original(case, seed=SEED, longer=False)
        check_draws_nothing(original.model, original.examples, [original.field])
    except NotTinyError as error:
        return Record(case.key, case.group, "not tiny", str(error))
    except ANEError as error:
        return Record(case.key, case.group, "refused", first_line(error))
    attempts: list[Attempt] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, conversion in enumerate(GRAPH_CONVERSIONS):
            path = Path(folder) / f"{number}.mlpackage"
            attempts.append(_attempt(original, conversion, path))
            if attempts[-1].error is None:
                return _accepted(case, attempts, path, time.process_time() - start)
    seconds = time.process_time() - start
    return Record(case.key, case.group, "refused", attempts[0].error, seconds=seconds, attempts=attempts)


def check_case(case: Case, accepted: Record) -> Record:
    """Converts an accepted case once more in the way that was taken, with other weights, inputs and lengths.

    Returns:
        The record with what was found.
    """
    conversion = Conversion(accepted.capture, is_stock=True, engine_layout=bool(accepted.engine_layout))
    try:
        original = _another(case)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "main.mlpackage"
            _build(original, conversion, path)
            ratio = min(_measure(original, path))
            exact = None
            if not ratio >= _LIMIT:
                path = Path(folder) / "float32.mlpackage"
                _build(original, conversion, path, "float32")
                exact = min(_measure(original, path))
    except (NotTinyError, ANEError) as error:
        return replace(accepted, check=first_line(error))
    return replace(accepted, checked=ratio, exact=exact)


def _another(case: Case) -> Original:
    """The original with other weights and inputs; of the same length where it takes no other."""
    try:
        return make_original(case, seed=CHECK_SEED, longer=True)
    except NotTinyError:
        return make_original(case, seed=CHECK_SEED, longer=False)


def _attempt(original: Original, conversion: Conversion, path: Path) -> Attempt:
    ratios = None
    try:
        _build(original, conversion, path)
        check_unread_inputs({"main": path}, original.model, original.examples, [original.field])
        ratios = _measure(original, path)
    except Exception as error:  # noqa: BLE001 - what is not an ANEError is a fault of ours, and belongs on the page too
        kind = "" if isinstance(error, ANEError) else f"{type(error).__name__}: "
        place = module_of_error(error, original.model)
        return Attempt(conversion.capture, conversion.engine_layout, ratios, kind + first_line(error), place)
    worst = min(ratios)
    error = None if worst >= _LIMIT else f"PSNR is {worst:.1f} dB, {_LIMIT:.0f} are asked for"
    return Attempt(conversion.capture, conversion.engine_layout, ratios, error)


def _build(original: Original, conversion: Conversion, path: Path, precision: str = "float16") -> None:
    model = copy.deepcopy(original.model)  # a capture changes epsilons in place
    inputs = _traced(original.examples)

    def make_module() -> nn.Module:
        return StockModule(model, [*inputs], [original.field.name]).eval()

    with batched_experts(model):
        build_program(
            [ConvertibleFunction("main", make_module, inputs, [original.field.in_package])],
            path,
            precision=precision,
            minimum_deployment_target="iOS17",
            class_labels=None,
            metadata=_METADATA,
            conversion=conversion,
        )


def _traced(examples: list[dict[str, Tensor]]) -> Mapping[str, Tensor]:
    """The inputs that a capture sees: those with padding, which a model would leave out of its graph were it none."""
    return examples[1]


def _measure(original: Original, path: Path) -> list[float]:
    """Compares program and original, dB for each input, over the positions of tokens."""
    session = PortableSession(path)
    name = original.field
    ratios = []
    for example in original.examples:
        with torch.no_grad():
            expected = original.model(**example)[name.name].float().numpy()
        given = {key: _as_input(value) for key, value in example.items() if key in session.inputs}
        actual = np.asarray(session.predict(given)[name.in_package], dtype=np.float32)
        if actual.shape != expected.shape:
            ratios.append(float("-inf"))
            continue
        if name.per == "token":
            kept = example["attention_mask"].bool().numpy()
            expected, actual = expected[kept], actual[kept]
        ratios.append(psnr(expected, actual))
    return ratios


def _as_input(value: Tensor) -> np.ndarray:
    return value.numpy().astype(np.float32 if value.is_floating_point() else np.int32)


def _accepted(case: Case, attempts: list[Attempt], path: Path, seconds: float) -> Record:
    inspection = inspect(path)
    types = [placement.operation.type for placement in inspection.placements]
    taken = attempts[-1]
    assert taken.psnr is not None
    return Record(
        case.key,
        case.group,
        "accepted",
        capture=taken.capture,
        engine_layout=taken.engine_layout,
        psnr=min(taken.psnr),
        inputs=len(taken.psnr),
        operations=len(types),
        transposes=types.count("transpose"),
        share=inspection.flops_share("ane"),
        regions=len(inspection.regions),
        seconds=seconds,
        attempts=attempts,
    )


def first_line(error: BaseException) -> str:
    """What an error says first."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
