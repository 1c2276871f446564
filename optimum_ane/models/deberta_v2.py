"""DeBERTa-v2 and v3: disentangled attention, expressed without a gather in the layer.

The original gathers, for each query and key, one of the scores against all relative positions. Here the table of
relative positions is laid out once per distance (at load, as it depends on weights and length alone), and the scores
by distance become scores by key through `nn.skew`. Both relative terms then enter the ordinary split-head attention
as a mask per head.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from optimum_ane.exporters.config import register_for_ane
from optimum_ane.exporters.text import TextEncoderANEConfig
from optimum_ane.models.bert import bert_masked_lm, make_layer
from optimum_ane.models.heads import Head, Transform
from optimum_ane.models.text import TextEncoder, text_modules
from optimum_ane.nn import (
    MASKED,
    LayerNorm,
    LayerStack,
    Projection,
    first_position,
    get_activation,
    skew,
    split_head_attention,
    to_bc1s,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class RelativePositions:
    """What the configuration says about relative positions.

    Attributes:
        span: Half the rows of the table.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        self.buckets = getattr(config, "position_buckets", -1)
        self.farthest = config.max_relative_positions
        if self.farthest < 1:
            self.farthest = config.max_position_embeddings
        self.span = self.buckets if self.buckets > 0 else self.farthest

    def rows(self, distances: Tensor, sign: int) -> Tensor:
        """The table's row for each distance; `sign` is 1 for content-to-position and −1 for position-to-content.

        Distances are exact when near and logarithmic further off. Source: `make_log_bucket_position` of DeBERTa,
        followed to the float operation, since a rounding decides a bucket.
        """
        if self.buckets > 0:
            middle = self.buckets // 2
            near = (distances < middle) & (distances > -middle)
            magnitude = torch.where(near, middle - 1, distances.abs())
            ratio = torch.log(magnitude / middle) / torch.log(torch.tensor((self.farthest - 1) / middle))
            far = (torch.ceil(ratio * (middle - 1)) + middle) * torch.sign(distances)
            distances = torch.where(magnitude <= middle, distances.float(), far).long()
        return (sign * distances + self.span).clamp(0, 2 * self.span - 1)


