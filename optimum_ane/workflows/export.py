"""From a checkpoint to a validated package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import optimum_ane.models  # noqa: F401 - registers the architectures
from optimum_ane.access_tokens import tokens_hidden
from optimum_ane.analysis.chips import get_chip
from optimum_ane.analysis.gates import Gates
from optimum_ane.checkpoints.checkpoint import Checkpoint, checkpoint_of_model, open_checkpoint
from optimum_ane.checkpoints.configuration import expand_home
from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.checkpoints.tokenizer import check_tokenizer, load_tokenizer
from optimum_ane.compression.recipes import Recipe, get_recipe
from optimum_ane.errors import CheckpointError, DatasetError, UnsupportedModelError
from optimum_ane.evaluation.accuracy import DEFAULT_MAX_ACCURACY_DROP, AccuracyLimits
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.evaluator import get_evaluator
from optimum_ane.evaluation.preprocessors import missing_of
from optimum_ane.exporters.anemll import AnemllANEConfig
from optimum_ane.exporters.config import ANEConfig, get_ane_config_class
from optimum_ane.exporters.encoder_decoder import EncoderDecoderANEConfig
from optimum_ane.exporters.swift_transformers import SwiftTransformersANEConfig
from optimum_ane.exporters.whisperkit import WhisperKitANEConfig
from optimum_ane.package.deployment_targets import ios_target
from optimum_ane.package.environment import machine_kind, tool_versions
from optimum_ane.package.form import NO_POOLING, ExportForm, form_from_options
from optimum_ane.package.manifest import Manifest, SourceEntry, TextEntry
from optimum_ane.package.report import ExportReport
from optimum_ane.package.staging import check_output, staged
from optimum_ane.progress import Stages
from optimum_ane.tasks import TASKS, Modality, task_row
from optimum_ane.validation.pooled_original import embeds_as
from optimum_ane.version import __version__
from optimum_ane.workflows import graph
from optimum_ane.workflows import stages as stage
from optimum_ane.workflows.client_files import write_client_files
from optimum_ane.workflows.command_line import python_call
from optimum_ane.workflows.decoder import DecoderExport
from optimum_ane.workflows.draft import PackageDraft, Stage, run_stages
from optimum_ane.workflows.encoder_decoder import EncoderDecoderExport
from optimum_ane.workflows.memory_check import check_memory
from optimum_ane.workflows.processor_entries import audio_entry, image_config_of, image_entry, sized_processor
from optimum_ane.workflows.program_metadata import describe_program

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from optimum_ane.evaluation.evaluator import Evaluator
    from optimum_ane.evaluation.report import AccuracyReport
    from optimum_ane.exporters.config import Processor


CachedExport: TypeAlias = DecoderExport | EncoderDecoderExport
"""The stages of exports with a cache, each in a class that keeps what they share."""

_OF_CLIENTS: dict[str, type[ANEConfig]] = {
    "anemll": AnemllANEConfig,
    "swift-transformers": SwiftTransformersANEConfig,
    "whisperkit": WhisperKitANEConfig,
}
"""Export configurations by layout, where it is not the native one."""

_NO_TOKENIZER = (
    "no tokenizer was found: the package will have none, and pipelines need one. Put it beside the checkpoint, or "
    "give it with the model: export(model, output, tokenizer=…)"
)
_NO_PROCESSOR = (
    "no image processor or feature extractor was found: the package will have none, and pipelines need one. Put it "
    "beside the checkpoint, or give it with the model: export(model, output, processor=…)"
)


@dataclass(frozen=True)
class ExportResult:
    """What an export leaves.

    Attributes:
        path: The package's directory.
        report: What was measured.
        accuracy: The accuracy report; None without a dataset.
    """

    path: Path
    report: ExportReport
    accuracy: AccuracyReport | None


@dataclass(frozen=True)
class ExportChecks:
    """What a package must pass, and what is measured of it, beside its form.

    Attributes:
        dataset: A dataset to score the original and the package on.
        limits: What the package may lose on it.
        psnr_threshold: dB that the package's answers must reach; None takes the default of the precision, or the
            recipe's own where the weights are compressed.
        validate: Compare with the original at all.
        chip: The chip that residency and latency are predicted for; None predicts for any, and no latency.
        gates: Limits that the prediction must keep.
    """

    dataset: DatasetSpec | None = None
    limits: AccuracyLimits = field(default_factory=AccuracyLimits)
    psnr_threshold: float | None = None
    validate: bool = True
    chip: str | None = None
    gates: Gates = field(default_factory=Gates)

    def __post_init__(self) -> None:
        """Refuses what contradicts itself, before any work is done.

        Raises:
            ANEError: A dataset without validation, or a chip that is not known.
        """
        if self.dataset is not None and not self.validate:
            raise DatasetError("a dataset to evaluate on was given, and validation switched off; drop one of the two")
        self.gates.check_chip(self.chip)
        if self.chip is not None:
            get_chip(self.chip)


def export(
    model: str | Path | PreTrainedModel | nn.Module,
    output: str | Path,
    *,
    example_inputs: Mapping[str, Any] | None = None,
    outputs: Sequence[str] | None = None,
    tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
    processor: Processor | None = None,
    eval_dataset: str | DatasetSpec | None = None,
    max_accuracy_drop: float = DEFAULT_MAX_ACCURACY_DROP,
    max_perplexity_increase: float | None = None,
    max_kl: float | None = None,
    max_box_error: float | None = None,
    min_iou: float | None = None,
    max_depth_error: float | None = None,
    max_wer_increase: float | None = None,
    max_bleu_loss: float | None = None,
    psnr_threshold: float | None = None,
    validate: bool = True,
    compress: str | Path | Recipe | None = None,
    chip: str | None = None,
    gates: Gates | None = None,
    overwrite: bool = False,
    hub: HubOptions | None = None,
    adapter: str | Path | None = None,
    gguf_file: str | None = None,
    quiet: bool = False,
    **form: Any,
) -> ExportResult:
    """Exports a transformers checkpoint to a Core ML package written for the Neural Engine.

    The package appears under `output` when it is whole and has passed every check; before that, or if anything
    fails, nothing is there.

    Args:
        model: Hub id, directory, or a model in memory. With `example_inputs` any module of PyTorch's.
        output: Directory to make; must be empty or absent unless `overwrite`.
        example_inputs: Makes a package of the module as it is, by its graph: arguments of its `forward` by name.
            Tensors are inputs of the program, of these shapes; anything else goes into every call as it is. The
            package is compared with the module on them and on seeded variations of them.
        outputs: With `example_inputs`, the names of what the module returns: keys of a mapping, or what a tensor or
            the items of a tuple shall be called; None takes all.
        tokenizer: Goes into the package, for a model in memory; otherwise the checkpoint's own does. A directory or a
            Hub id stands for the tokenizer there.
        processor: The same for models of images or sounds: the image processor or feature extractor.
        eval_dataset: A dataset to score the original and the package on; a string is a file or a Hub id.
        max_accuracy_drop: Percentage points that the package may lose on it.
        max_perplexity_increase: Of a language model, by how many percent its perplexity may be higher; None takes 1.
        max_kl: Of a language model, how far its next-token distributions may be from the original's on average, in
            nats; None sets no limit, here and in the next three.
        max_box_error: Of a detector, how far the sides of its boxes may be from the original's on average, in pixels
            of the image.
        min_iou: Of a segmenter, the least mean IoU with the original's map of classes, 0 to 1.
        max_depth_error: Of a depth estimator, the largest mean absolute relative error against the original's depths.
        max_wer_increase: Of speech, percentage points that the word error rate may be higher; None takes
            `max_accuracy_drop`.
        max_bleu_loss: Of texts that are written, points of BLEU that the package may lose.
        psnr_threshold: dB that the package's answers must reach; None takes the default of the precision, or the
            recipe's own where the weights are compressed.
        validate: Compare with the original at all.
        compress: A compression recipe: its name, the path of a YAML file, or the recipe itself.
        chip: The chip that residency and latency are predicted for; None predicts for any, and no latency.
        gates: Limits that the prediction must keep.
        overwrite: Replace a package that is already there.
        hub: How to reach the Hub.
        adapter: Directory or Hub id of a PEFT adapter that is merged into the checkpoint.
        gguf_file: A GGUF file of the checkpoint's directory or repository, which is read in place of its weights.
        quiet: Show no progress.
        form: Any field of `ExportForm`: `task`, `sequence_length`, `batch_size`, `precision` and so on.

    Returns:
        The path and what was measured.

    Raises:
        ANEError: What was wrong, where, and what to do; see `optimum_ane.errors` for the kinds.
        TypeError: An argument is neither of these nor a field of `ExportForm`.
    """
    checks = ExportChecks(
        dataset=DatasetSpec(eval_dataset) if isinstance(eval_dataset, str) else eval_dataset,
        limits=AccuracyLimits(
            max_accuracy_drop=max_accuracy_drop,
            max_perplexity_increase=max_perplexity_increase,
            max_kl=max_kl,
            max_box_error=max_box_error,
            min_iou=min_iou,
            max_depth_error=max_depth_error,
            max_wer_increase=max_wer_increase,
            max_bleu_loss=max_bleu_loss,
        ),
        psnr_threshold=psnr_threshold,
        validate=validate,
        chip=chip,
        gates=gates or Gates(),
    )
    if example_inputs is not None:
        of_checkpoints = {"tokenizer": tokenizer, "hub": hub, "adapter": adapter, "gguf_file": gguf_file}
        return _export_module(
            model,
            output,
            form_from_options(form, "export()"),
            checks,
            {name for name, value in of_checkpoints.items() if value is not None},
            example_inputs=example_inputs,
            outputs=outputs,
            compress=compress,
            overwrite=overwrite,
            quiet=quiet,
        )
    if outputs is not None:
        raise UnsupportedModelError("outputs are named for plain modules, which are given with example_inputs")
    return export_checkpoint(
        model,  # type: ignore[arg-type]
        output,
        form_from_options(form, "export()"),
        checks,
        tokenizer=tokenizer,
        processor=processor,
        compress=compress,
        overwrite=overwrite,
        hub=hub,
        adapter=adapter,
        gguf_file=gguf_file,
        quiet=quiet,
    )


def _export_module(
    model: Any,
    output: str | Path,
    form: ExportForm,
    checks: ExportChecks,
    of_checkpoints: set[str],
    *,
    example_inputs: Mapping[str, Any],
    outputs: Sequence[str] | None,
    compress: str | Path | Recipe | None,
    overwrite: bool,
    quiet: bool,
) -> ExportResult:
    from torch import nn

    from optimum_ane.workflows.export_module import export_module

    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"example_inputs belong to a module in memory, and the model is {model!r:.100}")
    if of_checkpoints:
        raise UnsupportedModelError(f"{', '.join(sorted(of_checkpoints))}: arguments of checkpoints, not of modules")
    draft = export_module(
        model,
        output,
        form,
        checks,
        example_inputs=example_inputs,
        outputs=outputs,
        compress=compress,
        overwrite=overwrite,
        quiet=quiet,
    )
    return ExportResult(Path(output).expanduser(), draft.report, None)


@tokens_hidden()
def export_checkpoint(
    model: str | Path | PreTrainedModel,
    output: str | Path,
    form: ExportForm,
    checks: ExportChecks | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
    processor: Processor | None = None,
    compress: str | Path | Recipe | None = None,
    overwrite: bool = False,
    hub: HubOptions | None = None,
    adapter: str | Path | None = None,
    gguf_file: str | None = None,
    quiet: bool = False,
    command: str | None = None,
) -> ExportResult:
    """Exports a checkpoint in a form; see `export`, whose arguments these are.

    Args:
        model: Hub id, directory, or a model in memory.
        output: Directory to make.
        form: The shape and form of the package; `task` may be `"auto"`.
        checks: What the package must pass.
        tokenizer: See `export`, as for the rest.
        processor: The image processor or feature extractor.
        compress: The recipe.
        overwrite: Whether to replace a package.
        hub: How to reach the Hub.
        adapter: A PEFT adapter.
        gguf_file: A GGUF file.
        quiet: Whether to show no progress.
        command: What the card says that made the package; None writes the Python call down.
    """
    output, hub, checks = Path(output).expanduser(), hub or HubOptions(), checks or ExportChecks()
    sources = [Path(each).expanduser() for each in (model, adapter) if isinstance(each, str | Path)]
    check_output(output, overwrite, sources)
    if isinstance(model, str | Path):
        checkpoint = open_checkpoint(
            str(model), task=form.task, hub=hub, adapter=None if adapter is None else str(adapter), gguf_file=gguf_file
        )
    else:
        checkpoint = checkpoint_of_model(model, form.task, _tokenizer_of(tokenizer, hub), processor)
    form = _complete(form, checkpoint)
    checks.limits.check_task(form.task)
    ane_config = _configure(checkpoint, form)
    is_text, has_text = ane_config.MODALITY == "text", "text" in ane_config.MODALITY
    needs_tokenizer = task_row(form.task, form.pools, ane_config.MODALITY).has_tokenizer
    tokenizer = ane_config.adapt_tokenizer(checkpoint.tokenizer) if needs_tokenizer else None
    processor = ane_config.adapt_processor(checkpoint.processor(ane_config.MODALITY))
    asked, form = form, ane_config.complete(form, processor).pinned()
    if form.image_size != asked.image_size:
        checkpoint.notes.append(f"image size: {' × '.join(map(str, form.image_size or ()))} pixels")
    if form.image_input != asked.image_input:
        checkpoint.notes.append(_image_input_note(ane_config))
    if form.audio_length != asked.audio_length and ane_config.MODALITY == "audio":
        checkpoint.notes.append(f"audio length: {form.audio_length}; --audio-length takes another")
    ane_config.check(form)
    if "image" in ane_config.MODALITY and processor is not None:
        processor, note = sized_processor(form, ane_config, processor)
        checkpoint.notes += [note] if note else []
    if is_text:
        check_memory(checkpoint.config, form)
    programs = ane_config.programs(form)
    recipe = compress if compress is None or isinstance(compress, Recipe) else get_recipe(compress)
    if recipe is not None:
        recipe.check_target(ios_target(form.target), "the export")
    evaluator, rows = _load_rows(checks.dataset, checkpoint, form, ane_config.MODALITY, processor)
    if tokenizer is not None and has_text:
        check_tokenizer(tokenizer, getattr(checkpoint.config.get_text_config(), "vocab_size", None))
    if tokenizer is None and needs_tokenizer:
        checkpoint.notes.append(_NO_TOKENIZER)
    if processor is None and not is_text:
        checkpoint.notes.append(_NO_PROCESSOR)
    draft = PackageDraft(
        directory=output,
        name=output.name,
        manifest=_manifest(checkpoint, form, ane_config, processor),
        config=checkpoint.config,
        ane_config=ane_config,
        open_checkpoint=lambda: checkpoint,
        report=ExportReport(machine=machine_kind(), versions=tool_versions()),
        tokenizer=tokenizer,
        processor=processor,
        programs=programs,
    )
    stages = list_stages(checks, recipe, evaluator, rows, by_graph=draft.is_by_graph, cached=_cached_export(draft))
    with Stages(len(stages), quiet) as progress, staged(output, overwrite, sources) as directory:
        draft.directory = directory
        for note in checkpoint.notes:
            progress.note(note)
        draft.report.command = command or python_call(
            repr(checkpoint.source.name) if isinstance(model, str | Path) else "model",
            form,
            checks.dataset,
            {
                **{
                    entry.name: (getattr(checks.limits, entry.name), entry.default) for entry in fields(AccuracyLimits)
                },
                "psnr_threshold": (checks.psnr_threshold, None),
                "validate": (checks.validate, True),
                "compress": (None if recipe is None else recipe.name, None),
                "chip": (checks.chip, None),
                "gates": (checks.gates, Gates()),
                "gguf_file": (gguf_file, None),
            },
        )
        run_stages(stages, draft, progress)
    return ExportResult(output, draft.report, draft.accuracy)


def list_stages(
    checks: ExportChecks,
    recipe: Recipe | None,
    evaluator: Evaluator | None,
    rows: Any,
    *,
    by_graph: bool = False,
    cached: CachedExport | None = None,
) -> list[Stage]:
    """The stages of an export, in order; those of packages with a cache are `cached`'s."""
    if cached is not None:
        stages = _cached_stages(checks, cached)
    else:
        stages = _graph_stages(checks) if by_graph else _handwritten_stages(checks)
    if recipe is not None:
        stages.append(Stage(f"compress ({recipe.name})", partial(_compress, recipe=recipe)))
    stages.append(Stage("predict residency", partial(stage.predict_residency, chip=checks.chip, gates=checks.gates)))
    # By graph the package was compared when it was made.
    if checks.validate and (recipe is not None or not by_graph):
        stages.append(
            Stage(
                "compare package with original",
                partial(stage.compare_package, threshold=checks.psnr_threshold, recipe=recipe),
            )
        )
    if evaluator is not None:
        stages.append(
            Stage(
                f"evaluate on {len(rows)} rows",
                partial(stage.evaluate, evaluator=evaluator, rows=rows, limits=checks.limits),
            )
        )
    return [*stages, Stage("write the package", _write)]


