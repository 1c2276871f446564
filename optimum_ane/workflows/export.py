"""The one road: a checkpoint in, a validated package out."""

from __future__ import annotations

import copy
import gc
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import optimum_ane.models  # noqa: F401 - registers the architectures
from optimum_ane.analysis.chips import get_chip
from optimum_ane.analysis.gates import Gates
from optimum_ane.analysis.inspection import inspect
from optimum_ane.analysis.operations import count_operations
from optimum_ane.checkpoints.source import (
    Checkpoint,
    HubOptions,
    Source,
    infer_task,
    load_checkpoint,
    load_config,
    resolve_task,
)
from optimum_ane.checkpoints.tokenizer_description import describe_tokenizer
from optimum_ane.compression import Recipe, compress_mlpackage, get_recipe
from optimum_ane.compression.targets import target_of_name
from optimum_ane.errors import CheckpointError, DatasetError, UnsupportedModelError
from optimum_ane.evaluation.accuracy import DEFAULT_MAX_ACCURACY_DROP, check_accuracy_drop, compare
from optimum_ane.evaluation.datasets import DatasetSpec, Examples, load_examples
from optimum_ane.evaluation.report import AccuracyReport
from optimum_ane.exporters.config import ANEConfig, get_ane_config_class
from optimum_ane.exporters.load_module import load_module
from optimum_ane.modeling import MODEL_CLASSES
from optimum_ane.package.deployment_targets import canonical_target
from optimum_ane.package.environment import machine_kind, tool_versions
from optimum_ane.package.files import hash_files
from optimum_ane.package.form import ExportSpec, Precision
from optimum_ane.package.layout import EXPORT_REPORT, MLPACKAGE
from optimum_ane.package.manifest import PackageConfig, TensorEntry, TokenizerEntry
from optimum_ane.package.problem_types import problem_type_of
from optimum_ane.package.report import ExportReport, measure_sizes
from optimum_ane.package.staging import check_output, staged
from optimum_ane.progress import Stages, row_progress
from optimum_ane.runtimes import Session
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.targets.coreml import conversion
from optimum_ane.validation import parity
from optimum_ane.validation.layers import find_fault, measure_layers
from optimum_ane.version import __version__
from optimum_ane.workflows.card_and_report import write_documents
from optimum_ane.workflows.command_line import public_name, python_call

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig

_LABELLED = ("text-classification", "token-classification")


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


