"""From a package that exists to a compressed one: compressed, compared, described anew."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optimum_ane.models  # noqa: F401 - registers the architectures
from optimum_ane.analysis.gates import Gates
from optimum_ane.checkpoints.checkpoint import Checkpoint, open_checkpoint
from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.compression.activations import quantize_activations
from optimum_ane.compression.calibration_data import Calibration
from optimum_ane.compression.compress import check_sources, compress_mlpackages
from optimum_ane.compression.recipes import Recipe
from optimum_ane.errors import CheckpointError, CompressionError, UnsupportedModelError
from optimum_ane.evaluation.accuracy import NEEDS_ORIGINAL, AccuracyLimits
from optimum_ane.evaluation.evaluator import get_evaluator
from optimum_ane.exporters.config import ane_config_of
from optimum_ane.modeling.generation_files import load_generation_config
from optimum_ane.modeling.package_configuration import (
    load_config,
    load_feature_extractor,
    load_image_processor,
    load_tokenizer,
)
from optimum_ane.package.environment import machine_kind, tool_versions
from optimum_ane.package.files import verify_files
from optimum_ane.package.form import CUSTOM
from optimum_ane.package.layout import CARD_AND_REPORT, EXPORT_REPORT, package_directory
from optimum_ane.package.manifest import Manifest
from optimum_ane.package.report import ExportReport
from optimum_ane.package.staging import check_output, staged
from optimum_ane.progress import Stages, row_progress
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.tasks import task_row
from optimum_ane.validation.comparison import answer_examples, check_ratios, compare_fields
from optimum_ane.workflows import stages as stage
from optimum_ane.workflows.draft import PackageDraft, Stage, run_stages

if TYPE_CHECKING:
    from optimum_ane.evaluation.datasets import DatasetSpec
    from optimum_ane.evaluation.report import AccuracyReport


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

    def open(self, manifest: Manifest) -> Checkpoint:
        """Opens its checkpoint.

        Raises:
            CheckpointError: It is not here, or damaged.
            UnsupportedModelError: It is another kind of checkpoint.
        """
        source, revision = (self.reference, None) if self.reference else manifest.original()
        hub = replace(self.hub, revision=self.hub.revision or revision)
        return open_checkpoint(source, task=manifest.form.task, hub=hub)


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
    limits: AccuracyLimits | None = None,
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
        limits: What it may lose on them against the original; None takes those by default, where the original is.
        psnr_threshold: dB that its answers must reach, against the original where it is there and against the old
            package where not; None takes the recipe's.
        calibration: Rows on which activations of 8 bits are calibrated; None leaves activations as they are.
        overwrite: Replace a package that is already there.
        quiet: Show no progress.
        command: What the card says that made the package.

    Raises:
        ANEError: What was wrong, where, and what to do; see `optimum_ane.errors` for the kinds.
    """
    source, output, original = package_directory(package), Path(output).expanduser(), original or Original()
    check_output(output, overwrite, [source])
    manifest = Manifest.read(source)
    verify_files(source, manifest)
    check_sources([source / program.path for program in manifest.programs], recipe)
    job = _Compression(source, recipe, original, psnr_threshold)
    draft = _draft(source, output, manifest, original)
    draft.report.command = command
    rows: Any = None
    evaluator = None
    if dataset is not None:
        evaluator = get_evaluator(manifest.form.task, draft.config, manifest.modality)
        evaluator.check_pooling(manifest.form.pooling)
        rows = evaluator.load(dataset)
        if "image" in manifest.modality:
            draft.processor = load_image_processor(source)
        elif "audio" in manifest.modality:
            draft.processor = load_feature_extractor(source)
    stages = job.stages(calibration)
    if evaluator is not None:
        if limits is not None:
            limits.check_task(manifest.form.task)
        run = partial(job.evaluate, evaluator=evaluator, rows=rows, limits=limits)
        stages.append(Stage(f"evaluate on {len(rows)} rows", run))
    stages.append(Stage("write the package", job.write))
    with Stages(len(stages), quiet) as progress, staged(output, overwrite, [source]) as directory:
        draft.directory = directory
        run_stages(stages, draft, progress)
    return CompressionResult(output, draft.report, draft.accuracy, job.missing_original)


def _draft(source: Path, output: Path, manifest: Manifest, original: Original) -> PackageDraft:
    if manifest.form.task == CUSTOM:
        raise CompressionError(
            f"{source} is a package of a plain module, which is not here to compare with: compress it when it is "
            "made, export(module, output, example_inputs=…, compress=…)"
        )
    config = load_config(source)
    ane_config = ane_config_of(manifest, config)
    writes_text = task_row(manifest.form.task, manifest.form.pools, manifest.modality).writes_text
    has_tokenizer = manifest.tokenizer is not None or (writes_text and "tokenizer_config.json" in manifest.files)
    return PackageDraft(
        directory=output,
        name=output.name,
        manifest=manifest,
        config=config,
        ane_config=ane_config,
        open_checkpoint=lambda: original.open(manifest),
        report=ExportReport(machine=machine_kind(), versions=tool_versions()),
        tokenizer=load_tokenizer(source) if has_tokenizer else None,
        generation_config=load_generation_config(source),
    )


