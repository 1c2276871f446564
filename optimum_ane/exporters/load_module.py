"""Weights into a module that was built without memory for them, one submodule at a time, and nothing left over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from optimum_ane.errors import CheckpointError, UnsupportedModelError
from optimum_ane.exporters.unused_weights import check_unused

if TYPE_CHECKING:
    from torch import Tensor, nn

    from optimum_ane.exporters.config import ANEConfig


@dataclass(frozen=True)
class LoadedModule:
    """A module with its weights.

    Attributes:
        module: In float32 and evaluation mode, without gradients.
        left_out: Tensors of the checkpoint that it does not use, all of them known to be of no use to its task.
    """

    module: nn.Module
    left_out: tuple[str, ...]


@runtime_checkable
class DeclaresUnusedWeights(Protocol):
    """A module that knows weights of its checkpoints that it leaves out."""

    def unused_weights(self) -> frozenset[str]:
        """Returns their names."""
        ...


def build_module(ane_config: ANEConfig, program: str, weights: Mapping[str, Tensor]) -> LoadedModule:
    """Builds the module of a program and gives it all of a checkpoint's weights.

    Args:
        ane_config: The export configuration.
        program: The program's name.
        weights: Float32 tensors by the names of the transformers model; each is asked for once, when it is needed.

    Raises:
        UnsupportedModelError: The configuration asks for a variant that is not implemented.
        CheckpointError: The weights do not fit the configuration, or there are more of them than it has places for.
    """
    try:
        module = ane_config.make_module(program)
    except ValueError as error:
        raise UnsupportedModelError(str(error)) from error
    used = load_module(module, weights)
    modules = {path for path, _ in module.named_modules()}
    described = f"the Neural Engine's {type(module).__name__}"
    # Second names of a weight, and a pooler that no answer depends on: what our modules declare of themselves.
    declared = module.unused_weights() if isinstance(module, DeclaresUnusedWeights) else frozenset()
    surplus = weights.keys() - used - declared
    left_out = check_unused(surplus, modules, ane_config.UNUSED_WEIGHTS, described)
    return LoadedModule(module, tuple(sorted({*left_out, *(declared & weights.keys())})))


def load_module(module: nn.Module, weights: Mapping[str, Tensor]) -> frozenset[str]:
    """Fills a module that was built on the meta device, in place.

    A tensor becomes the parameter itself where nothing has to be changed about it, and is asked for when its module's
    turn comes: at no time are there two copies of more than one submodule's own tensors. Changes are the submodules'
    own, by torch's hooks before a state dict is loaded (see `nn.Projection`). A hook of a submodule also gets tensors
    below it whose paths none of its children has: packed weights, say, that it unpacks for them.

    Args:
        module: Of any class; its parameters carry the names of `weights`.
        weights: Float32 tensors by name.

    Returns:
        The names that were used.

    Raises:
        CheckpointError: A tensor is missing or of another shape, or a buffer is left without a value.
    """
    used: set[str] = set()
    for path, child in module.named_modules():
        prefix = f"{path}." if path else ""
        own = _own_names(child, prefix, weights)
        if own:
            used.update(_load_own(child, prefix, {name.removeprefix(prefix): weights[name] for name in own}))
    _check_is_filled(module)
    module.requires_grad_(False)
    return frozenset(used)


def _own_names(child: nn.Module, prefix: str, weights: Mapping[str, Tensor]) -> list[str]:
    """Names below a path that belong to none of the children there."""
    children = {name for name, _ in child.named_children()}
    below = (name for name in weights if name.startswith(prefix))
    return [name for name in below if name.removeprefix(prefix).split(".")[0] not in children]


def _load_own(child: nn.Module, prefix: str, values: dict[str, Tensor]) -> set[str]:
    try:
        unexpected = child.load_state_dict(values, strict=False, assign=True).unexpected_keys
    except RuntimeError as error:
        fault = str(error).strip().splitlines()[-1].strip().replace("mismatch for ", f"mismatch for {prefix}", 1)
        raise CheckpointError(f"the weights do not fit the configuration: {fault}") from error
    return {prefix + name for name in values.keys() - set(unexpected)}


def _check_is_filled(module: nn.Module) -> None:
    missing = sorted(name for name, parameter in module.named_parameters() if parameter.is_meta)
    if missing:
        raise CheckpointError(
            f"the weights do not fit the configuration: {len(missing)} that the Neural Engine's "
            f"{type(module).__name__} needs are missing, {missing[0]} first"
        )
    empty = sorted(name for name, buffer in module.named_buffers() if buffer.is_meta)
    if empty:
        raise CheckpointError(
            f"the buffer {empty[0]} of {type(module).__name__} has no value: no checkpoint holds it, and it was made "
            'on the meta device; make it with device="cpu"'
        )
