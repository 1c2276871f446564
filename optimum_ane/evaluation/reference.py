"""The original that a package is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optimum_ane.errors import CheckpointError, UnsupportedModelError
from optimum_ane.evaluation.dataset_errors import listed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from optimum_ane.package.manifest import Manifest


TASK = "text-classification"


def load_reference(
    reference: str | None, package: Manifest, config: Any, *, trust_remote_code: bool
) -> PreTrainedModel:
    """Loads the original in PyTorch: fp32 whatever its file holds, for it is the measure.

    Args:
        reference: Hub id or directory; None takes what the package was made from.
        package: The package's `ane_config.json`.
        config: The package's config, whose labels the original must have.
        trust_remote_code: Whether code from the checkpoint's repository may run.

    Raises:
        CheckpointError: It cannot be loaded, is not a whole classifier, or has other labels.
    """
    from optimum_ane.checkpoints.checkpoint import open_checkpoint
    from optimum_ane.checkpoints.hub_options import HubOptions

    try:
        source, revision = package.original() if reference is None else (reference, None)
        hub = HubOptions(revision=revision, trust_remote_code=trust_remote_code)
        model = open_checkpoint(source, task=TASK, hub=hub).original()
    except (CheckpointError, UnsupportedModelError) as error:
        raise CheckpointError(
            f"the original cannot be loaded: {error}; name it with --reference, or score the package alone with "
            "--no-reference"
        ) from error
    theirs, ours = dict(model.config.id2label or {}), dict(config.id2label)
    if theirs != ours:
        raise CheckpointError(
            f"{source} has the labels {listed([*map(str, theirs.values())])}, the package has "
            f"{listed([*map(str, ours.values())])}; name the checkpoint that it was made from with --reference"
        )
    return model