def _handwritten_stages(checks: ExportChecks) -> list[Stage]:
    stages = []
    if checks.validate:
        stages.append(Stage("run the original", stage.ask_original))
    stages.append(Stage("rewrite for the Neural Engine", stage.rewrite))
    if checks.validate:
        stages.append(Stage("compare module with original", stage.compare_modules))
    stages.append(Stage("trace and convert", _convert))
    return [*stages, Stage("load the package back", stage.load_back)]


def _graph_stages(checks: ExportChecks) -> list[Stage]:
    """The module is the original itself, so that there is nothing to compare before the package."""
    stages = [Stage("run the original", graph.ask_original)] if checks.validate else []
    stages.append(Stage("take the original's graph", graph.take_original))
    name = "convert, compare with original" if checks.validate else "convert"
    return [*stages, Stage(name, partial(_convert_by_graph, checks=checks))]


def _cached_export(draft: PackageDraft) -> CachedExport | None:
    """The stages that packages with a cache have of their own; None of others."""
    if not draft.form.has_cache:
        return None
    return EncoderDecoderExport() if isinstance(draft.ane_config, EncoderDecoderANEConfig) else DecoderExport()


def _cached_stages(checks: ExportChecks, cached: CachedExport) -> list[Stage]:
    """A model over a cache: its module is compared too, since the cache is ours."""
    stages = [Stage("run the original", cached.ask_original)] if checks.validate else []
    stages.append(Stage("put the original over a cache of ours", cached.take_original))
    if checks.validate:
        stages.append(Stage("compare it with the original's own cache", cached.compare_modules))
    name = "convert, compare with original" if checks.validate else "convert"
    return [*stages, Stage(name, partial(_convert_cached, cached=cached, checks=checks))]


