"""What compression costs a language model: size, perplexity, KL divergence and agreement, recipe by recipe.

    optimum-cli export ane --model HuggingFaceTB/SmolLM2-135M-Instruct --task text-generation out/
    python scripts/compare_decoder_recipes.py out/ --dataset dev.tsv --text-column 0 --max-samples 200

prints the table of docs/compression.md. The package is compressed with each recipe in a temporary folder; the original
runs once.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from optimum_ane.compression import compress_mlpackage, get_recipe
from optimum_ane.compression.accuracy_scorer import AccuracyScorer
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.report import AccuracyReport, Estimate
from optimum_ane.package.manifest import Manifest
from optimum_ane.runtimes.portable import PortableSession

RECIPES = ("int8", "palette6", "palette4-g16-feed-forward", "palette4-g16")
HEADER = """\
| recipe | size | perplexity | increase | KL divergence, nats | same token first | PSNR of a position: median, 0.1 % |
|---|---|---|---|---|---|---|"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="directory of a language model's package in float16, one program")
    parser.add_argument("--dataset", required=True, metavar="FILE|ID")
    parser.add_argument("--text-column", metavar="NAME|NUMBER")
    parser.add_argument("--max-samples", type=int, metavar="N")
    parser.add_argument("--reference", metavar="ID|DIR", help="the original (default: what the package names)")
    parser.add_argument("--recipes", nargs="*", default=RECIPES, metavar="RECIPE")
    args = parser.parse_args()
    spec = DatasetSpec(args.dataset, text_column=args.text_column, max_samples=args.max_samples)
    scorer = AccuracyScorer(args.package, spec, reference=args.reference)
    (program,) = Manifest.read(args.package).programs
    source = args.package / program.path
    print(HEADER)
    report = scorer.report(PortableSession(source))
    print(row("float16", 1.0, report), flush=True)
    for name in args.recipes:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / program.path
            began = time.perf_counter()
            ratio = compress_mlpackage(source, target, get_recipe(name)).ratio
            seconds = time.perf_counter() - began
            print(row(name, ratio, scorer.report(PortableSession(target))), f"{seconds:.0f} s", flush=True)
    assert report.original is not None
    print(f"original: perplexity {report.original.metrics['perplexity']:.3f}; {report.counts}, {report.dataset}")


def row(name: str, ratio: float, report: AccuracyReport) -> str:
    """One line of the table."""
    found = report.next_tokens
    assert found is not None

    def between(estimate: Estimate, form: str, factor: float = 1.0) -> str:
        if estimate.low is None or estimate.high is None:
            return f"{factor * estimate.value:{form}}"
        return f"{factor * estimate.value:{form}} ({factor * estimate.low:{form}} to {factor * estimate.high:{form}})"

    cells = (
        name if name == "float16" else f"`{name}`",
        f"{ratio:.3f}",
        f"{report.package.metrics['perplexity']:.3f}",
        f"{between(found.perplexity_increase, '+.2f')} %",
        between(found.kl_divergence, ".2g"),
        f"{between(found.top_1_agreement, '.2f', 100)} %",
        f"{found.median_row_psnr:.1f}, {found.low_row_psnr:.1f} dB",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
