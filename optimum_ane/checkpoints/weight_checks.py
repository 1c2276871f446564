"""Whether a checkpoint's weights are those that its configuration describes: none missing, misshapen or left over."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from optimum_ane.errors import CheckpointError
from optimum_ane.exporters.config import get_ane_config_class, supported_tasks
from optimum_ane.exporters.unused_weights import check_unused

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Mismatch = tuple[str, tuple[int, ...], tuple[int, ...]]
"""A weight's name, its shape in the files, and the one that the configuration gives it."""


def check_weights(
    checkpoint: str,
    task: str,
    model: PreTrainedModel,
    missing: Iterable[str],
    mismatched: Iterable[Mismatch],
    surplus: Iterable[str],
    supplied: Collection[str] = (),
) -> tuple[str, ...]:
    """Refuses weights that are not those of a model.

    Args:
        checkpoint: Hub id or directory, for the message.
        task: What the model is of.
        model: The transformers model, with or without memory.
        missing: Weights of it that the files lack.
        mismatched: Those that have another shape there.
        surplus: Names of the files that it has no place for.
        supplied: Weights of it that an adapter brings, whatever the files say.

    Returns:
        The names that are left out because they are of no use to the task, sorted.

    Raises:
        CheckpointError: The message names the first that is wrong, counts them, and says what to do.
    """
    for name, found, expected in sorted(mismatched):
        if name not in supplied:
            raise CheckpointError(
                f"{checkpoint}: config.json contradicts the weights: {name} is {list(found)} in the weights and "
                f"{list(expected)} by the configuration"
            )
    absent = sorted(name for name in missing if name not in supplied and not _is_unused_pooler(name, model))
    if absent:
        raise CheckpointError(
            f"{checkpoint}: {len(absent)} weights that the task {task} needs are missing, {absent[0]} first; the "
            "checkpoint was trained for another task (see --task), or config.json contradicts it"
        )
    modules = {path for path, _ in model.named_modules()}
    model_type, surplus = model.config.model_type, tuple(surplus)
    if task in supported_tasks().get(model_type, ()):
        allowed = get_ane_config_class(model_type, task).UNUSED_WEIGHTS
    else:
        allowed = _other_heads(surplus, modules, model.base_model_prefix)
    try:
        return check_unused(surplus, modules, allowed, type(model).__name__)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from error


def _is_unused_pooler(name: str, model: PreTrainedModel) -> bool:
    """Language models are saved without the pooler that the class of hidden states has, and that nothing reads."""
    return model.base_model is model and name.startswith("pooler.")


def _other_heads(surplus: Iterable[str], modules: Collection[str], prefix: str) -> dict[str, str]:
    """What an architecture that nobody has written down leaves out: whatever the model has no module for at its top.

    Parts of a module that it has, a layer more than the configuration counts say, are none of these.

    Args:
        surplus: Names of the files.
        modules: Paths of all modules of the model.
        prefix: What stands before the names of the model without a head in the files of one with a head.
    """
    of_base = f"{prefix}." if prefix and prefix not in modules else ""
    heads = {name.split(".")[0] for name in surplus if not of_base or not name.startswith(of_base)}
    parts = {name.removeprefix(of_base).split(".")[0] for name in surplus if of_base and name.startswith(of_base)}
    allowed = heads.difference(modules) | {of_base + part for part in parts.difference(modules)}
    return {re.escape(path): "the head of another task" for path in sorted(allowed)}
