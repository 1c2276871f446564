"""`ANEModelForCausalLM`: language models, which give logits of whole texts and write texts of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PretrainedConfig, StoppingCriteriaList
from transformers.modeling_outputs import CausalLMOutputWithPast

from optimum_ane.errors import InputError, UnsupportedModelError
from optimum_ane.modeling.base import ANEModel
from optimum_ane.modeling.client_sessions import native_sessions
from optimum_ane.modeling.decoder_cache import ANECache, CachedRow
from optimum_ane.modeling.decoder_programs import CachedTokens, DecoderPrograms
from optimum_ane.modeling.generation import ANEGenerationMixin, ContextEnd
from optimum_ane.modeling.generation_files import load_generation_config
from optimum_ane.modeling.input_checks import check_ids, check_mask
from optimum_ane.modeling.text import ANETextModel
from optimum_ane.package.manifest import Manifest
from optimum_ane.runtimes import Session

_NO_CACHE = (
    "this package holds no cache of keys and values, so that it does not generate text: it gives the logits of whole "
    "rows, as model(input_ids, attention_mask). Export with --kv-cache state to generate"
)


class _WholeRows(ANETextModel):
    """Packages without a cache: a whole row at once."""

    task = "text-generation"


class ANEModelForCausalLM(ANEModel, ANEGenerationMixin):
    """A language model: `forward` gives a score for each word to follow at each position, `generate` writes.

    Rows of a batch run one after another, each with a cache of its own; padding on the left is in no cache.
    """

    task = "text-generation"
    main_input_name = "input_ids"
    input_modalities = ("text",)

    def __init__(self, sessions: Mapping[str, Session], config: PretrainedConfig, manifest: Manifest) -> None:
        sessions = native_sessions(sessions, manifest.form.layout, config)
        super().__init__(sessions, config, manifest)
        self.generation_config = GenerationConfig.from_model_config(config)
        self._programs: DecoderPrograms | None = None
        self._whole_rows: _WholeRows | None = None
        if manifest.form.has_cache:
            self._programs = DecoderPrograms(sessions)
        else:
            self._whole_rows = _WholeRows(sessions, config, manifest)

    @classmethod
    def _from_directory(cls, directory: Path, runtime: str, compute_units: str | None) -> ANEModel:
        model = super()._from_directory(directory, runtime, compute_units)
        model.generation_config = load_generation_config(directory) or model.generation_config
        return model

    @property
    def sequence_length(self) -> int:
        """The most tokens that a row may have: those of the context, where there is a cache."""
        return self.manifest.form.longest

    def _extents(self) -> str:
        return f"{self.sequence_length} tokens"

    def forward(
        self,
        input_ids: Tensor | np.ndarray,
        attention_mask: Tensor | np.ndarray | None = None,
        past_key_values: ANECache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Gives the logits behind tokens, of whole texts or of what follows a cache.

        Args:
            input_ids: (N, S).
            attention_mask: (N, columns of the cache + S), 1 for a token and 0 for padding, which may stand before and
                behind the tokens of a row; None stands for ones. Positions count tokens, as `generate` counts them.
            past_key_values: What was read before; it is changed. None starts anew.
            use_cache: Whether to return what was read, for tokens to follow.
            logits_to_keep: Of how many of the last columns the logits are wanted; 0 for all. One costs least.
            output_hidden_states: Also give the hidden states, which packages without a cache alone have.
            return_dict: False gives a tuple in place of the output class.

        Returns:
            logits (N, S or `logits_to_keep`, vocabulary), float32 on the inputs' device, 0 at padding; and the cache.

        Raises:
            InputError: The context does not hold the tokens, the shapes do not fit each other, an id is no row of the
                vocabulary, or a mask has padding between tokens.
            UnsupportedModelError: The package has no cache, or gives no hidden states.
        """
        if self._whole_rows is not None:
            if past_key_values is not None or use_cache:
                raise UnsupportedModelError(_NO_CACHE)
            answer = self._whole_rows(input_ids, attention_mask, output_hidden_states=output_hidden_states)
            logits = answer.logits[:, -logits_to_keep:] if logits_to_keep else answer.logits
            output = CausalLMOutputWithPast(logits=logits, hidden_states=answer.get("hidden_states"))
            return output if return_dict is not False else output.to_tuple()
        if output_hidden_states:
            raise UnsupportedModelError("a package with a cache gives no hidden states; --kv-cache none exports one")
        ids = torch.as_tensor(input_ids)
        cache = ANECache() if past_key_values is None else past_key_values
        is_kept = bool(use_cache) or past_key_values is not None
        new = self._new_tokens(ids.detach().cpu(), attention_mask, cache, is_kept=is_kept)
        logits = torch.from_numpy(self._answer(new, ids.shape[1], cache, logits_to_keep)).to(ids.device)
        kept: Any = cache if use_cache else None
        output = CausalLMOutputWithPast(logits=logits, past_key_values=kept)
        return output if return_dict is not False else output.to_tuple()

    def _new_tokens(
        self, ids: Tensor, attention_mask: Tensor | np.ndarray | None, cache: ANECache, *, is_kept: bool
    ) -> list[tuple[int, list[int]]]:
        """The tokens of each row, with the column of the first; adds rows to a cache that has none."""
        if ids.ndim != 2 or not ids.shape[1]:
            raise InputError(f"input_ids has shape {tuple(ids.shape)}; expected rows of token ids, (N, S)")
        if ids.is_floating_point() or ids.dtype == torch.bool:
            raise InputError(f"input_ids holds {ids.dtype}; expected integers")
        check_ids("input_ids", ids, self.config.get_text_config().vocab_size, "words")
        past, (rows, length) = cache.get_seq_length(), ids.shape
        mask = torch.ones_like(ids)
        if attention_mask is not None:
            given = torch.as_tensor(attention_mask).detach().cpu()
            check_mask(given)
            if given.shape not in ((rows, past + length), (rows, length)):
                raise InputError(
                    f"attention_mask has shape {tuple(given.shape)}; input_ids {tuple(ids.shape)} after {past} "
                    f"columns of the cache need {(rows, past + length)}"
                )
            mask = given[:, -length:]
        if cache.rows and len(cache.rows) != rows:
            raise InputError(f"past_key_values is of {len(cache.rows)} rows, and input_ids has {rows}")
        new = []
        for row in range(rows):
            places = mask[row].nonzero()[:, 0].tolist()
            first = places[0] if places else length
            if places and places[-1] - first + 1 != len(places):
                raise InputError(f"row {row} of attention_mask has padding between tokens")
            if cache.rows and first:
                raise InputError(f"row {row} of attention_mask has padding behind what the cache has read")
            if is_kept and first + len(places) < length:
                raise InputError(
                    f"row {row} of attention_mask has padding behind its tokens, where tokens are to follow; pad on "
                    'the left: tokenizer.padding_side = "left"'
                )
            new.append((first, ids[row, first : first + len(places)].tolist()))
        return new

    def _answer(self, new: list[tuple[int, list[int]]], length: int, cache: ANECache, keep: int) -> np.ndarray:
        """Reads the new tokens of each row into its cache; gives the logits of the last columns."""
        programs = self._programs
        assert programs is not None
        columns = keep or length
        read: dict[tuple[int, ...], tuple[CachedTokens, np.ndarray]] = {}
        is_new, logits = not cache.rows, None
        for row, (first, tokens) in enumerate(new):
            if is_new:
                same = read.get(tuple(tokens))
                # The beams of a text begin alike.
                own = programs.new_cache() if same is None else same[0].copy()
                cache.rows.append(CachedRow(first, own))
                values = _read(programs, own, tokens, first, length, columns) if same is None else same[1]
                read[tuple(tokens)] = own, values
            else:
                values = _read(programs, cache.rows[row].cache, tokens, first, length, columns)
            if logits is None:
                vocabulary = values.shape[1] if values.size else self.config.get_text_config().vocab_size
                logits = np.zeros((len(new), columns, vocabulary), np.float32)
            behind = max(first, length - columns) - (length - columns)
            logits[row, behind : behind + len(values)] = values
        if logits is None:
            return np.zeros((0, columns, self.config.get_text_config().vocab_size), np.float32)
        return logits

    def generate(  # type: ignore[override]
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        **kwargs: Any,
    ) -> Any:
        """Writes on from texts; see `transformers.GenerationMixin.generate`, whose arguments these are.

        Greedy search, sampling, beam search, stopping criteria and streamers are transformers' own. A text that
        reaches the end of the context stops there, with a warning. With `past_key_values`, what earlier calls
        returned, the tokens that the texts begin with in common are not read again.

        Raises:
            InputError: A text is longer than the context; the message has both numbers.
            UnsupportedModelError: The package has no cache.
        """
        if self._programs is None:
            raise UnsupportedModelError(_NO_CACHE)
        given = inputs if inputs is not None else kwargs.get("input_ids")
        mask = kwargs.get("attention_mask")
        end = ContextEnd(self._programs.context_length, _most_padding(mask))
        if given is not None:
            self._check_prompts(given, mask)
            cache = kwargs.get("past_key_values")
            if isinstance(cache, ANECache) and (mask is None or mask.shape == given.shape):
                cache.keep_common(given, mask)
        return self._generate_within(
            self._programs.context_length, end, inputs, generation_config, logits_processor, stopping_criteria, kwargs
        )

    def _check_prompts(self, given: Tensor, mask: Tensor | None) -> None:
        assert self._programs is not None
        lengths = mask.sum(1) if mask is not None else torch.full((len(given),), given.shape[1])
        longest = int(lengths.max()) if len(lengths) else 0
        if longest > self._programs.context_length:
            raise InputError(
                f"a prompt of {longest} tokens does not fit into the context of this package, which holds "
                f"{self._programs.context_length}; shorten it, or export with a larger --context-length"
            )

    def can_generate(self) -> bool:
        """Whether the model writes texts: packages with a cache do."""
        return self._programs is not None


def _most_padding(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else (mask == 0).sum(1)


def _read(
    programs: DecoderPrograms, cache: CachedTokens, tokens: list[int], first: int, length: int, columns: int
) -> np.ndarray:
    """Reads tokens; gives the logits of those in the last columns, (tokens there, vocabulary)."""
    wanted = max(0, first + len(tokens) - max(first, length - columns))
    if not wanted:
        if tokens:
            programs.read(cache, tokens)
        return np.zeros((0, 0), np.float32)
    before = tokens[: len(tokens) - wanted]
    if before:
        programs.read(cache, before)
    if wanted == 1:
        return programs.step(cache, tokens[-1])[None]
    return programs.score(cache, tokens[-wanted:])
