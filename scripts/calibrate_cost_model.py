"""Fits the cost model to published latencies, and writes its parameters and the table of docs/cost-model.md.

    python scripts/calibrate_cost_model.py              # fit, show, and write
    python scripts/calibrate_cost_model.py --check      # show what the committed parameters give; write nothing
    python scripts/calibrate_cost_model.py --workloads  # make the stand-ins' steps anew first; a few minutes
    python scripts/calibrate_cost_model.py --workloads 'pythia-*' llama2-7b  # … of these only

The latencies are in optimum_ane/analysis/data/anchors.yaml, the steps of the programs in workloads.json beside it. The
latter are made from models of the published shapes without learnt weights: those that are small enough are converted,
the others written down operation by operation.
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from fnmatch import fnmatch
from pathlib import Path

from cost_calibration.fitting import SPILL_MB, fit
from cost_calibration.table import docs_with_table, table
from cost_calibration.workloads import all_workloads
from rich.console import Console
from rich.progress import track

from optimum_ane.analysis.anchors import anchors, read_workloads, write_workloads
from optimum_ane.analysis.cost_parameters import CostParameters, cost_parameters

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "optimum_ane" / "analysis" / "data"
DOCS = ROOT / "docs" / "cost-model.md"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fit nothing and write nothing")
    parser.add_argument(
        "--workloads",
        nargs="*",
        metavar="NAME",
        help="make these anew first, all if none is named",
    )
    args = parser.parse_args()
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if args.workloads is not None:
        make_workloads(args.workloads or ["*"], Console(stderr=True))
    data = anchors()
    if args.check:
        console.print(table(data, cost_parameters(), None))
        return 0
    with Console(stderr=True).status("fitting, then again without each family; a minute or two"):
        found = fit(data)
    text = table(data, found.parameters, found.left_out)
    console.print(text)
    (DATA / "cost_parameters.yaml").write_text(as_yaml(found.parameters), encoding="utf-8")
    DOCS.write_text(docs_with_table(DOCS.read_text(encoding="utf-8"), text), encoding="utf-8")
    return 0


def make_workloads(patterns: list[str], console: Console) -> None:
    """Makes the workloads that a pattern fits, and keeps the others."""
    import torch

    torch.set_grad_enabled(False)
    logging.disable(logging.ERROR)
    warnings.simplefilter("ignore")
    jobs = dict(all_workloads())
    chosen = [name for name in jobs if any(fnmatch(name, pattern) for pattern in patterns)]
    place = DATA / "workloads.json"
    kept = read_workloads(json.loads(place.read_text(encoding="utf-8"))) if place.is_file() else {}
    made = kept | {name: jobs[name]() for name in track(chosen, "stand-ins", console=console)}
    ordered = {name: made[name] for name in jobs if name in made}
    place.write_text(write_workloads(ordered), encoding="utf-8")


def as_yaml(parameters: CostParameters) -> str:
    return f"""\
# Written by scripts/calibrate_cost_model.py from anchors.yaml and workloads.json; docs/cost-model.md explains them.

# fitted
convolution_share: {parameters.convolution_share}
einsum_share: {parameters.einsum_share}
linear_share: {parameters.linear_share}
activation_bandwidth: {parameters.activation_bandwidth}
host_gbs: {parameters.host_gbs}
crossing_ms: {parameters.crossing_ms}
# measured by others (maderix/ANE, on M4)
spill_mb: {SPILL_MB}
# nine in ten published latencies are above low · typical, nine in ten below high · typical, families left out
low: {parameters.low}
high: {parameters.high}
"""


if __name__ == "__main__":
    raise SystemExit(main())
