"""The stages that the workflows share: from a loaded checkpoint, or a package that exists, to one that is checked."""

from __future__ import annotations

import copy
import gc
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from optimum_ane.analysis.gates import Gates
from optimum_ane.analysis.inspection import Inspection, inspect
from optimum_ane.analysis.lint import Finding
from optimum_ane.analysis.low_residency import low_residency_warning
from optimum_ane.analysis.operations import count_operations
from optimum_ane.checkpoints.tokenizer_description import describe_tokenizer
from optimum_ane.compression.compress import compress_mlpackages
from optimum_ane.compression.recipes import Recipe
from optimum_ane.errors import ValidationError
from optimum_ane.evaluation.accuracy import AccuracyLimits, check_accuracy
from optimum_ane.evaluation.preprocessors import choose_preprocessor
from optimum_ane.exporters.load_module import build_module
from optimum_ane.exporters.weight_range import check_weight_range
from optimum_ane.package.environment import peak_memory
from optimum_ane.package.files import hash_files
from optimum_ane.package.layout import EXPORT_REPORT, GENERATION_CONFIG
from optimum_ane.package.manifest import FunctionEntry, ProgramEntry, TensorEntry
from optimum_ane.package.meanings import MEANINGS, meaning_of
from optimum_ane.package.report import measure_sizes
from optimum_ane.progress import row_progress
from optimum_ane.runtimes import Session, TensorSpec
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.runtimes.pytorch import TorchFunction, TorchSession
from optimum_ane.targets.coreml.build import ConvertibleFunction, build_program
from optimum_ane.targets.coreml.conversion import HANDWRITTEN, Conversion
from optimum_ane.targets.coreml.metadata import Metadata
from optimum_ane.validation.comparison import (
    MODULE_PSNR,
    PACKAGE_PSNR,
    Answers,
    answer_examples,
    check_ratios,
    compare_fields,
    compare_layers,
    find_bad_layer,
    is_rounding,
)
from optimum_ane.validation.layer_states import WithLayerStates
from optimum_ane.validation.named_states import names_hidden_states
from optimum_ane.validation.overflow import find_overflow
from optimum_ane.validation.pooled_original import embeds_as
from optimum_ane.workflows.card_and_report import write_card_and_report
from optimum_ane.workflows.command_line import public_name

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from optimum_ane.evaluation.evaluator import Evaluator
    from optimum_ane.exporters.programs import FunctionSpec, ProgramSpec
    from optimum_ane.workflows.draft import PackageDraft


_WRONG_MODULE = (
    "It computes in float32 as the original does, so this is an error of logic and not of rounding: please report it "
    "with the checkpoint's config.json"
)
_ROUNDING_OR_NOT = (
    "Where that is as far from the original, it is float16 and not the export: set --psnr-threshold to accept it, or "
    "export with --precision float32 for CPU and GPU, which tells rounding from a wrong export"
)


def ask_original(draft: PackageDraft) -> None:
    """Runs the original on the examples, keeps what it answered, and gives its memory back."""
    model = draft.reference_model()
    if draft.is_by_graph:
        # The layers as the program names them; what `output_hidden_states` gives stands elsewhere in some models.
        model = WithLayerStates(model, draft.original_part())
    with_layers = draft.compares_layers
    draft.reference = answer_examples(model, draft.examples, draft.fields, with_hidden_states=with_layers)
    if not draft.is_by_graph:  # else it is what is converted
        draft.checkpoint.release_original()


def rewrite(draft: PackageDraft) -> None:
    """Builds the Neural Engine modules and gives them the weights, tensor by tensor.

    Raises:
        CheckpointError: The weights do not fit the configuration.
    """
    checkpoint = draft.checkpoint
    left_out = set(checkpoint.left_out)
    for program in draft.programs:
        built = build_module(draft.ane_config, program.name, checkpoint.weights)
        left_out.update(built.left_out)
        keep_module(draft, program, built.module)
    draft.report.left_out = tuple(sorted(left_out))


def keep_module(draft: PackageDraft, program: ProgramSpec, module: nn.Module) -> None:
    """Keeps the module of a program for its conversion, after a look at its numbers and with the pooling it needs.

    Raises:
        CheckpointError: The program's precision cannot hold its weights.
    """
    vocab_size = getattr(draft.config, "vocab_size", None)
    token_of = _token_of(draft.tokenizer)
    check_weight_range(module, program.precision, vocab_size, token_of, with_buffers=not draft.is_by_graph)
    embedding = draft.checkpoint.sentence_transformers if draft.form.pools else None
    if embedding is not None and embeds_as(draft.form, embedding):
        module.sentence_pooling = embedding.make_pooling()
    draft.modules[program.name] = module


