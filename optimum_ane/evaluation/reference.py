"""The original that a package is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optimum_ane.checkpoints.checkpoint import open_checkpoint
from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.errors import CheckpointError, UnsupportedModelError
from optimum_ane.evaluation.dataset_errors import listed
from optimum_ane.exporters.config import ane_config_of
from optimum_ane.tasks import TASKS
from optimum_ane.validation.pooled_original import as_reference

if TYPE_CHECKING:
    from optimum_ane.package.manifest import Manifest
    from optimum_ane.validation.comparison import Model


def load_reference(reference: str | None, manifest: Manifest, config: Any, *, trust_remote_code: bool) -> Model:
    """Loads the original in PyTorch: float32 whatever its file holds, for it is the measure.

    Args:
        reference: Hub id or directory; None takes what the package was made from.
        manifest: The package's `ane_config.json`.
        config: The package's config, whose labels the original must have.
        trust_remote_code: Whether code from the checkpoint's repository may run.

    Raises:
        CheckpointError: It cannot be loaded, lacks weights that the task needs, or has other labels.
    """
    try:
        source, revision = manifest.original() if reference is None else (reference, None)
        hub = HubOptions(revision=revision, trust_remote_code=trust_remote_code)
        checkpoint = open_checkpoint(source, task=manifest.form.task, hub=hub)
        embedding = checkpoint.sentence_transformers if manifest.form.pools else None
        model = checkpoint.original()
    except (CheckpointError, UnsupportedModelError) as error:
        raise CheckpointError(
            f"the original cannot be loaded: {error}; name it with --reference, or score the package alone with "
            "--no-reference"
        ) from error
    theirs, ours = dict(model.config.id2label or {}), dict(config.id2label or {})
    if TASKS[manifest.form.task].has_labels and theirs != ours:
        raise CheckpointError(
            f"{source} has the labels {listed([*map(str, theirs.values())])}, the package has "
            f"{listed([*map(str, ours.values())])}; name the checkpoint that it was made from with --reference"
        )
    part = ane_config_of(manifest, config).part_of(model)
    return as_reference(part, manifest.form, embedding)