class DisentangledSelfAttention(nn.Module):
    """Content-to-content, content-to-position and position-to-content attention."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        width, self.num_heads = config.hidden_size, config.num_attention_heads
        types = (config.pos_att_type or []) if config.relative_attention else []
        self.content_to_position, self.position_to_content = "c2p" in types, "p2c" in types
        self.shares_keys = getattr(config, "share_att_key", False)
        self.positions = RelativePositions(config)
        terms = 1 + sum(name in (config.pos_att_type or []) for name in ("c2p", "p2c"))
        scale = 1.0 / math.sqrt(width // self.num_heads * terms)
        # All three terms are divided by the same root. Each has exactly one factor that is a query.
        self.query_proj = Projection(width, width, scale=scale)
        self.key_proj = Projection(width, width)
        self.value_proj = Projection(width, width)
        if config.relative_attention and not self.shares_keys:
            if self.content_to_position:
                self.pos_key_proj = Projection(width, width)
            if self.position_to_content:
                self.pos_query_proj = Projection(width, width, scale=scale)
        self.tables: tuple[Tensor | None, Tensor | None] | None = None

    def position_tables(self, embeddings: Tensor, length: int) -> tuple[Tensor | None, Tensor | None]:
        """Lays out the projected table of relative positions by distance.

        Args:
            embeddings: (1, C, 1, 2 · span), normalised.
            length: S.

        Returns:
            The keys for content-to-position, (1, H, C / H, 2S − 1) by key − query, and the queries for
            position-to-content, the same by query − key; None for a term that the model lacks.
        """
        distances = torch.arange(length - 1, -length, -1)
        keys = queries = None
        if self.content_to_position:
            project = self.key_proj if self.shares_keys else self.pos_key_proj
            keys = self._by_head(project(embeddings))[..., self.positions.rows(distances, 1)]
        if self.position_to_content:
            project = self.query_proj if self.shares_keys else self.pos_query_proj
            queries = self._by_head(project(embeddings))[..., self.positions.rows(distances, -1)]
        return keys, queries

    def _by_head(self, x: Tensor) -> Tensor:
        """(B, C, 1, S) → (B, H, C / H, S)."""
        return x.reshape(x.shape[0], self.num_heads, -1, x.shape[3])

    def forward(self, x: Tensor, mask: Tensor, is_token: Tensor, position_embeddings: Tensor | None) -> Tensor:
        """(B, C, 1, S) → (B, C, 1, S).

        Args:
            x: (B, C, 1, S).
            mask: From `disentangled_mask`, (B, S, 1, S).
            is_token: (B, 1, 1, S), 1 for a token and 0 for padding.
            position_embeddings: (1, C, 1, 2 · span); None where they are laid out already, or there are none.
        """
        # A query of padding scores 0 with every key: the original fills the rows of its scores as well as the columns.
        query, key, value = self.query_proj(x) * is_token, self.key_proj(x), self.value_proj(x)
        masks: Tensor | tuple[Tensor, ...] = mask
        if self.content_to_position or self.position_to_content:
            tables = self.tables
            if tables is None:
                assert position_embeddings is not None
                tables = self.position_tables(position_embeddings, x.shape[3])
            masks = self._relative_scores(query, key, mask, is_token, tables).split(1, dim=2)
        return split_head_attention(query, key, value, masks, self.num_heads)

    def _relative_scores(
        self,
        query: Tensor,
        key: Tensor,
        mask: Tensor,
        is_token: Tensor,
        tables: tuple[Tensor | None, Tensor | None],
    ) -> Tensor:
        """The relative terms and the mask, (B, K, H, Q)."""
        keys, queries = tables
        scores = mask
        if keys is not None:
            by_distance = torch.matmul(self._by_head(query).transpose(2, 3), keys)
            scores = scores + skew(by_distance).permute(0, 3, 1, 2)
        if queries is not None:
            by_distance = torch.matmul(self._by_head(key).transpose(2, 3), queries)
            scores = scores + skew(by_distance).permute(0, 2, 1, 3) * is_token
        return scores


def disentangled_mask(attention_mask: Tensor) -> Tensor:
    """Turns a padding mask into scores to add, for queries of tokens and of padding.

    A token attends to tokens. Padding attends to all positions alike, tokens or not, since the original fills the
    scores of a masked query with one number; that shows where a head reads the first position and it is padding, as
    with padding on the left. The original's answer then depends on how far its batch is padded beyond a row's last
    token; here it is as if the batch ended there.

    Args:
        attention_mask: (B, S), integer, 1 for a token and 0 for padding.

    Returns:
        (B, K, 1, Q), float, 0 or −1e4. The scores of a masked query must be 0 for it.
    """
    is_key = attention_mask[:, :, None, None].float()
    length = int(attention_mask.shape[1])
    # Tokens at each position or after it: one product stays on the engine where a cumulative sum does not.
    following = nn.functional.conv2d(is_key, torch.ones(length, length).triu()[:, :, None, None])
    for_tokens = (1.0 - is_key) * MASKED
    for_padding = (1.0 - following.clamp(max=1.0)) * MASKED
    return for_padding + (for_tokens - for_padding) * attention_mask[:, None, None, :].float()


class DebertaV2ConvLayer(nn.Module):
    """The convolution over neighbouring tokens that the large v2 checkpoints have after the first layer."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        size = config.conv_kernel_size
        self.conv = nn.Conv2d(
            config.hidden_size,
            config.hidden_size,
            kernel_size=(1, size),
            padding=(0, (size - 1) // 2),
            groups=getattr(config, "conv_groups", 1),
        )
        self.conv.register_load_state_dict_pre_hook(_conv1d_to_conv2d)
        self.activation = get_activation(getattr(config, "conv_act", "tanh"))
        self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, embedded: Tensor, x: Tensor, is_token: Tensor) -> Tensor:
        """All (B, C, 1, S), but for `is_token`, (B, 1, 1, S): 1 for a token and 0 for padding."""
        local = self.activation(self.conv(embedded) * is_token)
        return self.LayerNorm(x + local) * is_token


