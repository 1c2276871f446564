"""What every text encoder and every head on one has in common, whatever the architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from optimum_ane.nn import Projection, SentencePooling, from_bc1s

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class TextEncoder(nn.Module):
    """A text encoder; exported as it is for feature extraction.

    Subclasses build their modules under the checkpoint's names and implement `encode`.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.sentence_pooling: SentencePooling | None = None
        """Set before tracing to make the graph's output a sentence embedding."""

    def encode(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """Computes the last hidden state.

        Args:
            input_ids: (B, S), integer.
            attention_mask: (B, S), integer, 1 for a token and 0 for padding.
            token_type_ids: (B, S), integer; None stands for zeros.

        Returns:
            (B, C, 1, S).
        """
        raise NotImplementedError

    def fix_length(self, length: int) -> None:
        """Computes, once, what depends on the weights and the sequence length alone; the exporter calls it.

        Afterwards the encoder takes inputs of this length only. Architectures without such work need not override it.
        """

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Gives the last hidden state, (B, S, C), or the sentence embedding, (B, C)."""
        hidden = self.encode(input_ids, attention_mask, token_type_ids)
        if self.sentence_pooling is None:
            return from_bc1s(hidden)
        return self.sentence_pooling(hidden, attention_mask)


class EncoderWithHead(nn.Module):
    """A text encoder under the name that its family gives it, and a head beside it."""

    prefix: ClassVar[str]
    """The encoder's name in the checkpoint: `"bert"` for `bert.encoder.layer.0…`."""
    encoder_class: ClassVar[type[TextEncoder]]

    def __init__(self, config: PretrainedConfig, add_pooler: bool = False) -> None:
        super().__init__()
        # An encoder without a pooler of its own is built with the configuration alone.
        arguments = {"add_pooler": True} if add_pooler else {}
        encoder = self.encoder_class(config, **arguments)
        self.add_module(self.prefix, encoder)

    @property
    def encoder(self) -> TextEncoder:
        """The encoder, whatever the checkpoint calls it."""
        encoder = self.get_submodule(self.prefix)
        assert isinstance(encoder, TextEncoder)
        return encoder

    def fix_length(self, length: int) -> None:
        """See `TextEncoder.fix_length`."""
        self.encoder.fix_length(length)


class TokenClassification(EncoderWithHead):
    """One label per token. All architectures name the head `classifier`."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.classifier = Projection(config.hidden_size, config.num_labels)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Gives the logits, (B, S, L)."""
        return from_bc1s(self.classifier(self.encoder.encode(input_ids, attention_mask, token_type_ids)))


class QuestionAnswering(EncoderWithHead):
    """Start and end of an answer. All architectures name the head `qa_outputs`."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.qa_outputs = Projection(config.hidden_size, 2)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Gives the logits of the start and of the end, (B, S) each."""
        logits = self.qa_outputs(self.encoder.encode(input_ids, attention_mask, token_type_ids)).squeeze(2)
        start, end = logits.split(1, dim=1)
        return start.squeeze(1), end.squeeze(1)


class SequenceClassification(EncoderWithHead):
    """Scores of a whole sequence, computed from its first token.

    Serves text classification, and multiple choice with one score per row: a row is one choice.
    """

    def score(self, first: Tensor) -> Tensor:
        """(B, C, 1, 1), the first token's hidden state → (B, L, 1, 1)."""
        raise NotImplementedError

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Gives the logits, (B, L)."""
        hidden = self.encoder.encode(input_ids, attention_mask, token_type_ids)
        return self.score(hidden[:, :, :, :1]).squeeze(3).squeeze(2)


class MaskedLM(EncoderWithHead):
    """A score for each word of the vocabulary at each position."""

    def predict(self, hidden: Tensor) -> Tensor:
        """(B, C, 1, S) → (B, S, V)."""
        raise NotImplementedError

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Gives the logits, (B, S, V)."""
        return self.predict(self.encoder.encode(input_ids, attention_mask, token_type_ids))


class DenseTanhPooler(nn.Module):
    """BERT's pooler: `tanh(dense(first token))`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = Projection(width, width)

    def forward(self, first: Tensor) -> Tensor:
        """(B, C, 1, 1) → (B, C, 1, 1)."""
        return torch.tanh(self.dense(first))
