"""Token embeddings: the look-ups at the graph's edge, then one step into the engine's layout."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optimum_ane.nn.layout import to_bc1s
from optimum_ane.nn.norm import LayerNorm


class TextEmbeddings(nn.Module):
    """Word, position and token-type embeddings with their layer norm, named as BERT and its kin name them.

    Positions that do not depend on the input are a constant of the traced graph, not a look-up.

    Args:
        vocab_size: Rows of the word table.
        width: C, the embeddings' width.
        max_positions: Rows of the position table.
        type_vocab_size: Rows of the token-type table; 0 for an architecture without one.
        eps: Epsilon of the layer norm.
        padding_id: Set for RoBERTa and its kin: positions are counted from `padding_id + 1` over the tokens that are
            not padding, so they depend on the input; padding has position `padding_id`.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        max_positions: int,
        type_vocab_size: int,
        eps: float,
        padding_id: int | None = None,
    ) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, width)
        self.position_embeddings = nn.Embedding(max_positions, width)
        if type_vocab_size > 0:
            self.token_type_embeddings = nn.Embedding(type_vocab_size, width)
        self.has_token_types = type_vocab_size > 0
        self.LayerNorm = LayerNorm(width, eps)
        self.padding_id = padding_id

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Embeds a batch of token ids.

        Args:
            input_ids: (B, S), integer.
            token_type_ids: (B, S), integer; None stands for zeros.

        Returns:
            (B, C, 1, S).
        """
        positions = self.position_embeddings.weight
        if self.has_token_types and token_type_ids is None:
            positions = positions + self.token_type_embeddings.weight[0]
        if self.padding_id is None:
            positions = positions[: input_ids.shape[1]]
        else:
            positions = F.embedding(position_ids_after_padding(input_ids, self.padding_id), positions)
        embedded = self.word_embeddings(input_ids) + positions
        if self.has_token_types and token_type_ids is not None:
            embedded = embedded + self.token_type_embeddings(token_type_ids)
        return self.LayerNorm(to_bc1s(embedded))


def position_ids_after_padding(input_ids: Tensor, padding_id: int) -> Tensor:
    """RoBERTa's positions: `padding_id + 1, padding_id + 2, …` over the tokens, `padding_id` for padding.

    Integer arithmetic on the ids, at the graph's edge where the look-ups are. Source: fairseq's `make_positions`.

    Args:
        input_ids: (B, S), integer.
        padding_id: The padding token's id.

    Returns:
        (B, S), integer.
    """
    is_token = input_ids.ne(padding_id).int()
    return torch.cumsum(is_token, dim=1) * is_token + padding_id
