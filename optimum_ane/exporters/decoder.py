"""The export configuration of language models that keep keys and values: one cache, and functions over it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch

from optimum_ane.errors import NoCacheError, ShapeError, UnsupportedModelError
from optimum_ane.exporters.cached_decoder import CachedDecoder
from optimum_ane.exporters.cached_decoder.chunk_plan import MOST_BYTES, plan_chunks
from optimum_ane.exporters.cached_decoder.chunks import Chunk, DecoderChunk, DecoderLayers, find_decoder_layers
from optimum_ane.exporters.cached_decoder.inputs import causal_mask
from optimum_ane.exporters.cached_decoder.module import STATE, View, state_shape
from optimum_ane.exporters.cached_decoder.passed_cache import PassedCacheDecoder
from optimum_ane.exporters.programs import FunctionSpec, ProgramSpec, ValueSpec
from optimum_ane.exporters.stock_experts import batched_experts
from optimum_ane.exporters.stock_text import StockTextANEConfig
from optimum_ane.exporters.text import MAIN
from optimum_ane.package.deployment_targets import is_older

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from optimum_ane.exporters.config import Processor
    from optimum_ane.package.form import ExportForm

INFER, PREFILL, SCORE = "infer", "prefill", "score"
"""One token and its logits; a block of tokens without any; a block with the logits of each."""

NEW_ROWS = "new_rows"
"""The output of a program whose cache is an input: what its tokens add, (2 · layers, heads, tokens, width)."""

DEFAULT_CONTEXT, DEFAULT_PREFILL = 1024, 64
_WINDOWS = ("sliding_window", "window_size", "attention_chunk_size")
"""Fields of configurations that say how far a layer looks back."""
_LONGEST_WINDOW = 1024
"""Tokens. Texts that pass longer windows take minutes to compare."""


class DecoderANEConfig(StockTextANEConfig):
    """Programs of a stock decoder: with a cache, unless the form asks for none, which `StockTextANEConfig` makes.

    Attributes:
        is_filled_in_pieces: Whether programs are made of an empty model, and the weights of one are read at a time.
    """

    is_filled_in_pieces = True

    def complete(self, form: ExportForm, processor: Processor | None) -> ExportForm:
        """See `ANEConfig.complete`: where the cache is, how many tokens it holds, and how many are read at once."""
        form = super().complete(form, processor)
        form = replace(form, kv_cache=form.kv_cache or "state")
        if not form.has_cache:
            return form
        positions = self._positions or DEFAULT_CONTEXT
        context = form.context_length or min(DEFAULT_CONTEXT, positions)
        return replace(
            form,
            context_length=context,
            prefill_length=form.prefill_length or min(DEFAULT_PREFILL, context),
            chunks=len(self._plan(form.chunks)),
        )

    def _plan(self, chunks: int | None) -> tuple[Chunk, ...] | tuple[None]:
        """The layers of each program; one None stands for a program of the whole."""
        whole = sum(2 * parameter.numel() for parameter in self.empty_model.parameters())
        if chunks == 1 or (chunks is None and whole <= MOST_BYTES):
            return (None,)  # also where the layers are in no list
        plan = plan_chunks(self.empty_model, self._layers, chunks)
        return plan if len(plan) > 1 else (None,)

    @cached_property
    def _layers(self) -> DecoderLayers:
        with batched_experts(self.empty_model):
            return find_decoder_layers(self.empty_model)

    @property
    def _positions(self) -> int | None:
        positions = getattr(self.text_config, "max_position_embeddings", None)
        return positions if isinstance(positions, int) and positions > 0 else None

    def check(self, form: ExportForm) -> None:
        """See `ANEConfig.check`."""
        if not form.has_cache:
            super().check(form)
            return
        assert form.context_length is not None
        assert form.prefill_length is not None
        if getattr(self._config, "is_encoder_decoder", False):
            raise UnsupportedModelError(f"{self._config.model_type} has an encoder too; only decoders have one cache")
        if self._positions is not None and form.context_length > self._positions:
            raise ShapeError(
                f"a context of {form.context_length} tokens is above the {self._positions} positions of this "
                f"checkpoint; choose --context-length {self._positions} or less"
            )
        if form.kv_cache == "io" and form.chunks != 1:
            raise UnsupportedModelError(
                f"a cache in inputs and outputs belongs to one program, and this export has {form.chunks}: give "
                "--chunks 1, or keep the cache in states, --kv-cache state"
            )
        if form.prefill_length > form.context_length:
            raise ShapeError(
                f"{form.prefill_length} tokens to be read at once do not fit into a context of {form.context_length}; "
                f"choose --prefill-length {form.context_length} or less"
            )

    @cached_property
    def empty_model(self) -> PreTrainedModel:
        """The model without memory for its weights, on torch's meta device."""
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(self._config, attn_implementation="eager")
        return model.eval().requires_grad_(False)

    @cached_property
    def _state_of_one_row(self) -> tuple[int, int, int, int]:
        """The state's shape for a context of one token, by a run of the model without memory for its weights."""
        try:
            with torch.device("meta"), batched_experts(self.empty_model):
                return state_shape(self.empty_model, 1)
        except NoCacheError as error:
            raise NoCacheError(f"{error}; --kv-cache none exports it without a cache") from error
        except Exception as error:  # a model raises whatever it stumbles over
            lines = str(error).strip().splitlines()
            raise UnsupportedModelError(
                f"what {self._config.model_type} keeps of each token cannot be told without its weights "
                f"({type(error).__name__}: {lines[0] if lines else 'no reason given'}); --kv-cache none exports it "
                "without a cache"
            ) from error

    def state_shape(self, form: ExportForm) -> tuple[int, int, int, int]:
        """The shape of the cache: keys and values of each layer, heads, rows, width.

        Raises:
            UnsupportedModelError: The layers keep something else than keys and values, or it is not known what.
        """
        assert form.context_length is not None
        both, heads, _, width = self._state_of_one_row
        return both, heads, form.context_length, width

    def programs(self, form: ExportForm) -> tuple[ProgramSpec, ...]:
        """See `ANEConfig.programs`: the functions `infer`, `prefill` and `score` over one state.

        Of several programs all but the last give hidden states, of a block as of a token, so that `prefill` is their
        `score` too.
        """
        if not form.has_cache:
            return super().programs(form)
        plan = self._plan(form.chunks)
        return tuple(
            ProgramSpec(
                "model" if chunk is None else f"chunk_{index:02}_of_{len(plan):02}",
                tuple(self._functions(form, chunk)),
                form.precision,
                form.compute_units,
            )
            for index, chunk in enumerate(plan, 1)
        )

    def _functions(self, form: ExportForm, chunk: Chunk | None) -> Iterator[FunctionSpec]:
        assert form.prefill_length is not None
        both, *row = self.state_shape(form)
        is_last = chunk is None or chunk.is_last
        state = ValueSpec(STATE, (both if chunk is None else 2 * (chunk.last - chunk.first), *row), "float16")
        lengths = {INFER: 1, PREFILL: form.prefill_length, **({SCORE: form.prefill_length} if is_last else {})}
        if is_older(form.target, "iOS18"):
            lengths = {MAIN: 1}
        for name, tokens in lengths.items():
            if chunk is None or chunk.is_first:
                value = ValueSpec("input_ids", (1, tokens), "int32")
            else:
                value = ValueSpec("hidden_states", (1, tokens, self._layers.hidden_size), form.precision)
            answers: View = "position" if name == PREFILL else "logits"
            if not is_last:
                output = ValueSpec("output_hidden_states", None, form.precision)
            elif name == PREFILL:
                output = ValueSpec("next_position", None, "int32")
            else:
                output = ValueSpec("logits", None, form.precision)
            mask = ValueSpec("causal_mask", (1, 1, tokens, form.longest), form.precision)
            inputs, outputs = [value, ValueSpec("position", (1,), "int32"), mask], [output]
            if form.kv_cache == "io":
                inputs.append(replace(state, dtype=form.precision))
                outputs.append(ValueSpec(NEW_ROWS, None, form.precision))
            yield FunctionSpec(
                name,
                inputs=tuple(inputs),
                outputs=tuple(outputs),
                states=(state,) if form.kv_cache == "state" else (),
                view=partial(_answering, answers=answers),
            )

    def wrap(self, original: nn.Module, program: ProgramSpec) -> Any:
        """See `StockANEConfig.wrap`; of a form with a cache a `CachedDecoder`, or the chunk of a program."""
        function = program.functions[0]
        model: PreTrainedModel = original  # type: ignore[assignment]
        if any(value.name == STATE for value in function.inputs):
            return PassedCacheDecoder(model)
        if not function.states:
            return super().wrap(original, program)
        shape = function.states[0].shape
        assert shape is not None
        context = shape[2]
        if program.name == "model":
            return CachedDecoder(model, context)
        number, count = (int(part) for part in program.name.removeprefix("chunk_").split("_of_"))
        chunk = self._plan(count)[number - 1]
        assert chunk is not None
        return DecoderChunk(model, self._layers, chunk, context)

    def function_inputs(self, function: FunctionSpec, seed: int = 0) -> dict[str, Tensor]:
        """See `ANEConfig.function_inputs`."""
        names = [value.name for value in function.inputs]
        if "causal_mask" not in names:
            return super().function_inputs(function, seed)
        first, mask_spec = function.inputs[0], function.inputs[2]
        shape, (*_, context) = first.shape or (), mask_spec.shape or ()
        tokens = shape[1]
        generator = torch.Generator().manual_seed(seed)
        if first.name == "input_ids":
            value = torch.randint(0, self.vocab_size, shape, generator=generator, dtype=torch.int32)
        else:
            value = torch.randn(shape, generator=generator).to(getattr(torch, first.dtype))
        position = (context - tokens) // 2
        mask = causal_mask(position, tokens, context, mask_spec.dtype)
        values = {
            first.name: value,
            "position": torch.tensor([position], dtype=torch.int32),
            "causal_mask": torch.from_numpy(mask),
        }
        if STATE in names:
            cache = function.inputs[names.index(STATE)]
            values[STATE] = torch.randn(cache.shape or (), generator=generator).to(getattr(torch, cache.dtype))
        return values

    def examples(self, form: ExportForm, seed: int = 0) -> tuple[dict[str, Tensor], ...]:
        """See `ANEConfig.examples`: with a cache one row, that of `text`."""
        if not form.has_cache:
            return super().examples(form, seed)
        ids = self.text(form, seed)[None]
        return ({"input_ids": ids, "attention_mask": torch.ones_like(ids)},)

    def text(self, form: ExportForm, seed: int = 0) -> Tensor:
        """Seeded tokens that a package is compared on, (n,) int64: past a block, and past a window where there is one.

        Args:
            form: With a cache.
            seed: Of the tokens.
        """
        assert form.prefill_length is not None
        length = 2 * form.prefill_length - form.prefill_length // 3
        for name in _WINDOWS:
            window = getattr(self.text_config, name, None)
            if isinstance(window, int) and 0 < window <= _LONGEST_WINDOW:
                length = max(length, window + form.prefill_length // 3)
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randint(0, self.vocab_size, (min(length, form.longest),), generator=generator)
        start = getattr(self.text_config, "bos_token_id", None)
        if isinstance(start, int) and 0 <= start < self.vocab_size:
            tokens[0] = start  # where texts begin, activations are largest
        return tokens


def _answering(module: nn.Module, answers: View) -> nn.Module:
    """A decoder, or a chunk of one, over the same model that answers something else."""
    if isinstance(module, DecoderChunk):
        return DecoderChunk(module.model, module.layers, module.chunk, module.context_length, answers)
    if isinstance(module, PassedCacheDecoder):
        return PassedCacheDecoder(module.model, answers)
    assert isinstance(module, CachedDecoder)
    return CachedDecoder(module.model, module.context_length, answers)
