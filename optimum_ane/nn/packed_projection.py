"""Projections of one input that a checkpoint keeps in one matrix."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from optimum_ane.nn.projection import Projection


class PackedProjection(nn.Module):
    """Several `Projection`s over the channels of a (B, C, 1, S) tensor, one `nn.Linear` in the checkpoint.

    A query, key and value in one [3C, C], or a gate beside what it gates in one [2I, C]: each becomes a convolution of
    its own when a state dict is loaded, so that no layer splits what it has just computed and each can have its scale.
    The packed weight and bias have the checkpoint's names; `state_dict()` gives those of the parts.

    Args:
        in_features: Input channels.
        out_features: Output channels of each part by name, in the order of the packed rows.
        bias: Whether there is a bias.
        scales: Factors by name, see `Projection`; a part that is not named keeps its values.

    Raises:
        ValueError: A scale names no part.
    """

    def __init__(
        self,
        in_features: int,
        out_features: Mapping[str, int],
        bias: bool = True,
        scales: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        if unknown := scales.keys() - out_features.keys():
            raise ValueError(f"scales for {sorted(unknown)}, and the parts are {list(out_features)}")
        self.rows = dict(out_features)
        for name, rows in self.rows.items():
            self.add_module(name, Projection(in_features, rows, bias, scales.get(name, 1.0)))
        self.register_load_state_dict_pre_hook(_unpack)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, C, 1, S) → (B, O, 1, S) of each part."""
        return tuple(self.get_submodule(name)(x) for name in self.rows)


def _unpack(module: PackedProjection, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    for kind in ("weight", "bias"):
        packed = state_dict.get(prefix + kind)
        # Left where it is if it does not fit: torch then reports the name that the checkpoint knows.
        if packed is None or packed.shape[0] != sum(module.rows.values()):
            continue
        del state_dict[prefix + kind]
        parts = zip(module.rows, packed.split(list(module.rows.values())), strict=True)
        state_dict.update({f"{prefix}{name}.{kind}": part for name, part in parts})