@dataclass
class _Compression:
    """What the stages of a compression share besides the draft."""

    source: Path
    recipe: Recipe
    original: Original
    psnr_threshold: float | None
    missing_original: str | None = None

    def stages(self, calibration: Calibration | None) -> list[Stage]:
        """The stages up to the comparison."""
        stages = []
        if calibration is not None:
            stages.append(Stage("calibrate activations", partial(self.calibrate, calibration=calibration)))
        stages += [
            Stage(f"compress ({self.recipe.name})", self.compress),
            Stage("load the package back", stage.load_back),
            Stage("predict residency", partial(stage.predict_residency, chip=None, gates=Gates())),
            Stage("compare with the package before", self.compare_with_before),
        ]
        if self.original.wanted != "no":
            stages.append(Stage("compare with the original", self.compare_with_original))
        return stages

    def calibrate(self, draft: PackageDraft, calibration: Calibration) -> None:
        """Writes programs whose activations have 8 bits, beside the package: what is left of them goes with the stage.

        Raises:
            CompressionError: No operation can take it.
        """
        done: dict[str, Any] = {}
        for program in draft.manifest.programs:
            with row_progress("calibrating") as progress:
                target = self._calibrated(draft, program.path)
                done = asdict(quantize_activations(self.source / program.path, target, calibration, progress))
        draft.report.compression = {"activations": done}

    def compress(self, draft: PackageDraft) -> None:
        """Writes the compressed programs."""
        programs = {}
        for program in draft.manifest.programs:
            calibrated = self._calibrated(draft, program.path)
            source = calibrated if calibrated.exists() else self.source / program.path
            programs[program.name] = source, draft.directory / program.path
        with row_progress("compressing") as progress:
            coverage = compress_mlpackages(programs, self.recipe, progress).to_dict()
        draft.report.compression = {**coverage, **(draft.report.compression or {})}
        draft.manifest = replace(draft.manifest, compression=self.recipe.name)

    def compare_with_before(self, draft: PackageDraft) -> None:
        """Runs the package and the one before on the same inputs.

        Raises:
            ValidationError: It answers something else, where there is no original to compare it with.
        """
        before = {p.name: PortableSession(self.source / p.path) for p in draft.manifest.programs}
        expected = answer_examples(draft.driver(before), draft.examples, draft.fields)
        answers = answer_examples(draft.driver(draft.sessions), draft.examples, draft.fields)
        ratios = compare_fields(expected, answers, draft.examples, draft.fields)
        limit = self.recipe.psnr if self.psnr_threshold is None else self.psnr_threshold
        draft.report.compression = {**(draft.report.compression or {}), "psnr_to_uncompressed": ratios}
        draft.report.psnr_threshold, draft.report.runtime = limit, PortableSession.runtime
        if self.original.wanted == "no":
            check_ratios(ratios, limit, f"package compressed with {self.recipe.name}")

    def compare_with_original(self, draft: PackageDraft) -> None:
        """Runs the package and the original; where the original is not there, the package before decides.

        Raises:
            CheckpointError: The original must be there, and is not.
            ValidationError: The package answers something else.
        """
        try:
            draft.checkpoint.original()
        except (CheckpointError, UnsupportedModelError) as error:
            if self.original.wanted == "yes":
                raise
            self.missing_original = str(error)
            ratios = (draft.report.compression or {})["psnr_to_uncompressed"]
            limit = draft.report.psnr_threshold
            assert limit is not None
            check_ratios(ratios, limit, f"package compressed with {self.recipe.name}")
            return
        stage.ask_original(draft)
        stage.compare_package(draft, self.psnr_threshold, self.recipe)

    def evaluate(self, draft: PackageDraft, evaluator: Any, rows: Any, limits: AccuracyLimits | None) -> None:
        """Scores the package, and the original where it is there; the gate needs it.

        Raises:
            CheckpointError: A loss is limited, and there is no original to measure it against.
            ValidationError: The loss is larger.
        """
        has_original = self.original.wanted != "no" and self.missing_original is None
        if not has_original and limits is not None:
            raise CheckpointError(f"{NEEDS_ORIGINAL}, and it could not be loaded; name it with --reference")
        stage.evaluate(draft, evaluator, rows, limits or AccuracyLimits(), with_original=has_original)

    def write(self, draft: PackageDraft) -> None:
        """Copies what compression does not touch, and writes what says something of the new package."""
        made = {program.path for program in draft.manifest.programs}
        for name in draft.manifest.files:
            if name.split("/")[0] not in (*made, EXPORT_REPORT, *CARD_AND_REPORT):
                (draft.directory / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.source / name, draft.directory / name)
        versions = {**draft.manifest.versions, **tool_versions()}
        draft.manifest = replace(draft.manifest, versions=versions)
        stage.write_package(draft)

    def _calibrated(self, draft: PackageDraft, path: str) -> Path:
        return draft.directory.parent / f"activations-{path}"
