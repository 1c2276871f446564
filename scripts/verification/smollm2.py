"""SmolLM2-135M-Instruct, exported as a user would, beside transformers: time, memory, accuracy, text and size."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from optimum_ane import ANEModelForCausalLM
from optimum_ane.compression.recipes import get_recipe
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.report import AccuracyReport
from optimum_ane.evaluation.text_generation import TextGeneration
from optimum_ane.modeling.decoder_programs import DecoderPrograms
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.validation.psnr import psnr
from optimum_ane.workflows.compress import Original, compress_package
from verification.row import REPOSITORY, Row, shared
from verification.timed_process import OPTIMUM_CLI, run_timed

CONTEXT = 1024
_TEXTS, _LEAST_TOKENS = 260, 4000
"""Rows of SST-2 that are joined to passages, which make so many tokens at least."""
_PASSAGES, _BLOCK = 5, 64
_NEW_TOKENS = 64


def measure(folder: Path) -> Iterator[Row]:
    """Exports the checkpoint, and asks package and original the same."""
    source = shared("models/smollm2-135m-instruct")
    checkpoint, package = folder / "smollm2", folder / "package"
    subprocess.run([sys.executable, source / "unpack.py", checkpoint], check=True, capture_output=True)
    yield from _export(checkpoint, package)
    report = json.loads((package / "export_report.json").read_text())
    yield from _programs(checkpoint, package, report)
    original = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(package)
    model = ANEModelForCausalLM.from_pretrained(package, runtime="portable")
    yield from _teacher_forced(original, model, tokenizer)
    yield from _prefill_beside_steps(package, tokenizer)
    yield from _greedy(original, model, tokenizer)
    yield from _compressed(folder, package, report["sizes"]["weights"], original, tokenizer)
    yield from _speed(checkpoint, folder / "speed.json")


def _export(checkpoint: Path, package: Path) -> Iterator[Row]:
    command = [
        OPTIMUM_CLI, "export", "ane", "--model", str(checkpoint), "--task", "text-generation",
        "--context-length", str(CONTEXT), str(package),
    ]  # fmt: skip
    run = run_timed(command)
    yield Row(
        "SmolLM2: export of all functions, with validation", "≤ 150 s", f"{run.seconds:.0f} s", run.seconds <= 150
    )
    yield Row("SmolLM2: export, peak memory", "≤ 3.5 GB", f"{run.peak / 1e9:.2f} GB", run.peak <= 3.5e9)


def _programs(checkpoint: Path, package: Path, report: dict[str, Any]) -> Iterator[Row]:
    infer = report["functions"]["infer"]
    operations = sum(report["operations"].values())
    yield Row("SmolLM2: operations of infer besides constants", "≤ 1600", str(operations), operations <= 1600)
    shares = {name: each["flops_share_on_ane"] for name, each in report["functions"].items()}
    yield Row(
        "SmolLM2: share of infer's arithmetic predicted on the engine",
        "≥ 0.95",
        ", ".join(f"{name} {share:.4f}" for name, share in shares.items()),
        infer["flops_share_on_ane"] >= 0.95,
    )
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float16)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    weights = report["sizes"]["weights"]
    yield Row(
        "SmolLM2: weight file of all functions over its parameters in float16, the head tied",
        "≤ 1.01",
        f"{weights / (2 * parameters):.4f} ({weights / 1e6:.1f} MB for {2 * parameters / 1e6:.1f})",
        weights <= 1.01 * 2 * parameters,
    )


def _score(original: Any, model: ANEModelForCausalLM, tokenizer: Any) -> AccuracyReport:
    evaluator = TextGeneration(original.config)
    spec = DatasetSpec(str(shared("data/sst2/dev.tsv")), text_column="0", max_samples=_TEXTS)
    return evaluator.compare(
        original, model, tokenizer, evaluator.load(spec), sequence_length=CONTEXT, runtime="portable"
    )


def _teacher_forced(original: Any, model: ANEModelForCausalLM, tokenizer: Any) -> Iterator[Row]:
    """Perplexity, divergence and agreement on passages of SST-2."""
    report = _score(original, model, tokenizer)
    found, tokens = report.next_tokens, report.counts["tokens scored"]
    assert found is not None
    what = f"SmolLM2 beside transformers on {tokens} tokens of SST-2: "
    divergence, same, increase = found.kl_divergence, found.top_1_agreement, found.perplexity_increase
    yield Row(f"{what}tokens", f"≥ {_LEAST_TOKENS}", str(tokens), tokens >= _LEAST_TOKENS)
    yield Row(f"{what}mean KL divergence", "≤ 2e-4 nats", _shown(divergence, ".2e"), divergence.value <= 2e-4)
    yield Row(f"{what}top-1 agreement", "≥ 99.0 %", _shown(same, ".4f"), same.value >= 0.99)
    ours, theirs = report.package.metrics["perplexity"], report.original.metrics["perplexity"]  # type: ignore[union-attr]
    yield Row(
        f"{what}perplexity",
        "within 0.2 %",
        f"{ours:.3f} and {theirs:.3f}: {increase.value:+.3f} %",
        abs(increase.value) <= 0.2,
    )
    yield Row(f"{what}PSNR, median", "≥ 60 dB", f"{found.median_row_psnr:.1f}", found.median_row_psnr >= 60)
    yield Row(f"{what}PSNR, 0.1 % quantile", "≥ 46 dB", f"{found.low_row_psnr:.1f}", found.low_row_psnr >= 46)


def _shown(estimate: Any, form: str) -> str:
    interval = "" if estimate.low is None else f" ({estimate.low:{form}} to {estimate.high:{form}})"
    return f"{estimate.value:{form}}{interval}"


def _prefill_beside_steps(package: Path, tokenizer: Any) -> Iterator[Row]:
    """One block of 64 tokens and 64 steps: what is in the state, and the logits of the next token."""
    texts = [line.split("\t")[0] for line in shared("data/sst2/dev.tsv").read_text().splitlines()]
    ids = tokenizer(" ".join(texts[:60]))["input_ids"]
    for precision, least in (("float32", 80.0), ("program", 58.0)):
        programs = DecoderPrograms({"model": PortableSession(package / "model.mlpackage", precision=precision)})
        states, logits = [], []
        for passage in range(_PASSAGES):
            tokens = ids[passage * (_BLOCK + 1) : (passage + 1) * (_BLOCK + 1)]
            block, single = programs.new_cache(), programs.new_cache()
            programs.read(block, tokens[:_BLOCK])
            for token in tokens[:_BLOCK]:
                programs.step(single, token)
            rows = [cache.states[0].read("kv_cache")[:, :, :_BLOCK] for cache in (single, block)]
            states.append(psnr(*rows))
            logits.append(psnr(*(programs.step(cache, tokens[_BLOCK]) for cache in (single, block))))
        measure_of = min if precision == "float32" else statistics.median
        values = measure_of(states), measure_of(logits)
        yield Row(
            f"SmolLM2: a block of {_BLOCK} beside {_BLOCK} steps, {precision}, {measure_of.__name__} of {_PASSAGES} "
            "passages",
            f"≥ {least:.0f} dB",
            f"state {values[0]:.1f}, next logits {values[1]:.1f}",
            min(values) >= least,
        )


def _greedy(original: Any, model: ANEModelForCausalLM, tokenizer: Any) -> Iterator[Row]:
    """The same text for each prompt, or a first difference between tokens that nearly tie."""
    prompts = (Path(__file__).parent / "chat_prompts.txt").read_text(encoding="utf-8").splitlines()
    equal, ratios = 0, []
    for prompt in prompts:
        message = [{"role": "user", "content": prompt}]
        inputs = tokenizer.apply_chat_template(
            message, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        length = inputs["input_ids"].shape[1]
        theirs, ours = (
            each.generate(**inputs, max_new_tokens=_NEW_TOKENS, do_sample=False)[0, length:].tolist()
            for each in (original, model)
        )
        if theirs == ours:
            equal += 1
            continue
        place = next(i for i, (one, other) in enumerate(zip(theirs, ours, strict=False)) if one != other)
        prefix = torch.cat([inputs["input_ids"], torch.tensor([theirs[:place]], dtype=torch.long)], 1)
        with torch.no_grad():
            exact = original(prefix).logits[0, -1].numpy()
        rounded = model(prefix, logits_to_keep=1).logits[0, -1].numpy()
        error = float(np.sqrt(np.mean((exact - rounded) ** 2)))
        ratios.append(float(exact[theirs[place]] - exact[ours[place]]) / error)
    yield Row(
        f"SmolLM2: greedy texts of {_NEW_TOKENS} tokens, equal to transformers'",
        f"≥ 24 of {len(prompts)}",
        f"{equal} of {len(prompts)}",
        equal >= 24,
    )
    yield Row(
        "SmolLM2: the original's margin where texts part, over the root mean square error of the logits there",
        "< 4",
        ", ".join(f"{ratio:.2f}" for ratio in sorted(ratios, reverse=True)) or "no text parts",
        all(ratio < 4 for ratio in ratios),
    )


def _compressed(folder: Path, package: Path, size: int, original: Any, tokenizer: Any) -> Iterator[Row]:
    """Size and divergence by recipe; the source of these weights was itself unpacked from 4 bits."""
    for name, most, most_divergence in (("int8", 0.51, 0.003), ("palette4-g16-feed-forward", 0.36, None)):
        made = compress_package(
            package, get_recipe(name), folder / name, original=Original(wanted="no"), psnr_threshold=0.0, quiet=True
        )
        share = made.report.sizes["weights"] / size
        yield Row(f"SmolLM2, {name}: weights over float16", f"≤ {most}", f"{share:.3f}", share <= most)
        report = _score(original, ANEModelForCausalLM.from_pretrained(made.path, runtime="portable"), tokenizer)
        found = report.next_tokens
        assert found is not None
        yield Row(
            f"SmolLM2, {name}: mean KL divergence",
            "reported" if most_divergence is None else f"≤ {most_divergence} nats",
            f"{_shown(found.kl_divergence, '.4f')}; perplexity {found.perplexity_increase.value:+.2f} %, top-1 "
            f"agreement {found.top_1_agreement.value:.4f}",
            most_divergence is None or found.kl_divergence.value <= most_divergence,
        )


def _speed(checkpoint: Path, result: Path) -> Iterator[Row]:
    """One thread each, in one process and by turns."""
    script = REPOSITORY / "scripts/benchmark_portable_states.py"
    command = [sys.executable, str(script), "--model", str(checkpoint), "--json", str(result)]
    subprocess.run(command, check=True, capture_output=True)
    for name, entry in json.loads(result.read_text()).items():
        if name.endswith(", portable"):
            yield Row(
                f"SmolLM2, portable runtime beside transformers' eager model: {name.removesuffix(', portable')}",
                "≥ 1.0 × eager",
                f"{entry['speed']:.2f} × ({entry['milliseconds']:.1f} ms)",
                entry["speed"] >= 1.0,
            )