def _configure(checkpoint: Checkpoint, form: ExportForm) -> ANEConfig:
    """Chooses how the package is made, and says so."""
    config = checkpoint.config
    config_class = get_ane_config_class(config.model_type, form.task, form.method)
    config_class = _OF_CLIENTS.get(form.layout, config_class)
    ane_config = config_class(config, form.task)
    modality = ane_config.MODALITY
    given: Any = checkpoint.tokenizer if "text" in modality else checkpoint.processor(modality)
    if given is not None:
        # A feature extractor names a mask that it may be told not to give.
        is_masked = getattr(given, "return_attention_mask", True)
        ane_config.limit_inputs([name for name in given.model_input_names if is_masked or name != "attention_mask"])
    if ane_config.METHOD == "handwritten":
        checkpoint.notes.append(f"method: handwritten, the module of {config.model_type}")
    elif form.method == "graph":
        checkpoint.notes.append("method: graph, as asked for")
    else:
        checkpoint.notes.append(f"method: graph, since there is no hand-written {config.model_type} for {form.task}")
    return ane_config


def _tokenizer_of(
    tokenizer: PreTrainedTokenizerBase | str | Path | None, hub: HubOptions
) -> PreTrainedTokenizerBase | None:
    """A tokenizer that may be given as its directory or Hub id."""
    if not isinstance(tokenizer, str | Path):
        return tokenizer
    loaded = load_tokenizer(expand_home(str(tokenizer)), hub)
    if loaded is None:
        raise CheckpointError(f"{tokenizer} holds no tokenizer; give a directory or a Hub id that does")
    return loaded


