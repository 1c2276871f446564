"""The stages of the export of a language model with a cache."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from optimum_ane.errors import ANEError, UnsupportedModelError, ValidationError
from optimum_ane.exporters.cached_decoder.chunk_weights import fill_chunk
from optimum_ane.exporters.decoder import DecoderANEConfig
from optimum_ane.exporters.residual_scale import choose_scale, scale_residual
from optimum_ane.exporters.stock_experts import batched_experts
from optimum_ane.package.report import Attempt
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.validation.cached_decoder import (
    GATE_PSNR,
    WORST_TOKENS,
    CachedAnswers,
    answers_of_original,
    answers_of_package,
    compare_answers,
)
from optimum_ane.validation.comparison import Answers
from optimum_ane.validation.residuals import recorded_residuals
from optimum_ane.workflows import graph
from optimum_ane.workflows import stages as stage
from optimum_ane.workflows.freed_memory import give_back_freed_memory

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import GenerationConfig, PreTrainedModel

    from optimum_ane.exporters.programs import ProgramSpec
    from optimum_ane.targets.coreml.metadata import Metadata
    from optimum_ane.workflows.draft import PackageDraft


class DecoderExport:
    """What the stages of one export of a language model share: the text that is compared, and its answers."""

    def __init__(self) -> None:
        self._expected: CachedAnswers | None = None
        self._residual_scale = 1.0

    def _tokens(self, draft: PackageDraft) -> Tensor:
        assert isinstance(draft.ane_config, DecoderANEConfig)
        return draft.ane_config.text(draft.form)

    def ask_original(self, draft: PackageDraft) -> None:
        """Runs the original with its own cache, and keeps what it answered.

        Raises:
            UnsupportedModelError: It cannot be called so.
        """
        original, tokens = draft.checkpoint.original(), self._tokens(draft)
        try:
            with recorded_residuals(original, lambda: original(input_ids=tokens[None, :2])) as peaks:
                self._expected = answers_of_original(original, tokens)
        except ANEError:
            raise
        except Exception as error:  # a model raises whatever it stumbles over
            raise UnsupportedModelError(
                f"{graph.cannot_be_run(error, original, {'input_ids': tokens[None]})}; --kv-cache none exports it "
                "without a cache"
            ) from error
        draft.reference = Answers({"logits": [torch.from_numpy(self._expected.score)[None]]})
        draft.report.residual_peaks = tuple(peaks)
        if draft.form.precision == "float16":
            self._residual_scale = choose_scale(draft.manifest.model_type, tuple(peaks))
        if self._residual_scale != 1:
            draft.notes.append(
                f"residual stream: up to {max(peaks):,.0f}, made smaller in the weights by α = "
                f"{self._residual_scale:.3g}"
            )

    def take_original(self, draft: PackageDraft) -> None:
        """Puts the original over a cache of ours, unedited."""
        graph.take_original(draft)
        original: PreTrainedModel = draft.original_part()  # type: ignore[assignment]
        draft.generation_config = original.generation_config
        if draft.manifest.text is not None:
            text = replace(draft.manifest.text, end_ids=end_ids(original.generation_config))
            draft.manifest = replace(draft.manifest, text=text)

    def compare_modules(self, draft: PackageDraft) -> None:
        """Runs the original over our cache in PyTorch, and compares it with itself over its own.

        Raises:
            UnsupportedModelError: It cannot be run so.
            ValidationError: It answers something else: it does with its cache what ours does not.
        """
        assert self._expected is not None
        original = draft.original_part()
        with batched_experts(original):
            driver = draft.driver({each.name: stage.torch_session(draft, each) for each in draft.programs})
            try:
                answers = answers_of_package(driver, self._tokens(draft))
            except ANEError:
                raise
            except Exception as error:  # a model raises whatever it stumbles over
                raise UnsupportedModelError(
                    f"{type(original).__name__} cannot be run over a cache of fixed shape: "
                    f"{type(error).__name__}: {error}; --kv-cache none exports it without a cache"
                ) from error
        compared = compare_answers(self._expected, answers)
        draft.report.module_psnr = {name: each.whole for name, each in compared.items()}
        for name, ratio in draft.report.module_psnr.items():
            if not ratio >= GATE_PSNR:
                raise ValidationError(
                    f"{draft.manifest.model_type} over a cache of fixed shape does not answer as over its own: the "
                    f"PSNR of the logits is {ratio:.1f} dB ({name}), {GATE_PSNR:.0f} are asked for; nothing was "
                    "written. It does with its cache or its mask what this library does not know; --kv-cache none "
                    "exports it without a cache"
                )

    def convert(self, draft: PackageDraft, metadata: Metadata, threshold: float | None, *, is_compared: bool) -> None:
        """Converts program by program; of several, the weights of one are in memory at a time.

        Raises:
            ANEError: See `graph.convert`.
        """
        compare = self.compare if is_compared else None
        assert isinstance(draft.ane_config, DecoderANEConfig)
        if len(draft.programs) == 1 or not draft.ane_config.is_filled_in_pieces:
            with self._scaled(draft.original_part(), draft):
                graph.convert(draft, metadata, threshold, compare, residual_scale=self._residual_scale)
            return
        draft.modules.clear()
        draft.release_original()
        give_back_freed_memory()
        make = partial(self._chunk, draft)
        graph.convert(draft, metadata, threshold, compare, make, self._residual_scale)

    def _scaled(self, model: nn.Module, draft: PackageDraft) -> ExitStack:
        return scale_residual(model, draft.manifest.model_type, self._residual_scale)

    def _chunk(self, draft: PackageDraft, program: ProgramSpec) -> nn.Module:
        ane_config = draft.ane_config
        assert isinstance(ane_config, DecoderANEConfig)
        module = ane_config.wrap(ane_config.empty_model, program)
        weights = draft.checkpoint.weights
        fill_chunk(module, weights)
        weights.close()
        # It is dropped when it is converted: nothing has to be given back.
        self._scaled(module.model, draft)
        return module

    def compare(self, draft: PackageDraft, attempt: Attempt, limit: float) -> Attempt:
        """Compares a saved package with the original, function by function; see `graph.Compare`."""
        assert self._expected is not None
        answers = answers_of_package(draft.driver(draft.sessions), self._tokens(draft))
        compared = compare_answers(self._expected, answers)
        draft.report.logits = {name: each.summary() for name, each in compared.items()}
        draft.report.package_psnr = {name: each.median for name, each in compared.items()}
        draft.report.psnr_threshold, draft.report.runtime = limit, PortableSession.runtime
        attempt = replace(attempt, psnr=draft.report.package_psnr)
        for name, each in compared.items():
            for which, ratio, least in (
                ("half of the tokens", each.median, limit),
                ("19 of 20 tokens", each.of_the_worst, limit - WORST_TOKENS),
            ):
                if not ratio >= least:
                    return replace(
                        attempt,
                        error=f"the PSNR of the logits is {ratio:.1f} dB or more for {which} ({name}), {least:.1f} "
                        "are asked for",
                    )
        return attempt


def end_ids(config: GenerationConfig) -> tuple[int, ...]:
    """The tokens that end what a model writes."""
    ends = config.eos_token_id
    if ends is None:
        return ()
    return tuple(ends) if isinstance(ends, list) else (int(ends),)
