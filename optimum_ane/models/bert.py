"""BERT, and the encoder that its kin share with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from optimum_ane.exporters.config import register_for_ane
from optimum_ane.exporters.text import TextEncoderANEConfig
from optimum_ane.models.heads import Head, Transform, pooled_head
from optimum_ane.models.post_norm_layer import LayerNames, PostNormLayer, SelfAttention
from optimum_ane.models.text import TextEncoder, text_modules
from optimum_ane.nn import LayerStack, Projection, TextEmbeddings, add_submodule, additive_mask

if TYPE_CHECKING:
    from transformers import PretrainedConfig

BERT_LAYER = LayerNames(
    attention="attention.self",
    attention_output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    output_norm="output.LayerNorm",
)


def make_layer(
    config: PretrainedConfig, names: LayerNames = BERT_LAYER, attention: nn.Module | None = None
) -> PostNormLayer:
    """Makes a layer of the sizes that a configuration with BERT's entries has; BERT's own attention by default."""
    if attention is None:
        attention = SelfAttention(config.hidden_size, config.num_attention_heads)
    return PostNormLayer(
        names, attention, config.hidden_size, config.intermediate_size, config.hidden_act, config.layer_norm_eps
    )


class BertEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(make_layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, C, 1, S) → (B, C, 1, S)."""
        for layer in self.layer:
            x = layer(x, mask)
        return x


class BertModel(TextEncoder):
    """Embeddings and a stack of layers; BERT's kin give it other stacks, widths and positions.

    Args:
        config: With BERT's entries.
        stack: What stands under `encoder`; None makes BERT's.
        embedding_width: Of the embeddings; None for that of the layers.
        embedding_projection: Name of the projection from the embeddings onto the layers; None where there is none.
        padding_id: See `nn.TextEmbeddings`.
    """

    UNUSED: ClassVar[tuple[str, ...]] = ("pooler.dense.weight", "pooler.dense.bias")

    def __init__(
        self,
        config: PretrainedConfig,
        stack: nn.Module | None = None,
        embedding_width: int | None = None,
        embedding_projection: str | None = None,
        padding_id: int | None = None,
    ) -> None:
        super().__init__()
        width = embedding_width or config.hidden_size
        types = getattr(config, "type_vocab_size", 0)
        self.embeddings = TextEmbeddings(
            config.vocab_size, width, config.max_position_embeddings, types, config.layer_norm_eps, padding_id
        )
        self.encoder = BertEncoder(config) if stack is None else stack
        self.embedding_projection = embedding_projection
        if embedding_projection is not None:
            add_submodule(self, embedding_projection, Projection(width, config.hidden_size))

    def encode(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """See `TextEncoder.encode`."""
        x, mask = self.embeddings(input_ids, token_type_ids), additive_mask(attention_mask)
        if self.embedding_projection is not None:
            x = self.get_submodule(self.embedding_projection)(x)
        return self.encoder(x, mask)

    def layer_stack(self) -> LayerStack:
        """See `TextEncoder.layer_stack`."""
        return LayerStack(tuple(self.encoder.layer), self.encoder)


def bert_masked_lm(config: PretrainedConfig, width: int | None = None) -> Head:
    """BERT's decoder; `width` is that of the words, if it is not that of the layers."""
    transform = "cls.predictions.transform"
    return Head(
        "cls.predictions.decoder",
        Transform(
            f"{transform}.dense",
            width or config.hidden_size,
            config.hidden_act,
            f"{transform}.LayerNorm",
            config.layer_norm_eps,
        ),
        unused=("cls.predictions.bias",),  # a second name for the decoder's
    )


@register_for_ane("bert")
class BertANEConfig(TextEncoderANEConfig):
    """Export configuration of BERT."""

    MODULES = text_modules(
        "bert",
        BertModel,
        {
            "fill-mask": bert_masked_lm,
            "multiple-choice": pooled_head("bert.pooler.dense"),
            "text-classification": pooled_head("bert.pooler.dense"),
        },
    )
