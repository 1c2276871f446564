"""ModernBERT: rotary positions, local and global layers, gated feed-forward, norms before and hardly a bias."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor, nn

from optimum_ane.exporters.config import register_for_ane
from optimum_ane.exporters.text import TextEncoderANEConfig
from optimum_ane.models.heads import Head, Pooling, Transform
from optimum_ane.models.text import TextEncoder, text_modules
from optimum_ane.nn import (
    LayerNorm,
    LayerStack,
    PackedProjection,
    Projection,
    additive_mask,
    apply_rotary,
    first_position,
    first_token,
    get_activation,
    mean_over_tokens,
    rotary_tables,
    split_head_attention,
    to_bc1s,
    window_mask,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig

GLOBAL, LOCAL = "full_attention", "sliding_attention"
"""The layer types, as configurations name them."""


class ModernBertEmbeddings(nn.Module):
    """Words and a norm; positions enter in the layers."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.norm = LayerNorm(config.hidden_size, config.norm_eps, config.norm_bias)

    def forward(self, input_ids: Tensor) -> Tensor:
        """(B, S) → (B, C, 1, S)."""
        return self.norm(to_bc1s(self.tok_embeddings(input_ids)))


class ModernBertAttention(nn.Module):
    """Self-attention on rotated queries and keys, with its output projection."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        width, self.num_heads = config.hidden_size, config.num_attention_heads
        parts, scales = dict.fromkeys(("query", "key", "value"), width), {"query": (width // self.num_heads) ** -0.5}
        self.Wqkv = PackedProjection(width, parts, config.attention_bias, scales)
        self.Wo = Projection(width, width, config.attention_bias)

    def forward(self, x: Tensor, mask: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """(B, C, 1, S) → (B, C, 1, S)."""
        query, key, value = self.Wqkv(x)
        query, key = (apply_rotary(each, tables, self.num_heads) for each in (query, key))
        return self.Wo(split_head_attention(query, key, value, mask, self.num_heads))


class ModernBertMLP(nn.Module):
    """`Wo(activation(input) * gate)`: GeGLU with the usual activation."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.Wi = PackedProjection(width, {"input": inner, "gate": inner}, config.mlp_bias)
        self.activation = get_activation(config.hidden_activation)
        self.Wo = Projection(inner, width, config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 1, S) → (B, C, 1, S)."""
        value, gate = self.Wi(x)
        return self.Wo(self.activation(value) * gate)


class ModernBertLayer(nn.Module):
    """Attention, then feed-forward, each on the norm of what it is added to; the first layer's input is normal."""

    def __init__(self, config: PretrainedConfig, index: int) -> None:
        super().__init__()
        self.attention_type = config.layer_types[index]
        norm = (config.hidden_size, config.norm_eps, config.norm_bias)
        self.attn_norm = nn.Identity() if index == 0 else LayerNorm(*norm)
        self.attn = ModernBertAttention(config)
        self.mlp_norm = LayerNorm(*norm)
        self.mlp = ModernBertMLP(config)

    def forward(self, x: Tensor, mask: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """(B, C, 1, S) → (B, C, 1, S)."""
        x = x + self.attn(self.attn_norm(x), mask, tables)
        return x + self.mlp(self.mlp_norm(x))


class ModernBertModel(TextEncoder):
    """The encoder.

    Raises:
        ValueError: The configuration asks for positions or layers that are not implemented.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        if self.heads[1] % 2:
            raise ValueError(f"rotary positions turn pairs of channels, and a head has {self.heads[1]}")
        self.bases = {kind: _base(config, kind) for kind in sorted(set(config.layer_types))}
        self.radius = config.local_attention // 2
        self.embeddings = ModernBertEmbeddings(config)
        self.layers = nn.ModuleList(ModernBertLayer(config, index) for index in range(config.num_hidden_layers))
        self.final_norm = LayerNorm(config.hidden_size, config.norm_eps, config.norm_bias)

    def encode(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """See `TextEncoder.encode`; ModernBERT has no token types."""
        x, length = self.embeddings(input_ids), int(input_ids.shape[1])
        masks = dict.fromkeys((GLOBAL, LOCAL), additive_mask(attention_mask))
        if length > self.radius + 1:
            masks[LOCAL] = masks[GLOBAL] + window_mask(length, self.radius)
        tables = {kind: rotary_tables(length, *self.heads, base) for kind, base in self.bases.items()}
        for layer in self.layers:
            x = layer(x, masks[layer.attention_type], tables[layer.attention_type])
        return self.final_norm(x)

    def layer_stack(self) -> LayerStack:
        """See `TextEncoder.layer_stack`: transformers gives the last hidden state after the final norm."""
        return LayerStack(tuple(self.layers), self.final_norm)


def _base(config: PretrainedConfig, kind: str) -> float:
    if kind not in (GLOBAL, LOCAL):
        raise ValueError(f"layer type {kind!r} is not supported; known: {GLOBAL}, {LOCAL}")
    rotary = config.rope_parameters[kind]
    if rotary["rope_type"] != "default":
        raise ValueError(f"rope_type {rotary['rope_type']!r} of {kind} is not supported; only 'default' is")
    return rotary["rope_theta"]


def modernbert_head(
    config: PretrainedConfig, projection: str = "classifier", cls: Pooling | None = None, bias: bool = True
) -> Head:
    """The head of every task. One that pools does as `classifier_pooling` says; `cls` is what is meant by "cls"."""
    return Head(
        projection,
        Transform(
            "head.dense",
            config.hidden_size,
            config.classifier_activation,
            "head.norm",
            config.norm_eps,
            config.classifier_bias,
            config.norm_bias,
        ),
        mean_over_tokens if cls is not None and config.classifier_pooling == "mean" else cls,
        bias,
    )


@register_for_ane("modernbert")
class ModernBertANEConfig(TextEncoderANEConfig):
    """Export configuration of ModernBERT."""

    MODULES = text_modules(
        "model",
        ModernBertModel,
        {
            "fill-mask": lambda config: modernbert_head(config, "decoder", bias=config.decoder_bias),
            # transformers finds the first token behind padding on the left for multiple choice, and only there.
            "multiple-choice": partial(modernbert_head, cls=first_token),
            "question-answering": modernbert_head,
            "text-classification": partial(modernbert_head, cls=first_position),
            "token-classification": modernbert_head,
        },
    )
