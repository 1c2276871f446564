"""Which modules of an encoder are its layers."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class LayerStack:
    """Where the hidden states of an encoder are found while it runs, as transformers' `output_hidden_states` has them.

    Attributes:
        layers: What enters a layer each time it is called, its first argument, is a hidden state, (B, C, 1, S), of a
            stock module (B, S, C). They come in the order of the calls: a layer that is used several times gives as
            many.
        output: What this module returns is the last hidden state; called once.
    """

    layers: tuple[nn.Module, ...]
    output: nn.Module
