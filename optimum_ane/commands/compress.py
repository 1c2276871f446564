"""`optimum-cli ane compress`: a package with weights in fewer bits."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import TYPE_CHECKING

from optimum_ane.commands.base import BaseANECommand
from optimum_ane.commands.dataset_arguments import (
    accuracy_limits_from_args,
    add_dataset_arguments,
    dataset_spec_from_args,
)
from optimum_ane.commands.reference_arguments import add_reference_arguments
from optimum_ane.screen import make_console, say

if TYPE_CHECKING:
    from optimum_ane.workflows.compress import CompressionResult


class CompressCommand(BaseANECommand):
    """Makes a compressed package from a package."""

    DESCRIPTION = """\
Compresses the weights of an exported package into a new package, compares it with the package before and with the
original, and shows what became of each weight. A package whose answers are too far off is not written.

examples:
  optimum-cli ane compress --list
  optimum-cli ane compress out/ int8 out-int8/
  optimum-cli ane compress out/ palette4-g16 out-4bit/ --dataset dev.tsv --max-accuracy-drop 1
  optimum-cli ane compress out/ mine.yaml out-mine/
  optimum-cli ane compress out/ mixed out-mixed/ --calibration-dataset train.tsv --dataset dev.tsv \\
      --max-accuracy-drop 0.5
  optimum-cli ane compress out/ mixed out-mixed/ --max-size-ratio 0.25
  optimum-cli ane compress out/ int8-activations out-w8a8/ --calibration-dataset train.tsv

Two recipes are made for the package that they are applied to:
  mixed             the bits of each weight by measured sensitivity, the smallest package within a budget: of size
                    (--max-size-ratio), of accuracy (--dataset with --max-accuracy-drop), or of both
  int8-activations  activations of 8 bits beside weights of 8 bits, for the int8 arithmetic of A17 Pro and M4 on

Some recipes need a package that was exported with --minimum-deployment-target iOS18; the error says so.
docs/compression.md tells how to choose a recipe and how to write one, and what each measured."""

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Adds the package, the recipe, what it is compared with and the dataset's options."""
        parser.add_argument(
            "package", nargs="?", metavar="PACKAGE", help="directory that `optimum-cli export ane` wrote"
        )
        parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="a recipe's name, or a .yaml file")
        parser.add_argument(
            "output", nargs="?", type=Path, metavar="OUTPUT", help="directory to make; empty or absent"
        )
        parser.add_argument("--list", action="store_true", help="print the recipes, and stop")
        parser.add_argument("--overwrite", action="store_true", help="replace a package that is already there")
        parser.add_argument(
            "--psnr-threshold",
            type=float,
            metavar="DB",
            help="fail if an output of the package is further from the original's (default: the recipe's own)",
        )
        add_reference_arguments(parser, "compare with the package before, not with the original")
        add_dataset_arguments(parser, "--dataset")
        _add_calibration_arguments(parser)

    def execute(self) -> None:
        """Compresses, or lists the recipes.

        Raises:
            ANEError: Anything that the user can mend.
        """
        args = self.args
        if args.list:
            _print_recipes()
            return
        missing = [name.upper() for name in ("package", "recipe", "output") if getattr(args, name) is None]
        if missing:
            self.parser.error(f"{' and '.join(missing)} must be given; see --help")
        from optimum_ane.checkpoints.hub_options import HubOptions
        from optimum_ane.package.staging import check_output
        from optimum_ane.workflows.compress import Original, compress_package
        from optimum_ane.workflows.recipe_preparation import Calibrating, prepare_recipe

        hub = HubOptions(trust_remote_code=args.trust_remote_code)
        wanted = "no" if args.no_reference else "if there" if args.reference is None else "yes"
        original, dataset = Original(args.reference, wanted, hub), dataset_spec_from_args(args)
        calibrating = Calibrating(
            args.calibration_dataset, args.calibration_samples, args.max_size_ratio, args.search_dir
        )
        check_output(args.output, args.overwrite, [Path(args.package).expanduser()])
        prepared = prepare_recipe(
            args.package,
            args.recipe,
            args.output,
            calibrating,
            original=original,
            dataset=dataset,
            max_accuracy_drop=args.max_accuracy_drop,
        )
        # Without the original, `mixed` has kept the budget against the package before, which is no gate of this call.
        has_gate = prepared.mixed is None or not args.no_reference
        result = compress_package(
            args.package,
            prepared.recipe,
            args.output,
            original=original,
            dataset=dataset,
            limits=accuracy_limits_from_args(args) if has_gate else None,
            psnr_threshold=args.psnr_threshold,
            calibration=prepared.calibration,
            overwrite=args.overwrite,
            command=self._command_line(),
        )
        self.INTERRUPTED = f"{result.path} is in place"
        recipe_file = args.output.with_name(f"{args.output.name}.yaml")
        prepared.finish(recipe_file)
        _print_result(result)
        if prepared.mixed is not None:
            say(f"{prepared.mixed.describe()}; the recipe, to apply again: {recipe_file}")

    def _command_line(self) -> str:
        """This command as a line to copy, with files and directories by their names alone."""
        import shlex

        from optimum_ane.workflows.command_line import public_name

        words = [shlex.quote(public_name(word)) for word in (self.args.package, self.args.recipe)]
        return f"optimum-cli ane compress {' '.join(words)} out/"


def _add_calibration_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group(
        "calibration", "For the recipes mixed and int8-activations, which look at what the package computes."
    )
    group.add_argument(
        "--calibration-dataset",
        metavar="FILE|ID",
        help="rows to run the package on; its columns are named as those of --dataset. Not the rows that judge the "
        "result, so that these judge fairly (default: --dataset's own; without any, random tokens)",
    )
    group.add_argument(
        "--calibration-samples", type=int, default=128, metavar="N", help="how many rows (default: %(default)s)"
    )
    group.add_argument(
        "--max-size-ratio",
        type=float,
        metavar="RATIO",
        help="mixed: bytes of the weights, over those of the package before, at most",
    )
    group.add_argument(
        "--search-dir",
        type=Path,
        metavar="DIR",
        help="mixed: keep measurements here, for a search with another budget (default: OUTPUT.search, removed when "
        "the package is written). A search that was interrupted goes on from them",
    )


def _print_recipes() -> None:
    from rich.table import Table

    from optimum_ane.compression.recipes import get_recipe, recipe_names

    table = Table("recipe", "needs", "what it does", title="Compression recipes")
    for name in recipe_names():
        recipe = get_recipe(name)
        advice = f"\n{recipe.advice}" if recipe.advice else ""
        table.add_row(name, recipe.minimum_deployment_target, recipe.summary + advice)
    make_console().print(table)


def _print_result(result: CompressionResult) -> None:

    from optimum_ane.compression.coverage import print_coverage
    from optimum_ane.evaluation.report import print_report

    report = result.report
    console = make_console(wraps=False)
    if result.accuracy is not None:
        print_report(result.accuracy)
    if report.compression is not None:
        print_coverage(report.compression, console)
        for name, ratio in report.compression["psnr_to_uncompressed"].items():
            console.print(f"{name}: PSNR {ratio:.1f} dB against the package before ({report.runtime} runtime)")
    for name, ratio in report.package_psnr.items():
        console.print(f"{name}: PSNR {ratio:.1f} dB against the original")
    if result.missing_original is not None:
        console.print(f"not compared with the original: {result.missing_original}")
    console.print(f"{report.sizes['package'] / 1e6:.1f} MB: {result.path}/")
