"""`past_key_values` of a model class: the caches of several rows, which generation reorders, shortens and keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optimum_ane.errors import InputError
from optimum_ane.modeling.decoder_programs import CachedTokens


@dataclass
class CachedRow:
    """One row of a batch.

    Attributes:
        padding: Columns before its first token, which are in no cache.
        cache: Of its tokens.
    """

    padding: int
    cache: CachedTokens


class ANECache:
    """What a language model has read, row by row.

    Returned by `forward` and `generate` as `past_key_values`, and taken by them: a text that begins with the tokens
    that are in it is read from there on only. A call of the model changes it; `copy` keeps it as it is.

    It has what `transformers.GenerationMixin` asks of a cache.
    """

    is_compileable = False

    def __init__(self) -> None:
        self.rows: list[CachedRow] = []

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns that were read, padding included."""
        return self.rows[0].padding + len(self.rows[0].cache.tokens) if self.rows else 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Lets row i continue what row `beam_idx[i]` has read; beam search does so.

        Args:
            beam_idx: (N,) integer.
        """
        taken: set[int] = set()
        rows = []
        for index in beam_idx.tolist():
            row = self.rows[index]
            # A row that several continue is copied for all but one of them.
            rows.append(CachedRow(row.padding, row.cache.copy()) if index in taken else row)
            taken.add(index)
        self.rows = rows

    def activate_past_recording(self) -> None:
        """Does nothing: rows stay until they are written again, so that `crop` needs no record of them."""

    def crop(self, tokens_to_remove: int) -> None:
        """Forgets the last columns; assisted generation does so.

        Args:
            tokens_to_remove: How many, as a number of 0 or less, as transformers has it.

        Raises:
            ValueError: The number is above 0.
        """
        if tokens_to_remove > 0:
            raise ValueError(f"crop takes the columns to remove as a negative number, and got {tokens_to_remove}")
        self.shorten_to(self.get_seq_length() + tokens_to_remove)

    def shorten_to(self, length: int) -> None:
        """Forgets what was read behind so many columns."""
        for row in self.rows:
            del row.cache.tokens[max(0, length - row.padding) :]

    def keep_common(self, input_ids: Tensor, attention_mask: Tensor | None) -> None:
        """Forgets what does not begin a batch of texts, or is all of one: its last token is read for its logits.

        Args:
            input_ids: (N, S), the whole texts.
            attention_mask: (N, S), 0 for padding on the left; None stands for ones.

        Raises:
            InputError: The cache is of another number of rows.
        """
        if not self.rows:
            return
        if len(input_ids) != len(self.rows):
            raise InputError(f"past_key_values is of {len(self.rows)} rows, and input_ids has {len(input_ids)}")
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        columns = input_ids.shape[1] - 1
        for row, ids, own in zip(self.rows, input_ids.tolist(), mask.tolist(), strict=True):
            padding = own.index(1) if 1 in own else len(own)
            is_same = padding == row.padding
            columns = min(columns, padding + _common(ids[padding:], row.cache.tokens) if is_same else 0)
        if columns > max(row.padding for row in self.rows):
            self.shorten_to(columns)
        else:
            self.rows = []

    def common_length(self, ids: Sequence[int]) -> int:
        """How many tokens a text without padding begins with in common with what the first row has read."""
        return _common(ids, self.rows[0].cache.tokens) if self.rows else 0

    def copy(self) -> ANECache:
        """A cache of the same rows that shares nothing with this one."""
        other = ANECache()
        other.rows = [CachedRow(row.padding, row.cache.copy()) for row in self.rows]
        return other


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many items two sequences begin with alike."""
    same = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        same += 1
    return same
