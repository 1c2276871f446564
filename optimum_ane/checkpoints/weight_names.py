"""Names of a file's tensors brought to those of the transformers model, by transformers' own rules."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from optimum_ane.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class WeightNames:
    """Which tensor of the files each weight of a model is.

    Attributes:
        stored: The name in the files, by the name in the model's state dict. Tied weights share one.
        missing: Names of the state dict that the files do not hold.
        computed: Those that the model's class computes where they are missing, sinusoidal positions say.
        surplus: Names in the files that the model has no place for, by what they would be called in it.
    """

    stored: dict[str, str]
    missing: tuple[str, ...]
    computed: tuple[str, ...]
    surplus: dict[str, str]


def match_names(model: PreTrainedModel, names: Iterable[str]) -> WeightNames | None:
    """Matches the names of a file's tensors with those of a model.

    Follows `transformers.core_model_loading.convert_and_load_state_dict_in_model`: renamings, the prefix of the base
    model that is there or not, and tied weights of which the files hold one.

    Args:
        model: On the meta device.
        names: Of the tensors.

    Returns:
        None where a tensor of the model is made of several of the files, or several of one: renaming is not enough.

    Raises:
        CheckpointError: Two tensors of the files would be the same weight.
    """
    changes = get_model_conversion_mapping(model)
    renamings = [change for change in changes if isinstance(change, WeightRenaming)]
    converters = [change for change in changes if isinstance(change, WeightConverter)]
    expected, prefix = model.state_dict(), model.base_model_prefix
    stored: dict[str, str] = {}
    surplus: dict[str, str] = {}
    for name in sorted(names, key=dot_natural_key):
        renamed, pattern = rename_source_key(name, renamings, converters, prefix, expected)
        if renamed not in expected and name in expected:
            renamed, pattern = rename_source_key(name, [], [], prefix, expected)
        if pattern is not None:
            return None
        if renamed not in expected:
            surplus[renamed] = name
        elif renamed in stored:
            raise CheckpointError(
                f"{stored[renamed]} and {name} are both the weight {renamed}; save the checkpoint without one of them"
            )
        else:
            stored[renamed] = name
    _add_tied(model, stored)
    missing = expected.keys() - stored.keys()
    computed = _computed(model, missing)
    return WeightNames(stored, tuple(sorted(missing - computed)), tuple(sorted(computed)), surplus)


def _add_tied(model: PreTrainedModel, stored: dict[str, str]) -> None:
    """Fills in what is tied to a weight that is there: in either direction, and to a third one that shares it."""
    groups: dict[str, list[str]] = {}
    for target, source in model.all_tied_weights_keys.items():
        groups.setdefault(source, [source]).append(target)
    for group in groups.values():
        present = [name for name in group if name in stored]
        for name in group if present else ():
            stored.setdefault(name, stored[present[0]])


def _computed(model: PreTrainedModel, names: Iterable[str]) -> set[str]:
    patterns = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_missing or ()]
    return {name for name in names if any(pattern.search(name) for pattern in patterns)}
