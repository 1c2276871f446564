"""`optimum-cli ane benchmark`: how fast a package is, beside the original and the stock layout."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError

from optimum_ane.commands.base import BaseANECommand


class BenchmarkCommand(BaseANECommand):
    """Times a package through Core ML on macOS, and with the portable runtime elsewhere."""

    DESCRIPTION = """\
Times a package beside the original in PyTorch on the CPU and beside a stock-layout conversion of the same checkpoint,
which is what coremltools makes of it without this library: latency when busy (median, p90, p99) and after a pause,
first load, first prediction, peak of memory, and how far the answers are from the original's.

On macOS packages run through Core ML, on each of the compute units. Elsewhere the portable runtime runs them on the
CPU: that tells how fast validation is, and nothing about an Apple device.

Packages and original are called with the same inputs and take turns in one process, so that a slow minute hits all of
them; load time and memory are measured in a process for each. A run on a restless machine says that it is noisy.

examples:
  optimum-cli ane benchmark out/
  optimum-cli ane benchmark out/ --compute-units cpu_and_ne cpu_only --output report.json --plot latency.png
  optimum-cli ane benchmark out/ --sequence-length 64 128 256 512 --no-stock --plot lengths.svg
  optimum-cli ane benchmark model.mlpackage --no-compare --iterations 200

Each length of the package is timed. Batch sizes and lengths other than its own are exported from the checkpoint into a
temporary directory, with the package's task, precision, compression and deployment target, and removed afterwards."""

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Adds the package, what it is compared with, the shapes, and how long to measure."""
        parser.add_argument(
            "package", metavar="PACKAGE", help="directory that `optimum-cli export ane` wrote, or an .mlpackage"
        )
        against = parser.add_mutually_exclusive_group()
        against.add_argument(
            "--compare",
            metavar="MODEL",
            help="the original: Hub id or directory (default: the source that the package names)",
        )
        against.add_argument("--no-compare", action="store_true", help="do without the original and the stock layout")
        parser.add_argument("--no-stock", action="store_true", help="leave out the stock-layout conversion")
        parser.add_argument(
            "--compute-units",
            nargs="+",
            choices=("cpu_and_ne", "all", "cpu_and_gpu", "cpu_only"),
            metavar="UNITS",
            help="cpu_and_ne, all, cpu_and_gpu or cpu_only, several to compare; macOS only (default: all four)",
        )
        shapes = parser.add_argument_group("shapes")
        shapes.add_argument(
            "--batch",
            nargs="+",
            type=_positive,
            default=(),
            metavar="N",
            help="rows per prediction, several to compare",
        )
        shapes.add_argument(
            "--sequence-length",
            nargs="+",
            type=_positive,
            default=(),
            metavar="N",
            help="tokens per row, several to compare (default: each length of the package)",
        )
        group = parser.add_argument_group("measuring")
        group.add_argument(
            "--iterations",
            type=_positive,
            default=50,
            metavar="N",
            help="predictions that count (default: %(default)s)",
        )
        group.add_argument(
            "--warmup",
            type=_natural,
            default=3,
            metavar="N",
            help="predictions before each of the rounds that do not count (default: %(default)s)",
        )
        group.add_argument(
            "--pause",
            type=_seconds,
            default=0.5,
            metavar="SECONDS",
            help="rest before each prediction of the run with pauses; 0 leaves that run out (default: %(default)s)",
        )
        group.add_argument(
            "--seed", type=_natural, default=0, metavar="N", help="of the inputs (default: %(default)s)"
        )
        group.add_argument(
            "--threads",
            type=_positive,
            metavar="N",
            help="of the portable runtime and of the original, the same for both (default: PyTorch's own)",
        )
        parser.add_argument("--output", metavar="FILE", help="also write the report as JSON")
        parser.add_argument("--plot", metavar="FILE", help="also draw it: .png, .svg or .pdf")

    def execute(self) -> None:
        """Measures, prints the table, and writes what was asked for.

        Raises:
            ANEError: Anything that the user can mend.
        """
        from optimum_ane.benchmark.plot import check_format, draw
        from optimum_ane.benchmark.table import print_report
        from optimum_ane.benchmark.timing import Settings
        from optimum_ane.runtimes.arrays import check_place
        from optimum_ane.workflows.benchmark import benchmark_package

        args = self.args
        for place in filter(None, (args.output, args.plot)):
            check_place(place)
        if args.plot:
            check_format(args.plot)
        report = benchmark_package(
            args.package,
            compare=args.compare,
            with_original=not args.no_compare,
            with_stock=not args.no_stock,
            compute_units=args.compute_units,
            batch_sizes=args.batch,
            sequence_lengths=args.sequence_length,
            threads=args.threads,
            settings=Settings(iterations=args.iterations, warmup=args.warmup, pause=args.pause, seed=args.seed),
        )
        print_report(report)
        if args.output:
            report.write(args.output)
        if args.plot:
            draw(report, args.plot)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 3600:
        raise ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 3600")
    return seconds
