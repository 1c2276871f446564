"""A random Llama of the shape of Llama 3.2 1B, bfloat16 in shards: time and memory of its export, and in int8."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from verification.row import Row
from verification.timed_process import OPTIMUM_CLI, run_timed

CONTEXT = 512
MOST_MINUTES, MOST_MINUTES_INT8, MOST_MEMORY = 12.0, 20.0, 8e9
_SHAPE = {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128_256, "max_position_embeddings": 131_072,
    "tie_word_embeddings": True, "rms_norm_eps": 1e-5, "bos_token_id": 128_000, "eos_token_id": 128_001,
    "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 32.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    },
}  # fmt: skip


def measure(folder: Path) -> Iterator[Row]:
    """Makes the checkpoint, and exports it twice."""
    checkpoint = folder / "llama-1b"
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**_SHAPE), dtype=torch.bfloat16)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    model.save_pretrained(checkpoint, max_shard_size="600MB")
    del model
    what = f"random Llama of {parameters / 1e9:.2f} B parameters, context {CONTEXT}"
    yield from _rows(checkpoint, folder / "float16", (), f"{what}, in chunks", MOST_MINUTES)
    yield from _rows(checkpoint, folder / "int8", ("--compress", "int8"), f"{what}, int8", MOST_MINUTES_INT8)


def _rows(checkpoint: Path, output: Path, options: Sequence[str], what: str, most: float) -> Iterator[Row]:
    command = [
        OPTIMUM_CLI, "export", "ane", "--model", str(checkpoint), "--task", "text-generation", "--context-length",
        str(CONTEXT), *options, str(output),
    ]  # fmt: skip
    try:
        run = run_timed(command)
    except RuntimeError as error:
        yield Row(what, f"≤ {most:.0f} min", str(error).strip().splitlines()[-1][:300], False)
        return
    minutes = run.seconds / 60
    report = json.loads((output / "export_report.json").read_text())
    programs = [path.name for path in sorted(output.glob("*.mlpackage"))]
    ratios = ", ".join(f"{name} {ratio:.1f} dB" for name, ratio in report["package_psnr"].items())
    yield Row(
        f"{what}: export with validation",
        f"≤ {most:.0f} min",
        f"{minutes:.1f} min; {len(programs)} programs, {report['sizes']['weights'] / 1e9:.2f} GB, {ratios}",
        minutes <= most,
    )
    is_limited = not options
    yield Row(
        f"{what}: export, peak memory",
        f"≤ {MOST_MEMORY / 1e9:.0f} GB" if is_limited else "reported",
        f"{run.peak / 1e9:.2f} GB",
        not is_limited or run.peak <= MOST_MEMORY,
    )
