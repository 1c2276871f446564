"""Measures a package of several lengths beside a package of its longest only: size, accuracy, rows per second.

    python scripts/benchmark_lengths.py                       # the table
    python scripts/benchmark_lengths.py --json result.json    # … and the numbers

Both are exported from one checkpoint and score the same rows of a dataset through the model class, in batches that are
padded to their longest row, as a pipeline does it; beside them the original in PyTorch. All live in one process and
take turns, round by round, each round on rows of its own and the same for all, so that what slows the machine down
slows all of them; a ratio is the median of those within a round. Every row is in one round. The packages run in the
portable runtime, on any machine.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from optimum_ane import ANEModelForSequenceClassification, export
from optimum_ane.benchmark.machine import this_machine, versions
from optimum_ane.benchmark.timing import Settings, time_bursts
from optimum_ane.package.file_writing import write_file
from optimum_ane.package.layout import MLPACKAGE
from optimum_ane.package.report import measure_sizes

SHARED = Path(__file__).resolve().parents[1] / "../shared"
SEVERAL, ONE, ORIGINAL = "several lengths", "one length", "original, PyTorch"
# What the project asks for.
MAX_SIZE_RATIO, MIN_SPEED_RATIO = 1.01, 2.5
RIGHT, RIGHT_WITHIN = 775, 1

Model = Callable[..., Any]


@dataclass(frozen=True)
class Batch:
    """Rows that are given to a model at once.

    Attributes:
        inputs: Keyword arguments, (B, S) each, padded to the longest row.
        labels: (B,).
        tokens: Of each row.
    """

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    tokens: list[int]


def main() -> int:
    args = parse_arguments()
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory(prefix="optimum-ane-") as folder:
        result = measure(args, Path(folder))
    show(result)
    if args.json is not None:
        write_file(args.json, json.dumps(result, indent=2) + "\n")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint", type=Path, default=SHARED / "models/distilbert-sst2", metavar="DIR", help="of a classifier"
    )
    parser.add_argument(
        "--dataset",
        type=Path,
        default=SHARED / "data/sst2/dev.tsv",
        metavar="FILE",
        help="texts and labels, a tab between",
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 64, 128], metavar="N", help="of the package")
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="rows at once (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=11, metavar="N", help="the rows are dealt out to (default: %(default)s)"
    )
    parser.add_argument(
        "--threads", type=int, nargs="+", metavar="N", help="of PyTorch (default: 1, and PyTorch's own default)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers as JSON")
    args = parser.parse_args()
    args.threads = sorted(set(args.threads or {1, torch.get_num_threads()}))
    for place in (args.checkpoint, args.dataset):
        if not place.exists():
            parser.error(f"there is no {place}; name another one")
    return args


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Takes all measurements."""
    lengths = {SEVERAL: sorted(args.lengths), ONE: [max(args.lengths)]}
    for name, chosen in lengths.items():
        export(args.checkpoint, folder / name, sequence_length=chosen, validate=False, quiet=True)
    models: dict[str, Model] = {
        name: ANEModelForSequenceClassification.from_pretrained(folder / name, runtime="portable") for name in lengths
    }
    models[ORIGINAL] = AutoModelForSequenceClassification.from_pretrained(args.checkpoint, dtype=torch.float32).eval()
    batches = read_batches(args.dataset, folder / ONE, args.batch, max(args.lengths))
    tokens = [count for batch in batches for count in batch.tokens]
    taken = [min(length for length in lengths[SEVERAL] if length >= count) for count in tokens]
    return {
        "machine": str(this_machine()),
        "versions": versions(),
        "checkpoint": args.checkpoint.name,
        "lengths": lengths[SEVERAL],
        "batch": args.batch,
        "rounds": args.rounds,
        "rows": len(tokens),
        "rows_by_length": {str(length): taken.count(length) for length in lengths[SEVERAL]},
        # All would be as fast as the tokens are few, padding included, if a token took the same time at every length.
        "ratio_of_tokens": max(args.lengths) * len(tokens) / sum(taken),
        "bytes": {name: measure_sizes(folder / name / MLPACKAGE) for name in lengths},
        "right": {name: count_right(model, batches) for name, model in models.items()},
        "speed": {str(threads): measure_speed(models, batches, args.rounds, threads) for threads in args.threads},
    }


def read_batches(dataset: Path, package: Path, size: int, longest: int) -> list[Batch]:
    """Tokenizes the rows of a file, in order."""
    tokenizer = AutoTokenizer.from_pretrained(package)
    lines = [line.rpartition("\t") for line in dataset.read_text(encoding="utf-8").splitlines()]
    batches = []
    for start in range(0, len(lines), size):
        texts, _, labels = zip(*lines[start : start + size], strict=True)
        inputs = dict(tokenizer([*texts], padding=True, truncation=True, max_length=longest, return_tensors="pt"))
        tokens = inputs["attention_mask"].sum(1).tolist()
        batches.append(Batch(inputs, torch.tensor([int(label) for label in labels]), tokens))
    return batches


