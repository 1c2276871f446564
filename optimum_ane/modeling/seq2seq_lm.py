"""`ANEModelForSeq2SeqLM`: texts of texts, translations, summaries and answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.modeling_outputs import Seq2SeqLMOutput

from optimum_ane.errors import InputError, PackageError
from optimum_ane.modeling.decoder_cache import ANECache
from optimum_ane.modeling.encoder_decoder import ANEEncoderDecoderModel, EncodedRows
from optimum_ane.modeling.input_checks import check_ids, check_mask
from optimum_ane.package.manifest import Manifest
from optimum_ane.runtimes import Session


class ANEModelForSeq2SeqLM(ANEEncoderDecoderModel):
    """Writes a text of a text: `generate` as of transformers, greedy, sampled or with beams."""

    task = "text2text-generation"
    main_input_name = "input_ids"
    input_modalities = ("text",)

    def __init__(self, sessions: Mapping[str, Session], config: PretrainedConfig, manifest: Manifest) -> None:
        super().__init__(sessions, config, manifest)
        shapes = {name: spec.shape for name, spec in self._programs.inputs.items()}
        if shapes.keys() != {"input_ids", "attention_mask"} or len(set(shapes.values())) != 1:
            raise PackageError(
                f"the program encoder takes {', '.join(shapes)}; {type(self).__name__} gives it input_ids and "
                "attention_mask, of one shape"
            )
        self.source_length = shapes["input_ids"][1]

    def _extents(self) -> str:
        return f"{self.source_length} tokens to {self.context_length}"

    def encode(
        self, input_ids: Tensor | np.ndarray | None = None, attention_mask: Tensor | np.ndarray | None = None
    ) -> EncodedRows:
        """Encodes a batch of texts.

        Args:
            input_ids: (N, S), S at most the package's length of a source, or more of padding.
            attention_mask: (N, S), 1 for a token and 0 for padding behind it; None stands for ones.

        Returns:
            `last_hidden_state` (N, the package's length, C) float32; what is behind a text means nothing.

        Raises:
            InputError: A text is too long, an id is no row of the vocabulary, or a mask has padding before tokens.
        """
        if input_ids is None:
            raise InputError("no input_ids were given")
        ids = torch.as_tensor(input_ids).detach()
        device, ids = ids.device, ids.cpu()
        if ids.ndim != 2 or not ids.shape[1] or ids.is_floating_point() or ids.dtype == torch.bool:
            raise InputError(f"input_ids is {ids.dtype} {tuple(ids.shape)}; expected rows of token ids, (N, S)")
        check_ids("input_ids", ids, self._source_vocab_size, "words")
        counts = self._counts(attention_mask, ids)
        padding = self.manifest.text.padding_id if self.manifest.text is not None else None
        arrays: list[Mapping[str, np.ndarray]] = []
        for row, count in enumerate(counts):
            own = np.full((1, self.source_length), padding or 0, np.int32)
            own[0, :count] = ids[row, :count]
            arrays.append({"input_ids": own, "attention_mask": self._mask(count)})
        return self._encode_rows(arrays, device)

    @property
    def _source_vocab_size(self) -> int | None:
        return getattr(self.config.get_text_config(), "vocab_size", None)

    def _mask(self, count: int) -> np.ndarray:
        return (np.arange(self.source_length) < count).astype(np.int32)[None]

    def _counts(self, attention_mask: Tensor | np.ndarray | None, ids: Tensor) -> list[int]:
        """Tokens of each row."""
        mask = torch.ones_like(ids) if attention_mask is None else torch.as_tensor(attention_mask).detach().cpu()
        if mask.shape != ids.shape:
            raise InputError(f"attention_mask has shape {tuple(mask.shape)}, and input_ids {tuple(ids.shape)}")
        return self._checked_counts(mask)

    def _checked_counts(self, mask: Tensor) -> list[int]:
        check_mask(mask)
        counts: list[int] = mask.long().sum(1).tolist()
        for row, count in enumerate(counts):
            if not mask[row, :count].bool().all():
                raise InputError(
                    f"row {row} of attention_mask has padding before tokens; pad sources on the right: "
                    'tokenizer.padding_side = "right"'
                )
            if count > self.source_length:
                raise InputError(
                    f"row {row} has {count} tokens, and this package takes {self.source_length} of a source; tokenize "
                    f"with truncation=True and max_length={self.source_length}, or export with --sequence-length "
                    f"{count}"
                )
        return counts

    def _columns(self, attention_mask: Tensor | None, rows: int) -> list[int | None]:
        """See `ANEEncoderDecoderModel._columns`."""
        if attention_mask is None:
            return [self.source_length] * rows
        mask = torch.as_tensor(attention_mask).detach().cpu()
        if mask.ndim != 2 or len(mask) != rows:
            raise InputError(f"attention_mask has shape {tuple(mask.shape)}, and decoder_input_ids {rows} rows")
        return [*self._checked_counts(mask)]

    def forward(
        self,
        input_ids: Tensor | np.ndarray | None = None,
        attention_mask: Tensor | np.ndarray | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: ANECache | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
    ) -> Seq2SeqLMOutput | tuple[Any, ...]:
        """Gives the logits behind the tokens of texts that are written of sources.

        Args:
            input_ids: The sources, (N, S); see `encode`. Not read where there are `encoder_outputs`.
            attention_mask: (N, S), 1 for a token of the source and 0 for padding behind it.
            decoder_input_ids: The texts so far, or what follows the cache, (N, Q).
            decoder_attention_mask: (N, …) of ones: texts that are written have no padding.
            encoder_outputs: What `encode` gave.
            past_key_values: What was read before; it is changed. None starts anew.
            use_cache: False keeps what was read out of the answer.
            return_dict: False gives a tuple in place of the output class.

        Returns:
            logits (N, Q, vocabulary), float32 on the device of `decoder_input_ids`; the cache; the encoder's states.

        Raises:
            InputError: Shapes do not fit each other, a text is too long, or an id is no row of the vocabulary.
        """
        if decoder_input_ids is None:
            raise InputError("no decoder_input_ids were given; generate() makes them itself")
        if decoder_attention_mask is not None and not torch.as_tensor(decoder_attention_mask).bool().all():
            raise InputError("decoder_attention_mask has padding; texts of one length are given without any")
        cache = ANECache() if past_key_values is None else past_key_values
        if encoder_outputs is None and not cache.rows:
            encoder_outputs = self.encode(input_ids, attention_mask)
            if attention_mask is None and input_ids is not None:
                attention_mask = torch.ones(np.shape(input_ids), dtype=torch.long)
        mask = None if attention_mask is None else torch.as_tensor(attention_mask)
        logits = self._decode(encoder_outputs, mask, decoder_input_ids, cache)
        return self._output(logits, cache, encoder_outputs, use_cache, return_dict)