def export(
    model: str | Path | PreTrainedModel,
    output: str | Path,
    *,
    task: str = "auto",
    sequence_length: int = 128,
    batch_size: int = 1,
    precision: Precision = "float16",
    minimum_deployment_target: str = "iOS16",
    compute_units: str = "cpu_and_ne",
    class_labels: bool = False,
    pooling: Literal["mean", "cls"] | None = None,
    normalize: bool = False,
    tokenizer: PreTrainedTokenizerBase | None = None,
    eval_dataset: str | DatasetSpec | None = None,
    max_accuracy_drop: float = DEFAULT_MAX_ACCURACY_DROP,
    psnr_threshold: float | None = None,
    validate: bool = True,
    compress: str | Path | Recipe | None = None,
    chip: str | None = None,
    gates: Gates | None = None,
    overwrite: bool = False,
    hub: HubOptions | None = None,
    quiet: bool = False,
    command: str | None = None,
) -> ExportResult:
    """Exports a transformers checkpoint to a Core ML package written for the Neural Engine.

    The package appears under `output` when it is whole and has passed every check; before that, or if anything
    fails, nothing is there.

    Args:
        model: Hub id, directory, or a model in memory.
        output: Directory to make; must be empty or absent unless `overwrite`.
        task: Optimum's name of the task; `"auto"` takes that of the checkpoint's class.
        sequence_length: Tokens per row. Shorter inputs are padded to it.
        batch_size: Rows per prediction.
        precision: `"float16"`, the Neural Engine's, or `"float32"`.
        minimum_deployment_target: Oldest system that runs the package, by coremltools' name.
        compute_units: Default when the package is loaded: `"cpu_and_ne"`, `"all"`, `"cpu_and_gpu"`, `"cpu_only"`.
        class_labels: Make it a Core ML classifier with the checkpoint's own labels.
        pooling: For feature extraction: one vector per row, `"mean"` or `"cls"`, in place of hidden states.
        normalize: Divide that vector by its Euclidean norm.
        tokenizer: Goes into the package, for a model in memory; otherwise the checkpoint's own does.
        eval_dataset: A dataset to score the original and the package on; a string is a file or a Hub id.
        max_accuracy_drop: Percentage points that the package may lose on it.
        psnr_threshold: dB that the package's answers must reach; None takes the default of the precision, or the
            recipe's own where the weights are compressed.
        validate: Compare with the original at all.
        compress: A compression recipe: its name, the path of a YAML file, or the recipe itself.
        chip: The chip that residency and latency are predicted for; None predicts for any, and no latency.
        gates: Limits that the prediction must keep.
        overwrite: Replace a package that is already there.
        hub: How to reach the Hub.
        quiet: Show no progress.
        command: What the card says that made the package; None writes this call down.

    Returns:
        The path and what was measured.

    Raises:
        ANEError: What was wrong, where, and what to do; see `optimum_ane.errors` for the kinds.
    """
    output, hub = Path(output), hub or HubOptions()
    check_output(output, overwrite)
    if eval_dataset is not None and not validate:
        raise DatasetError("a dataset to evaluate on was given, and validation switched off; drop one of the two")
    dataset = DatasetSpec(eval_dataset) if isinstance(eval_dataset, str) else eval_dataset
    if isinstance(model, PreTrainedModel):
        config = model.config
        task = infer_task(type(model)) if task == "auto" else task
    else:
        config = load_config(str(model), hub)
    spec = ExportSpec(
        task=resolve_task(task, config),
        sequence_length=sequence_length,
        batch_size=batch_size,
        precision=precision,
        minimum_deployment_target=canonical_target(minimum_deployment_target),
        compute_units=compute_units,
        class_labels=class_labels,
        pooling=pooling,
        normalize=normalize,
    )
    ane_config = get_ane_config_class(config.model_type, spec.task)(config, spec.task)
    ane_config.check(spec.sequence_length)
    recipe = compress if compress is None or isinstance(compress, Recipe) else get_recipe(compress)
    if recipe is not None:
        recipe.check_target(target_of_name(spec.minimum_deployment_target), "the export")
    gates = gates or Gates()
    gates.check_chip(chip)
    if chip is not None:
        get_chip(chip)
    labels = _labels(config, spec)
    examples = None if dataset is None else _load_examples(dataset, config, spec)

    count = 6 + 2 * validate + (examples is not None) + (recipe is not None)
    with Stages(count, quiet) as stages, staged(output, overwrite) as directory:
        with stages.stage("load the checkpoint"):
            if isinstance(model, PreTrainedModel):
                checkpoint = _from_memory(model, spec.task, tokenizer)
            else:
                checkpoint = load_checkpoint(str(model), spec.task, config, hub)
            if examples is not None and checkpoint.tokenizer is None:
                raise CheckpointError(f"{checkpoint.source.model} has no tokenizer, which the dataset needs")
        road = _Road(checkpoint, spec, ane_config, labels, stages, recipe)
        report = road.walk(directory, psnr_threshold, examples, max_accuracy_drop, validate, chip, gates)
        report.command = command or python_call(
            "model" if isinstance(model, PreTrainedModel) else repr(checkpoint.source.name),
            spec,
            dataset,
            {
                "max_accuracy_drop": (max_accuracy_drop, DEFAULT_MAX_ACCURACY_DROP),
                "psnr_threshold": (psnr_threshold, None),
                "validate": (validate, True),
                "compress": (None if recipe is None else recipe.name, None),
                "chip": (chip, None),
                "gates": (gates, Gates()),
            },
        )
        with stages.stage("write the package"):
            road.write(directory, report, output.name)
    return ExportResult(output, report, road.accuracy)


