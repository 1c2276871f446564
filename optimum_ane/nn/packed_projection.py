"""Projections of one input that a checkpoint keeps in one matrix."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from optimum_ane.nn.projection import Projection


class PackedProjection(nn.ModuleList):
    """Several `Projection`s over the channels of a (B, C, 1, S) tensor, one `nn.Linear` in the checkpoint.

    A query, key and value in one [3C, C], or a gate beside what it gates in one [2I, C]: each becomes a convolution of
    its own when a state dict is loaded, so that no layer splits what it has just computed and each can have its scale.

    Args:
        in_features: Input channels.
        out_features: Output channels of each projection, in the order of the packed rows.
        bias: Whether there is a bias.
        scales: Factor of each projection, see `Projection`; None stands for ones.
    """

    def __init__(
        self, in_features: int, out_features: Sequence[int], bias: bool = True, scales: Sequence[float] | None = None
    ) -> None:
        factors = [1.0] * len(out_features) if scales is None else scales
        super().__init__(
            Projection(in_features, rows, bias, scale) for rows, scale in zip(out_features, factors, strict=True)
        )
        self.register_load_state_dict_pre_hook(_unpack)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, C, 1, S) → (B, O, 1, S) of each projection."""
        return tuple(projection(x) for projection in self)


def _unpack(module: PackedProjection, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    rows = [projection.out_channels for projection in module]
    for name in ("weight", "bias"):
        packed = state_dict.get(prefix + name)
        # Left where it is if it does not fit: torch then reports the name that the checkpoint knows.
        if packed is None or packed.shape[0] != sum(rows):
            continue
        del state_dict[prefix + name]
        state_dict.update({f"{prefix}{index}.{name}": part for index, part in enumerate(packed.split(rows))})
