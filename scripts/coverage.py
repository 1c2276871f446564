"""Tries every architecture of transformers by its graph, tiny and with random weights, and writes the page of results.

    python scripts/coverage.py                       # what has no record yet, or an older version's
    python scripts/coverage.py --group text          # one group
    python scripts/coverage.py --only llama t5:encoder
    python scripts/coverage.py --failed              # once more what was not accepted
    python scripts/coverage.py --again               # once more everything
    python scripts/coverage.py --check               # what was accepted, with other weights, inputs and lengths
    python scripts/coverage.py --page                # docs/coverage.md and docs/coverage.json from the records,
                                                     # and from docs/coverage.json what has none

Each architecture is made small by rules over its configuration, converted as `optimum-cli export ane --method graph`
does, decoders with a cache too, and accepted where the package answers as the original on three inputs. One process
each, limited in time and memory. Records are JSON lines, and a run that was interrupted goes on where it stopped.

Exits with 0 whatever the results are: they are what is asked for. With --check, with 1 if an accepted one is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers
from coverage_sweep import runner
from coverage_sweep.catalogue import GROUPS, Case, list_cases
from coverage_sweep.page import read_page, read_rows, write_page
from coverage_sweep.record import Record, Records
from rich.console import Console

from optimum_ane.progress import row_progress

REPOSITORY = Path(__file__).resolve().parents[1]
OTHERS = ("both_ways", "vision_tasks")
"""What `scripts/verify.py both_ways` and `vision` measured, in `out/`; the page holds it too."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=REPOSITORY / "out/coverage.jsonl", help="default: %(default)s")
    parser.add_argument("--group", nargs="+", choices=GROUPS, default=[*GROUPS], help="these groups")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="model types, or parts: t5:encoder, llama:cached")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--again", action="store_true", help="everything once more")
    what.add_argument("--failed", action="store_true", help="what was refused or not made tiny, once more")
    what.add_argument("--check", action="store_true", help="what was accepted and not yet checked, with other weights")
    parser.add_argument("--page", action="store_true", help="write the page, and try nothing")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="how many at once (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=runner.SECONDS, help="limit of one (default: %(default)s)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    options.records.parent.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    transformers.logging.set_verbosity_error()  # default configurations are not all valid by its own checks
    records = Records(options.records)
    cases, left_out = list_cases()
    if options.page:
        known = {case.key for case in cases}
        docs = REPOSITORY / "docs"
        latest = {record.key: record for record in [*read_page(docs), *records.all()]}
        found = sorted((latest[key] for key in known & latest.keys()), key=lambda record: (record.group, record.key))
        write_page(docs, found, left_out, *(_rows(docs, name) for name in OTHERS))
        return 0
    console = Console(stderr=True, highlight=False)
    todo = [(case, _record(case, records, options)) for case in cases if _is_asked_for(case, records, options)]
    with row_progress("architectures") as advance:
        for done, record in enumerate(runner.run(todo, options.jobs, options.seconds), start=1):
            records.add(record)
            advance(done, len(todo))
            console.print(_line(record), markup=False, soft_wrap=True)
    wrong = [record.key for record in records.all() if record.is_wrong]
    if options.check and wrong:
        console.print(f"wrong with other weights and inputs: {', '.join(wrong)}")
        return 1
    return 0


def _rows(docs: Path, name: str) -> Sequence[Mapping[str, Any]]:
    """What another measurement found: the last one here, or else the one that the page holds."""
    path = REPOSITORY / "out" / f"{name}.json"
    measured: list[Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return measured or read_rows(docs, name)


def _is_asked_for(case: Case, records: Records, options: argparse.Namespace) -> bool:
    if options.only:
        return case.key in options.only or case.model_type in options.only
    known = records.get(case.key)
    if case.group not in options.group:
        return False
    if options.check:
        is_open = known is not None and known.checked is None and known.check is None
        return is_open and known.outcome == "accepted"
    if options.failed:
        return known is not None and known.outcome != "accepted"
    return options.again or known is None


def _record(case: Case, records: Records, options: argparse.Namespace) -> Record | None:
    """What is checked; None where the case is tried."""
    return records.get(case.key) if options.check else None


def _line(record: Record) -> str:
    what = f"{record.group:9s}{record.key:36s}"
    if record.check or record.checked is not None:
        found = record.check if record.checked is None else f"{record.checked:.1f} dB"
        return f"{what}checked: {found}"
    if record.outcome != "accepted":
        return f"{what}{record.outcome}: {record.reason}"
    layout = "" if record.engine_layout else ", not in the engine's layout"
    return (
        f"{what}{record.psnr:.1f} dB, {record.operations} operations, share {record.share:.4f}, "
        f"{record.regions} regions, {record.capture}{layout}, {record.seconds:.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
