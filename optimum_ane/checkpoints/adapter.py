"""PEFT adapters: found by their `adapter_config.json`, and merged into the weights of their base by peft."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers

from optimum_ane.checkpoints.configuration import check_place, infer_task
from optimum_ane.checkpoints.errors import checkpoint_errors, first_line
from optimum_ane.checkpoints.hub_files import find_file, has_file, read_json_object
from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.checkpoints.safetensors_files import INDEX, WEIGHTS, SafetensorsFiles
from optimum_ane.errors import CheckpointError, UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_WHOLE_WEIGHTS = (WEIGHTS, INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json")
_PREFIX = "base_model.model."
"""Before the names of the base's modules in an adapter's file."""
_NAME = "default"
"""That peft gives an adapter in memory."""
_NOT_MERGEABLE = (
    "PROMPT_TUNING",
    "MULTITASK_PROMPT_TUNING",
    "P_TUNING",
    "PREFIX_TUNING",
    "ADAPTION_PROMPT",
    "CARTRIDGE",
)
"""Methods that add tokens or states before the sequence, and change no weight."""
_TASKS = {
    "CAUSAL_LM": "text-generation",
    "FEATURE_EXTRACTION": "feature-extraction",
    "QUESTION_ANS": "question-answering",
    "SEQ_2_SEQ_LM": "text2text-generation",
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
}
"""Optimum's names of peft's tasks."""
_LABELLED = ("text-classification", "token-classification")


@dataclass(frozen=True)
class Adapter:
    """An adapter whose configuration was read.

    Attributes:
        name: Hub id or directory, as the user gave it.
        directory: Where its files are.
        method: peft's name of it, `"LORA"` for one.
        base: What it was trained on, by its own words: a Hub id or a directory; None where it does not say.
        base_revision: Of the base; None for the default branch.
        task: Optimum's name of what it was trained for; None where it does not say.
        shapes: Of its tensors, by name.
    """

    name: str
    directory: Path
    method: str
    base: str | None
    base_revision: str | None
    task: str | None
    shapes: Mapping[str, tuple[int, ...]]

    def supplied(self, model: PreTrainedModel) -> frozenset[str]:
        """The weights of a model that the adapter replaces whole, a head that was trained with it say."""
        return frozenset(name for name in model.state_dict() if _PREFIX + name in self.shapes)


def find_adapter(name: str, hub: HubOptions) -> Adapter | None:
    """Reads an adapter's configuration and the headers of its weights.

    Args:
        name: Hub id or directory.
        hub: How to reach the Hub.

    Returns:
        None where it is no adapter.

    Raises:
        CheckpointError: It holds whole weights beside the adapter, or is damaged.
        UnsupportedModelError: Its method changes no weights, or its weights are no safetensors.
    """
    check_place(name)
    with checkpoint_errors(name):
        path = find_file(name, _CONFIG, hub)
        if path is None:
            return None
        for whole in _WHOLE_WEIGHTS:
            if has_file(name, whole, hub):
                raise CheckpointError(
                    f"{name} holds an adapter ({_CONFIG}) and whole weights ({whole}); keep one of the two, or give "
                    "the base with --model and the adapter alone with --adapter"
                )
        entries = read_json_object(path)
        method = str(entries.get("peft_type"))
        if method in _NOT_MERGEABLE:
            raise UnsupportedModelError(
                f"{name}: an adapter of the method {method} changes no weights and cannot be merged into its base"
            )
        if entries.get("megatron_config") is not None:
            raise UnsupportedModelError(f"{name}: an adapter for Megatron cannot be merged; its {_CONFIG} asks for it")
        weights = find_file(name, _WEIGHTS, hub)
        if weights is None:
            raise UnsupportedModelError(
                f"{name} holds no {_WEIGHTS}; save it again with a peft that writes it (0.6 on)"
            )
        shapes = {key: stored.shape for key, stored in SafetensorsFiles([weights]).items()}
        _check_ranks(name, entries, shapes)
    return Adapter(
        name=name,
        directory=path.parent,
        method=method,
        base=_text(entries, "base_model_name_or_path"),
        base_revision=_text(entries, "revision"),
        task=_task(entries),
        shapes=shapes,
    )


def _check_ranks(name: str, entries: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuses ranks that no tensor has: peft makes matrices of them before it looks at the weights."""
    largest = max((extent for shape in shapes.values() for extent in shape), default=0)
    patterns = entries.get("rank_pattern")
    for entry, rank in {"r": entries.get("r"), **(patterns if isinstance(patterns, dict) else {})}.items():
        if isinstance(rank, int) and rank > largest:
            raise CheckpointError(
                f"{name}: the rank of {entry!r:.100} in {_CONFIG} is {rank}, and no tensor of its weights is longer "
                f"than {largest}; the configuration is of another adapter, or hostile: download it again"
            )


