"""What makes a model's inputs of the rows of a dataset: a tokenizer, an image processor, or both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimum_ane.modeling.package_configuration import load_image_processor, load_tokenizer


@dataclass(frozen=True)
class TextAndImagePreprocessor:
    """Both, for tasks whose rows are texts and images.

    Attributes:
        tokenizer: The checkpoint's tokenizer.
        processor: Its image processor.
    """

    tokenizer: Any
    processor: Any


def load_preprocessor(directory: Path, modality: str) -> Any:
    """Reads what a package has.

    Args:
        directory: The package's directory.
        modality: What its rows are, as the table of tasks calls it.

    Raises:
        PackageError: It is missing or damaged.
    """
    tokenizer = load_tokenizer(directory) if "text" in modality else None
    processor = load_image_processor(directory) if "image" in modality else None
    return choose_preprocessor(modality, tokenizer, processor)


def choose_preprocessor(modality: str, tokenizer: Any, processor: Any) -> Any:
    """What evaluators of a modality take, of a tokenizer and an image processor; None where one that is needed lacks.

    Args:
        modality: What the rows are, as the table of tasks calls it.
        tokenizer: None without one.
        processor: None without one.
    """
    if modality == "image-text":
        is_whole = tokenizer is not None and processor is not None
        return TextAndImagePreprocessor(tokenizer, processor) if is_whole else None
    return processor if modality == "image" else tokenizer
