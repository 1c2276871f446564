"""Makes and publishes the packages of a list of models: exports, validates, compresses where asked, publishes.

    python scripts/zoo.py --org my-org --output zoo                     # all of scripts/zoo.yaml
    python scripts/zoo.py --org my-org --output zoo --dry-run           # what would be done
    python scripts/zoo.py --output zoo --no-publish --only minilm-l6-v2 distilbert-sst2
    python scripts/zoo.py my.yaml --org my-org --output zoo --jobs 4
    python scripts/zoo.py --org my-org --output /shared/zoo --ray auto  # on a Ray cluster

Each package is a job in a process of its own, so one that fails, crashes or runs out of memory does not stop the
rest. Run the same command again after a failure, Ctrl-C, a kill or a power cut: what is done and unchanged is skipped.
A package is made again when its entry in the list, the checkpoint's commit, a local dataset or recipe, or the version
of a tool has changed, and published again when it, its place or its licence in the list is not what was published.

In the output directory: packages/MODEL/VARIANT/, a log of each job's last try in logs/, what is done in records/ (to
make and publish a package once more, delete its record), and summary.json, what is printed at the end.

The token for the Hub is the one that `hf auth login` stored, or HF_TOKEN. With --ray, optimum-ane is installed on
every node, all nodes see the output directory under the same path, and each has the token.

Exits with 0 if every job succeeded, 1 if one failed, 130 after Ctrl-C.

The list is YAML; scripts/zoo.yaml is one:

    defaults:                     # for every model that does not say otherwise
      sequence_lengths: [128]
    models:
      - name: distilbert-sst2     # of the folder, and of the repository
        model: distilbert/distilbert-base-uncased-finetuned-sst-2-english   # Hub id, or a directory: ./checkpoint
        architecture: distilbert  # its model_type
        task: text-classification
        # All that follows may be left out:
        revision: main            # branch, tag or commit; pin a commit for packages that never change
        sequence_lengths: [128, 64]       # of texts: one package for each …
        compress: [none, int8]            # … with each recipe: a name, or a file: ./recipe.yaml
        first_at_root: true       # the first package at the repository's root, the others in subfolders: seq64-int8
        repository: "{org}/{name}-ane"
        batch_size: 1
        precision: float16
        minimum_deployment_target: iOS16
        compute_units: cpu_and_ne
        class_labels: false       # a Core ML classifier
        context_length: 2048      # of language models; with prefill_length, kv_cache, chunks and layout
        image_size: [392, 518]    # of images: height and width; with image_input
        pooling: mean             # sentence embeddings, with feature-extraction
        normalize: true
        psnr_threshold: 50        # dB
        license: apache-2.0       # for a source that states none
        evaluation:               # of the task's own kind; feature-extraction needs pooling
          dataset: glue           # Hub id, or a file: ./dev.tsv
          config: sst2
          split: validation
          max_samples: 500
          max_accuracy_drop: 0.5  # percentage points
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from model_zoo.catalog import Job, make_jobs, read_catalog
from model_zoo.display import Display
from model_zoo.pools import Pool, ProcessPool
from model_zoo.ray_pool import RayPool
from model_zoo.records import Workplace, locked
from model_zoo.run import make_plans, run
from model_zoo.strict_yaml import ListError
from model_zoo.summary import print_plans, print_summary, summarize, write_summary
from rich.console import Console

from optimum_ane.errors import ANEError, for_command_line

LIST = Path(__file__).with_name("zoo.yaml")
_PATIENCE = 10.0
"""Seconds to wait for another run in the same directory: the workers of a killed one notice it by then."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", nargs="?", type=Path, default=LIST, metavar="LIST.yaml", help="default: %(default)s")
    parser.add_argument("--org", help="user or organization to publish under; not needed with --no-publish")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="where packages, logs and records go"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these models, or packages as in NAME/seq128")
    parser.add_argument(
        "--jobs", type=_positive, metavar="N", help="how many at once (default: 1; on Ray all that fit)"
    )
    parser.add_argument(
        "--threads", type=_positive, metavar="N", help="of each job (default: cores divided by jobs; on Ray 1)"
    )
    parser.add_argument("--private", action="store_true", help="make new repositories private")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--no-publish", action="store_true", help="make the packages and leave them in the directory")
    what.add_argument("--dry-run", action="store_true", help="print what would be done, and do nothing")
    parser.add_argument(
        "--ray", nargs="?", const="local", metavar="ADDRESS", help="run on a Ray cluster; without an address, one here"
    )
    options = parser.parse_args(arguments)
    if not options.no_publish and options.org is None:
        parser.error("--org names where to publish; give it, or --no-publish")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    with for_command_line():
        return _run_or_say_why(options)


def _run_or_say_why(options: argparse.Namespace) -> int:
    try:
        return _run(options)
    except ANEError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted before a job began", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    output = options.output.resolve()
    jobs = make_jobs(read_catalog(options.list), None if options.no_publish else options.org)
    if options.only:
        jobs = _choose(jobs, options.only)
    console = Console(highlight=False, markup=False)
    private = True if options.private else None
    if options.dry_run:
        print_plans(make_plans(jobs, output, private), console)
        return 0
    workplace = Workplace(output)
    with locked(output / "zoo.lock", _PATIENCE):
        plans = make_plans(jobs, output, private)
        with closing(_make_pool(options)) as pool, Display(len(jobs)) as display:
            outcomes = run(plans, pool, display, workplace)
        rows = summarize(outcomes, workplace)
        write_summary(rows, workplace)
    print_summary(rows, console)
    statuses = {outcome.status for outcome in outcomes}
    if statuses & {"interrupted", "not run"}:
        return 130
    return 1 if "failed" in statuses else 0


def _make_pool(options: argparse.Namespace) -> Pool:
    if options.ray is not None:
        return RayPool(options.ray, options.jobs, options.threads or 1)
    slots = options.jobs or 1
    return ProcessPool(slots, options.threads or max(1, (os.cpu_count() or 1) // slots))


def _choose(jobs: list[Job], names: Sequence[str]) -> list[Job]:
    known = dict.fromkeys(job.model.name for job in jobs)
    for name in names:
        if name not in known and name not in {job.id for job in jobs}:
            raise ListError(f"--only {name!r} is not in the list; it holds {', '.join(known)}")
    return [job for job in jobs if job.model.name in names or job.id in names]


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
