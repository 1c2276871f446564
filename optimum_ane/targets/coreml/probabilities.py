"""The probabilities of a classifier, from which Core ML makes its label."""

from __future__ import annotations

from torch import Tensor, nn


class WithProbabilities(nn.Module):
    """Adds the softmax of the first output, as the last."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the module returns, and (B, labels)."""
        answer = self.module(*inputs)
        outputs = (answer,) if isinstance(answer, Tensor) else tuple(answer)
        return *outputs, outputs[0].softmax(dim=1)
