"""`optimum-cli ane sweep`: many compression recipes on one package, side by side."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError

from optimum_ane.commands.base import BaseANECommand
from optimum_ane.commands.dataset_arguments import add_dataset_arguments, dataset_spec_from_args
from optimum_ane.commands.reference_arguments import add_reference_arguments


class SweepCommand(BaseANECommand):
    """Compresses a package with each recipe and scores the results."""

    DESCRIPTION = """\
Compresses a package with each of several recipes, scores every result on a dataset with the portable runtime, and
shows what each saves and costs: a table, sweep.json, and a picture of size against accuracy in which the Pareto front
is marked (sweep.svg, sweep.png). The compressed packages are thrown away; make the one that you choose with
`optimum-cli ane compress`.

A sweep that was interrupted goes on where it stopped when it is started again with the same output; recipes that are
done are not run again. A recipe that fails does not stop the others.

The best of many on one dataset looks a little better there than it is: evaluate your choice on rows of its own.

examples:
  optimum-cli ane sweep out/ --dataset dev.tsv --output sweep/
  optimum-cli ane sweep out/ --recipes int8,palette6,mine.yaml --dataset dev.tsv --chip A15 --output sweep/"""

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Adds the package, the recipes, the dataset's options and what to write."""
        parser.add_argument("package", metavar="PACKAGE", help="directory that `optimum-cli export ane` wrote")
        parser.add_argument(
            "--recipes",
            type=_names,
            metavar="RECIPE,…",
            help="names of recipes and .yaml files, with commas between (default: all that ship and that the "
            "package's deployment target reads)",
        )
        parser.add_argument(
            "--output", metavar="DIR", default="sweep", help="where the three files go (default: %(default)s)"
        )
        parser.add_argument("--chip", metavar="NAME", help="also estimate latency on this chip, such as A15 or M2")
        add_dataset_arguments(parser, "--dataset", required=True, has_gate=False)
        add_reference_arguments(parser, "compare with the package as it is, not with the original")

    def execute(self) -> None:
        """Runs the sweep, prints the table and writes the files.

        Raises:
            ANEError: Anything that the user can mend; recipes that fail are in the table.
        """
        from optimum_ane.errors import DatasetError
        from optimum_ane.workflows.sweep import run_sweep

        args = self.args
        spec = dataset_spec_from_args(args)
        if spec is None:
            raise DatasetError("no dataset is named; name one with --dataset")
        run_sweep(
            args.package,
            spec,
            recipes=args.recipes,
            output=args.output,
            chip=args.chip,
            reference=args.reference,
            with_reference=not args.no_reference,
            trust_remote_code=args.trust_remote_code,
        )


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ArgumentTypeError(f"{text!r} should be names with commas between, such as int8,palette6")
    return names
