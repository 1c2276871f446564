"""`optimum-cli ane run`: runs a package once, on any machine, and shows what happens inside."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError

from optimum_ane.commands.base import BaseANECommand


class RunCommand(BaseANECommand):
    """Runs any ML Program with the portable runtime."""

    DESCRIPTION = """\
Runs a Core ML package once with the portable runtime, on this machine's CPU, Mac or not: a directory that
`optimum-cli export ane` wrote, or any .mlpackage that holds an ML Program.

To find where a package leaves the original, write the values in between and compare them with the original's:
  optimum-cli ane run out/ --inputs inputs.npz --intermediates '*' --intermediates-file program.npz
  optimum-cli ane run out/ --inputs inputs.npz --intermediates '*' --intermediates-file exact.npz --precision float32
What differs between these two files is rounding to fp16. What differs between the second and the original is logic.
Values of an export are named by the module that computes them, with _ for each dot: what the original's
bert.encoder.layer.0.attention.self.query gives is bert_encoder_layer_0_attention_self_query.

examples:
  optimum-cli ane run out/
  optimum-cli ane run model.mlpackage --inputs inputs.json --outputs outputs.npz
  optimum-cli ane run model.mlpackage --function decode --profile --threads 1
  optimum-cli ane run out/ --intermediates '*layer_0*' '*softmax*'

inputs.json holds an object of numbers and nested lists: {"input_ids": [[101, 102]], "attention_mask": [[1, 1]]}
inputs.npz comes from numpy.savez("inputs.npz", input_ids=…, attention_mask=…)"""

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Adds the package, what goes in, what comes out, and what is looked at."""
        parser.add_argument("package", metavar="PACKAGE", help="exported directory, or .mlpackage")
        parser.add_argument(
            "--inputs",
            metavar="FILE",
            help=".npz or .json of one array per input (default: seeded random ones of the declared shapes)",
        )
        parser.add_argument("--seed", type=int, default=0, metavar="N", help="of random inputs (default: %(default)s)")
        parser.add_argument(
            "--function", metavar="NAME", help="of a package with several (default: the package's own)"
        )
        parser.add_argument("--outputs", metavar="FILE", help="write the outputs as .npz")
        parser.add_argument(
            "--precision",
            choices=("program", "float32"),
            default="program",
            help="program rounds fp16 values after each operation, as declared; float32 rounds nothing, which tells "
            "an error of rounding from one of logic (default: %(default)s)",
        )
        parser.add_argument(
            "--threads", type=_positive, metavar="N", help="of one prediction (default: PyTorch's own)"
        )
        group = parser.add_argument_group("looking inside")
        group.add_argument(
            "--profile", action="store_true", help="time per kind of operation, and the ten slowest operations"
        )
        group.add_argument(
            "--intermediates",
            nargs="+",
            metavar="NAME",
            help="write these values of the program (inputs count): names, patterns as in a shell, '*' for all, or "
            "@FILE with one on each line",
        )
        group.add_argument(
            "--intermediates-file",
            metavar="FILE",
            default="intermediates.npz",
            help="where to write them (default: %(default)s)",
        )

    def execute(self) -> None:
        """Runs the package, shows the outputs, and writes what was asked for.

        Raises:
            ANEError: Anything that the user can mend.
        """
        from optimum_ane.workflows.run import run_package

        args = self.args
        run_package(
            args.package,
            inputs=args.inputs,
            seed=args.seed,
            function_name=args.function,
            outputs=args.outputs,
            precision=args.precision,
            threads=args.threads,
            profiled=args.profile,
            intermediates=args.intermediates or (),
            intermediates_file=args.intermediates_file,
        )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
