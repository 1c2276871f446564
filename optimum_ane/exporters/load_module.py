"""From an export configuration and weights to the Neural Engine module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optimum_ane.errors import CheckpointError, UnsupportedModelError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from optimum_ane.exporters.config import ANEConfig


def load_module(ane_config: ANEConfig, model: PreTrainedModel) -> nn.Module:
    """Builds the module of an export configuration and gives it the weights of `model`; see `convert_to_ane`."""
    ane_config.check(sequence_length=1)
    try:
        module = ane_config.make_module()
    except ValueError as error:
        raise UnsupportedModelError(str(error)) from error
    try:
        # transformers loads weights as they are stored, which is float16 for many checkpoints.
        weights = {name: value.float() for name, value in model.state_dict().items()}
        module.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"the weights do not fit the configuration: {error}") from error
    return module.requires_grad_(False)
