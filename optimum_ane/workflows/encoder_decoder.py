"""The stages of the export of an encoder-decoder model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from optimum_ane.errors import ANEError, UnsupportedModelError, ValidationError
from optimum_ane.exporters.encoder_decoder import EncoderDecoderANEConfig
from optimum_ane.exporters.encoder_sides import Source
from optimum_ane.exporters.stock_experts import batched_experts
from optimum_ane.exporters.t5_scale import choose_power, scale_streams
from optimum_ane.modeling.client_sessions import native_sessions
from optimum_ane.modeling.encoder_decoder_programs import EncoderDecoderPrograms
from optimum_ane.package.report import Attempt
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.validation.activations import recorded_activations
from optimum_ane.validation.cached_decoder import GATE_PSNR, WORST_TOKENS
from optimum_ane.validation.comparison import Answers
from optimum_ane.validation.encoder_decoder import (
    WrittenAnswers,
    answers_of_original,
    answers_of_programs,
    compare_written,
)
from optimum_ane.validation.psnr import psnr
from optimum_ane.workflows import graph
from optimum_ane.workflows import stages as stage
from optimum_ane.workflows.decoder import end_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from optimum_ane.runtimes import Session
    from optimum_ane.targets.coreml.metadata import Metadata
    from optimum_ane.workflows.draft import PackageDraft


_CALIBRATION_TEXTS = (
    "translate English to German: The house is wonderful, and the garden behind it is larger than we thought.",
    "summarize: On Monday the council voted 7 to 2 for a new bridge over the river. It will cost 12.4 million euros "
    "and open in 2031. Cyclists had asked for it since 1998; shopkeepers fear for their parking lots.",
    "Question: what is 17 times 23? Answer step by step.",
)
STATE_PSNR = 70.0
"""dB that a float32 program must reach whose states hold float16, as all do: sound ones measure 80 and more."""


class EncoderDecoderExport:
    """What the stages of one export share: what the original answered, and what its streams are multiplied by."""

    def __init__(self) -> None:
        self._expected: WrittenAnswers | None = None
        self._power = 1.0

    def ask_original(self, draft: PackageDraft) -> None:
        """Runs the original on the sources, and keeps what it answered.

        Raises:
            UnsupportedModelError: It cannot be called so.
        """
        config = _config(draft)
        original: PreTrainedModel = draft.checkpoint.original()
        sources, tokens = config.sources(draft.form), config.tokens(draft.form)
        try:
            with recorded_activations(original) as peaks:
                self._expected = answers_of_original(original, sources, tokens)
                answers_of_original(original, _calibration(draft), tokens)
        except ANEError:
            raise
        except Exception as error:  # a model raises whatever it stumbles over
            raise UnsupportedModelError(graph.cannot_be_run(error, original, draft.examples[0])) from error
        if draft.form.precision == "float16":
            self._power = choose_power(draft.manifest.model_type, peaks)
        if self._power != 1:
            draft.notes.append(f"residual streams: made smaller in the weights by a factor of {1 / self._power:,.0f}")
        draft.reference = Answers({"logits": [torch.from_numpy(each)[None] for each in self._expected.logits]})

    def take_original(self, draft: PackageDraft) -> None:
        """Puts the original over caches of ours, unedited."""
        graph.take_original(draft)
        original: PreTrainedModel = draft.checkpoint.original()
        draft.generation_config = original.generation_config
        if draft.manifest.text is not None:
            text = replace(draft.manifest.text, end_ids=end_ids(original.generation_config))
            draft.manifest = replace(draft.manifest, text=text)

    def compare_modules(self, draft: PackageDraft) -> None:
        """Runs the original over our caches in PyTorch, and compares it with itself without any.

        Raises:
            UnsupportedModelError: It cannot be run so.
            ValidationError: It answers something else: it does with its caches or masks what ours do not.
        """
        assert self._expected is not None
        config = _config(draft)
        in_pytorch = {each.name: stage.torch_session(draft, each) for each in draft.programs}
        try:
            sessions = native_sessions(in_pytorch, draft.form.layout, draft.config)
            programs = EncoderDecoderPrograms(sessions)
            with batched_experts(draft.checkpoint.original()):
                answers = answers_of_programs(programs, config.sources(draft.form), config.tokens(draft.form))
        except ANEError:
            raise
        except Exception as error:  # a model raises whatever it stumbles over
            raise UnsupportedModelError(
                f"{draft.manifest.model_type} cannot be run over caches of fixed shape: {type(error).__name__}: "
                f"{error}"
            ) from error
        compared = compare_written(self._expected, answers)
        further = _further(config, sessions)
        draft.report.module_psnr = {**compared.ratios, "logits": compared.least, **further}
        for name, ratio in draft.report.module_psnr.items():
            if not ratio >= GATE_PSNR:
                raise ValidationError(
                    f"{draft.manifest.model_type} over caches of fixed shape does not answer as without: the PSNR of "
                    f"{name} is {ratio:.1f} dB, {GATE_PSNR:.0f} are asked for; nothing was written. It does with its "
                    "caches or masks what this library does not know"
                )

    def convert(self, draft: PackageDraft, metadata: Metadata, threshold: float | None, *, is_compared: bool) -> None:
        """Converts program by program.

        Raises:
            ANEError: See `graph.convert`.
        """
        if threshold is None and draft.form.precision == "float32" and draft.form.kv_cache == "state":
            threshold = STATE_PSNR
        with scale_streams(draft.checkpoint.original(), self._power):
            graph.convert(
                draft, metadata, threshold, self.compare if is_compared else None, residual_scale=self._power
            )

    def compare(self, draft: PackageDraft, attempt: Attempt, limit: float) -> Attempt:
        """Compares a saved package with the original; see `graph.Compare`."""
        assert self._expected is not None
        config = _config(draft)
        sessions = native_sessions(draft.sessions, draft.form.layout, draft.config)
        programs = EncoderDecoderPrograms(sessions)
        answers = answers_of_programs(programs, config.sources(draft.form), config.tokens(draft.form))
        compared = compare_written(self._expected, answers)
        ratios = {**compared.ratios, **_further(config, sessions)}
        draft.report.logits = {"infer": compared.logits.summary()}
        draft.report.package_psnr, draft.report.psnr_threshold = ratios, limit
        draft.report.runtime = PortableSession.runtime
        attempt = replace(attempt, psnr=ratios)
        asked = [(name, ratio, limit) for name, ratio in ratios.items()]
        asked.append(("the logits of 19 of 20 tokens", compared.logits.of_the_worst, limit - WORST_TOKENS))
        for name, ratio, least in asked:
            if not ratio >= least:
                return replace(attempt, error=f"PSNR of {name} is {ratio:.1f} dB, {least:.1f} are asked for")
        return attempt


def _calibration(draft: PackageDraft) -> list[Source]:
    """Real texts, on which activations stand out more than on random words; none without a tokenizer."""
    if draft.tokenizer is None or draft.manifest.modality != "text":
        return []
    found = []
    for text in _CALIBRATION_TEXTS:
        ids = draft.tokenizer(text, truncation=True, max_length=draft.form.longest, return_tensors="pt")["input_ids"]
        found.append(Source({}, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}))
    return found


def _further(config: EncoderDecoderANEConfig, sessions: Mapping[str, Session]) -> dict[str, float]:
    """DB of what programs before the encoder give; the least of their answers."""
    answers = config.side.further_answers(sessions)
    return {name: min(psnr(expected, given) for expected, given in pairs) for name, pairs in answers.items()}


def _config(draft: PackageDraft) -> EncoderDecoderANEConfig:
    assert isinstance(draft.ane_config, EncoderDecoderANEConfig)
    return draft.ane_config
