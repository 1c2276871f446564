"""From an export configuration and weights to the Neural Engine module."""

from __future__ import annotations

from optimum_ane.errors import CheckpointError, UnsupportedModelError


def load_module(ane_config, program, weights):
    try:
        module = ane_config.make_module(program)
    except ValueError as error:
        raise UnsupportedModelError(str(error)) from error
    try:
        module.load_state_dict(dict(weights), strict=True, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"the weights do not fit the configuration: {error}") from error
    return module.requires_grad_(False)
