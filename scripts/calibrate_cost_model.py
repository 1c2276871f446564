"""Fits the cost model to published latencies, and writes its parameters and the table of docs/cost-model.md.

    python scripts/calibrate_cost_model.py             # fit, show, and write
    python scripts/calibrate_cost_model.py --check     # show what the committed parameters give; write nothing
    python scripts/calibrate_cost_model.py --programs  # make the stand-ins' steps anew first; a few minutes
    python scripts/calibrate_cost_model.py --programs 'pythia-*' llama2-7b  # … of these only

The latencies are in cost_calibration/published_latencies.yaml, the steps of the programs in program_steps.json beside
it. The latter are made from models of the published shapes without learnt weights: those that are small enough are
converted, the others built operation by operation.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from fnmatch import fnmatch
from pathlib import Path

from cost_calibration.fitting import SPILL_MB, fit
from cost_calibration.program_steps import PROGRAM_STEPS, read_program_steps, write_program_steps
from cost_calibration.published_latencies import published_latencies
from cost_calibration.stand_ins import all_stand_ins
from cost_calibration.table import docs_with_table, table
from rich.console import Console
from rich.progress import track

from optimum_ane.analysis.cost_parameters import CostParameters, cost_parameters

ROOT = Path(__file__).resolve().parents[1]
PARAMETERS = ROOT / "optimum_ane" / "analysis" / "data" / "cost_parameters.yaml"
DOCS = ROOT / "docs" / "cost-model.md"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fit nothing and write nothing")
    parser.add_argument(
        "--programs",
        nargs="*",
        metavar="NAME",
        help="make these anew first, all if none is named",
    )
    args = parser.parse_args()
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if args.programs is not None:
        make_programs(args.programs or ["*"], Console(stderr=True))
    data = published_latencies()
    if args.check:
        console.print(table(data, cost_parameters(), None))
        return 0
    with Console(stderr=True).status("fitting, then again without each family; a minute or two"):
        found = fit(data)
    text = table(data, found.parameters, found.left_out)
    console.print(text)
    PARAMETERS.write_text(as_yaml(found.parameters), encoding="utf-8")
    DOCS.write_text(docs_with_table(DOCS.read_text(encoding="utf-8"), text), encoding="utf-8")
    return 0


def make_programs(patterns: list[str], console: Console) -> None:
    """Makes the programs' steps that a pattern fits, and keeps the others."""
    import torch

    torch.set_grad_enabled(False)
    logging.disable(logging.ERROR)
    warnings.simplefilter("ignore")
    jobs = dict(all_stand_ins())
    chosen = [name for name in jobs if any(fnmatch(name, pattern) for pattern in patterns)]
    kept = read_program_steps(PROGRAM_STEPS.read_text(encoding="utf-8")) if PROGRAM_STEPS.is_file() else {}
    made = kept | {name: jobs[name]() for name in track(chosen, "stand-ins", console=console)}
    ordered = {name: made[name] for name in jobs if name in made}
    PROGRAM_STEPS.write_text(write_program_steps(ordered), encoding="utf-8")


def as_yaml(parameters: CostParameters) -> str:
    return f"""\
# Written by scripts/calibrate_cost_model.py from published_latencies.yaml and program_steps.json beside it;
# docs/cost-model.md explains them.

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
