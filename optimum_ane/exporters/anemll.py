"""The export configuration of language models for ANEMLL's clients: programs, names and shapes as these read them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from optimum_ane.errors import ShapeError, UnsupportedModelError
from optimum_ane.exporters.cached_decoder.anemll import AnemllChunk, AnemllEmbeddings, AnemllHead, count_parts
from optimum_ane.exporters.cached_decoder.anemll_files import AnemllNames, prefix_of
from optimum_ane.exporters.cached_decoder.chunk_plan import plan_chunks
from optimum_ane.exporters.cached_decoder.chunks import Chunk
from optimum_ane.exporters.cached_decoder.inputs import causal_mask
from optimum_ane.exporters.cached_decoder.module import STATE
from optimum_ane.exporters.decoder import INFER, PREFILL, DecoderANEConfig
from optimum_ane.exporters.programs import FunctionSpec, ProgramSpec, ValueSpec

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from optimum_ane.exporters.config import Processor
    from optimum_ane.package.form import ExportForm


class AnemllANEConfig(DecoderANEConfig):
    """Embeddings, chunks of layers over one state of all of them, and a head in parts."""

    is_filled_in_pieces = False

    def complete(self, form: ExportForm, processor: Processor | None) -> ExportForm:
        """See `DecoderANEConfig.complete`; the layers are in programs of their own even where there is one."""
        return replace(super().complete(form, processor), chunks=len(self._chunks(form.chunks)))

    def _chunks(self, count: int | None) -> tuple[Chunk, ...]:
        return plan_chunks(self.empty_model, self._layers, count)

    def check(self, form: ExportForm) -> None:
        """See `ANEConfig.check`."""
        super().check(form)
        if form.kv_cache != "state":
            raise UnsupportedModelError(
                f"clients of ANEMLL keep the cache in a state, not as --kv-cache {form.kv_cache} asks for: leave it "
                "out"
            )
        if form.precision != "float16":
            raise UnsupportedModelError("clients of ANEMLL take float16 only; leave --precision out")
        assert form.context_length is not None
        assert form.prefill_length is not None
        if form.context_length % form.prefill_length:
            raise ShapeError(
                f"a context of {form.context_length} tokens is no multiple of the {form.prefill_length} that are read "
                "at once, and clients of ANEMLL fill the last block up; choose --context-length "
                f"{-(-form.context_length // form.prefill_length) * form.prefill_length}"
            )
        count_parts(self.vocab_size)

    def names(self, form: ExportForm) -> AnemllNames:
        """The names of the programs."""
        return AnemllNames(prefix_of(self._config.model_type), form.chunks or 1)

    def programs(self, form: ExportForm) -> tuple[ProgramSpec, ...]:
        """See `ANEConfig.programs`."""
        assert form.prefill_length is not None
        names, block = self.names(form), form.prefill_length
        width, parts = self._layers.hidden_size, count_parts(self.vocab_size)
        hidden_states = ValueSpec("hidden_states", None, "float16")
        embeddings = FunctionSpec(
            "main", (ValueSpec("input_ids", (1, 1), "int32", other_shapes=((1, block),)),), (hidden_states,)
        )
        head = FunctionSpec(
            "main",
            (replace(hidden_states, shape=(1, 1, width)),),
            tuple(ValueSpec(f"logits{number}", None, "float16") for number in range(1, parts + 1)),
        )
        layers = tuple(
            FunctionSpec(
                name,
                inputs=(
                    replace(hidden_states, shape=(1, tokens, width)),
                    ValueSpec("position_ids", (tokens,), "int32"),
                    ValueSpec("causal_mask", (1, 1, tokens, form.longest), "float16"),
                    ValueSpec("current_pos", (1,), "int32"),
                ),
                outputs=(ValueSpec("output_hidden_states", None, "float16"),),
                states=(ValueSpec(STATE, self.state_shape(form), "float16"),),
            )
            for name, tokens in ((INFER, 1), (PREFILL, block))
        )
        functions = [(embeddings,), *[layers] * names.chunks, (head,)]
        return tuple(
            ProgramSpec(name, own, form.precision, form.compute_units)
            for name, own in zip(names.all(), functions, strict=True)
        )

    def wrap(self, original: nn.Module, program: ProgramSpec) -> Any:
        """See `StockANEConfig.wrap`."""
        model: PreTrainedModel = original  # type: ignore[assignment]
        function = program.functions[0]
        if not function.states:
            if function.inputs[0].name == "input_ids":
                return AnemllEmbeddings(model)
            return AnemllHead(model, self._layers, count_parts(self.vocab_size))
        shape = function.states[0].shape
        assert shape is not None
        number, count = (int(part) for part in program.name.rpartition("_chunk_")[2].split("of"))
        return AnemllChunk(model, self._layers, self._chunks(count)[number - 1], shape[2])

    def function_inputs(self, function: FunctionSpec, seed: int = 0) -> dict[str, Tensor]:
        """See `ANEConfig.function_inputs`."""
        generator = torch.Generator().manual_seed(seed)
        first = function.inputs[0]
        shape = first.shape or ()
        if first.name == "input_ids":
            return {first.name: torch.randint(0, self.vocab_size, shape, generator=generator, dtype=torch.int32)}
        values = {first.name: torch.randn(shape, generator=generator).half()}
        if function.states:
            (*_, tokens, context) = function.inputs[2].shape or ()
            position = (context - tokens) // 2
            values["position_ids"] = position + torch.arange(tokens, dtype=torch.int32)
            values["causal_mask"] = torch.from_numpy(causal_mask(position, tokens, context))
            values["current_pos"] = torch.tensor([position], dtype=torch.int32)
        return values
