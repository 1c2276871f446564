"""Other contents for an example tensor, where nothing but the tensor tells what is valid."""

import torch
from torch import Tensor


def vary(value: Tensor, seed: int) -> Tensor:
    """Other contents of a tensor that are as valid as those given, as far as the tensor tells.

    Args:
        value: Floats become normal numbers of the same mean and deviation, within the same range. Integers and
            flags are permuted. Where all numbers are equal they become smaller: floats shrink, integers become 0
            from some place of the last axis on, as those of a mask do, or where that has one place any number from 0.
        seed: Which.
    """
    generator = torch.Generator().manual_seed(seed)
    if bool((value == value.flatten()[0]).all()):
        return _lessened(value, generator)
    if value.is_floating_point():
        drawn = torch.randn(value.shape, generator=generator) * value.std() + value.mean()
        return drawn.clamp(value.min(), value.max()).to(value.dtype)
    return value.flatten()[torch.randperm(value.numel(), generator=generator)].reshape(value.shape)


def _lessened(value: Tensor, generator: torch.Generator) -> Tensor:
    if value.is_floating_point():
        return value * torch.rand((), generator=generator).to(value.dtype)
    if value.shape[-1] == 1:
        return (value * torch.rand(value.shape, generator=generator)).round().to(value.dtype)
    kept = int(torch.randint(1, value.shape[-1] + 1, (), generator=generator))
    return value * (torch.arange(value.shape[-1]) < kept).to(value.dtype)