def load_adapter(name: str, hub: HubOptions) -> Adapter:
    """See `find_adapter`; what is no adapter is refused.

    Raises:
        CheckpointError: It is no adapter.
    """
    adapter = find_adapter(name, hub)
    if adapter is None:
        raise CheckpointError(f"{name} holds no {_CONFIG}; give the directory or Hub id of a PEFT adapter")
    return adapter


def check_peft_is_installed(adapter: Adapter) -> None:
    """Says what to install where an adapter could not be merged.

    Raises:
        CheckpointError: See above.
    """
    if find_spec("peft") is None:
        raise CheckpointError(
            f"the adapter {adapter.name} is merged with peft; install it with `pip install optimum-ane[peft]`"
        )


def base_of(adapter: Adapter) -> str:
    """The base of an adapter that was given as the model itself.

    Raises:
        CheckpointError: It does not say its base, or a directory that is not here.
    """
    remedy = "give its base with --model and the adapter with --adapter"
    if adapter.base is None:
        raise CheckpointError(f"{adapter.name} is an adapter and does not say what it was trained on; {remedy}")
    try:
        check_place(adapter.base)
    except CheckpointError as error:
        raise CheckpointError(f"{adapter.name} is an adapter, and its base is not here: {error}; {remedy}") from error
    return adapter.base


def with_labels_of(config: PretrainedConfig, task: str, empty: PreTrainedModel, adapter: Adapter) -> PretrainedConfig:
    """The base's configuration with as many labels as the head has that was trained with the adapter.

    Args:
        config: The base's.
        task: Optimum's name.
        empty: The transformers model of the task as the base's configuration describes it.
        adapter: The adapter.

    Returns:
        The configuration itself where the number is the same or nothing tells.
    """
    if task not in _LABELLED:
        return config
    for name, weight in empty.state_dict().items():
        found = adapter.shapes.get(_PREFIX + name)
        expected = tuple(weight.shape)
        if found is not None and found != expected and found[1:] == expected[1:] and expected[0] == config.num_labels:
            config = copy.deepcopy(config)
            config.num_labels = found[0]
            break
    return config


def merge_adapter(model: PreTrainedModel, adapter: Adapter) -> PreTrainedModel:
    """Merges an adapter into a model, in place.

    Args:
        model: Its base, in float32.
        adapter: The adapter.

    Raises:
        CheckpointError: It does not fit the base, in whole or in part.
        UnsupportedModelError: peft cannot merge its method.
    """
    from peft import PeftConfig, PeftModel, set_peft_model_state_dict
    from safetensors.torch import load_file

    with warnings.catch_warnings(), checkpoint_errors(adapter.name):
        warnings.simplefilter("ignore")  # of peft about itself, and of what is checked below
        try:
            config = PeftConfig.from_pretrained(str(adapter.directory))
            wrapped = PeftModel(model, config, adapter_name=_NAME)
            weights = load_file(adapter.directory / _WEIGHTS)
            found: Any = set_peft_model_state_dict(wrapped, weights, adapter_name=_NAME)
        except (ValueError, RuntimeError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(
                f"the adapter {adapter.name} does not fit its base {type(model).__name__}: {first_line(error)}; give "
                f"the one that it was trained on ({adapter.base or 'which it does not name'}) with --model"
            ) from error
        unused, empty = sorted(found.unexpected_keys), sorted(n for n in found.missing_keys if f".{_NAME}" in n)
        if unused or empty:
            what = f"no place for {len(unused)} of its tensors, {unused[0]}" if unused else f"no {empty[0]} in it"
            raise CheckpointError(f"the adapter {adapter.name} does not fit its base {type(model).__name__}: {what}")
        try:
            merged = wrapped.merge_and_unload(safe_merge=True)
        except (ValueError, NotImplementedError, AttributeError) as error:
            raise UnsupportedModelError(
                f"{adapter.name}: an adapter of the method {adapter.method} cannot be merged: {first_line(error)}"
            ) from error
    return merged.eval().requires_grad_(False)


def _text(entries: Mapping[str, Any], name: str) -> str | None:
    value = entries.get(name)
    return value if isinstance(value, str) and value else None


def _task(entries: Mapping[str, Any]) -> str | None:
    task = _TASKS.get(str(entries.get("task_type")))
    mapping = entries.get("auto_mapping")
    if task is not None or not isinstance(mapping, Mapping):
        return task
    model_class = getattr(transformers, str(mapping.get("base_model_class")), None)
    return None if model_class is None else infer_task(model_class)
