"""What makes a model's inputs of a dataset's rows, and what reads its answers: a tokenizer, a processor, or both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_ane.modeling.package_configuration import load_feature_extractor, load_image_processor, load_tokenizer
from optimum_ane.tasks import Task, task_row

if TYPE_CHECKING:
    from optimum_ane.package.manifest import Manifest


@dataclass(frozen=True)
class TextAndImagePreprocessor:
    """Both, for tasks of texts and images.

    Attributes:
        tokenizer: The checkpoint's tokenizer.
        processor: Its image processor.
    """

    tokenizer: Any
    processor: Any


@dataclass(frozen=True)
class SpeechPreprocessor:
    """Both, for tasks that write the text of sounds.

    Attributes:
        tokenizer: The checkpoint's tokenizer.
        extractor: Its feature extractor.
        length: Samples, or frames, that the package takes.
        inputs: Names of what it takes.
    """

    tokenizer: Any
    extractor: Any
    length: int
    inputs: tuple[str, ...]


def load_preprocessor(directory: Path, manifest: Manifest) -> Any:
    """Reads what a package has.

    Args:
        directory: The package's directory.
        manifest: Its `ane_config.json`.

    Raises:
        PackageError: It is missing or damaged.
    """
    row = _row(manifest)
    tokenizer = load_tokenizer(directory) if row.has_tokenizer else None
    processor: Any = None
    if "image" in row.modality:
        processor = load_image_processor(directory)
    elif "audio" in row.modality:
        processor = load_feature_extractor(directory)
    return choose_preprocessor(manifest, tokenizer, processor)


def choose_preprocessor(manifest: Manifest, tokenizer: Any, processor: Any) -> Any:
    """What evaluators of a package take, of a tokenizer and an image processor or feature extractor.

    Args:
        manifest: The package's.
        tokenizer: None without one.
        processor: None without one.
    """
    row = _row(manifest)
    if manifest.audio is not None and row.has_tokenizer:
        names = tuple(entry.name for entry in manifest.functions[0].inputs)
        return SpeechPreprocessor(tokenizer, processor, manifest.audio.length, names)
    if "image" in row.modality:
        return TextAndImagePreprocessor(tokenizer, processor) if row.has_tokenizer else processor
    return tokenizer


def missing_of(row: Task, tokenizer: Any, processor: Any) -> str | None:
    """What evaluators of a task need and is not there, in words; None where all is."""
    if row.has_tokenizer and tokenizer is None:
        return "tokenizer"
    if row.modality != "text" and processor is None:
        return "image processor" if "image" in row.modality else "feature extractor"
    return None


def _row(manifest: Manifest) -> Task:
    return task_row(manifest.form.task, manifest.form.pools, manifest.modality)
