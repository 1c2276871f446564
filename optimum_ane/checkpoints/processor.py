"""A checkpoint's image processor or feature extractor: what makes inputs of images or of sounds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers

from optimum_ane.checkpoints.errors import checkpoint_errors, first_line
from optimum_ane.checkpoints.hub_files import find_file, read_json_object
from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.errors import ANEError, CheckpointError

if TYPE_CHECKING:
    from optimum_ane.exporters.config import Processor
    from optimum_ane.tasks import Modality

_FILES = ("preprocessor_config.json", "processor_config.json")
"""A processor has one of them."""
_MOST = {
    "n_fft": 8192,
    "fft_length": 8192,
    "win_length": 8192,
    "frame_length": 8192,
    "feature_size": 4096,
    "num_mel_bins": 4096,
    "sampling_rate": 768_000,
    "chunk_length": 3600,
}
"""Of entries that feature extractors make tables of: Fourier transforms and mel filters."""
_AUTO_CLASSES = {
    "image": "AutoImageProcessor",
    "image-text": "AutoImageProcessor",
    "audio": "AutoFeatureExtractor",
    "audio-text": "AutoFeatureExtractor",
}


def check_extents(name: str, entries: Mapping[str, Any], kind: type[ANEError]) -> None:
    """Refuses a feature extractor whose tables would fill the memory: they are made when it is loaded.

    Args:
        name: The checkpoint or package, for the message.
        entries: What its file holds.
        kind: The error to raise.

    Raises:
        ANEError: The message names the entry and its value.
    """
    left: list[Any] = [entries]
    while left:
        part = left.pop()
        left += [value for value in part.values() if isinstance(value, dict)]
        for entry, most in _MOST.items():
            value = part.get(entry)
            if isinstance(value, int | float) and not 0 <= value <= most:
                raise kind(
                    f"{name}: {entry} of its feature extractor is {value!r:.60}, and it is {most:,} at most; the file "
                    "is damaged, or hostile: download it again"
                )


def load_processor(model: str, modality: Modality, hub: HubOptions) -> Processor | None:
    """Loads the processor of a directory or a Hub id.

    Args:
        model: Hub id or directory.
        modality: What it makes inputs of, images or sounds.
        hub: How to reach the Hub.

    Returns:
        The processor; None of text, and where a checkpoint holds none.

    Raises:
        CheckpointError: It cannot be read.
    """
    if modality not in _AUTO_CLASSES:
        return None
    with checkpoint_errors(model):
        if all(find_file(model, name, hub) is None for name in _FILES):
            return None
        for name in _FILES:
            path = find_file(model, name, hub)
            if path is not None:
                check_extents(model, read_json_object(path), CheckpointError)
        try:
            return getattr(transformers, _AUTO_CLASSES[modality]).from_pretrained(model, **hub.as_arguments())
        except OSError:
            raise
        except Exception as error:  # processors raise whatever an entry sets off
            raise CheckpointError(
                f"{model}: the processor of {Path(model).name} cannot be read ({first_line(error)}); download the "
                "checkpoint again"
            ) from error
