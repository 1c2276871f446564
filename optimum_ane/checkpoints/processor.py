"""A checkpoint's image processor or feature extractor: what makes inputs of images or of sounds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import transformers

from optimum_ane.checkpoints.errors import checkpoint_errors, first_line
from optimum_ane.checkpoints.hub_files import find_file
from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.errors import CheckpointError

if TYPE_CHECKING:
    from optimum_ane.exporters.config import Processor
    from optimum_ane.tasks import Modality

_FILES = ("preprocessor_config.json", "processor_config.json")
"""A processor has one of them."""
_AUTO_CLASSES = {
    "image": "AutoImageProcessor",
    "image-text": "AutoImageProcessor",
    "audio": "AutoFeatureExtractor",
    "audio-text": "AutoFeatureExtractor",
}


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
        try:
            return getattr(transformers, _AUTO_CLASSES[modality]).from_pretrained(model, **hub.as_arguments())
        except OSError:
            raise
        except Exception as error:  # processors raise whatever an entry sets off
            raise CheckpointError(
                f"{model}: the processor of {Path(model).name} cannot be read ({first_line(error)}); download the "
                "checkpoint again"
            ) from error
