"""The base of the model classes that write texts of a source, through transformers' own `generate`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PretrainedConfig, StoppingCriteriaList
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from optimum_ane.errors import InputError, UnsupportedModelError
from optimum_ane.exporters.encoder_decoder import decoder_vocabulary
from optimum_ane.modeling.base import ANEModel
from optimum_ane.modeling.decoder_cache import ANECache, CachedRow
from optimum_ane.modeling.encoder_decoder_programs import CachedText, EncodedSource, EncoderDecoderPrograms
from optimum_ane.modeling.generation import ANEGenerationMixin, ContextEnd
from optimum_ane.modeling.generation_files import load_generation_config
from optimum_ane.modeling.input_checks import check_ids
from optimum_ane.package.manifest import Manifest
from optimum_ane.runtimes import Session


@dataclass
class EncodedRows(BaseModelOutput):
    """What the encoder gives of a batch of sources.

    Attributes:
        cross_cache: Keys and values of each source, (N, 2 · layers, heads, columns, width), of packages whose decoder
            takes them at each step; else None.
    """

    cross_cache: Tensor | None = None


class PackagedEncoder:
    """The encoder as `generate` calls it; `model.get_encoder()`.

    Args:
        model: Whose encoder it is.
    """

    def __init__(self, model: ANEEncoderDecoderModel) -> None:
        self._model = model
        self.main_input_name = model.main_input_name

    def __call__(self, *inputs: Any, **kwargs: Any) -> Any:
        """See `forward`."""
        return self.forward(*inputs, **kwargs)

    def forward(self, *inputs: Any, **kwargs: Any) -> EncodedRows | tuple[Any, ...]:
        """Encodes sources; see the `encode` of the model class, whose arguments these are.

        `generate` looks for the name `kwargs` to see that arguments of any name may be given.

        Raises:
            UnsupportedModelError: Attentions or hidden states in between are asked for.
        """
        for name in ("output_attentions", "output_hidden_states"):
            if kwargs.get(name) and name not in self._model.left_out_of_encoder:
                raise UnsupportedModelError(f"{name}: a package gives neither attentions nor hidden states in between")
        taken = inspect.signature(self._model.encode).parameters
        encoded = self._model.encode(*inputs, **{name: value for name, value in kwargs.items() if name in taken})
        return encoded.to_tuple() if kwargs.get("return_dict") is False else encoded


class ANEEncoderDecoderModel(ANEModel, ANEGenerationMixin):
    """Writes texts of sources: subclasses say how sources become inputs of the encoder's program.

    Rows of a batch run one after another, each with caches of its own; those of one source are made once.
    """

    left_out_of_encoder: ClassVar[frozenset[str]] = frozenset()
    """What `generate` may ask the encoder for where it does not need it: it goes without."""

    def __init__(self, sessions: Mapping[str, Session], config: PretrainedConfig, manifest: Manifest) -> None:
        super().__init__(sessions, config, manifest)
        self.generation_config = GenerationConfig.from_model_config(config)
        self._programs = EncoderDecoderPrograms(sessions)

    @classmethod
    def _from_directory(cls, directory: Path, runtime: str, compute_units: str | None) -> ANEModel:
        model = super()._from_directory(directory, runtime, compute_units)
        model.generation_config = load_generation_config(directory) or model.generation_config
        return model

    @property
    def context_length(self) -> int:
        """The most tokens that the decoder writes, the first one included."""
        return self._programs.context_length

    def get_encoder(self, modality: str | None = None) -> PackagedEncoder:
        """The encoder, as `generate` calls it."""
        return PackagedEncoder(self)

    def can_generate(self) -> bool:
        """Whether the model writes texts; it does."""
        return True

    def encode(self, *inputs: Any, **arguments: Any) -> EncodedRows:
        """Encodes a batch of sources."""
        raise NotImplementedError

    def _columns(self, attention_mask: Tensor | None, rows: int) -> list[int | None]:
        """How many columns of each source, from the first on, the decoder sees; None for all."""
        return [None] * rows

    def _encode_rows(self, arrays: list[Mapping[str, np.ndarray]], device: torch.device) -> EncodedRows:
        """Runs the encoder's program row by row."""
        return self._encoded([self._programs.encode(inputs) for inputs in arrays], device)

    @staticmethod
    def _encoded(found: Sequence[EncodedSource], device: torch.device) -> EncodedRows:
        """Puts the rows of a batch together."""
        hidden = torch.from_numpy(np.concatenate([each.hidden for each in found]).astype(np.float32))
        caches = [each.cache for each in found if each.cache is not None]
        cache = torch.from_numpy(np.stack(caches)).to(device) if caches else None
        return EncodedRows(last_hidden_state=hidden.to(device), cross_cache=cache)

    def _decode(
        self,
        encoder_outputs: Any,
        attention_mask: Tensor | None,
        decoder_input_ids: Tensor,
        cache: ANECache,
    ) -> Tensor:
        """Reads the new tokens of each row into its caches; gives the logits behind each, (N, Q, vocabulary)."""
        ids = torch.as_tensor(decoder_input_ids)
        if ids.ndim != 2 or not ids.shape[1] or ids.is_floating_point() or ids.dtype == torch.bool:
            raise InputError(
                f"decoder_input_ids is {ids.dtype} {tuple(ids.shape)}; expected rows of token ids, (N, Q)"
            )
        check_ids("decoder_input_ids", ids, self._vocab_size, "words")
        if not cache.rows:
            self._begin(encoder_outputs, attention_mask, len(ids), cache)
        if len(cache.rows) != len(ids):
            raise InputError(f"past_key_values is of {len(cache.rows)} rows, and decoder_input_ids has {len(ids)}")
        logits = []
        for row, tokens in enumerate(ids.tolist()):
            text = cache.rows[row].cache
            assert isinstance(text, CachedText)
            logits.append(np.stack([self._programs.step(text, token) for token in tokens]))
        return torch.from_numpy(np.stack(logits)).to(ids.device)

    @property
    def _vocab_size(self) -> int:
        return decoder_vocabulary(self.config)

    def _begin(self, encoder_outputs: Any, attention_mask: Tensor | None, rows: int, cache: ANECache) -> None:
        """Keeps the source of each row; the beams of one have the same, which is read once."""
        if encoder_outputs is None:
            raise InputError("neither a source nor encoder_outputs was given")
        hidden = torch.as_tensor(encoder_outputs[0]).detach().cpu()
        if hidden.ndim != 3 or len(hidden) != rows:
            raise InputError(
                f"encoder_outputs has the shape {tuple(hidden.shape)}, and decoder_input_ids {rows} rows; expected "
                "(N, T, width)"
            )
        caches = getattr(encoder_outputs, "cross_cache", None)
        columns = self._columns(attention_mask, rows)
        last: tuple[int, CachedText] | None = None
        for row in range(rows):
            is_same = (
                last is not None and columns[row] == columns[last[0]] and torch.equal(hidden[row], hidden[last[0]])
            )
            if last is not None and is_same:
                text = last[1].copy()
            else:
                own = None if caches is None else caches[row].detach().cpu().numpy()
                text = self._programs.begin(EncodedSource(hidden[row : row + 1].numpy(), own), columns[row])
                last = row, text
            cache.rows.append(CachedRow(0, text))

    def _output(
        self, logits: Tensor, cache: ANECache, encoder_outputs: Any, use_cache: bool | None, return_dict: bool | None
    ) -> Seq2SeqLMOutput | tuple[Any, ...]:
        kept: Any = cache if use_cache is not False else None
        hidden = None if encoder_outputs is None else encoder_outputs[0]
        output = Seq2SeqLMOutput(logits=logits, past_key_values=kept, encoder_last_hidden_state=hidden)
        return output if return_dict is not False else output.to_tuple()

    def generate(  # type: ignore[override]
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        **kwargs: Any,
    ) -> Any:
        """Writes texts of sources; see `transformers.GenerationMixin.generate`, whose arguments these are.

        Greedy search, sampling, beam search, stopping criteria and streamers are transformers' own. A text that
        reaches the end of the context stops there, with a warning.

        Raises:
            InputError: A source or a text that is given to begin with does not fit into the package.
        """
        # The token behind the last that can be read is the last one written.
        end = ContextEnd(self.context_length + 1)
        return self._generate_within(
            self.context_length, end, inputs, generation_config, logits_processor, stopping_criteria, kwargs
        )
