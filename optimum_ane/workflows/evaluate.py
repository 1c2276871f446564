"""Evaluates a package on disk, from its directory to the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from optimum_ane.errors import PackageError, UnsupportedModelError
from optimum_ane.evaluation.accuracy import compare
from optimum_ane.evaluation.datasets import DatasetSpec, load_examples
from optimum_ane.evaluation.reference import TASK, load_reference
from optimum_ane.evaluation.report import AccuracyReport
from optimum_ane.package.problem_types import problem_type_of
from optimum_ane.progress import row_progress

if TYPE_CHECKING:
    pass


def evaluate_package(
    package: str | Path,
    spec: DatasetSpec,
    *,
    reference: str | None = None,
    with_reference: bool = True,
    runtime: str = "auto",
    trust_remote_code: bool = False,
) -> AccuracyReport:
    """Scores an exported text classifier on a dataset, beside the checkpoint that it was made from.

    Args:
        package: Directory that `optimum-cli export ane` wrote.
        spec: The dataset.
        reference: Hub id or directory of the original; by default what the package names as its source.
        with_reference: Whether to run the original at all.
        runtime: "coreml", "portable", or "auto": Core ML on macOS and portable elsewhere.
        trust_remote_code: Whether code from the checkpoint's repository may run.

    Raises:
        PackageError: The directory is no package.
        UnsupportedModelError: The package is no text classifier.
        DatasetError: The dataset is flawed.
        CheckpointError: The original cannot be loaded, or has other labels.
        ValidationError: Answers that cannot be scored.
    """
    from transformers import AutoTokenizer

    from optimum_ane.modeling import ANEModelForSequenceClassification

    directory = Path(package).expanduser()
    _check_task(directory)
    candidate = ANEModelForSequenceClassification.from_pretrained(directory, runtime=runtime)
    problem_type = problem_type_of(candidate.config)
    examples = load_examples(spec, id2label=candidate.config.id2label, problem_type=problem_type)
    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code)
    original = None
    if with_reference:
        original = load_reference(
            reference, candidate.ane_config, candidate.config, trust_remote_code=trust_remote_code
        )
    with row_progress(f"evaluating on {len(examples)} rows") as progress:
        return compare(
            original,
            candidate,
            tokenizer,
            examples,
            sequence_length=candidate.sequence_length,
            problem_type=problem_type,
            runtime=candidate.runtime,
            progress=progress,
        )


def _check_task(directory: Path) -> None:
    """Refuses, before anything is loaded, what is no package or no text classifier."""
    path = directory / "ane_config.json"
    if not path.is_file():
        raise PackageError(
            f"{directory} is no package: it has no ane_config.json; name a directory that the export wrote"
        )
    try:
        declared = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PackageError(f"{path} is not readable JSON ({error}); export the package again") from error
    task = declared.get("task") if isinstance(declared, dict) else None
    if task != TASK:
        raise UnsupportedModelError(f"{directory} does {task!r}; only {TASK} packages are evaluated on a dataset")
