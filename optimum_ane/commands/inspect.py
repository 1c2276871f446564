"""`optimum-cli ane inspect`: what a package will do on a device, as far as the program tells."""

from __future__ import annotations

from argparse import ArgumentParser

from optimum_ane.commands.base import BaseANECommand
from optimum_ane.commands.gate_arguments import add_gate_arguments, gates_from_args


class InspectCommand(BaseANECommand):
    """Predicts residency, memory and cost of any ML Program."""

    DESCRIPTION = """\
Predicts what a Core ML package will do on a device: which operations run on the Neural Engine, with the rule, its
source and what to do about it; into how many regions the program falls; what memory it takes; and for one chip, how
long a prediction takes.

PACKAGE is a directory that `optimum-cli export ane` wrote, or any .mlpackage that holds an ML Program, also one with
operations that no runtime of this library executes. Each operation is one of
  ane          on the Neural Engine
  conditional  there under a condition that the program does not show; it counts as on it where regions are counted
  fallback     on the CPU or the GPU
Apple publishes no list of what the engine takes: this is a prediction from public sources, each named with how far it
can be trusted. On a Mac, --device asks Core ML for its plan and prints where the two differ.

examples:
  optimum-cli ane inspect out/
  optimum-cli ane inspect model.mlpackage --chip A15 --max-latency-ms 5
  optimum-cli ane inspect out/ --json > inspection.json
  optimum-cli ane inspect out/ --html report.html
  optimum-cli ane inspect out/ --min-residency 0.98 --max-regions 2
    (for a build server: exit code 1, and the reason, if a limit is not kept)"""

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Adds the package, the form of the answer, and the limits."""
        parser.add_argument("package", metavar="PACKAGE", help="exported directory, or .mlpackage")
        parser.add_argument(
            "--function", metavar="NAME", help="of a package with several (default: the package's own)"
        )
        parser.add_argument("--json", action="store_true", help="print JSON, and nothing else, on stdout")
        parser.add_argument(
            "--html",
            metavar="FILE",
            help="write one self-contained page as well, with what was measured at export if PACKAGE is an exported "
            "directory",
        )
        parser.add_argument("--device", action="store_true", help="ask Core ML as well (macOS 14.4 or later)")
        parser.add_argument(
            "--compute-units",
            choices=["cpu_and_ne", "all", "cpu_and_gpu", "cpu_only"],
            default="cpu_and_ne",
            help="what Core ML may use when it is asked (default: %(default)s)",
        )
        add_gate_arguments(parser)

    def execute(self) -> None:
        """Inspects the package, prints the answer, writes the page, and checks the limits.

        Raises:
            ANEError: Anything that the user can mend, and a limit that is not kept.
        """
        from optimum_ane.analysis.compute_plan import ask_device
        from optimum_ane.analysis.inspection import inspect
        from optimum_ane.analysis.tables import print_device_plan, print_inspection

        args = self.args
        gates = gates_from_args(args)
        inspection = inspect(args.package, args.chip, args.function)
        plan = None
        if args.device:
            plan = ask_device(inspection.program, inspection.placements, args.compute_units)
        if args.json:
            import json

            answer = inspection.to_dict() | ({} if plan is None else {"device": plan.to_dict()})
            print(json.dumps(answer, indent=2, allow_nan=False))
        else:
            print_inspection(inspection)
            if plan is not None:
                print_device_plan(plan)
        if args.html:
            from optimum_ane.analysis.html_report import write_html

            write_html(args.html, inspection, args.package)
        gates.check(inspection)
