"""One decoder with its cache: exported as a user does, and asked once more with other weights, texts and lengths."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from coremltools.converters.mil.mil import Program
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from coverage_sweep.attempt import CHECK_SEED, SEED, first_line
from coverage_sweep.catalogue import Case
from coverage_sweep.original import NotTinyError, check_size, describe, keep_within_float16
from coverage_sweep.record import LEAST, Record
from coverage_sweep.tiny import tiny_config
from coverage_sweep.weights import redraw
from optimum_ane import ANEModelForCausalLM, export
from optimum_ane.errors import ANEError, NoCacheError
from optimum_ane.package.report import ExportReport
from optimum_ane.validation.psnr import psnr

CONTEXT, PREFILL = 32, 8
"""Tokens. Windows of tiny configurations are 8 long, so that texts go past them."""

CHECK_CONTEXT, CHECK_PREFILL = 40, 6
"""Of the independent check: other lengths."""

TEXTS = (27, 1, 13, 6, 35)
"""Tokens of the texts of the check, read one after another into one cache: each finds rows of those before."""

STEPS = 5
"""How many tokens of a text are read one by one."""


def try_cached(case: Case) -> Record:
    """Exports a case with a cache in a state; the export itself compares module and package with the original."""
    start = time.process_time()
    try:
        model = make_model(case.model_type, SEED)
    except NotTinyError as error:
        return Record(case.key, case.group, "not tiny", str(error))
    with tempfile.TemporaryDirectory() as folder:
        try:
            report = _export(model, Path(folder) / "package", CONTEXT, PREFILL)
        except NoCacheError as error:
            return Record(case.key, case.group, "no cache", first_line(error))
        except ANEError as error:
            return Record(case.key, case.group, "refused", first_line(error), seconds=time.process_time() - start)
    return accepted_as(case, report, time.process_time() - start)


def accepted_as(case: Case, report: ExportReport, seconds: float) -> Record:
    """The record of an export that passed."""
    functions = report.functions or {}
    taken = report.attempts[-1]
    return Record(
        case.key,
        case.group,
        "accepted",
        capture=taken.capture,
        engine_layout=taken.engine_layout,
        psnr=min(report.package_psnr.values()),
        inputs=len(report.package_psnr),
        operations=sum(report.operations.values()),
        share=min(each["flops_share_on_ane"] for each in functions.values()),
        seconds=seconds,
    )


def check_cached(case: Case, accepted: Record) -> Record:
    """Exports an accepted case anew, with other weights and lengths and without the export's own comparison.

    Its answers are compared with those of the stock model over transformers' own cache.

    Returns:
        The record with what was found.
    """
    try:
        model = make_model(case.model_type, CHECK_SEED)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "package"
            _export(model, path, CHECK_CONTEXT, CHECK_PREFILL, validate=False)
            ratio, exact = _measure(model, path), None
            if not ratio >= LEAST:
                path = Path(folder) / "exact"
                # A state is of float16, a cache that is passed is of the program's precision.
                in_float32: dict[str, Any] = {"precision": "float32", "kv_cache": "io"}
                _export(model, path, CHECK_CONTEXT, CHECK_PREFILL, validate=False, **in_float32)
                exact = _measure(model, path)
    except (NotTinyError, ANEError) as error:
        return replace(accepted, check=first_line(error))
    return replace(accepted, checked=ratio, exact=exact)


def make_model(model_type: str, seed: int) -> PreTrainedModel:
    """Makes a tiny language model with seeded weights.

    Args:
        model_type: Of transformers' mapping of causal language models.
        seed: Of the weights.

    Raises:
        NotTinyError: It cannot be made small, or not be called with tokens alone.
    """
    torch.manual_seed(seed)
    try:
        config = tiny_config(model_type)
        for each in (config, config.get_text_config()):
            each.use_cache = True
            if hasattr(each, "is_decoder"):
                each.is_decoder = True
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    except Exception as error:  # a configuration's checks and a model's constructor raise whatever they like
        raise NotTinyError(f"no tiny configuration: {describe(error)}") from error
    check_size(model)
    redraw(model, seed)
    model.requires_grad_(False)
    try:
        keep_within_float16(model, [{"input_ids": _text(model, CONTEXT, seed)}], seed)
    except Exception as error:  # a model raises whatever it stumbles over
        raise NotTinyError(f"cannot be called: {describe(error)}") from error
    return model


def _text(model: PreTrainedModel, length: int, seed: int) -> Tensor:
    vocabulary = model.config.get_text_config().vocab_size
    return torch.randint(0, vocabulary, (1, length), generator=torch.Generator().manual_seed(seed))


def _export(model: PreTrainedModel, path: Path, context: int, prefill: int, **form: Any) -> ExportReport:
    with unchecked_passes():
        return export(
            model, path, task="text-generation", context_length=context, prefill_length=prefill, quiet=True, **form
        ).report


@contextmanager
def unchecked_passes() -> Iterator[None]:
    """Does without coremltools' check of a program's form after each of its passes, a third of an export's time.

    What a pass breaks shows in the answers, which are compared.
    """
    check = Program.validate
    Program.validate = lambda *_, **__: None
    try:
        yield
    finally:
        Program.validate = check


@torch.no_grad()
def _measure(model: PreTrainedModel, path: Path) -> float:
    """Compares a package with the model over its own cache, dB, the least of all texts and ways to read them."""
    package = ANEModelForCausalLM.from_pretrained(path)
    cache = None
    ratios = []
    for number, length in enumerate(TEXTS):
        tokens = _text(model, length, CHECK_SEED + number)
        expected = model(input_ids=tokens).logits
        if cache is not None:
            cache.shorten_to(0)
        answer = package(tokens, past_key_values=cache, use_cache=True)
        cache = answer.past_key_values
        ratios.append(_ratio(expected, answer.logits))
        if length <= STEPS:
            continue
        first = length - STEPS
        cache.shorten_to(0)
        package(tokens[:, :first], past_key_values=cache, logits_to_keep=1)
        theirs = model(input_ids=tokens[:, :first], use_cache=True).past_key_values
        for step in range(first, length):
            token = tokens[:, step : step + 1]
            expected = model(input_ids=token, past_key_values=theirs, use_cache=True).logits
            ratios.append(_ratio(expected, package(token, past_key_values=cache, use_cache=True).logits))
    return min(ratios)


def _ratio(expected: Tensor, actual: Tensor) -> float:
    if expected.shape != actual.shape:
        return float("-inf")
    return psnr(expected.float().numpy(), actual.numpy())
