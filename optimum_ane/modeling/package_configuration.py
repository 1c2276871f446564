"""The configuration, the tokenizer and the processor inside a package, as transformers reads them.

A package may come from anybody, and never needs code of its own: `auto_map` in its files runs nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from optimum_ane.errors import PackageError

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, FeatureExtractionMixin, PretrainedConfig, PreTrainedTokenizerBase


def load_config(directory: Path) -> PretrainedConfig:
    """Reads a package's configuration.

    Raises:
        PackageError: It is missing or damaged, or of an architecture that transformers does not know.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:  # transformers raises what each entry sets off
        raise PackageError(
            f"{directory} holds no config.json that transformers reads ({_reason(error)}); export or download it again"
        ) from error


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """Reads a package's tokenizer.

    Raises:
        PackageError: It is missing or damaged.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises no class of its own
        raise PackageError(
            f"{directory} holds no tokenizer that transformers reads ({_reason(error)}); export or download it again"
        ) from error


def load_image_processor(directory: Path) -> BaseImageProcessor:
    """Reads a package's image processor, which makes images of the size that its programs take.

    Raises:
        PackageError: It is missing or damaged.
    """
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:  # processors raise whatever an entry sets off
        raise PackageError(
            f"{directory} holds no image processor that transformers reads ({_reason(error)}); export or download it "
            "again"
        ) from error


def load_feature_extractor(directory: Path) -> FeatureExtractionMixin:
    """Reads a package's feature extractor, which makes inputs of sounds.

    Raises:
        PackageError: It is missing or damaged.
    """
    from transformers import AutoFeatureExtractor

    from optimum_ane.checkpoints.hub_files import read_json_object
    from optimum_ane.checkpoints.processor import check_extents

    try:
        check_extents(str(directory), read_json_object(directory / "preprocessor_config.json"), PackageError)
        return AutoFeatureExtractor.from_pretrained(directory, trust_remote_code=False)
    except PackageError:
        raise
    except Exception as error:  # extractors raise whatever an entry sets off
        raise PackageError(
            f"{directory} holds no feature extractor that transformers reads ({_reason(error)}); export or download "
            "it again"
        ) from error


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]:.120}" if lines else type(error).__name__