def compare_modules(draft: PackageDraft) -> None:
    """Runs the modules in PyTorch through the model class, and compares what it answers with the original.

    Raises:
        ValidationError: It answers something else; the message names the first layer that does.
    """
    assert draft.reference is not None
    driver = draft.driver({program.name: torch_session(draft, program) for program in draft.programs})
    answers = answer_examples(driver, draft.examples, draft.fields)
    ratios = compare_fields(draft.reference, answers, draft.examples, draft.fields)
    draft.report.module_psnr = ratios
    if all(ratio >= MODULE_PSNR for ratio in ratios.values()):
        return
    exact = draft.answers_in(torch.float64)
    if exact is not None:
        noise = compare_fields(exact, draft.reference, draft.examples, draft.fields)
        if is_rounding(compare_fields(exact, answers, draft.examples, draft.fields), noise):
            draft.report.original_psnr = noise
            return
    answers = answer_examples(driver, draft.examples, draft.fields, with_hidden_states=True)
    place = find_bad_layer(compare_layers(draft.reference, answers, draft.examples), MODULE_PSNR)
    check_ratios(ratios, MODULE_PSNR, "Neural Engine module", place, _WRONG_MODULE)


def convert(draft: PackageDraft, metadata: Metadata) -> None:
    """Converts each program, all its functions over one copy of the weights, and saves it."""
    for program in draft.programs:
        convert_program(draft, program, draft.modules.pop(program.name), metadata)
        gc.collect()


def convert_program(
    draft: PackageDraft,
    program: ProgramSpec,
    module: nn.Module,
    metadata: Metadata,
    conversion: Conversion = HANDWRITTEN,
) -> None:
    """Converts one program in one way, all its functions over one copy of the weights, and saves it."""
    build_program(
        [_convertible(draft, program, function, module) for function in program.functions],
        draft.directory / f"{program.name}.mlpackage",
        precision=program.precision,
        minimum_deployment_target=draft.form.target,
        class_labels=program.class_labels,
        metadata=metadata,
        conversion=conversion,
    )


def compress(draft: PackageDraft, recipe: Recipe) -> None:
    """Compresses the programs in place."""
    with tempfile.TemporaryDirectory(dir=draft.directory) as scratch, row_progress("compressing") as progress:
        programs = {}
        for program in draft.manifest.programs:
            path = draft.directory / program.path
            programs[program.name] = path.rename(Path(scratch) / path.name), path
        draft.report.compression = compress_mlpackages(programs, recipe, progress).to_dict()
    draft.manifest = replace(draft.manifest, compression=recipe.name)


def load_back(draft: PackageDraft) -> None:
    """Loads the saved programs, and writes down what they take and give."""
    programs = draft.programs or draft.manifest.programs
    sessions = {program.name: PortableSession(draft.directory / f"{program.name}.mlpackage") for program in programs}
    entries = tuple(
        ProgramEntry(program.name, _function_entries(sessions[program.name]), program.precision, program.compute_units)
        for program in programs
    )
    draft.sessions = sessions
    draft.manifest = replace(draft.manifest, programs=entries)
    draft.report.operations = count_operations(draft.directory / entries[0].path)
    draft.report.sizes = measure_sizes(draft.directory / program.path for program in entries)


def predict_residency(draft: PackageDraft, chip: str | None, gates: Gates) -> None:
    """Predicts where the operations of each function will run.

    Raises:
        ValidationError: A limit is not kept, or a rule for states and functions whose breach keeps a program from
            loading.
    """
    # What is meant for the CPU, whatever the others are, is not asked to run elsewhere.
    programs = [
        program
        for program in draft.manifest.programs
        if program.compute_units != "cpu_only" or draft.form.compute_units == "cpu_only"
    ]
    inspections = {
        draft.manifest.function_name(program, function): inspect(draft.directory / program.path, chip, function.name)
        for program in programs
        for function in program.functions
    }
    draft.inspections = tuple(inspections.values())
    draft.report.residency = draft.inspections[0].summary()
    if len(inspections) > 1:
        draft.report.functions = {name: inspection.summary() for name, inspection in inspections.items()}
    for inspection in draft.inspections:
        gates.check(inspection)
    for name, inspection in inspections.items():
        warning = low_residency_warning(inspection)
        if warning is not None:
            draft.warn(f"{name}: {warning}" if len(inspections) > 1 else warning)
    tell_broken_rules(draft, inspections)


def tell_broken_rules(draft: PackageDraft, inspections: Mapping[str, Inspection]) -> None:
    """Says once for each rule for states and functions which functions break it."""
    broken: dict[str, list[tuple[str, Finding]]] = {}
    for name, inspection in inspections.items():
        for finding in inspection.findings:
            broken.setdefault(finding.rule.id, []).append((name, finding))
    for cases in broken.values():
        finding = cases[0][1]
        functions = f"{', '.join(name for name, _ in cases)}: " if len(inspections) > 1 else ""
        if finding.rule.severity == "error":
            raise ValidationError(f"such a program does not load: {functions}{finding.sentence()}")
        draft.warn(f"{functions}{finding.sentence()}")


