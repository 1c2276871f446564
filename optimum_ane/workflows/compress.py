"""A whole new package from one that exists: compressed, compared, described anew."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from optimum_ane.analysis.inspection import inspect
from optimum_ane.analysis.operations import count_operations
from optimum_ane.checkpoints.source import HubOptions, load_checkpoint, load_config
from optimum_ane.compression.activations import quantize_activations
from optimum_ane.compression.calibration_data import Calibration
from optimum_ane.compression.compress import check_source, compress_mlpackage
from optimum_ane.compression.recipes import Recipe
from optimum_ane.errors import CheckpointError, CompressionError, UnsupportedModelError
from optimum_ane.evaluation.accuracy import DEFAULT_MAX_ACCURACY_DROP, check_accuracy_drop
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.evaluator import Examples, get_evaluator
from optimum_ane.evaluation.reference import as_reference
from optimum_ane.evaluation.report import AccuracyReport
from optimum_ane.exporters.config import get_ane_config_class
from optimum_ane.modeling import MODEL_CLASSES
from optimum_ane.package.environment import machine_kind, tool_versions
from optimum_ane.package.files import hash_files, verify_files
from optimum_ane.package.form import ExportSpec
from optimum_ane.package.layout import DOCUMENTS, EXPORT_REPORT, MLPACKAGE
from optimum_ane.package.manifest import PackageConfig
from optimum_ane.package.report import ExportReport, measure_sizes
from optimum_ane.package.staging import check_output, staged
from optimum_ane.progress import Stages, row_progress
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.validation import parity
from optimum_ane.validation.layers import measure_layers
from optimum_ane.workflows.card_and_report import write_documents
from optimum_ane.workflows.command_line import public_name

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Original:
    """What a compressed package is compared with, beside the package that it was made from.

    Attributes:
        reference: Hub id or directory; None takes the source that the package names.
        wanted: `"yes"`: it must be there; `"if there"`: without it, only the package is compared; `"no"`.
        hub: How to reach the Hub.
    """

    reference: str | None = None
    wanted: str = "if there"
    hub: HubOptions = field(default_factory=HubOptions)


@dataclass(frozen=True)
class CompressionResult:
    """What a compression leaves.

    Attributes:
        path: The new package's directory.
        report: What was measured.
        accuracy: The accuracy report; None without a dataset.
        missing_original: Why it was not compared with the original; None if it was, or was not to be.
    """

    path: Path
    report: ExportReport
    accuracy: AccuracyReport | None
    missing_original: str | None


def compress_package(
    package: str | Path,
    recipe: Recipe,
    output: str | Path,
    *,
    original: Original | None = None,
    dataset: DatasetSpec | None = None,
    max_accuracy_drop: float | None = None,
    psnr_threshold: float | None = None,
    calibration: Calibration | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    command: str | None = None,
) -> CompressionResult:
    """Makes a compressed package from a package.

    The new package appears when it is whole and has passed every check; before that, or if anything fails, nothing is
    there. Nothing that was measured on the old one is carried over but the comparison of the module with the original,
    which compression does not touch.

    Args:
        package: Directory that `optimum-cli export ane` wrote.
        recipe: What to do.
        output: Directory to make; must be empty or absent unless `overwrite`.
        original: What to compare with besides.
        dataset: Rows to score the new package on, and the original where it is there.
        max_accuracy_drop: Percentage points that it may lose on them against the original; None takes 1.
        psnr_threshold: dB that its answers must reach, against the original where it is there and against the old
            package where not; None takes the recipe's.
        calibration: Rows on which activations of 8 bits are calibrated; None leaves activations as they are.
        overwrite: Replace a package that is already there.
        quiet: Show no progress.
        command: What the card says that made the package.

    Raises:
        ANEError: What was wrong, where, and what to do; see `optimum_ane.errors` for the kinds.
    """
    source, output, original = Path(package).expanduser(), Path(output), original or Original()
    check_output(output, overwrite)
    if source.resolve() == output.resolve():
        raise CompressionError(f"{output} is the package itself; choose another output")
    config = PackageConfig.read(source)
    verify_files(source, config)
    check_source(source / MLPACKAGE, recipe)
    job = _Job(source, config, recipe)
    examples = None if dataset is None else job.load_examples(dataset)
    count = 4 + (calibration is not None) + (original.wanted != "no") + (examples is not None)
    with Stages(count, quiet) as stages, staged(output, overwrite) as directory:
        report = job.compress(directory, stages, calibration)
        missing = job.compare(original, psnr_threshold, report, stages)
        accuracy = None
        if examples is not None:
            with stages.stage(f"evaluate on {len(examples)} rows"):
                accuracy = job.evaluate(examples, max_accuracy_drop)
            report.accuracy = accuracy.to_dict() | {"dataset": public_name(accuracy.dataset)}
        report.command = command
        with stages.stage("write the package"):
            job.write(directory, output.name, report, stages)
    return CompressionResult(output, report, accuracy, missing)


class _Job:
    """One compression under way: what each stage leaves for the next."""

    def __init__(self, source: Path, config: PackageConfig, recipe: Recipe) -> None:
        from transformers import AutoConfig

        self.source, self.config, self.recipe = source, config, recipe
        self.model_config: PretrainedConfig = AutoConfig.from_pretrained(source)
        self.original: PreTrainedModel | None = None
        self.spec = ExportSpec(
            task=config.task,
            sequence_length=config.sequence_length,
            batch_size=config.batch_size,
            precision=config.precision,  # type: ignore[arg-type]
            minimum_deployment_target=config.minimum_deployment_target,
            compute_units=config.compute_units,
            class_labels=config.class_labels,
            pooling=config.pooling,  # type: ignore[arg-type]
            normalize=config.normalize,
        )

    def load_examples(self, dataset: DatasetSpec) -> Examples:
        """Reads the dataset before any work is done."""
        evaluator = get_evaluator(self.config.task, self.model_config)
        evaluator.check_pooling(self.config.pooling)
        return evaluator.load(dataset)

    def compress(self, directory: Path, stages: Stages, calibration: Calibration | None) -> ExportReport:
        """Writes the compressed program and loads it back."""
        mlpackage, source = directory / MLPACKAGE, self.source / MLPACKAGE
        activations = {}
        if calibration is not None:
            # Beside the package and not in it: what is left of it goes with the stage.
            source = directory.parent / "activations.mlpackage"
            with stages.stage("calibrate activations"), row_progress("calibrating") as progress:
                done = quantize_activations(self.source / MLPACKAGE, source, calibration, progress)
            activations = {"activations": asdict(done)}
        with stages.stage(f"compress ({self.recipe.name})"), row_progress("compressing") as progress:
            coverage = compress_mlpackage(source, mlpackage, self.recipe, progress)
        with stages.stage("load the package back"):
            self.session = PortableSession(mlpackage)
        self.inspection = inspect(mlpackage)
        return ExportReport(
            machine=machine_kind(),
            versions=tool_versions(),
            runtime=self.session.runtime,
            operations=count_operations(mlpackage),
            sizes=measure_sizes(mlpackage),
            residency=self.inspection.summary(),
            compression=coverage.to_dict() | activations,
        )

    def compare(self, original: Original, threshold: float | None, report: ExportReport, stages: Stages) -> str | None:
        """Runs the package, the one before and the original on the same inputs; returns why the last was not there."""
        ane_config = get_ane_config_class(self.config.model_type, self.spec.task)(self.model_config, self.spec.task)
        inputs = ane_config.make_inputs(parity.number_of_rows(self.spec), self.spec.sequence_length)
        names = [output.name for output in self.config.outputs if output.shape]
        limit = self.recipe.psnr if threshold is None else threshold
        missing = None
        with stages.stage("compare with the package before"):
            answer = parity.answer_of_package(self.session, inputs, names, self.spec.batch_size)
            before = PortableSession(self.source / MLPACKAGE)
            expected = parity.answer_of_package(before, inputs, names, self.spec.batch_size)
            ratios = parity.measure(expected, answer, inputs["attention_mask"])
            report.compression = {**(report.compression or {}), "psnr_to_uncompressed": ratios}
        if original.wanted != "no":
            with stages.stage("compare with the original"):
                missing = self._load_original(original)
                if self.original is not None:
                    reference = parity.answer_of_original(self.original, inputs, self.spec)
                    ratios = parity.measure(reference, answer, inputs["attention_mask"])
                    report.package_psnr = ratios
                    report.layers = measure_layers(self.session, self.original, inputs, self.spec) or None
        report.psnr_threshold = limit
        parity.check(ratios, limit, f"package compressed with {self.recipe.name}")
        return missing

    def _load_original(self, original: Original) -> str | None:
        try:
            source, revision = (original.reference, None) if original.reference else self.config.original()
            hub = replace(original.hub, revision=original.hub.revision or revision)
            self.original = load_checkpoint(source, self.spec.task, load_config(source, hub), hub).model
        except (CheckpointError, UnsupportedModelError) as error:
            if original.wanted == "yes":
                raise
            return str(error)
        return None

    def evaluate(self, examples: Examples, max_accuracy_drop: float | None) -> AccuracyReport:
        """Scores the package, and the original where it is there; the gate needs it."""
        from transformers import AutoTokenizer

        if self.original is None and max_accuracy_drop is not None:
            raise CheckpointError(
                "--max-accuracy-drop needs the original's score, and it could not be loaded; name it with --reference"
            )
        with row_progress(f"evaluating on {len(examples)} rows") as progress:
            original = self.original
            report = get_evaluator(self.spec.task, self.model_config).compare(
                None if original is None else as_reference(original, self.spec.pooling, self.spec.normalize),
                MODEL_CLASSES[self.spec.task](self.session, self.model_config, self.config),
                AutoTokenizer.from_pretrained(self.source),
                examples,
                sequence_length=self.spec.sequence_length,
                runtime=self.session.runtime,
                progress=progress,
            )
        if self.original is not None:
            check_accuracy_drop(report, DEFAULT_MAX_ACCURACY_DROP if max_accuracy_drop is None else max_accuracy_drop)
        return report

    def write(self, directory: Path, name: str, report: ExportReport, stages: Stages) -> None:
        """Copies what compression does not touch, and writes what says something of the new package."""
        for path in sorted(self.source.rglob("*")):
            entry = path.relative_to(self.source)
            if entry.as_posix() in self.config.files and entry.parts[0] not in (MLPACKAGE, EXPORT_REPORT, *DOCUMENTS):
                (directory / entry).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, directory / entry)
        report.seconds = dict(stages.seconds)
        report.write(directory / EXPORT_REPORT)
        config = replace(
            self.config, compression=self.recipe.name, versions={**self.config.versions, **tool_versions()}
        )
        config = replace(config, files=hash_files(directory))
        config.write(directory)
        write_documents(directory, name, config, report, self.model_config.to_dict(), self.inspection)
