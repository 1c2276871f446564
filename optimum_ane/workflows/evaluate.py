"""Evaluates a package on disk, from its directory to the report."""

from __future__ import annotations

from pathlib import Path

from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.evaluator import get_evaluator_class
from optimum_ane.evaluation.preprocessors import load_preprocessor
from optimum_ane.evaluation.reference import load_reference
from optimum_ane.evaluation.report import AccuracyReport
from optimum_ane.modeling import model_class_of
from optimum_ane.package.layout import package_directory
from optimum_ane.package.manifest import Manifest
from optimum_ane.progress import row_progress


def evaluate_package(
    package: str | Path,
    spec: DatasetSpec,
    *,
    reference: str | None = None,
    with_reference: bool = True,
    runtime: str = "auto",
    trust_remote_code: bool = False,
) -> AccuracyReport:
    """Scores a package on a dataset of its task, beside the checkpoint that it was made from.

    Args:
        package: Directory that `optimum-cli export ane` wrote.
        spec: The dataset.
        reference: Hub id or directory of the original; by default what the package names as its source.
        with_reference: Whether to run the original at all.
        runtime: "coreml", "portable", or "auto": Core ML on macOS and portable elsewhere.
        trust_remote_code: Whether code from the checkpoint's repository may run.

    Raises:
        PackageError: The directory is no package.
        UnsupportedModelError: The package gives nothing that a dataset can score, such as hidden states.
        DatasetError: The dataset is flawed, or is of another task.
        CheckpointError: The original cannot be loaded, or has other labels.
        ValidationError: Answers that cannot be scored.
    """
    directory = package_directory(package)
    manifest = Manifest.read(directory)
    evaluator_class = get_evaluator_class(manifest.form.task, manifest.modality)
    evaluator_class.check_pooling(manifest.form.pooling)
    candidate = model_class_of(manifest.form.task, manifest.modality).from_pretrained(directory, runtime=runtime)
    evaluator = evaluator_class(candidate.config)
    examples = evaluator.load(spec)
    preprocessor = load_preprocessor(directory, manifest)
    original = None
    if with_reference:
        original = load_reference(reference, manifest, candidate.config, trust_remote_code=trust_remote_code)
    with row_progress(f"evaluating on {len(examples)} rows") as progress:
        return evaluator.compare(
            original,
            candidate,
            preprocessor,
            examples,
            sequence_length=manifest.form.longest,
            runtime=candidate.runtime,
            progress=progress,
        )