def count_right(model: Model, batches: Sequence[Batch]) -> int:
    """How many rows a model classifies as the dataset does."""
    return sum(int((model(**batch.inputs).logits.argmax(1) == batch.labels).sum()) for batch in batches)


def measure_speed(
    models: dict[str, Model], batches: Sequence[Batch], rounds: int, threads: int
) -> dict[str, dict[str, float]]:
    """Runs every row through every model once, dealt out over rounds, and the same rows in each round of all.

    Returns:
        For each model rows per second over all rounds, and how many times as fast as the package of one length it is:
        the median of the ratios within a round, and their quartiles.
    """
    torch.set_num_threads(threads)
    dealt = [batches[turn::rounds] for turn in range(rounds)]
    counts = [sum(len(batch.labels) for batch in chosen) for chosen in dealt]

    def prediction(model: Model) -> Callable[[], None]:
        turns = iter(dealt)

        def run() -> None:
            for batch in next(turns):
                model(**batch.inputs)

        return run

    for model in models.values():  # warms up
        model(**batches[0].inputs)
    predictions = {name: prediction(model) for name, model in models.items()}
    times = time_bursts(predictions, Settings(iterations=rounds, rounds=rounds, warmup=0))
    seconds = {name: [block[0] for block in blocks] for name, blocks in times.items()}
    found = {}
    for name, own in seconds.items():
        ratios = [other / mine for other, mine in zip(seconds[ONE], own, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if rounds > 1 else ratios * 3
        found[name] = {"rows_per_second": sum(counts) / sum(own), "ratio": middle, "low": low, "high": high}
    return found


def show(result: dict[str, Any]) -> None:
    """Prints the tables."""
    console = Console(width=None if sys.stdout.isatty() else 119, highlight=False)
    lengths = ", ".join(map(str, result["lengths"]))
    title = f"{result['checkpoint']}: one package of {lengths} tokens beside one of {result['lengths'][-1]}"
    table = Table(title=title, title_justify="left")
    for heading in ("", "weights, MB", ".mlpackage, MB", f"right of {result['rows']}"):
        table.add_column(heading, justify="right" if heading else "left")
    for threads in result["speed"]:
        words = "1 thread" if threads == "1" else f"{threads} threads"
        table.add_column(f"rows/s, {words}", justify="right")
        table.add_column("× one length (quartiles)", justify="right")
    for name, right in result["right"].items():
        sizes = result["bytes"].get(name)
        cells = ["–", "–"] if sizes is None else [f"{sizes[part] / 1e6:.2f}" for part in ("weights", "package")]
        cells.append(str(right))
        for speed in result["speed"].values():
            each = speed[name]
            cells.append(f"{each['rows_per_second']:.1f}")
            cells.append("1" if name == ONE else f"{each['ratio']:.2f} ({each['low']:.2f}–{each['high']:.2f})")
        table.add_row(name, *cells)
    console.print(table)
    table = Table("what", "asked", "measured", "")
    for label, limit, value, is_met in targets(result):
        table.add_row(label, limit, value, "met" if is_met else "missed")
    console.print(table)
    taken = ", ".join(f"{count} rows at {length}" for length, count in result["rows_by_length"].items())
    console.print(f"{taken}: counted in tokens {result['ratio_of_tokens']:.2f} × as fast")
    console.print(f"batches of {result['batch']} rows, {result['rounds']} rounds; {result['machine']}")
    console.print(", ".join(f"{name} {number}" for name, number in result["versions"].items()))


def targets(result: dict[str, Any]) -> Iterator[tuple[str, str, str, bool]]:
    """Yields each target's name, limit, measured value, and whether it is met."""
    for part, words in (("weights", "weight file"), ("package", "whole .mlpackage")):
        ratio = result["bytes"][SEVERAL][part] / result["bytes"][ONE][part]
        yield (
            f"size of the {words}, over that of one length",
            f"≤ {MAX_SIZE_RATIO}",
            f"{ratio:.4f}",
            ratio <= MAX_SIZE_RATIO,
        )
    for name in (SEVERAL, ONE):
        right = result["right"][name]
        yield f"right, {name}", f"{RIGHT} ± {RIGHT_WITHIN}", str(right), abs(right - RIGHT) <= RIGHT_WITHIN
    for threads, speed in result["speed"].items():
        ratio = speed[SEVERAL]["ratio"]
        words = "1 thread" if threads == "1" else f"{threads} threads"
        yield (
            f"rows per second, over those of one length, {words}",
            f"≥ {MIN_SPEED_RATIO}",
            f"{ratio:.2f}",
            ratio >= MIN_SPEED_RATIO,
        )


if __name__ == "__main__":
    sys.exit(main())