def compare_package(draft: PackageDraft, threshold: float | None, recipe: Recipe | None) -> None:
    """Runs the saved package through the model class, and compares what it answers with the original, each layer too.

    Raises:
        ValidationError: It answers something else; the message names the first layer that does.
    """
    usual = PACKAGE_PSNR[draft.form.precision] if recipe is None else recipe.psnr
    limit = usual if threshold is None else threshold
    ratios, layers = measure_package(draft, limit)
    if not all(ratio >= limit for ratio in ratios.values()):
        what = "package" if recipe is None else f"package compressed with {recipe.name}"
        check_ratios(ratios, limit, what, find_bad_layer(layers, usual), why_it_differs(draft, ratios, recipe))


def measure_package(draft: PackageDraft, limit: float) -> tuple[dict[str, float], dict[str, float]]:
    """Runs the saved package through the model class, and writes into the report how close to the original it is.

    Args:
        draft: The package.
        limit: dB that its outputs must reach, for the report.

    Returns:
        dB by output, and by layer; the latter empty where a stock module's layers are not all found in the program.
    """
    assert draft.reference is not None
    packages = [draft.directory / program.path for program in draft.manifest.programs]
    has_names = not draft.is_by_graph or all(map(names_hidden_states, packages))
    with_layers = draft.compares_layers and has_names
    driver = draft.driver(draft.sessions)
    answers = answer_examples(driver, draft.examples, draft.fields, with_hidden_states=with_layers)
    ratios = compare_fields(draft.reference, answers, draft.examples, draft.fields)
    layers = {}
    if draft.is_by_graph and with_layers:
        answers = _with_last_state(answers, draft.reference)
    if with_layers and (not draft.is_by_graph or _has_layers(draft.reference, answers)):
        layers = compare_layers(draft.reference, answers, draft.examples)
    draft.report.package_psnr, draft.report.psnr_threshold, draft.report.layers = ratios, limit, layers
    draft.report.runtime = PortableSession.runtime
    return ratios, layers


def _with_last_state(candidate: Answers, reference: Answers) -> Answers:
    """Adds the output `last_hidden_state` where it is what the last layer returns, and has no other name."""
    last = candidate.fields.get("last_hidden_state", ())
    if not last or any(
        len(ours) != len(theirs) - 1
        for ours, theirs in zip(candidate.hidden_states, reference.hidden_states, strict=True)
    ):
        return candidate
    states = zip(candidate.hidden_states, last, strict=True)
    return replace(candidate, hidden_states=[(*own, final[: len(own[0])]) for own, final in states])


def _has_layers(reference: Answers, candidate: Answers) -> bool:
    """Whether the program holds every layer that the original was seen to have, in the same shape."""
    return all(
        bool(theirs) and [state.shape for state in theirs] == [state.shape for state in ours]
        for theirs, ours in zip(reference.hidden_states, candidate.hidden_states, strict=True)
    )


def why_it_differs(draft: PackageDraft, ratios: Mapping[str, float], recipe: Recipe | None) -> str:
    """Why a package may be far from the original, and what can be done: an overflow, rounding, or an error."""
    assert draft.reference is not None
    if recipe is not None:
        return "Take a recipe with more bits, or set --psnr-threshold"
    if draft.form.precision != "float16":
        return _WRONG_MODULE
    if any(ratio == -math.inf for ratio in ratios.values()):
        packages = {program.name: draft.directory / program.path for program in draft.manifest.programs}
        overflow = find_overflow(packages, draft.driver, draft.examples)
        if overflow is not None:
            return overflow.describe()
    half = draft.answers_in(torch.float16)
    if half is None:
        return _ROUNDING_OR_NOT
    rounded = compare_fields(draft.reference, half, draft.examples, draft.fields)
    given = ", ".join(f"{ratio:.1f} dB for {name}" for name, ratio in rounded.items())
    return f"PyTorch's own float16 gives {given} on the same inputs. {_ROUNDING_OR_NOT}"


def evaluate(
    draft: PackageDraft,
    evaluator: Evaluator,
    rows: Any,
    limits: AccuracyLimits | None,
    *,
    with_original: bool = True,
) -> None:
    """Scores the package on a dataset, and the original beside it.

    Raises:
        ValidationError: The package is worse than the original by more than is allowed.
    """
    driver = draft.driver(draft.sessions)
    with row_progress(f"evaluating on {len(rows)} rows") as progress:
        draft.accuracy = evaluator.compare(
            draft.reference_model() if with_original else None,
            driver,
            choose_preprocessor(draft.manifest, draft.tokenizer, draft.processor),
            rows,
            sequence_length=draft.form.longest,
            runtime=driver.runtime,
            progress=progress,
        )
    draft.report.accuracy = draft.accuracy.to_dict() | {"dataset": public_name(draft.accuracy.dataset)}
    if with_original and limits is not None:
        check_accuracy(draft.accuracy, limits)