def _image_input_note(ane_config: ANEConfig) -> str:
    """What the programs take, where that was not asked for."""
    images = image_config_of(ane_config)
    if images.normalization is None:
        return f"image input: tensor, since {images.why_tensors}"
    return f"image input: image, {images.normalization.layout}, normalised in the program"


def _complete(form: ExportForm, checkpoint: Checkpoint) -> ExportForm:
    """Fills in what the checkpoint itself decides: the task, and how a sentence-transformers checkpoint pools."""
    form = replace(form, task=checkpoint.task)
    if form.pooling == NO_POOLING:
        return replace(form, pooling=None)
    embedding = checkpoint.sentence_transformers
    if embedding is None:
        return form
    embedding.check_sequence_length(form.longest)
    if form.pooling is None:
        checkpoint.notes.append(embedding.describe())
        return replace(form, pooling=embedding.pooling, normalize=embedding.normalize)
    if not embeds_as(form, embedding):
        checkpoint.notes.append(f"as asked for, and not {embedding.describe()}")
    return form


def _convert(draft: PackageDraft) -> None:
    stage.convert(draft, describe_program(draft))


def _convert_by_graph(draft: PackageDraft, checks: ExportChecks) -> None:
    compare = graph.compare_with_original if checks.validate else None
    graph.convert(draft, describe_program(draft), checks.psnr_threshold, compare)