def _conv1d_to_conv2d(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    weight = state_dict.get(prefix + "weight")
    if weight is not None and weight.ndim == 3:
        state_dict[prefix + "weight"] = weight[:, :, None, :]


class DebertaV2Encoder(nn.Module):
    """The stack of layers and the table of relative positions."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            make_layer(config, attention=DisentangledSelfAttention(config)) for _ in range(config.num_hidden_layers)
        )
        self.is_relative = config.relative_attention
        if self.is_relative:
            self.rel_embeddings = nn.Embedding(2 * RelativePositions(config).span, config.hidden_size)
        norms = [name.strip() for name in getattr(config, "norm_rel_ebd", "none").lower().split("|")]
        self.normalizes_positions = "layer_norm" in norms
        if self.normalizes_positions:
            self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.has_conv = getattr(config, "conv_kernel_size", 0) > 0
        if self.has_conv:
            self.conv = DebertaV2ConvLayer(config)

    def position_embeddings(self) -> Tensor | None:
        """The normalised table, (1, C, 1, 2 · span)."""
        if not self.is_relative:
            return None
        table = to_bc1s(self.rel_embeddings.weight.unsqueeze(0))
        return self.LayerNorm(table) if self.normalizes_positions else table

    def fix_length(self, length: int) -> None:
        """Computes, once, what depends on the weights and the length alone. See `TextEncoder.fix_length`."""
        embeddings = self.position_embeddings()
        if embeddings is not None:
            for layer in self.layer:
                layer.attention.self.tables = layer.attention.self.position_tables(embeddings, length)

    def forward(self, x: Tensor, mask: Tensor, is_token: Tensor) -> Tensor:
        """(B, C, 1, S) → (B, C, 1, S); `mask` is (B, S, 1, S), `is_token` (B, 1, 1, S)."""
        embedded = x
        for index, layer in enumerate(self.layer):
            needs_table = layer.attention.self.tables is None
            x = layer(x, mask, is_token, self.position_embeddings() if needs_table else None)
            if index == 0 and self.has_conv:
                x = self.conv(embedded, x, is_token)
        return x


class DebertaV2Embeddings(nn.Module):
    """Word embeddings, and position and token-type embeddings in the checkpoints that have them."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        width = getattr(config, "embedding_size", config.hidden_size)
        self.word_embeddings = nn.Embedding(config.vocab_size, width)
        self.has_positions = getattr(config, "position_biased_input", True)
        if self.has_positions:
            self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.has_token_types = config.type_vocab_size > 0
        if self.has_token_types:
            self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.projects = width != config.hidden_size
        if self.projects:
            self.embed_proj = Projection(width, config.hidden_size, bias=False)
        self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """(B, S) → (B, C, 1, S), before padding is set to zero."""
        x = self.word_embeddings(input_ids)
        if self.has_positions:
            x = x + self.position_embeddings.weight[: input_ids.shape[1]]
        if self.has_token_types:
            table = self.token_type_embeddings.weight
            x = x + (table[0] if token_type_ids is None else nn.functional.embedding(token_type_ids, table))
        x = to_bc1s(x)
        return self.LayerNorm(self.embed_proj(x) if self.projects else x)


class DebertaV2Model(TextEncoder):
    """The encoder."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.embeddings = DebertaV2Embeddings(config)
        self.encoder = DebertaV2Encoder(config)

    def encode(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """See `TextEncoder.encode`."""
        is_token = attention_mask[:, None, None, :].float()
        x = self.embeddings(input_ids, token_type_ids) * is_token
        return self.encoder(x, disentangled_mask(attention_mask), is_token)

    def layer_stack(self) -> LayerStack:
        """See `TextEncoder.layer_stack`."""
        return LayerStack(tuple(self.encoder.layer), self.encoder)

    def fix_length(self, length: int) -> None:
        """See `TextEncoder.fix_length`."""
        self.encoder.fix_length(length)


def deberta_classifier(config: PretrainedConfig) -> Head:
    """DeBERTa's classifier; its pooler stands beside the encoder."""
    pooler = Transform("pooler.dense", config.pooler_hidden_size, config.pooler_hidden_act)
    return Head("classifier", pooler, first_position)


def deberta_masked_lm(config: PretrainedConfig) -> Head:
    """DeBERTa's decoder: BERT's, or that of v3's published weights, where the word embeddings are the decoder."""
    if config.legacy:
        return bert_masked_lm(config, getattr(config, "embedding_size", None))
    head = "lm_predictions.lm_head"
    return Head(
        head,
        Transform(f"{head}.dense", config.hidden_size, config.hidden_act, f"{head}.LayerNorm", config.layer_norm_eps),
        tied_to="deberta.embeddings.word_embeddings",
    )


@register_for_ane("deberta-v2")
class DebertaV2ANEConfig(TextEncoderANEConfig):
    """Export configuration of DeBERTa-v2 and v3."""

    MODULES = text_modules(
        "deberta",
        DebertaV2Model,
        {
            "fill-mask": deberta_masked_lm,
            "multiple-choice": deberta_classifier,
            "text-classification": deberta_classifier,
        },
    )
    UNUSED_WEIGHTS = {
        r"(deberta\.)?embeddings\.position_embeddings": "of pre-training, where position_biased_input is off",
    }
