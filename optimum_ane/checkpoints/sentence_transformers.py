"""How a sentence-transformers checkpoint makes embeddings of hidden states: pooling, layers, norm; and its prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers.normalizers import Lowercase, Sequence
from torch import Tensor, nn
from torch.nn import functional

from optimum_ane.checkpoints.safetensors_files import SafetensorsFiles
from optimum_ane.errors import CheckpointError, ShapeError, UnsupportedModelError
from optimum_ane.exporters.load_module import load_module
from optimum_ane.nn import SentenceDense, SentencePooling
from optimum_ane.nn.pooling import PoolingMode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ACTIVATIONS: Mapping[str, str] = {
    "Identity": "linear",
    "Tanh": "tanh",
    "ReLU": "relu",
    "GELU": "gelu",
    "SiLU": "silu",
    "Sigmoid": "sigmoid",
}
"""Classes of `torch.nn` that can stand after a layer, by the names of `nn.get_activation`."""


@dataclass(frozen=True)
class Dense:
    """A linear layer and an activation after the pooling.

    Attributes:
        in_features: Width before.
        out_features: Width after.
        bias: Whether there is a bias.
        activation: By the names of `nn.get_activation`.
        weights: The safetensors file; it holds `linear.weight` (O, I) and `linear.bias` (O).
    """

    in_features: int
    out_features: int
    bias: bool
    activation: str
    weights: Path


@dataclass(frozen=True)
class SentenceTransformers:
    """How hidden states become sentence embeddings, and how text is prepared for it.

    Attributes:
        pooling: `"mean"`, `"cls"` or `"lasttoken"`.
        normalize: Whether embeddings are divided by their Euclidean norm, at the end.
        dense: Layers between the two, in order.
        max_seq_length: Tokens after which text is cut; None for the architecture's own limit.
        prompts: Texts to put before an input, by name.
        default_prompt_name: The one that is put before every input for which none is named; None for none.
        similarity: How embeddings are meant to be compared: `"cosine"`, `"dot"`, `"euclidean"` or `"manhattan"`; None
            where the checkpoint does not say.
        lower_case: Whether text is lower-cased before it is tokenised.
    """

    pooling: PoolingMode
    normalize: bool = False
    dense: tuple[Dense, ...] = ()
    max_seq_length: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity: str | None = None
    lower_case: bool = False

    def check_sequence_length(self, length: int) -> None:
        """Refuses more tokens than embeddings were meant to be made of.

        Raises:
            ShapeError: The message holds both numbers.
        """
        if self.max_seq_length is not None and length > self.max_seq_length:
            raise ShapeError(
                f"sequence length {length} is above the {self.max_seq_length} tokens after which this "
                "sentence-transformers checkpoint cuts its texts (max_seq_length); choose --sequence-length "
                f"{self.max_seq_length} or less"
            )

    def make_pooling(self) -> SentencePooling:
        """Builds the pooling as a module in the engine's layout, with the weights of its layers.

        Raises:
            CheckpointError: A file of weights does not fit what was said of it.
        """
        dense = [SentenceDense(each.in_features, each.out_features, each.bias, each.activation) for each in self.dense]
        for layer, each in zip(dense, self.dense, strict=True):
            load_module(layer, _read_weights(each))
        return SentencePooling(self.pooling, self.normalize, dense)

    def embed(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """The same in plain PyTorch, as sentence-transformers computes it; what exports are compared with.

        Args:
            hidden: The original's last hidden state, (B, S, C).
            attention_mask: (B, S), 1 for a token and 0 for padding.

        Returns:
            (B, C), or (B, O) of the last layer.
        """
        if self.pooling == "cls":
            embedding = hidden[torch.arange(len(hidden)), attention_mask.int().argmax(dim=1)]
        elif self.pooling == "lasttoken":
            last = attention_mask.shape[1] - 1 - attention_mask.flip(1).int().argmax(dim=1)
            embedding = hidden[torch.arange(len(hidden)), last]
        else:
            weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
            embedding = (hidden * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-9)
        for each in self.dense:
            weights = _read_weights(each)
            linear = functional.linear(embedding, weights["linear.weight"], weights.get("linear.bias"))
            embedding = _apply(each.activation, linear)
        return functional.normalize(embedding, dim=1) if self.normalize else embedding

    def prepare_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Makes a tokenizer, in place, lower-case its text where the checkpoint asks for it and it does not already.

        Raises:
            UnsupportedModelError: It is none of the tokenizers library's.
        """
        if not self.lower_case:
            return
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise UnsupportedModelError("do_lower_case is asked for, and the tokenizer cannot be told to")
        own = backend.normalizer
        if own is None or own.normalize_str("ÄB") != own.normalize_str("äb"):
            backend.normalizer = Sequence([Lowercase(), *([] if own is None else [own])])

    def describe(self) -> str:
        """One line for the screen and the card."""
        steps = [f"{self.pooling} pooling", *(f"a layer of {each.out_features}" for each in self.dense)]
        steps += ["normalised"] if self.normalize else []
        prompt = f", prompt {self.default_prompt_name!r} before every text" if self.default_prompt_name else ""
        return f"sentence embeddings as the checkpoint's modules.json describes them: {', '.join(steps)}{prompt}"


def _read_weights(dense: Dense) -> dict[str, Tensor]:
    files = SafetensorsFiles([dense.weights])
    expected: dict[str, tuple[int, ...]] = {"linear.weight": (dense.out_features, dense.in_features)}
    expected |= {"linear.bias": (dense.out_features,)} if dense.bias else {}
    found = {name: stored.shape for name, stored in files.items()}
    if found != expected:
        raise CheckpointError(f"{dense.weights} holds {found!r:.200}, and its config.json describes {expected}")
    return {name: files.read(name) for name in files}


def _apply(activation: str, x: Tensor) -> Tensor:
    """By torch's own classes, apart from the table that exports use."""
    name = next(name for name, known in ACTIVATIONS.items() if known == activation)
    return getattr(nn, name)()(x)