def write_configuration(draft: PackageDraft) -> None:
    """Writes the checkpoint's configuration and its tokenizer or processor, and how texts become inputs."""
    draft.config.save_pretrained(draft.directory)
    if draft.generation_config is not None:
        # Not `save_pretrained`, which refuses settings that published checkpoints have: a top_k of no sampling, say.
        draft.generation_config.to_json_file(draft.directory / GENERATION_CONFIG)
    if draft.processor is not None:
        draft.processor.save_pretrained(draft.directory)
    if draft.tokenizer is None:
        return
    if draft.manifest.text is None:  # it reads what the model writes, and makes no rows
        _save_tokenizer(draft.tokenizer, draft.directory)
        return
    tokenizer = copy.copy(draft.tokenizer)
    # `truncation=True` in a pipeline cuts to this, so it must be the package's length.
    tokenizer.model_max_length = draft.form.longest
    _save_tokenizer(tokenizer, draft.directory)
    text = replace(draft.manifest.text, tokenizer=describe_tokenizer(tokenizer, draft.directory))
    draft.manifest = replace(draft.manifest, text=text)


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Saves it; what the operating system refused is an `OSError`, of which the tokenizers library makes a text."""
    try:
        tokenizer.save_pretrained(directory)
    except OSError:
        raise
    except Exception as error:  # the tokenizers library raises no class of its own
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(directory)) from error


def write_package(draft: PackageDraft) -> None:
    """Writes the report, the manifest with the hash of each file, and what is there for people."""
    draft.report.peak_memory_bytes = peak_memory()
    draft.report.write(draft.directory / EXPORT_REPORT)
    draft.manifest = replace(draft.manifest, files=hash_files(draft.directory))
    draft.manifest.write(draft.directory)
    write_card_and_report(
        draft.directory,
        draft.name,
        draft.manifest,
        draft.report,
        draft.config.to_dict(),
        draft.inspections[0],
    )


def _token_of(tokenizer: PreTrainedTokenizerBase | None) -> Callable[[int], str | None] | None:
    return None if tokenizer is None else lambda row: str(tokenizer.convert_ids_to_tokens(row))


def torch_session(draft: PackageDraft, program: ProgramSpec) -> TorchSession:
    """The module of a program in PyTorch, behind the interface of a session."""
    module = draft.modules[program.name]
    return TorchSession(
        {
            function.name: TorchFunction(
                function.view(module),
                tuple(TensorSpec(value.name, value.shape or (), _exact(value.dtype)) for value in function.inputs),
                tuple(value.name for value in function.outputs),
                tuple(TensorSpec(value.name, value.shape or (), value.dtype) for value in function.states),
                {value.name: value.other_shapes for value in function.inputs},
            )
            for function in program.functions
        }
    )


def _exact(dtype: str) -> str:
    """The type that a module computes in, of one that its program rounds to."""
    return "float32" if dtype == "float16" else dtype


def _convertible(
    draft: PackageDraft, program: ProgramSpec, function: FunctionSpec, module: nn.Module
) -> ConvertibleFunction:
    return ConvertibleFunction(
        name=function.name,
        make_module=lambda: function.view(module),
        inputs=draft.ane_config.function_inputs(function),
        outputs=tuple(value.name for value in function.outputs),
        states={value.name: value.shape or () for value in function.states},
        float32_outputs=[value.name for value in function.outputs if value.dtype == "float32"],
        float16_outputs=[
            value.name for value in function.outputs if (value.dtype, program.precision) == ("float16", "float32")
        ],
        other_shapes={value.name: value.other_shapes for value in function.inputs if value.other_shapes},
        images={value.name: value.image for value in (*function.inputs, *function.outputs) if value.image},
        meanings=MEANINGS | {value.name: value.meaning for value in function.inputs if value.image},
    )


def _function_entries(session: Session) -> tuple[FunctionEntry, ...]:
    """The functions of a program, the default one first."""
    names = [session.function_name, *(name for name in session.functions if name != session.function_name)]
    return tuple(
        FunctionEntry(
            name,
            inputs=_tensor_entries(each.inputs.values()),
            outputs=_tensor_entries(each.outputs.values()),
            states=_tensor_entries(each.states.values()),
        )
        for name in names
        for each in [session if name == session.function_name else session.function(name)]
    )


def _tensor_entries(specs: Iterable[TensorSpec]) -> tuple[TensorEntry, ...]:
    return tuple(TensorEntry(spec.name, spec.shape, spec.dtype, meaning_of(spec.name, spec.image)) for spec in specs)
