"""Whether a checkpoint's weights are those that its configuration describes: none missing, misshapen or left over."""

from __future__ import annotations

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
    model_type = model.config.model_type
    is_known = task in supported_tasks().get(model_type, ())
    allowed = get_ane_config_class(model_type, task).UNUSED_WEIGHTS if is_known else {}
    try:
        return check_unused(surplus, modules, allowed, type(model).__name__)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from error


def _is_unused_pooler(name: str, model: PreTrainedModel) -> bool:
    """Language models are saved without the pooler that the class of hidden states has, and that nothing reads."""
    return model.base_model is model and name.startswith("pooler.")
