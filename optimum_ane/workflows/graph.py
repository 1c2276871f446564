"""The stages of an export by graph: the original itself becomes the program, in the first way that passes."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from optimum_ane.errors import ANEError, UnsupportedModelError, ValidationError
from optimum_ane.exporters.stock import StockANEConfig
from optimum_ane.exporters.stock_experts import batched_experts
from optimum_ane.package.manifest import ConversionEntry
from optimum_ane.package.report import Attempt
from optimum_ane.targets.coreml.conversion import GRAPH_CONVERSIONS, Conversion
from optimum_ane.validation.comparison import PACKAGE_PSNR, find_bad_layer
from optimum_ane.validation.determinism import check_draws_nothing
from optimum_ane.validation.module_of_error import module_of_error
from optimum_ane.validation.padding import likeness_without_padding
from optimum_ane.validation.unread_inputs import check_unread_inputs
from optimum_ane.workflows import stages as stage

if TYPE_CHECKING:
    from torch import Tensor, nn

    from optimum_ane.exporters.programs import ProgramSpec
    from optimum_ane.targets.coreml.metadata import Metadata
    from optimum_ane.workflows.draft import PackageDraft

_ROWS_ASKED_TWICE = 1

Compare: TypeAlias = "Callable[[PackageDraft, Attempt, float], Attempt]"
"""Takes a draft with its saved programs loaded, the attempt and the dB that are asked for; gives the attempt with what
was measured, and with the reason where it is not taken."""


def ask_original(draft: PackageDraft) -> None:
    """Runs the original on the examples and keeps what it answered; it stays, for it is what is converted.

    Raises:
        UnsupportedModelError: It cannot be called so: it wants other inputs, or fewer tokens.
        ValidationError: It draws random numbers.
    """
    original = draft.checkpoint.original()
    try:
        stage.ask_original(draft)
    except ANEError:
        raise
    except Exception as error:  # a model raises whatever it stumbles over
        raise UnsupportedModelError(cannot_be_run(error, original, draft.examples[0])) from error
    model = draft.reference_model()
    few = [{name: value[:_ROWS_ASKED_TWICE] for name, value in batch.items()} for batch in draft.examples]
    check_draws_nothing(model, few, draft.fields)
    assert draft.reference is not None
    likeness = likeness_without_padding(model, draft.reference, draft.examples, draft.fields)
    if likeness is not None and not likeness >= PACKAGE_PSNR["float16"]:
        draft.warn(
            f"the original's own answer to a row depends on the padding beside it (with and without it are "
            f"{likeness:.1f} dB apart), and the package pads each row to {draft.form.longest} tokens: pad to that "
            "length where the original is asked as well"
        )


def cannot_be_run(error: BaseException, original: nn.Module, inputs: Mapping[str, Tensor]) -> str:
    """What is said of an original that raises an error on its example inputs."""
    shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in inputs.items())
    place = _place(module_of_error(error, original))
    return f"{type(original).__name__} cannot be run on {shapes}: {_first_line(error)}{place}"


def take_original(draft: PackageDraft) -> None:
    """Puts the original behind the interface of a program's module.

    Raises:
        CheckpointError: The program's precision cannot hold its weights.
    """
    ane_config = draft.ane_config
    assert isinstance(ane_config, StockANEConfig)
    original = draft.original_part()
    for program in draft.programs:
        stage.keep_module(draft, program, ane_config.wrap(original, program))
    draft.manifest = replace(draft.manifest, constants=dict(ane_config.host_constants(original)))
    draft.report.left_out = draft.checkpoint.left_out


def convert(
    draft: PackageDraft,
    metadata: Metadata,
    threshold: float | None,
    compare: Compare | None,
    module_of: Callable[[ProgramSpec], nn.Module] | None = None,
    residual_scale: float = 1.0,
) -> None:
    """Tries one way of conversion after another until the saved package answers as the original does.

    Args:
        draft: The package; every attempt goes into its report.
        metadata: What the programs say of themselves.
        threshold: dB that each output must reach; None takes the default of the precision.
        compare: Compares a saved package with the original, and gives the attempt with what was measured and why it
            is not taken, if it is not; None takes the first package that can be loaded.
        module_of: Makes the module of a program, which is dropped when it is converted; None takes those of the draft.
        residual_scale: What the modules' residual streams were multiplied by.

    Raises:
        UnsupportedModelError: None can be made; the message holds the first error, its module, and what can be done.
        ValidationError: Some can be made, and none answers as the original does.
    """
    limit = PACKAGE_PSNR[draft.form.precision] if threshold is None else threshold
    errors: list[ANEError] = []
    for conversion in GRAPH_CONVERSIONS:
        _remove_programs(draft)
        attempt = Attempt(conversion.capture, conversion.engine_layout)
        try:
            _convert(draft, metadata, conversion, module_of)
            stage.load_back(draft)
            if compare is not None:
                attempt = compare(draft, attempt, limit)
        except OSError:
            raise
        except ANEError as error:
            errors.append(error)
            attempt = replace(attempt, error=_first_line(error), module=module_of_error(error, *_originals(draft)))
        draft.report.attempts = (*draft.report.attempts, attempt)
        if attempt.error is None:
            entry = ConversionEntry(conversion.capture, conversion.engine_layout, residual_scale)
            draft.manifest = replace(draft.manifest, conversion=entry)
            draft.notes.append(f"made of the original's graph: {entry.describe()}{_earlier(draft.report.attempts)}")
            draft.modules.clear()
            draft.release_original()
            gc.collect()
            return
    raise _refusal(draft, errors) from next(iter(errors), None)


def _convert(
    draft: PackageDraft,
    metadata: Metadata,
    conversion: Conversion,
    module_of: Callable[[ProgramSpec], nn.Module] | None,
) -> None:
    for program in draft.programs:
        module = draft.modules[program.name] if module_of is None else module_of(program)
        with batched_experts(module.get_submodule("model")):
            stage.convert_program(draft, program, module, metadata, conversion)
        del module
        gc.collect()


def compare_with_original(draft: PackageDraft, attempt: Attempt, limit: float) -> Attempt:
    """Compares a package with the original, output by output; see `Compare`."""
    packages = {program.name: draft.directory / program.path for program in draft.manifest.programs}
    check_unread_inputs(packages, draft.reference_model(), draft.examples, draft.fields)
    ratios, layers = stage.measure_package(draft, limit)
    attempt = replace(attempt, psnr=ratios)
    bad = {name: ratio for name, ratio in ratios.items() if not ratio >= limit}
    if not bad:
        return attempt
    name, ratio = next(iter(bad.items()))
    place = find_bad_layer(layers, limit)
    where = f" ({place})" if place else ""
    return replace(attempt, error=f"PSNR of {name} is {ratio:.1f} dB, {limit:.1f} are asked for{where}")


def _refusal(draft: PackageDraft, errors: Sequence[ANEError]) -> ANEError:
    """What is said where no way passes: the first error, where it arose, and what can be done."""
    attempts = draft.report.attempts
    kind = f"{draft.manifest.model_type} for {draft.form.task}"
    first, *others = _reasons(attempts)
    tried = f". Other ways failed as well: {'; '.join(others)}" if others else ", as in every other way"
    was_made = any(attempt.psnr for attempt in attempts) or any(isinstance(each, ValidationError) for each in errors)
    if not was_made:
        return UnsupportedModelError(
            f"{kind} cannot be made by graph: {first}{tried}. Take a checkpoint of an architecture of "
            "`optimum-cli export ane --list`, or report the first error with the checkpoint's config.json"
        )
    last = attempts[-1]
    advice = ""
    if last.psnr:  # its programs are still there, to look into
        advice = f" {stage.why_it_differs(draft, last.psnr, None)}"
    return ValidationError(
        f"no program made of the graph of {kind} answers as the original does; nothing was written. First error: "
        f"{first}{tried}.{advice}"
    )


def _reasons(attempts: Sequence[Attempt]) -> list[str]:
    """Each reason once, in the order of the attempts, with the ways that failed by it."""
    ways: dict[str, list[str]] = {}
    for attempt in attempts:
        ways.setdefault(f"{attempt.error}{_place(attempt.module)}", []).append(_way(attempt))
    return [f"{reason} ({' or '.join(own)})" for reason, own in ways.items()]


def _way(attempt: Attempt) -> str:
    return f"{attempt.capture}, {'with' if attempt.engine_layout else 'without'} the engine's layout"


def _earlier(attempts: Sequence[Attempt]) -> str:
    failed = [attempt for attempt in attempts if attempt.error is not None]
    if not failed:
        return ""
    return f"; {'another way' if len(failed) == 1 else f'{len(failed)} other ways'} failed before, see the report"


def _originals(draft: PackageDraft) -> list[nn.Module]:
    return [module.get_submodule("model") for module in draft.modules.values()]


def _place(module: str | None) -> str:
    return f", in the module {module}" if module else ""


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _remove_programs(draft: PackageDraft) -> None:
    """Lets go of the programs of the attempt before, and deletes them."""
    draft.sessions = {}
    for program in draft.programs:
        shutil.rmtree(draft.directory / f"{program.name}.mlpackage", ignore_errors=True)
