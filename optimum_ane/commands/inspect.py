"""`optimum-cli ane inspect`: what a package will do on a device, as far as the program tells."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import TYPE_CHECKING

from optimum_ane.commands.base import BaseANECommand
from optimum_ane.commands.gate_arguments import add_gate_arguments, gates_from_args
from optimum_ane.screen import say

if TYPE_CHECKING:
    from optimum_ane.analysis.decoder_package import DecoderInspection
    from optimum_ane.analysis.gates import Gates


class InspectCommand(BaseANECommand):
    """Predicts residency, memory and cost of any ML Program."""

    DESCRIPTION = """\
Predicts what a Core ML package will do on a device: which operations run on the Neural Engine, with the rule, its
source and what to do about it; into how many regions the program falls; what memory it takes; and for one chip, how
long a prediction takes.

Of a language model with a cache it tells what each function takes, what is loaded to generate, and for a chip the time
to the first token and the tokens per second. Of a package of several programs it tells that alone; name a program for
its operations.

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
  optimum-cli ane inspect smollm2/ --chip "A17 Pro" --prompt-length 512
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
        parser.add_argument(
            "--prompt-length",
            type=int,
            default=128,
            metavar="N",
            help="tokens of the prompt that the time to the first token is estimated for (default: %(default)s)",
        )
        add_gate_arguments(parser)

    def execute(self) -> None:
        """Inspects the package, prints the answer, writes the page, and checks the limits.

        Raises:
            ANEError: Anything that the user can mend, and a limit that is not kept.
        """
        from optimum_ane.analysis.decoder_package import inspect_decoder, program_paths

        args = self.args
        gates = gates_from_args(args)
        several = len(program_paths(args.package)) > 1
        decoder = None if args.function else inspect_decoder(args.package, args.chip, args.prompt_length)
        if decoder is not None and several and not (args.device or args.html):
            self._tell_decoder(decoder)
            for function in decoder.functions:
                for inspection in function.inspections:
                    gates.check(inspection)
            return
        self._tell_program(gates, decoder)

    def _tell_decoder(self, decoder: DecoderInspection) -> None:
        """Prints what is known of a decoder of several programs."""
        import json

        from optimum_ane.analysis.tables import print_decoder, print_findings

        if self.args.json:
            print(json.dumps({"package": self.args.package, "decoder": decoder.to_dict()}, indent=2, allow_nan=False))
            return
        print_decoder(decoder)
        print_findings([i for function in decoder.functions for i in function.inspections])
        programs = [inspection.program.path for inspection in decoder.functions[0].inspections]
        say(f"operations of one program: optimum-cli ane inspect {programs[0]}")

    def _tell_program(self, gates: Gates, decoder: DecoderInspection | None) -> None:
        """Inspects one function, prints the answer, writes the page, and checks the limits."""
        from optimum_ane.analysis.compute_plan import ask_device
        from optimum_ane.analysis.inspection import inspect
        from optimum_ane.analysis.tables import print_decoder, print_device_plan, print_inspection

        args = self.args
        inspection = inspect(args.package, args.chip, args.function) if decoder is None else decoder.default
        plan = None
        if args.device:
            plan = ask_device(inspection.program, inspection.placements, args.compute_units)
        if args.json:
            import json

            answer = inspection.to_dict() | ({} if plan is None else {"device": plan.to_dict()})
            answer |= {} if decoder is None else {"decoder": decoder.to_dict()}
            print(json.dumps(answer, indent=2, allow_nan=False))
        else:
            print_inspection(inspection)
            if decoder is not None:
                print_decoder(decoder)
            if plan is not None:
                print_device_plan(plan)
        if args.html:
            from optimum_ane.analysis.html_report import write_html

            write_html(args.html, inspection, args.package)
        gates.check(inspection)
