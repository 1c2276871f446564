"""The original that a package is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from optimum_ane.errors import CheckpointError, UnsupportedModelError
from optimum_ane.evaluation.dataset_errors import listed
from optimum_ane.tasks import TASKS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from optimum_ane.evaluation.model_answers import Model
    from optimum_ane.package.manifest import PackageConfig


class PooledOriginal:
    """An encoder of transformers whose hidden states are pooled as sentence-transformers pools them.

    Attributes:
        forward: The encoder's own, whose signature says which inputs it takes.
    """

    def __init__(self, model: PreTrainedModel, pooling: str, normalize: bool) -> None:
        """Wraps an encoder.

        Args:
            model: The encoder.
            pooling: `"mean"` over the tokens that are not padding, or `"cls"`, the first token.
            normalize: Divide by the Euclidean norm.
        """
        self.forward = model.forward
        self._model, self._pooling, self._normalize = model, pooling, normalize

    def __call__(self, **inputs: Tensor) -> BaseModelOutputWithPooling:
        """Takes int64 (N, S); returns the embeddings as `pooler_output`, (N, C), whatever pooler the model has."""
        hidden = self._model(**inputs).last_hidden_state
        if self._pooling == "cls":
            pooled = hidden[:, 0]
        else:
            weight = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
        if self._normalize:
            pooled = torch.nn.functional.normalize(pooled, dim=1)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=pooled)


def as_reference(model: PreTrainedModel, pooling: str | None, normalize: bool) -> Model:
    """The original as an evaluator takes it.

    Args:
        model: The original.
        pooling: How the package pools hidden states; None where it does not.
        normalize: Whether it divides what it pools by its norm.
    """
    return model if pooling is None else PooledOriginal(model, pooling, normalize)


def load_reference(reference: str | None, package: PackageConfig, config: Any, *, trust_remote_code: bool) -> Model:
    """Loads the original in PyTorch: float32 whatever its file holds, for it is the measure.

    Args:
        reference: Hub id or directory; None takes what the package was made from.
        package: The package's `ane_config.json`.
        config: The package's config, whose labels the original must have.
        trust_remote_code: Whether code from the checkpoint's repository may run.

    Raises:
        CheckpointError: It cannot be loaded, lacks weights that the task needs, or has other labels.
    """
    from optimum_ane.checkpoints.source import HubOptions, load_checkpoint, load_config

    try:
        source, revision = package.original() if reference is None else (reference, None)
        hub = HubOptions(revision=revision, trust_remote_code=trust_remote_code)
        model = load_checkpoint(source, package.task, load_config(source, hub), hub).model
    except (CheckpointError, UnsupportedModelError) as error:
        raise CheckpointError(
            f"the original cannot be loaded: {error}; name it with --reference, or score the package alone with "
            "--no-reference"
        ) from error
    theirs, ours = dict(model.config.id2label or {}), dict(config.id2label or {})
    if TASKS[package.task].has_labels and theirs != ours:
        raise CheckpointError(
            f"{source} has the labels {listed([*map(str, theirs.values())])}, the package has "
            f"{listed([*map(str, ours.values())])}; name the checkpoint that it was made from with --reference"
        )
    return as_reference(model, package.pooling, package.normalize)
