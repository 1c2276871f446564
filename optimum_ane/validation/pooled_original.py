"""An original whose hidden states are pooled as sentence-transformers does, for packages that pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers.modeling_outputs import BaseModelOutputWithPooling

from optimum_ane.checkpoints.sentence_transformers import SentenceTransformers

if TYPE_CHECKING:
    from torch import nn

    from optimum_ane.package.form import ExportForm
    from optimum_ane.validation.comparison import Model


class PooledOriginal:
    """A transformers encoder that gives one vector per row, as `pooler_output`.

    Args:
        model: The encoder.
        embedding: How hidden states become vectors.
    """

    def __init__(self, model: nn.Module, embedding: SentenceTransformers) -> None:
        self.model, self.embedding = model, embedding
        self.forward = model.forward
        """What says which inputs are taken."""

    def __call__(self, **inputs: Any) -> BaseModelOutputWithPooling:
        """Takes what the encoder takes, `attention_mask` among it."""
        answer = self.model(**inputs)
        pooled = self.embedding.embed(answer.last_hidden_state, inputs["attention_mask"])
        return BaseModelOutputWithPooling(pooler_output=pooled, hidden_states=answer.get("hidden_states"))


def as_reference(model: nn.Module, form: ExportForm, embedding: SentenceTransformers | None = None) -> Model:
    """The original as a package of this form is compared with it.

    Args:
        model: The transformers model.
        form: The form of the package.
        embedding: What the checkpoint says of its own embeddings; None, or other ones than the form asks for, leaves
            the form's pooling and norm.
    """
    if not form.pools:
        return model
    if embedding is None or not embeds_as(form, embedding):
        embedding = SentenceTransformers(form.pooling, form.normalize)  # type: ignore[arg-type]
    return PooledOriginal(model, embedding)


def embeds_as(form: ExportForm, embedding: SentenceTransformers) -> bool:
    """Whether a package of this form makes the checkpoint's own embeddings."""
    return (form.pooling, form.normalize) == (embedding.pooling, embedding.normalize)
