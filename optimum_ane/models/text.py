"""What every text encoder and every head on one has in common, whatever the architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from optimum_ane.models.heads import Head, HeadOf, head_per_token
from optimum_ane.nn import (
    LayerStack,
    Projection,
    SentencePooling,
    VocabularyProjection,
    add_submodule,
    from_bc1s,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class TextEncoder(nn.Module):
    """A text encoder; exported as it is for feature extraction.

    Subclasses build their modules under the checkpoint's names and implement `encode` and `layer_stack`.
    """

    UNUSED: ClassVar[tuple[str, ...]] = ()
    """Names of weights that a checkpoint has and no hidden state depends on, as a pooler's. A head may use them."""

    def __init__(self) -> None:
        super().__init__()
        self.sentence_pooling: SentencePooling | None = None
        """Set before tracing to make the graph's output a sentence embedding."""
        self.register_load_state_dict_pre_hook(_leave_out_unused)

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

    def layer_stack(self) -> LayerStack:
        """Declares the layers, so that each can be compared with the original's."""
        raise NotImplementedError

    def unused_weights(self) -> frozenset[str]:
        """Names of weights that a checkpoint may have and that loading leaves out."""
        mine = self.state_dict()
        return frozenset(name for name in self.UNUSED if name not in mine)

    def fix_length(self, length: int) -> None:
        """Computes, once, what depends on the weights and the sequence length alone; see `nn.at_length`.

        Afterwards the encoder takes inputs of this length only. Architectures without such work need not override it.
        """

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Gives the last hidden state, (B, S, C), or the sentence embedding, (B, C)."""
        hidden = self.encode(input_ids, attention_mask, token_type_ids)
        if self.sentence_pooling is None:
            return from_bc1s(hidden)
        return self.sentence_pooling(hidden, attention_mask)


class EncoderWithHead(nn.Module):
    """A text encoder under the name that its family gives it, and a head beside it.

    Raises:
        ValueError: The configuration asks for a head that is not implemented.
    """

    prefix: ClassVar[str]
    """The encoder's name in the checkpoint: `"bert"` for `bert.encoder.layer.0…`."""
    encoder_class: ClassVar[type[Any]]
    """A `TextEncoder` that is made of a configuration alone."""
    describe: ClassVar[Callable[..., Head]]
    """Gives the head for a configuration."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.add_module(self.prefix, self.encoder_class(config))
        self.description: Head = self.describe(config)
        width, transform = config.hidden_size, self.description.transform
        if transform is not None:
            transform.add_to(self, width)
            width = width if transform.dense is None else transform.width
        self.add_projection(width, config)
        self.register_load_state_dict_pre_hook(_leave_out_unused)

    @property
    def encoder(self) -> TextEncoder:
        """The encoder, whatever the checkpoint calls it."""
        encoder = self.get_submodule(self.prefix)
        assert isinstance(encoder, TextEncoder)
        return encoder

    def add_projection(self, width: int, config: PretrainedConfig) -> None:
        """Registers the projection of the head under its name."""
        projection = Projection(width, self.num_scores(config), self.description.bias)
        add_submodule(self, self.description.projection, projection)

    def num_scores(self, config: PretrainedConfig) -> int:
        """Output features of the projection."""
        return int(config.num_labels)

    def scores(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """Gives the projection's output, (B, L, 1, S), or (B, L, 1, 1) of a head that pools."""
        x = self.encoder.encode(input_ids, attention_mask, token_type_ids)
        if self.description.pooling is not None:
            x = self.description.pooling(x, attention_mask)
        if self.description.transform is not None:
            x = self.description.transform.apply(self, x)
        return self.project(x)

    def project(self, x: Tensor) -> Tensor:
        """Applies the projection of the head."""
        return self.get_submodule(self.description.projection)(x)

    def layer_stack(self) -> LayerStack:
        """See `TextEncoder.layer_stack`."""
        return self.encoder.layer_stack()

    def unused_weights(self) -> frozenset[str]:
        """See `TextEncoder.unused_weights`."""
        unused = {f"{self.prefix}.{name}" for name in self.encoder.unused_weights()}
        return frozenset(unused.union(self.description.unused))

    def fix_length(self, length: int) -> None:
        """See `TextEncoder.fix_length`."""
        self.encoder.fix_length(length)


