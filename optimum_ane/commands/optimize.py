"""`optimum-cli ane optimize`: a package that somebody else made, rewritten for the engine."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import TYPE_CHECKING

from optimum_ane.commands.base import BaseANECommand
from optimum_ane.screen import make_console

if TYPE_CHECKING:
    from optimum_ane.workflows.optimize import OptimizationResult, ProgramSummary


class OptimizeCommand(BaseANECommand):
    """Rewrites any ML Program into the engine's layout, and proves it."""

    DESCRIPTION = """\
Rewrites a Core ML package that anyone made, with coremltools or another converter, for the Apple Neural Engine: graph
passes bring it into the layout (batch, channels, 1, sequence), in which linear layers are convolutions and attention
runs head by head, and remove what is left over. No checkpoint is needed, and nothing but the package is read.

What stays: names, types and shapes of inputs, outputs and states, a classifier's labels, author, licence and other
metadata, compressed weights, several functions, and the deployment target, unless --target asks for a newer one.

What is proven: before anything is written, the new package and the old one answer the same seeded inputs in the
portable runtime, three at least, of the types and shapes that the package declares. Integers stay within the tables
that they index; those that index none are taken for masks. A program with states runs them as steps. Each output must
reach --psnr-threshold decibels against the old package's, labels and other integers must be equal. --inputs adds
inputs of your own.

What is refused: neural networks in the older format and pipelines (convert to 'mlprogram'), inputs of several shapes
(the engine's are fixed), and operations that the portable runtime lacks, for they could not be proven.

The passes are applied as long as more of the arithmetic is predicted on the engine, or as much with fewer operations.
So a second run changes nothing, and a package that has the engine's layout already is copied: both are said.

examples:
  optimum-cli ane optimize stock.mlpackage out.mlpackage
  optimum-cli ane optimize stock.mlpackage out.mlpackage --inputs real.npz --psnr-threshold 65
  optimum-cli ane optimize stock.mlpackage out.mlpackage --target iOS18 --overwrite
  optimum-cli ane optimize stock.mlpackage out.mlpackage --json > optimization.json
  optimum-cli ane inspect out.mlpackage --chip A15
    (for what is left off the engine, why, and what to do about it)"""

    LOADS = "PyTorch and coremltools"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Adds the packages, the target, and what the proof takes."""
        parser.add_argument("package", metavar="PACKAGE", help=".mlpackage that holds an ML Program")
        parser.add_argument("output", type=Path, metavar="OUTPUT", help=".mlpackage to make")
        parser.add_argument(
            "--target",
            metavar="TARGET",
            help="a newer system to need from now on, iOS18 or macOS15 say (default: the package's own)",
        )
        parser.add_argument(
            "--inputs",
            metavar="FILE",
            help="compare on these inputs too, an .npz archive or a .json file by the names of the inputs",
        )
        parser.add_argument(
            "--psnr-threshold",
            type=float,
            default=60.0,
            metavar="DB",
            help="fail if an output is further from that of the package before (default: %(default)s)",
        )
        parser.add_argument("--overwrite", action="store_true", help="replace an .mlpackage that is already there")
        parser.add_argument("--json", action="store_true", help="print JSON, and nothing else, on stdout")

    def execute(self) -> None:
        """Optimizes, and prints what became of it.

        Raises:
            ANEError: Anything that the user can mend.
        """
        from optimum_ane.workflows.optimize import optimize

        args = self.args
        result = optimize(
            args.package,
            args.output,
            target=args.target,
            inputs=args.inputs,
            psnr_threshold=args.psnr_threshold,
            overwrite=args.overwrite,
        )
        self.INTERRUPTED = f"{result.path} is in place"
        if args.json:
            import json

            print(json.dumps(result.to_dict(), indent=2, allow_nan=False))
        else:
            _print_result(result)


_WORTH_NAMING = 0.005
"""The share of the arithmetic from which on a rule that leaves operations open is named."""


def _print_result(result: OptimizationResult) -> None:
    from rich.table import Table

    console = make_console(wraps=False)
    for name, function in result.functions.items():
        table = Table(f"{name}, predicted", "before", "after")
        for heading, *values in zip(_HEADINGS, _cells(function.before), _cells(function.after), strict=True):
            table.add_row(heading, *values)
        console.print(table)
        for output, ratio in function.psnr.items():
            how = "equal to" if ratio == float("inf") else f"PSNR {ratio:.1f} dB against"
            console.print(f"{output}: {how} the package before, {function.examples} inputs, {result.runtime} runtime")
        for group in function.left:
            cuts, open_ = "middle" in group["positions"], group["flops_share"] >= _WORTH_NAMING
            if cuts if group["verdict"] == "fallback" else open_:
                where = "off the engine" if group["verdict"] == "fallback" else "perhaps off the engine"
                console.print(f"{where}: {group['operations']} × {', '.join(group['types'])}. {group['reason']}")
    if not result.changed:
        console.print("nothing was changed: the passes find nothing to gain in this program")
    console.print(
        f"for {result.target} or later, {result.bytes_before / 1e6:.1f} MB before and {result.bytes_after / 1e6:.1f} "
        f"MB now: {result.path}"
    )


_HEADINGS = (
    "operations",
    "transposes",
    "% of the arithmetic on the engine",
    "% on it perhaps",
    "regions",
    "MB of weights",
)


def _cells(summary: ProgramSummary) -> tuple[str, ...]:
    return (
        f"{summary.operations:,}",
        str(summary.transposes),
        f"{100 * summary.share_on_ane:.2f}",
        f"{100 * summary.share_conditional:.2f}",
        str(summary.regions),
        f"{summary.weight_bytes / 1e6:.2f}",
    )
