"""The export configuration of encoder-decoder models: programs that encode a source, and one that writes of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import transformers

from optimum_ane.errors import ANEError, ShapeError, UnsupportedModelError
from optimum_ane.exporters.cached_decoder.crossed import (
    SOURCE_STATE,
    CrossedDecoder,
    SourceReader,
    cache_shapes,
    padded_columns,
)
from optimum_ane.exporters.cached_decoder.inputs import causal_mask
from optimum_ane.exporters.cached_decoder.masks import HIDDEN
from optimum_ane.exporters.cached_decoder.module import STATE
from optimum_ane.exporters.cached_decoder.passed_crossed import PassedCrossedDecoder, ProjectingEncoder
from optimum_ane.exporters.decoder import INFER, NEW_ROWS
from optimum_ane.exporters.encoder_sides import ENCODER, HIDDEN_STATES, EncoderSide, Source, TextSide
from optimum_ane.exporters.programs import FunctionSpec, ProgramSpec, ValueSpec
from optimum_ane.exporters.stock import StockANEConfig
from optimum_ane.exporters.stock_experts import batched_experts
from optimum_ane.exporters.text import MAIN
from optimum_ane.tasks import task_row

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel

    from optimum_ane.exporters.config import Processor
    from optimum_ane.package.form import ExportForm

DECODER, BEGIN = "decoder", "begin"
"""The program, and its function that keeps a source; `infer` reads a token."""

MOST_PASSED_BYTES = 32 << 20
"""Of a cross cache that is an input of each step. Whisper tiny's are 9 MB, large-v3's 246 MB, which take longer to
hand over than to compute again."""

_DEFAULT_CONTEXT = 256
_COMPARED_TOKENS = 12
"""Read one after another, of each source: a position that a trace has frozen shows after a few."""


class EncoderDecoderANEConfig(StockANEConfig):
    """Programs of a stock encoder-decoder model: those of its `EncoderSide`, and `decoder`.

    With states the decoder has two functions: `begin` writes the keys and values of a source into the state
    `cross_cache`, `infer` reads one token. Before iOS 18 it has one, whose caches are inputs.

    Attributes:
        side: What is stated of the source.
    """

    def __init__(self, config: PretrainedConfig, task: str) -> None:
        super().__init__(config, task)
        self.side = self.make_side(config, task)

    @staticmethod
    @abstractmethod
    def make_side(config: PretrainedConfig, task: str) -> EncoderSide:
        """Makes what is stated of the source."""

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """Input names of the encoder's program and their axes."""
        return {"input_ids": {0: "batch_size", 1: "sequence_length"}}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        """The output that the decoder gives."""
        return {"logits": {0: "batch_size", 1: "sequence_length"}}

    @property
    def vocab_size(self) -> int:
        """Words that the decoder writes."""
        return decoder_vocabulary(self._config)

    @property
    def decoder_config(self) -> PretrainedConfig:
        """The configuration of the decoder, of models that are composed of two; else that of the texts."""
        decoder: PretrainedConfig | None = getattr(self._config, "decoder", None)
        return self._config.get_text_config() if decoder is None else decoder

    def complete(self, form: ExportForm, processor: Processor | None) -> ExportForm:
        """See `ANEConfig.complete`: where the caches are, and how many tokens the decoder may write."""
        if form.kv_cache == "none":
            raise UnsupportedModelError(
                f"--kv-cache none is for text-generation; packages for {form.task} keep what was read in states, or "
                "with --kv-cache io in inputs and outputs"
            )
        form = self.side.complete(super().complete(form, processor), processor)
        context = form.context_length or min(self._positions or _DEFAULT_CONTEXT, self.default_context)
        return replace(form, kv_cache=form.kv_cache or "state", context_length=context)

    @property
    def default_context(self) -> int:
        """Tokens of the decoder, where neither a form says how many nor the checkpoint has fewer positions."""
        return _DEFAULT_CONTEXT

    @property
    def further_outputs(self) -> tuple[str, ...]:
        """What a step gives beside logits: `ALIGNMENT`, where there are alignment heads."""
        return ()

    def alignment_heads(self, model: PreTrainedModel) -> Sequence[tuple[int, int]]:
        """Layer and head of the attentions to the source whose weights are an output; none by default."""
        return ()

    @property
    def _positions(self) -> int | None:
        names = ("max_target_positions", "max_position_embeddings")
        found = [getattr(self.decoder_config, name, None) for name in names]
        return next((each for each in found if isinstance(each, int) and each > 0), None)

    def check(self, form: ExportForm) -> None:
        """See `ANEConfig.check`."""
        if not getattr(self._config, "is_encoder_decoder", False):
            raise UnsupportedModelError(
                f"{self._config.model_type} has no encoder beside its decoder; export it for text-generation"
            )
        assert form.context_length is not None
        if self._positions is not None and form.context_length > self._positions:
            raise ShapeError(
                f"a context of {form.context_length} tokens is above the {self._positions} positions of this "
                f"checkpoint's decoder; choose --context-length {self._positions} or less"
            )
        self.side.check(form)

    @cached_property
    def empty_model(self) -> PreTrainedModel:
        """The model without memory for its weights, on torch's meta device."""
        auto_class = getattr(transformers, task_row(self.task, modality=self.MODALITY).auto_class)
        with torch.device("meta"):
            model: PreTrainedModel = auto_class.from_config(
                self._config, dtype=torch.float32, attn_implementation="eager"
            )
        return model.eval().requires_grad_(False)

    @cached_property
    def _shapes(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        try:
            with torch.device("meta"), batched_experts(self.empty_model):
                return cache_shapes(self.empty_model)
        except ANEError:
            raise
        except Exception as error:  # a model raises whatever it stumbles over
            lines = str(error).strip().splitlines()
            raise UnsupportedModelError(
                f"what the decoder of {self._config.model_type} keeps of tokens and of a source cannot be told "
                f"without its weights ({type(error).__name__}: {lines[0] if lines else 'no reason given'})"
            ) from error

    def programs(self, form: ExportForm) -> tuple[ProgramSpec, ...]:
        """See `ANEConfig.programs`: those of the side, then the decoder."""
        *others, encoder = self.side.programs(form)
        columns, width = self.side.hidden_shape(self.empty_model, form)
        hidden = ValueSpec(HIDDEN_STATES, (1, columns, width), form.precision)
        own, source = self._caches(form, columns)
        assert form.context_length is not None
        token = (
            ValueSpec("input_ids", (1, 1), "int32"),
            ValueSpec("position", (1,), "int32"),
            ValueSpec("causal_mask", (1, 1, 1, form.context_length), form.precision),
            ValueSpec("encoder_mask", (1, 1, 1, padded_columns(columns)), form.precision),
        )
        logits = ValueSpec("logits", None, form.precision)
        further = tuple(ValueSpec(name, None, form.precision) for name in self.further_outputs)
        if form.kv_cache == "state":
            infer = FunctionSpec(INFER, token, (logits, *further), (own, source))
            begun = ValueSpec("begun", None, "int32")
            begin = FunctionSpec(BEGIN, (hidden,), (begun,), (own, source), view=SourceReader)
            functions: tuple[FunctionSpec, ...] = (infer, begin)
        else:
            passed = replace(source, dtype=form.precision)
            passes = _bytes(passed) <= MOST_PASSED_BYTES
            passed = passed if passes else hidden
            inputs = (*token, replace(own, dtype=form.precision), passed)
            functions = (FunctionSpec(MAIN, inputs, (logits, ValueSpec(NEW_ROWS, None, form.precision), *further)),)
            if passes:
                (encode,) = encoder.functions
                outputs = (*encode.outputs, ValueSpec(SOURCE_STATE, None, form.precision))
                encoder = replace(encoder, functions=(replace(encode, outputs=outputs),))
        decoder = ProgramSpec(DECODER, functions, form.precision, form.compute_units)
        return (*others, encoder, decoder)

    def _caches(self, form: ExportForm, columns: int) -> tuple[ValueSpec, ValueSpec]:
        assert form.context_length is not None
        (both, heads, width), (of_source, source_heads, source_width) = self._shapes
        own = ValueSpec(STATE, (both, heads, form.context_length, width), "float16")
        shape = (of_source, source_heads, padded_columns(columns), source_width)
        return own, ValueSpec(SOURCE_STATE, shape, "float16")

    def wrap(self, original: nn.Module, program: ProgramSpec) -> Any:
        """See `StockANEConfig.wrap`."""
        model: PreTrainedModel = original  # type: ignore[assignment]
        function = program.functions[0]
        if program.name != DECODER:
            module = self.side.wrap(original, program)
            gives_cache = program.name == ENCODER and len(function.outputs) > 1
            return ProjectingEncoder(model, module) if gives_cache else module
        shapes = {value.name: value.shape or () for value in (*function.inputs, *function.states)}
        context, heads = shapes["causal_mask"][3], self.alignment_heads(model)
        if function.states:
            return CrossedDecoder(model, context, shapes[SOURCE_STATE][2], heads)
        return PassedCrossedDecoder(model, context, HIDDEN_STATES in shapes, heads)

    def function_inputs(self, function: FunctionSpec, seed: int = 0) -> dict[str, Tensor]:
        """See `ANEConfig.function_inputs`."""
        specs = {value.name: value for value in function.inputs}
        if not specs.keys() & {"causal_mask", HIDDEN_STATES}:
            return self.side.function_inputs(function, seed)
        generator = torch.Generator().manual_seed(seed)
        made = {}
        for name, spec in specs.items():
            shape, dtype = spec.shape or (), getattr(torch, spec.dtype)
            if name == "input_ids":
                made[name] = torch.randint(0, self.vocab_size, shape, generator=generator, dtype=dtype)
            elif name == "position":
                made[name] = torch.tensor([self._example_position(specs)], dtype=dtype)
            elif name == "causal_mask":
                made[name] = torch.from_numpy(causal_mask(self._example_position(specs), 1, shape[3], spec.dtype))
            elif name == "encoder_mask":
                made[name] = torch.where(torch.arange(shape[3]) < max(1, 2 * shape[3] // 3), 0.0, HIDDEN)
                made[name] = made[name].to(dtype)[None, None, None]
            else:
                made[name] = torch.randn(shape, generator=generator).to(dtype)
        return made

    @staticmethod
    def _example_position(specs: Mapping[str, ValueSpec]) -> int:
        return ((specs["causal_mask"].shape or ())[3] - 1) // 2

    def sources(self, form: ExportForm) -> tuple[Source, ...]:
        """What the encoder is compared on; see `EncoderSide.sources`."""
        return self.side.sources(form)

    def tokens(self, form: ExportForm, seed: int = 0) -> Tensor:
        """Seeded tokens that a decoder is compared on, (n,) int64, the one that every text begins with first."""
        assert form.context_length is not None
        generator = torch.Generator().manual_seed(seed)
        padding = getattr(self.decoder_config, "pad_token_id", None)
        tokens = torch.randint(
            0, self.vocab_size - 1, (min(_COMPARED_TOKENS, form.context_length),), generator=generator
        )
        # Not padding, which has no position of its own in some.
        tokens += (tokens >= (self.vocab_size if padding is None else padding)).long()
        start = getattr(self._config, "decoder_start_token_id", None)
        if isinstance(start, int) and 0 <= start < self.vocab_size:
            tokens[0] = start
        return tokens

    def examples(self, form: ExportForm, seed: int = 0) -> tuple[dict[str, Tensor], ...]:
        """See `ANEConfig.examples`: a batch for each source, with the same tokens."""
        tokens = self.tokens(form, seed)[None]
        return tuple({**source.arguments, "decoder_input_ids": tokens} for source in self.side.sources(form, seed))


class TextToTextANEConfig(EncoderDecoderANEConfig):
    """Texts of texts: translation, summaries, answers."""

    @staticmethod
    def make_side(config: PretrainedConfig, task: str) -> EncoderSide:
        """See `EncoderDecoderANEConfig.make_side`."""
        return TextSide(config, task)


def decoder_vocabulary(config: PretrainedConfig) -> int:
    """Words that the decoder of an encoder-decoder model writes; Marian may have others than its encoder reads."""
    decoder = getattr(config, "decoder", None)
    own = getattr(config, "decoder_vocab_size", None)
    return int(own or (decoder if hasattr(decoder, "vocab_size") else config.get_text_config()).vocab_size)


def _bytes(spec: ValueSpec) -> int:
    count = 4 if spec.dtype == "float32" else 2
    for extent in spec.shape or ():
        count *= extent
    return count