class TokenClassification(EncoderWithHead):
    """One label per token."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Gives the logits, (B, S, L)."""
        return from_bc1s(self.scores(input_ids, attention_mask, token_type_ids))


class QuestionAnswering(EncoderWithHead):
    """Start and end of an answer."""

    def num_scores(self, config: PretrainedConfig) -> int:
        """See `EncoderWithHead.num_scores`."""
        return 2

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Gives the logits of the start and of the end, (B, S) each."""
        start, end = self.scores(input_ids, attention_mask, token_type_ids).squeeze(2).split(1, dim=1)
        return start.squeeze(1), end.squeeze(1)


class SequenceClassification(EncoderWithHead):
    """Scores of a whole sequence. Its head pools."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Gives the logits, (B, L)."""
        return self.scores(input_ids, attention_mask, token_type_ids).squeeze(3).squeeze(2)


class MultipleChoice(SequenceClassification):
    """One score per row: a row is one choice."""

    def num_scores(self, config: PretrainedConfig) -> int:
        """See `EncoderWithHead.num_scores`."""
        return 1


class MaskedLM(EncoderWithHead):
    """A score for each word of the vocabulary at each position."""

    def num_scores(self, config: PretrainedConfig) -> int:
        """See `EncoderWithHead.num_scores`."""
        return config.vocab_size

    def add_projection(self, width: int, config: PretrainedConfig) -> None:
        """See `EncoderWithHead.add_projection`."""
        name = self.description.projection
        if self.description.tied_to is None:
            add_submodule(self, name, VocabularyProjection(width, config.vocab_size, self.description.bias))
        else:
            self.get_submodule(name).register_parameter("bias", nn.Parameter(torch.zeros(config.vocab_size)))

    def project(self, x: Tensor) -> Tensor:
        """See `EncoderWithHead.project`; (B, S, V)."""
        name, table = self.description.projection, self.description.tied_to
        if table is None:
            return super().project(x)
        words = self.get_parameter(f"{table}.weight")[:, :, None, None]
        return VocabularyProjection.project(x, words, self.get_parameter(f"{name}.bias"))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Gives the logits, (B, S, V)."""
        return self.scores(input_ids, attention_mask, token_type_ids)


_KINDS: Mapping[str, tuple[str, type[EncoderWithHead]]] = {
    "fill-mask": ("MaskedLM", MaskedLM),
    "multiple-choice": ("MultipleChoice", MultipleChoice),
    "question-answering": ("QuestionAnswering", QuestionAnswering),
    "text-classification": ("SequenceClassification", SequenceClassification),
    "token-classification": ("TokenClassification", TokenClassification),
}
_HEADS: Mapping[str, HeadOf] = {
    "question-answering": head_per_token("qa_outputs"),
    "token-classification": head_per_token("classifier"),
}
"""The heads that most architectures have."""


def text_modules(
    prefix: str, encoder_class: type[TextEncoder], heads: Mapping[str, HeadOf]
) -> dict[str, type[nn.Module]]:
    """Makes the module class of each task of an architecture, as `ANEConfig.MODULES` has them.

    Args:
        prefix: The encoder's name in a checkpoint with a head.
        encoder_class: The encoder; made of a configuration alone.
        heads: The head for each task. Token classification and question answering have a plain projection, named
            `classifier` and `qa_outputs`, unless another is given.
    """
    family = encoder_class.__name__.removesuffix("Model")
    modules: dict[str, type[nn.Module]] = {"feature-extraction": encoder_class}
    for task, describe in {**_HEADS, **heads}.items():
        name, kind = _KINDS[task]
        attributes = {"prefix": prefix, "encoder_class": encoder_class, "describe": staticmethod(describe)}
        modules[task] = type(f"{family}For{name}", (kind,), attributes)
    return modules


def _leave_out_unused(
    module: TextEncoder | EncoderWithHead, state_dict: dict[str, Tensor], prefix: str, *_: Any
) -> None:
    for name in module.unused_weights():
        state_dict.pop(prefix + name, None)