def _convert_cached(draft: PackageDraft, cached: CachedExport, checks: ExportChecks) -> None:
    cached.convert(draft, describe_program(draft), checks.psnr_threshold, is_compared=checks.validate)


def _compress(draft: PackageDraft, recipe: Recipe) -> None:
    stage.compress(draft, recipe)
    stage.load_back(draft)


def _write(draft: PackageDraft) -> None:
    stage.write_configuration(draft)
    write_client_files(draft)
    stage.write_package(draft)


def _manifest(
    checkpoint: Checkpoint, form: ExportForm, ane_config: ANEConfig, processor: Processor | None
) -> Manifest:
    config, source = checkpoint.config, checkpoint.source
    labels: tuple[str, ...] = ()
    if TASKS[form.task].has_labels:
        names: Mapping[Any, str] = config.id2label or {}
        labels = tuple(str(names[index]) for index in range(config.num_labels or 0))
    return Manifest(
        form=form,
        model_type=config.model_type,
        source=SourceEntry(
            model=source.model,
            name=source.name,
            is_hub=source.is_hub,
            revision=source.revision,
            license=source.card.license,
            license_name=source.card.license_name,
            license_link=source.card.license_link,
            languages=source.card.languages,
            datasets=source.card.datasets,
        ),
        programs=(),
        labels=labels,
        text=_text(checkpoint, form) if "text" in ane_config.MODALITY else None,
        image=image_entry(form, ane_config, processor) if "image" in ane_config.MODALITY else None,
        audio=audio_entry(form, processor) if "audio" in ane_config.MODALITY else None,
        method=ane_config.METHOD,
        versions={"optimum-ane": __version__} | tool_versions(),
    )


def _text(checkpoint: Checkpoint, form: ExportForm) -> TextEntry:
    embedding = checkpoint.sentence_transformers if form.pools else None
    return TextEntry(
        padding_id=getattr(checkpoint.config.get_text_config(), "pad_token_id", None) or 0,
        prompts={} if embedding is None else embedding.prompts,
        default_prompt=None if embedding is None else embedding.default_prompt_name,
    )


def _load_rows(
    dataset: DatasetSpec | None,
    checkpoint: Checkpoint,
    form: ExportForm,
    modality: Modality,
    processor: Processor | None,
) -> tuple[Evaluator | None, Any]:
    """Reads the dataset before any work is done."""
    if dataset is None:
        return None, None
    evaluator = get_evaluator(form.task, checkpoint.config, modality)
    evaluator.check_pooling(form.pooling)
    rows = evaluator.load(dataset)
    row = task_row(form.task, form.pools, modality)
    missing = missing_of(row, checkpoint.tokenizer if row.has_tokenizer else None, processor)
    if missing is not None:
        raise CheckpointError(f"{checkpoint.source.model} has no {missing}, which the dataset needs")
    return evaluator, rows
