"""`ANEConfig`: what an architecture states of itself so that it can be exported."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, TypeVar

import torch
from optimum.exporters.base import ExporterConfig
from optimum.exporters.tasks import TasksManager
from optimum.utils import NormalizedTextConfig

from optimum_ane.errors import ShapeError, UnsupportedModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

EXPORTER = "ane"
"""Our name in Optimum's `TasksManager`."""

_CONFIGS: dict[str, type[ANEConfig]] = {}
_ANEConfigT = TypeVar("_ANEConfigT", bound="type[ANEConfig]")


def register_for_ane(model_type: str) -> Callable[[_ANEConfigT], _ANEConfigT]:
    """Registers an `ANEConfig` for a `model_type` with Optimum's `TasksManager`, under the tasks of its `MODULES`."""

    def decorator(config_class: _ANEConfigT) -> _ANEConfigT:
        if model_type in _CONFIGS:
            raise ValueError(f"model type {model_type!r} is registered twice")
        _CONFIGS[model_type] = config_class
        register = TasksManager.create_register(EXPORTER)
        return register(model_type, *config_class.MODULES, library_name="transformers")(config_class)

    return decorator


def supported_tasks() -> dict[str, tuple[str, ...]]:
    """The tasks of each registered `model_type`, both sorted."""
    return {model_type: tuple(sorted(_CONFIGS[model_type].MODULES)) for model_type in sorted(_CONFIGS)}


def get_ane_config_class(model_type: str, task: str) -> type[ANEConfig]:
    """Looks up the export configuration of an architecture for a task.

    Raises:
        UnsupportedModelError: The architecture is not known, or not for this task; the message lists what is.
    """
    if model_type not in _CONFIGS:
        known = ", ".join(supported_tasks())
        raise UnsupportedModelError(
            f"architecture {model_type!r} is not supported for the Neural Engine; known: {known}"
        )
    config_class = _CONFIGS[model_type]
    if task not in config_class.MODULES:
        known = ", ".join(sorted(config_class.MODULES))
        raise UnsupportedModelError(f"task {task!r} is not supported for {model_type}; known: {known}")
    return config_class


class ANEConfig(ExporterConfig, ABC):
    """Export configuration of one architecture.

    Args:
        config: The checkpoint's configuration.
        task: One of `MODULES`.
    """

    NORMALIZED_CONFIG_CLASS = NormalizedTextConfig
    MODULES: ClassVar[Mapping[str, type[nn.Module]]] = {}
    """The Neural Engine module of each task."""
    UNUSED_WEIGHTS: ClassVar[Mapping[str, str]] = {}
    """Parts of the checkpoint that its programs leave out, beside those of `unused_weights.UNUSED_WEIGHTS`, each with
    the reason: by regular expressions that must match the whole path of a module or of a tensor."""

    @property
    def max_sequence_length(self) -> int:
        """The longest sequence that the checkpoint can take, in tokens."""
        raise NotImplementedError

    def check(self, sequence_length: int) -> None:
        """Refuses what cannot be exported, before any work is done.

        Raises:
            ShapeError: A number that cannot work; the message holds it and the limit.
            UnsupportedModelError: The configuration asks for a variant that is not implemented.
        """
        raise NotImplementedError

    def make_module(self) -> nn.Module:
        """Builds the module of the task, without memory for its parameters (on torch's meta device)."""
        with torch.device("meta"):
            return self.MODULES[self.task](self._config).eval()

    def make_inputs(self, batch_size: int, sequence_length: int, seed: int = 0) -> dict[str, Tensor]:
        """Makes seeded inputs for tracing and for parity: rows of every length, full and padded."""
        raise NotImplementedError


class TextEncoderANEConfig(ANEConfig):
    """Shared by all text encoders; an architecture states only what differs."""

    HAS_TOKEN_TYPES: ClassVar[bool] = True
    """Whether the architecture's tokenizers give token types."""
    POSITIONS_AFTER_PADDING: ClassVar[bool] = False
    """Whether positions are counted from the padding id on, as RoBERTa does."""

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """Input names and axes, in the order of the module's arguments."""
        axes = {0: "batch_size", 1: "sequence_length"}
        names = ["input_ids", "attention_mask"]
        if self.HAS_TOKEN_TYPES and self._config.type_vocab_size > 1:
            names.append("token_type_ids")
        return {name: dict(axes) for name in names}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        """Output names and axes, in the order in which the module returns them."""
        tokens = {0: "batch_size", 1: "sequence_length"}
        return {
            "feature-extraction": {"last_hidden_state": tokens},
            "question-answering": {"start_logits": tokens, "end_logits": tokens},
            "fill-mask": {"logits": tokens},
            "token-classification": {"logits": tokens},
        }.get(self.task, {"logits": {0: "batch_size"}})

    @property
    def padding_id(self) -> int | None:
        """The id after which positions are counted; None where positions do not depend on it."""
        return self._config.pad_token_id if self.POSITIONS_AFTER_PADDING else None

    @property
    def max_sequence_length(self) -> int:
        """The longest sequence that the position table holds."""
        offset = 0 if self.padding_id is None else self.padding_id + 1
        return self._config.max_position_embeddings - offset

    def check(self, sequence_length: int) -> None:
        """See `ANEConfig.check`."""
        config = self._config
        if sequence_length > self.max_sequence_length:
            raise ShapeError(
                f"sequence length {sequence_length} is above the {self.max_sequence_length} positions of this "
                f"checkpoint; choose --sequence-length {self.max_sequence_length} or less"
            )
        if config.num_attention_heads < 1 or config.hidden_size % config.num_attention_heads:
            raise ShapeError(
                f"{config.num_attention_heads} attention heads do not divide the width {config.hidden_size}; "
                "config.json contradicts itself"
            )
        if getattr(config, "is_decoder", False):
            raise UnsupportedModelError("is_decoder is set in config.json; only encoders are supported")
        position_type = getattr(config, "position_embedding_type", "absolute")
        if position_type not in ("absolute", None):
            raise UnsupportedModelError(
                f"position_embedding_type {position_type!r} is not supported (transformers 5 ignores it as well); "
                "only 'absolute' is"
            )

    def make_inputs(self, batch_size: int, sequence_length: int, seed: int = 0) -> dict[str, Tensor]:
        """Makes seeded inputs, each (B, S) int32.

        The first row is full; the others are padded on the right to lengths spread over 1 … S. The ids spread over
        the whole vocabulary and avoid the padding id, which is used for padding only.
        """
        generator = torch.Generator().manual_seed(seed)
        padding_id = self.padding_id if self.padding_id is not None else (self._config.pad_token_id or 0)
        shape = (batch_size, sequence_length)
        ids = torch.randint(0, self._config.vocab_size - 1, shape, generator=generator, dtype=torch.int32)
        ids += (ids >= padding_id).int()
        lengths = torch.linspace(sequence_length, 1, batch_size).round().int()
        mask = (torch.arange(sequence_length)[None, :] < lengths[:, None]).int()
        values = {"input_ids": torch.where(mask.bool(), ids, padding_id).int(), "attention_mask": mask}
        if "token_type_ids" in self.inputs:
            values["token_type_ids"] = (torch.arange(sequence_length)[None, :] >= lengths[:, None] // 2).int() * mask
        return values
