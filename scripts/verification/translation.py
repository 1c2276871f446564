"""A translation model trained here: its package writes what PyTorch writes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sacrebleu
import torch
from toy_translation import make_pairs, make_tokenizer, train

from optimum_ane import ANEModelForSeq2SeqLM, export
from verification.row import Row

LENGTH, BEAMS = 16, 4
LEAST_EXACT = 0.8
"""Of the held-out sentences that the model itself translates right: below, it has learned too little to tell."""


def measure(folder: Path) -> Iterator[Row]:
    """Trains on a grammar's sentences, exports, and translates those that were held out, greedily and with beams."""
    pairs, held_out = make_pairs()
    tokenizer = make_tokenizer([*pairs, *held_out])
    start = time.perf_counter()
    original = train(pairs, tokenizer)
    trained = time.perf_counter() - start
    export(original, folder / "out", tokenizer=tokenizer, sequence_length=LENGTH, context_length=LENGTH, quiet=True)
    package = ANEModelForSeq2SeqLM.from_pretrained(folder / "out")
    sources, targets = map(list, zip(*held_out, strict=True))
    for name, options in (("greedy", {"num_beams": 1}), (f"{BEAMS} beams", {"num_beams": BEAMS})):
        theirs = _translate(original, tokenizer, sources, options)
        ours = _translate(package, tokenizer, sources, options)
        scores = [(_exact(written, targets), _bleu(written, targets)) for written in (theirs, ours)]
        same = sum(one == other for one, other in zip(theirs, ours, strict=True))
        yield Row(
            f"translation, {name}, {len(sources)} held-out sentences",
            f"exact match and BLEU equal to PyTorch's, which is right on ≥ {LEAST_EXACT:.0%}",
            f"PyTorch {scores[0][0]:.1%} and {scores[0][1]:.2f}, the package {scores[1][0]:.1%} and "
            f"{scores[1][1]:.2f}; {same} texts equal (trained in {trained:.0f} s)",
            scores[0] == scores[1] and scores[0][0] >= LEAST_EXACT,
        )


def _translate(model: Any, tokenizer: Any, sources: list[str], options: dict[str, Any]) -> list[str]:
    written: list[str] = []
    for start in range(0, len(sources), 20):
        inputs = tokenizer(sources[start : start + 20], padding=True, return_tensors="pt")
        with torch.no_grad():
            ids = model.generate(
                inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=LENGTH - 1, **options
            )
        written += tokenizer.batch_decode(ids, skip_special_tokens=True)
    return written


def _exact(written: list[str], targets: list[str]) -> float:
    return sum(one == other for one, other in zip(written, targets, strict=True)) / len(targets)


def _bleu(written: list[str], targets: list[str]) -> float:
    return float(sacrebleu.corpus_bleu(written, [targets]).score)
