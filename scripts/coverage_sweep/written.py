"""One encoder-decoder model with both caches: exported as a user does, and asked once more with other weights."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from coverage_sweep.attempt import CHECK_SEED, SEED, first_line
from coverage_sweep.cached import accepted_as, unchecked_passes
from coverage_sweep.catalogue import Case
from coverage_sweep.original import NotTinyError, check_size, describe, keep_within_float16
from coverage_sweep.record import LEAST, Record
from coverage_sweep.tiny import tiny_config
from coverage_sweep.weights import redraw
from optimum_ane import ANEModelForSeq2SeqLM, export
from optimum_ane.errors import ANEError, NoCacheError
from optimum_ane.package.report import ExportReport
from optimum_ane.validation.psnr import psnr

SOURCE, CONTEXT = 21, 24
CHECK_SOURCE, CHECK_CONTEXT = 30, 17
"""Of the independent check: other lengths."""
COUNTS = (30, 11, 1)
"""Tokens of the sources of the check, in one batch."""
WRITTEN = 14
"""Tokens that are read of each."""


def try_written(case: Case) -> Record:
    """Exports a case; the export itself compares module and package with the original."""
    start = time.process_time()
    try:
        model = make_model(case.model_type, SEED)
    except NotTinyError as error:
        return Record(case.key, case.group, "not tiny", str(error))
    with tempfile.TemporaryDirectory() as folder:
        try:
            report = _export(model, Path(folder) / "package", SOURCE, CONTEXT)
        except NoCacheError as error:
            return Record(case.key, case.group, "no cache", first_line(error))
        except ANEError as error:
            return Record(case.key, case.group, "refused", first_line(error), seconds=time.process_time() - start)
    return accepted_as(case, report, time.process_time() - start)


def check_written(case: Case, accepted: Record) -> Record:
    """Exports an accepted case anew, with other weights and lengths and without the export's own comparison.

    Returns:
        The record with what was found.
    """
    try:
        model = make_model(case.model_type, CHECK_SEED)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "package"
            _export(model, path, CHECK_SOURCE, CHECK_CONTEXT, validate=False)
            ratio, exact = _measure(model, path), None
            if not ratio >= LEAST:
                path = Path(folder) / "exact"
                in_float32: dict[str, Any] = {"precision": "float32", "kv_cache": "io"}
                _export(model, path, CHECK_SOURCE, CHECK_CONTEXT, validate=False, **in_float32)
                exact = _measure(model, path)
    except (NotTinyError, ANEError) as error:
        return replace(accepted, check=first_line(error))
    return replace(accepted, checked=ratio, exact=exact)


def make_model(model_type: str, seed: int) -> PreTrainedModel:
    """Makes a tiny encoder-decoder model with seeded weights.

    Args:
        model_type: Of transformers' mapping of sequence-to-sequence language models.
        seed: Of the weights.

    Raises:
        NotTinyError: It cannot be made small, or not be called with tokens alone.
    """
    torch.manual_seed(seed)
    try:
        config = tiny_config(model_type)
        if getattr(config, "decoder_start_token_id", None) is None:
            config.decoder_start_token_id = 0
        model = AutoModelForSeq2SeqLM.from_config(config, attn_implementation="eager").float().eval()
    except Exception as error:  # a configuration's checks and a model's constructor raise whatever they like
        raise NotTinyError(f"no tiny configuration: {describe(error)}") from error
    check_size(model)
    redraw(model, seed)
    model.requires_grad_(False)
    ids = _tokens(model, (1, SOURCE), seed)
    try:
        keep_within_float16(model, [{"input_ids": ids, "decoder_input_ids": ids[:, :WRITTEN]}], seed)
    except Exception as error:  # a model raises whatever it stumbles over
        raise NotTinyError(f"cannot be called: {describe(error)}") from error
    return model


def _tokens(model: PreTrainedModel, shape: tuple[int, int], seed: int) -> Tensor:
    """Tokens that are no padding and end nothing."""
    vocabulary = model.config.get_text_config().vocab_size
    return torch.randint(3, vocabulary, shape, generator=torch.Generator().manual_seed(seed))


def _export(model: PreTrainedModel, path: Path, source: int, context: int, **form: Any) -> ExportReport:
    with unchecked_passes():
        return export(
            model, path, task="text2text-generation", sequence_length=source, context_length=context, quiet=True,
            **form,
        ).report  # fmt: skip


@torch.no_grad()
def _measure(model: PreTrainedModel, path: Path) -> float:
    """Compares a package with the model on each source alone, dB, the least of all."""
    package = ANEModelForSeq2SeqLM.from_pretrained(path)
    ids = _tokens(model, (len(COUNTS), max(COUNTS)), CHECK_SEED)
    written = _tokens(model, (len(COUNTS), WRITTEN), CHECK_SEED + 1)
    mask = (torch.arange(max(COUNTS))[None] < torch.tensor(COUNTS)[:, None]).long()
    answers = package(ids, mask, written).logits
    ratios = []
    for row, count in enumerate(COUNTS):
        alone = {"input_ids": ids[row : row + 1, :count], "attention_mask": mask[row : row + 1, :count]}
        expected = model(**alone, decoder_input_ids=written[row : row + 1], use_cache=False).logits[0]
        ratios.append(psnr(expected.float().numpy(), answers[row].numpy()))
    return min(ratios)