class _Road:
    """One export under way: what each stage leaves for the next."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        spec: ExportSpec,
        ane_config: ANEConfig,
        labels: list[str],
        stages: Stages,
        recipe: Recipe | None,
    ) -> None:
        self.checkpoint, self.spec, self.ane_config, self.labels = checkpoint, spec, ane_config, labels
        self.stages, self.recipe = stages, recipe
        self.names = conversion.output_names(ane_config, spec)
        self.accuracy: AccuracyReport | None = None
        self.outputs: tuple[TensorEntry, ...] = ()
        self.inputs: tuple[TensorEntry, ...] = ()
        self.tokenizer: TokenizerEntry | None = None

    def walk(
        self,
        directory: Path,
        psnr_threshold: float | None,
        examples: Examples | None,
        max_accuracy_drop: float,
        validate: bool,
        chip: str | None,
        gates: Gates,
    ) -> ExportReport:
        """Goes from the loaded checkpoint to the saved and checked program."""
        spec, stages = self.spec, self.stages
        report = ExportReport(machine=machine_kind(), versions=tool_versions())
        inputs = self.ane_config.make_inputs(parity.number_of_rows(spec), spec.sequence_length)
        with stages.stage("rewrite for the Neural Engine"):
            module = load_module(self.ane_config, self.checkpoint.model)
            conversion.prepare(module, spec)
        reference: dict[str, Tensor] = {}
        if validate:
            with stages.stage("compare module with original"):
                reference = parity.answer_of_original(self.checkpoint.model, inputs, spec)
                report.module_psnr = self._compare_module(module, inputs, reference)
        mlpackage = directory / MLPACKAGE
        with stages.stage("trace and convert"):
            self._convert(module, inputs, mlpackage, report)
        del module
        gc.collect()
        if self.recipe is not None:
            with stages.stage(f"compress ({self.recipe.name})"):
                self._compress(mlpackage, self.recipe, report)
        with stages.stage("load the package back"):
            session = PortableSession(mlpackage)
            self.inputs = tuple(TensorEntry(s.name, s.shape, s.dtype) for s in session.inputs.values())
            self.outputs = tuple(TensorEntry(s.name, s.shape, s.dtype) for s in session.outputs.values())
        with stages.stage("predict residency"):
            self.inspection = inspect(mlpackage, chip)
            report.residency = self.inspection.summary()
            gates.check(self.inspection)
        if validate:
            with stages.stage("compare package with original"):
                usual = parity.PACKAGE_PSNR[spec.precision] if self.recipe is None else self.recipe.psnr
                threshold = usual if psnr_threshold is None else psnr_threshold
                answer = parity.answer_of_package(session, inputs, self.names, spec.batch_size)
                report.package_psnr = parity.measure(reference, answer, inputs["attention_mask"])
                report.psnr_threshold, report.runtime = threshold, session.runtime
                report.layers = measure_layers(session, self.checkpoint.model, inputs, spec) or None
                fault = find_fault(report.layers or {}, usual)
                parity.check(report.package_psnr, threshold, "package", fault)
        if examples is not None:
            with stages.stage(f"evaluate on {len(examples)} rows"):
                self.accuracy = self._evaluate(session, examples)
                report.accuracy = self.accuracy.to_dict() | {"dataset": public_name(self.accuracy.dataset)}
                check_accuracy_drop(self.accuracy, max_accuracy_drop)
        return report

    def _compare_module(
        self, module: nn.Module, inputs: Mapping[str, Tensor], reference: Mapping[str, Tensor]
    ) -> dict[str, float]:
        answer = parity.answer_of_module(module, inputs, self.names)
        ratios = parity.measure(reference, answer, inputs["attention_mask"])
        parity.check(ratios, parity.MODULE_PSNR, "Neural Engine module")
        return ratios

    def _convert(self, module: nn.Module, inputs: Mapping[str, Tensor], mlpackage: Path, report: ExportReport) -> None:
        example = {name: value[: self.spec.batch_size] for name, value in inputs.items()}
        traced = conversion.trace(module, example, self.spec)
        package = conversion.convert(traced, example, self.names, self.spec, self.labels)
        conversion.describe(package, self.checkpoint, self.spec, self.labels)
        package.save(str(mlpackage))
        report.operations = count_operations(mlpackage)
        report.sizes = measure_sizes(mlpackage)

    def _compress(self, mlpackage: Path, recipe: Recipe, report: ExportReport) -> None:
        with tempfile.TemporaryDirectory(dir=mlpackage.parent) as scratch, row_progress("compressing") as progress:
            uncompressed = mlpackage.rename(Path(scratch) / MLPACKAGE)
            coverage = compress_mlpackage(uncompressed, mlpackage, recipe, progress)
        report.compression = coverage.to_dict()
        report.sizes = measure_sizes(mlpackage)

    def _evaluate(self, session: Session, examples: Examples) -> AccuracyReport:
        candidate = MODEL_CLASSES[self.spec.task](session, self.checkpoint.config, self.package_config())
        with row_progress(f"evaluating on {len(examples)} rows") as progress:
            return compare(
                self.checkpoint.model,
                candidate,
                self.checkpoint.tokenizer,
                examples,
                sequence_length=self.spec.sequence_length,
                problem_type=problem_type_of(self.checkpoint.config),
                runtime=session.runtime,
                progress=progress,
            )

    def package_config(self, files: Mapping[str, str] | None = None) -> PackageConfig:
        """What `ane_config.json` will say."""
        spec, source = self.spec, self.checkpoint.source
        return PackageConfig(
            task=spec.task,
            model_type=self.checkpoint.config.model_type,
            sequence_length=spec.sequence_length,
            batch_size=spec.batch_size,
            precision=spec.precision,
            minimum_deployment_target=spec.minimum_deployment_target,
            compute_units=spec.compute_units,
            inputs=self.inputs,
            outputs=self.outputs,
            source_model=source.model,
            source_name=source.name,
            source_is_hub=source.is_hub,
            source_revision=source.revision,
            source_license=source.card.license,
            source_license_name=source.card.license_name,
            source_license_link=source.card.license_link,
            source_languages=source.card.languages,
            source_datasets=source.card.datasets,
            pooling=spec.pooling,
            normalize=spec.normalize,
            class_labels=spec.class_labels,
            compression=None if self.recipe is None else self.recipe.name,
            labels=tuple(self.labels),
            padding_id=self.checkpoint.config.pad_token_id or 0,
            tokenizer=self.tokenizer,
            versions={"optimum-ane": __version__} | tool_versions(),
            files=files or {},
        )

    def write(self, directory: Path, report: ExportReport, name: str) -> None:
        """Writes what stands beside the program; `name` is what the card loads the package by."""
        self.checkpoint.config.save_pretrained(directory)
        if self.checkpoint.tokenizer is not None:
            tokenizer = copy.copy(self.checkpoint.tokenizer)
            # `truncation=True` in a pipeline cuts to this, so it must be the package's length.
            tokenizer.model_max_length = self.spec.sequence_length
            tokenizer.save_pretrained(directory)
            self.tokenizer = describe_tokenizer(tokenizer, directory)
        report.seconds = dict(self.stages.seconds)
        report.write(directory / EXPORT_REPORT)
        config = self.package_config(hash_files(directory))
        config.write(directory)
        write_documents(directory, name, config, report, self.checkpoint.config.to_dict(), self.inspection)


def _from_memory(model: PreTrainedModel, task: str, tokenizer: PreTrainedTokenizerBase | None) -> Checkpoint:
    if model.training or model.dtype != torch.float32:
        model = copy.deepcopy(model).float().eval()
    name = model.name_or_path or type(model).__name__
    source = Source(model=name, revision=getattr(model.config, "_commit_hash", None), author=None)
    return Checkpoint(source, task, model.config, model, tokenizer)


def _labels(config: PretrainedConfig, spec: ExportSpec) -> list[str]:
    if spec.task not in _LABELLED:
        return []
    labels = [str(config.id2label[index]) for index in range(config.num_labels)]
    if spec.class_labels and (problem_type_of(config) != "single_label_classification" or len(labels) < 2):
        raise UnsupportedModelError(
            "class labels need one label of two or more per row; this checkpoint does regression or multi-label"
        )
    if spec.class_labels and len(set(labels)) < len(labels):
        raise UnsupportedModelError(f"two labels of config.json are equal: {', '.join(labels)}")
    return labels


def _load_examples(dataset: DatasetSpec, config: PretrainedConfig, spec: ExportSpec) -> Examples:
    if spec.task != "text-classification":
        raise DatasetError(f"only text-classification is evaluated on a dataset, this is {spec.task}")
    return load_examples(dataset, id2label=config.id2label, problem_type=problem_type_of(config))
