"""Time and peak memory of whole export commands, each in a process of its own."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from verification.row import REPOSITORY, MissingError, Row, shared
from verification.timed_process import OPTIMUM_CLI, Run, run_timed

BEFORE = "d4f7b7b"
"""The commit before programs, functions and states: what the export is compared with."""
MOST_TIME, MOST_MEMORY = 0.85, 0.9
_ROUNDS = 3


def measure(folder: Path) -> Iterator[Row]:
    """Exports a DistilBERT-base with the code of then and of now, by turns, and a BERT-large in bfloat16."""
    yield from _beside_before(folder)
    yield from _large(folder)


def _beside_before(folder: Path) -> Iterator[Row]:
    checkpoint = _make(folder / "base", _BASE)
    before = folder / "before"
    worktree = ["git", "-C", str(REPOSITORY), "worktree"]
    done = subprocess.run(
        [*worktree, "add", "--detach", str(before), BEFORE], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise MissingError(f"needs the commit {BEFORE} in this clone: {done.stderr.strip().splitlines()[-1]}")
    try:
        runs: dict[Path, list[Run]] = {before: [], REPOSITORY: []}
        for _ in range(_ROUNDS):
            for code, found in runs.items():
                found.append(_export(code, checkpoint, folder / "package"))
    finally:
        subprocess.run([*worktree, "remove", "--force", str(before)], check=True)
    seconds, peaks = ({code: [getattr(run, name) for run in found] for code, found in runs.items()}
                      for name in ("seconds", "peak"))  # fmt: skip
    for what, values, most, show in (
        ("time", seconds, MOST_TIME, lambda value: f"{value:.1f} s"),
        ("peak memory", peaks, MOST_MEMORY, lambda value: f"{value / 1e9:.2f} GB"),
    ):
        ratio = statistics.median(now / then for now, then in zip(values[REPOSITORY], values[before], strict=True))
        middle = {code: show(statistics.median(found)) for code, found in values.items()}
        yield Row(
            f"export of DistilBERT-base, whole command: {what}, over that of {BEFORE}",
            f"≤ {most}",
            f"{ratio:.2f} ({middle[REPOSITORY]} and {middle[before]}; {_ROUNDS} turns)",
            ratio <= most,
        )


def _large(folder: Path) -> Iterator[Row]:
    checkpoint = _make(folder / "large", _LARGE)
    files = [*checkpoint.glob("*.safetensors")]
    size = sum(path.stat().st_size for path in files)
    limit = 3 * size + 10**9
    run = _export(REPOSITORY, checkpoint, folder / "package")
    yield Row(
        f"export of BERT-large, bfloat16 in {len(files)} files, with validation: peak memory",
        f"≤ 3 × {size / 1e6:.0f} MB + 1 GB = {limit / 1e9:.3f} GB",
        f"{run.peak / 1e9:.3f} GB ({run.seconds:.0f} s)",
        run.peak <= limit,
    )


_BASE = """
model = transformers.DistilBertForSequenceClassification(transformers.DistilBertConfig())
model.save_pretrained(checkpoint)
"""
_LARGE = """
config = transformers.BertConfig(
    hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, vocab_size=30522
)
model = transformers.BertForSequenceClassification(config).to(torch.bfloat16)
model.save_pretrained(checkpoint, max_shard_size="200MB")
"""
_SEED = """
import sys, torch, transformers
checkpoint, tokenizer = sys.argv[1:]
torch.manual_seed(0)
transformers.logging.disable_progress_bar()
"""
_TOKENIZER = """
transformers.AutoTokenizer.from_pretrained(tokenizer).save_pretrained(checkpoint)
"""


def _make(checkpoint: Path, model: str) -> Path:
    """Writes a checkpoint with random weights and a real tokenizer.

    In a process of its own, or its memory would count as the export's: a child starts with its parent's peak.
    """
    tokenizer = shared("models/distilbert-sst2")
    subprocess.run([sys.executable, "-c", _SEED + model + _TOKENIZER, checkpoint, tokenizer], check=True)
    return checkpoint


def _export(code: Path, checkpoint: Path, output: Path) -> Run:
    """Runs `optimum-cli export ane` with the code of a directory, which goes before what is installed."""
    shutil.rmtree(output, ignore_errors=True)
    command = [OPTIMUM_CLI, "export", "ane", "--model", checkpoint, output]
    return run_timed(command, {**os.environ, "PYTHONPATH": str(code)})
