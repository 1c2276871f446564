"""The export configuration of language models that keep keys and values: one cache, and functions over it."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch

from optimum_ane.errors import ShapeError, UnsupportedModelError
from optimum_ane.exporters.cached_decoder import CachedDecoder
from optimum_ane.exporters.cached_decoder.inputs import causal_mask
from optimum_ane.exporters.cached_decoder.module import STATE, View, state_shape
from optimum_ane.exporters.programs import FunctionSpec, ProgramSpec, ValueSpec
from optimum_ane.exporters.stock_experts import batched_experts
from optimum_ane.exporters.stock_text import StockTextANEConfig

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from optimum_ane.exporters.config import Processor
    from optimum_ane.package.form import ExportForm

INFER, PREFILL, SCORE = "infer", "prefill", "score"
"""One token and its logits; a block of tokens without any; a block with the logits of each."""

DEFAULT_CONTEXT, DEFAULT_PREFILL = 1024, 64
_LONGEST_WINDOW = 1024
"""Tokens. Texts that pass longer windows take minutes to compare."""


class DecoderANEConfig(StockTextANEConfig):
    """Programs of a stock decoder: with a cache, unless the form asks for none, which `StockTextANEConfig` makes."""

    def complete(self, form: ExportForm, processor: Processor | None) -> ExportForm:
        """See `ANEConfig.complete`: where the cache is, how many tokens it holds, and how many are read at once."""
        form = super().complete(form, processor)
        form = replace(form, kv_cache=form.kv_cache or "state")
        if not form.has_cache:
            return form
        positions = self._positions or DEFAULT_CONTEXT
        context = form.context_length or min(DEFAULT_CONTEXT, positions)
        return replace(
            form, context_length=context, prefill_length=form.prefill_length or min(DEFAULT_PREFILL, context)
        )

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
        if form.prefill_length > form.context_length:
            raise ShapeError(
                f"{form.prefill_length} tokens to be read at once do not fit into a context of {form.context_length}; "
                f"choose --prefill-length {form.context_length} or less"
            )

    @cached_property
    def _state_of_one_row(self) -> tuple[int, int, int, int]:
        """The state's shape for a context of one token, by a run of the model without memory for its weights."""
        from transformers import AutoModelForCausalLM

        try:
            with torch.device("meta"), torch.no_grad():
                model = AutoModelForCausalLM.from_config(self._config, attn_implementation="eager").eval()
                with batched_experts(model):
                    return state_shape(model, 1)
        except UnsupportedModelError:
            raise
        except Exception as error:  # a model raises whatever it stumbles over
            lines = str(error).strip().splitlines()
            raise UnsupportedModelError(
                f"what {self._config.model_type} keeps of each token is not keys and values of one shape "
                f"({type(error).__name__}: {lines[0] if lines else 'no reason given'}); --kv-cache none exports it "
                "without a cache"
            ) from error

    def state_shape(self, form: ExportForm) -> tuple[int, int, int, int]:
        """The shape of the cache: keys and values of each layer, heads, rows, width.

        Raises:
            UnsupportedModelError: The layers keep values of several shapes, or something else.
        """
        assert form.context_length is not None
        both, heads, _, width = self._state_of_one_row
        return both, heads, form.context_length, width

    def programs(self, form: ExportForm) -> tuple[ProgramSpec, ...]:
        """See `ANEConfig.programs`: one program, with the functions `infer`, `prefill` and `score` over one state."""
        if not form.has_cache:
            return super().programs(form)
        assert form.prefill_length is not None
        logits = ValueSpec("logits", None, form.precision)
        functions = (
            self._function(form, INFER, 1, logits),
            self._function(form, PREFILL, form.prefill_length, ValueSpec("next_position", None, "int32")),
            self._function(form, SCORE, form.prefill_length, logits),
        )
        return (ProgramSpec("model", functions, form.precision, form.compute_units),)

    def _function(self, form: ExportForm, name: str, tokens: int, output: ValueSpec) -> FunctionSpec:
        answers: View = "position" if name == PREFILL else "logits"
        return FunctionSpec(
            name,
            inputs=(
                ValueSpec("input_ids", (1, tokens), "int32"),
                ValueSpec("position", (1,), "int32"),
                ValueSpec("causal_mask", (1, 1, tokens, form.longest), form.precision),
            ),
            outputs=(output,),
            states=(ValueSpec(STATE, self.state_shape(form), "float16"),),
            view=partial(_answering, answers=answers),
        )

    def wrap(self, original: nn.Module, program: ProgramSpec) -> Any:
        """See `StockANEConfig.wrap`; of a form with a cache a `CachedDecoder`."""
        states = program.functions[0].states
        if not states:
            return super().wrap(original, program)
        assert states[0].shape is not None
        model: PreTrainedModel = original  # type: ignore[assignment]
        return CachedDecoder(model, states[0].shape[2])

    def function_inputs(self, function: FunctionSpec, seed: int = 0) -> dict[str, Tensor]:
        """See `ANEConfig.function_inputs`."""
        if not function.states:
            return super().function_inputs(function, seed)
        (_, tokens), (*_, context) = function.inputs[0].shape or (), function.inputs[2].shape or ()
        generator = torch.Generator().manual_seed(seed)
        position = (context - tokens) // 2
        mask = causal_mask(position, tokens, context, function.inputs[2].dtype)
        return {
            "input_ids": torch.randint(0, self.vocab_size, (1, tokens), generator=generator, dtype=torch.int32),
            "position": torch.tensor([position], dtype=torch.int32),
            "causal_mask": torch.from_numpy(mask),
        }

    def text(self, form: ExportForm, seed: int = 0) -> Tensor:
        """Seeded tokens that a package is compared on, (n,) int64: past a block, and past a window where there is one.

        Args:
            form: With a cache.
            seed: Of the tokens.
        """
        assert form.prefill_length is not None
        length = 2 * form.prefill_length - form.prefill_length // 3
        window = getattr(self.text_config, "sliding_window", None)
        if isinstance(window, int) and 0 < window <= _LONGEST_WINDOW:
            length = max(length, window + form.prefill_length // 3)
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(0, self.vocab_size, (min(length, form.longest),), generator=generator)


def _answering(module: nn.Module, answers: View) -> nn.Module:
    """A decoder over the same model that answers something else."""
    assert isinstance(module, CachedDecoder)
    return CachedDecoder(module.model, module.context_length, answers)
