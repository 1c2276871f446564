"""A checkpoint's weights under the names of its transformers model, one float32 tensor at a time."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from optimum_ane.checkpoints.errors import checkpoint_errors
from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.checkpoints.original import make_checked_empty_model
from optimum_ane.checkpoints.safetensors_files import SafetensorsFiles, find_weight_files
from optimum_ane.checkpoints.weight_checks import check_weights
from optimum_ane.checkpoints.weight_names import WeightNames, match_names
from optimum_ane.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class CheckpointWeights(Mapping[str, Tensor]):
    """Weights by the names of the transformers model's state dict; `weights[name]` makes the tensor.

    Floats come as float32, whatever they are stored as; integers as they are. Tensors may share memory with a mapped
    file or with a model: they are to be read, not written.

    Attributes:
        left_out: Names in the files that the task has no use for, sorted; all are known to be of no use.
    """

    left_out: tuple[str, ...] = ()

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a weight, without reading it."""

    @abstractmethod
    def dtype(self, name: str) -> torch.dtype:
        """The type that a weight is stored as, without reading it."""

    def close(self) -> None:
        """Lets go of what is kept for reading; tensors that were read stay valid."""


class StoredWeights(CheckpointWeights):
    """Weights that are read from safetensors files when they are asked for.

    Args:
        files: The files.
        names: Which tensor of them each weight is.
        left_out: See `CheckpointWeights`.
    """

    def __init__(self, files: SafetensorsFiles, names: WeightNames, left_out: tuple[str, ...] = ()) -> None:
        self._files, self._stored, self.left_out = files, names.stored, left_out
        self._tied = {name for name, uses in Counter(names.stored.values()).items() if uses > 1}
        self._read: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        stored = self._stored[name]
        if stored not in self._tied:
            return self._files.read(stored)
        if stored not in self._read:
            self._read[stored] = self._files.read(stored)
        return self._read[stored]

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def shape(self, name: str) -> tuple[int, ...]:
        """See `CheckpointWeights.shape`."""
        return self._files[self._stored[name]].shape

    def dtype(self, name: str) -> torch.dtype:
        """See `CheckpointWeights.dtype`."""
        return self._files[self._stored[name]].dtype

    def close(self) -> None:
        """See `CheckpointWeights.close`; tied weights that are read again are then read anew."""
        self._files.close()
        self._read.clear()


class ModelWeights(CheckpointWeights):
    """Weights of a model in memory; what is float32 there is shared, anything else converted when it is asked for.

    Args:
        model: The model.
        left_out: See `CheckpointWeights`.
    """

    def __init__(self, model: PreTrainedModel, left_out: tuple[str, ...] = ()) -> None:
        self._values: dict[str, Tensor] = model.state_dict()
        self.left_out = left_out

    def __getitem__(self, name: str) -> Tensor:
        value = self._values[name].detach()
        return value.float() if value.is_floating_point() else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def shape(self, name: str) -> tuple[int, ...]:
        """See `CheckpointWeights.shape`."""
        return tuple(self._values[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        """See `CheckpointWeights.dtype`."""
        return self._values[name].dtype


def open_stored_weights(model: str, task: str, config: PretrainedConfig, hub: HubOptions) -> StoredWeights | None:
    """Opens the weights of a checkpoint for reading one by one; their headers alone are read.

    Args:
        model: Hub id or directory.
        task: Optimum's name.
        config: Its configuration.
        hub: How to reach the Hub.

    Returns:
        None where transformers has to load them: there are no safetensors files, the class is the repository's own
        code or names other files, or weights of the model are made of several tensors or computed.

    Raises:
        CheckpointError: See `match_weights`; or a file is missing, truncated or corrupt.
    """
    is_remote = hub.trust_remote_code and hasattr(config, "auto_map")
    if is_remote or getattr(config, "transformers_weights", None) or type(config).extra_files:
        return None
    with checkpoint_errors(model):
        paths = find_weight_files(model, hub)
        if paths is None:
            return None
        files = SafetensorsFiles(paths)
        return match_weights(model, task, make_checked_empty_model(model, task, config, hub), files)


def match_weights(checkpoint: str, task: str, empty: PreTrainedModel, files: SafetensorsFiles) -> StoredWeights | None:
    """Matches the tensors of files with a model, by their headers alone.

    Args:
        checkpoint: Hub id or directory, for messages.
        task: Optimum's name.
        empty: The transformers model of the task, on the meta device.
        files: What the checkpoint holds.

    Returns:
        The weights; None where renaming is not enough to make them, or the model's class computes some of them.

    Raises:
        CheckpointError: Weights are missing, left over, or of another shape or type than the model's.
    """
    try:
        names = match_names(empty, files)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from error
    if names is None or names.computed:
        return None
    expected = empty.state_dict()
    shapes = {name: (files[stored].shape, tuple(expected[name].shape)) for name, stored in names.stored.items()}
    mismatched = [(name, found, wanted) for name, (found, wanted) in shapes.items() if found != wanted]
    left_out = check_weights(checkpoint, task, empty, names.missing, mismatched, names.surplus)
    for name, stored in names.stored.items():
        if expected[name].is_floating_point() != files[stored].dtype.is_floating_point:
            raise CheckpointError(
                f"{checkpoint}: {stored} is stored as {files[stored].dtype}, which is no type of such a weight; the "
                "weights are quantised or damaged, give the original"
            )
    return StoredWeights(files, names, tuple(sorted(names.surplus[name] for name in left_out)))
