"""Takes the measurements that the project promises, and prints each beside what was asked.

    python scripts/verify.py                  # all of them: more than an hour on two cores
    python scripts/verify.py imports lengths  # some

Run it on a machine that does nothing else. What needs checkpoints or data that are not there is said to be missing.
The exit code is 1 where a limit is not kept.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

from rich.console import Console
from rich.table import Table
from verification.row import MissingError, Row

from optimum_ane.package.working_folders import WorkingFolder

MEASUREMENTS = {
    "imports": "the import contract; what light code loads",
    "architectures": "ModernBERT in every task; what a new architecture takes",
    "padding": "padding of every kind, every architecture and head",
    "operations": "coremltools' operations in the portable runtime",
    "first_steps": "the README's commands in a clone; the first line of each command",
    "names": "operations that carry their module's name",
    "portable_speed": "the portable runtime over the matrix products alone",
    "lengths": "a package of several lengths: size, accuracy, speed",
    "graph": "DistilBERT by its graph beside the hand-written module",
    "vit_digits": "a ViT by its graph beside PyTorch, image by image",
    "image_inputs": "images in against the image processor's own values in, all normalisations",
    "vision": "vision models by graph in every task; boxes in pixels",
    "vit_base": "ViT-base: its graph, its export, the portable runtime beside PyTorch",
    "whisper": "Whisper: tiny configurations, whisper-tiny.en beside PyTorch, WhisperKit's loop",
    "ctc": "sounds to text letter by letter: modules, packages, pipelines",
    "plain_modules": "modules of diffusers and timm, and one of our own, by example inputs",
    "optimize": "stock packages rewritten for the engine",
    "coverage": "architectures by graph: the counts of docs/coverage.json",
    "both_ways": "architectures made by hand and by graph",
    "decoders": "decoders with a cache, every named architecture, in PyTorch and as programs",
    "encoder_decoders": "encoder-decoder models, every named architecture, in PyTorch and as programs",
    "translation": "a translation model trained here: exact match and BLEU beside PyTorch's",
    "smollm2": "a language model with a cache: export, accuracy, text",
    "llama_1b": "a language model of 1.2 B parameters: export in chunks, and in int8",
    "loading": "what hashes cost when a package is loaded",
    "exports": "time and peak memory of exports",
    "crash_points": "kills at every step that changes files",
    "suite": "the tests and their time",
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(["measurements:", *(f"  {name:<17}{what}" for name, what in MEASUREMENTS.items())]),
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="measurements to take (default: all)")
    names = parser.parse_args().names or [*MEASUREMENTS]
    unknown = [name for name in names if name not in MEASUREMENTS]
    if unknown:
        parser.error(f"no measurement {', '.join(unknown)}; there are {', '.join(MEASUREMENTS)}")
    rows = []
    console = Console(stderr=True, highlight=False)
    for name in names:
        console.print(f"measuring {name}: {MEASUREMENTS[name]} …")
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            rows.extend(process.submit(take, name).result())
    show(rows)
    return int(any(row.is_met is False for row in rows))


def take(name: str) -> list[Row]:
    """Takes one group of measurements, in a process of its own: its memory would count as that of what it starts."""
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    rows: list[Row] = []
    with WorkingFolder.temporary() as folder:
        measurements = importlib.import_module(f"verification.{name}").measure(folder)
        try:
            rows.extend(measurements)  # what was measured stays where the next lacks something
        except MissingError as error:
            rows.append(Row(f"{name}: what follows", "", str(error), None))
    return rows


def show(rows: list[Row]) -> None:
    """Prints the table."""
    table = Table("what", "asked", "measured", "")
    words = {True: "met", False: "missed", None: "not measured"}
    for row in rows:
        table.add_row(row.what, row.asked, row.measured, words[row.is_met])
    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table)


if __name__ == "__main__":
    sys.exit(main())
