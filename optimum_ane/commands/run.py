"""`optimum-cli ane run`: runs a package once, on any machine, and shows what happens inside."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_ane.commands.base import BaseANECommand

if TYPE_CHECKING:
    from rich.console import Console

    from optimum_ane.runtimes.portable.inspection import Profile, Recorder

_NUMBERS_SHOWN = 6


class RunCommand(BaseANECommand):
    """Runs any ML Program with the portable runtime."""

    DESCRIPTION = """\
Runs a Core ML package once with the portable runtime, on this machine's CPU, Mac or not: a directory that
`optimum-cli export ane` wrote, or any .mlpackage that holds an ML Program.

To find where a package leaves the original, write the values in between and compare them with the original's:
  optimum-cli ane run out/ --inputs inputs.npz --intermediates '*' --intermediates-file program.npz
  optimum-cli ane run out/ --inputs inputs.npz --intermediates '*' --intermediates-file exact.npz --precision float32
What differs between these two files is rounding to fp16. What differs between the second and the original is logic;
names in the program derive from those of the traced module.

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
        parser.add_argument("package", metavar="PACKAGE", type=Path, help="exported directory, or .mlpackage")
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
        from optimum_ane.runtimes.arrays import check_place, random_arrays, read_arrays, write_arrays

        args = self.args
        package = find_mlpackage(args.package)
        patterns = _patterns(args.intermediates)
        for place in ([args.outputs] if args.outputs else []) + ([args.intermediates_file] if patterns else []):
            check_place(place)
        given = None if args.inputs is None else read_arrays(args.inputs)

        import numpy as np
        import torch
        from rich.console import Console

        from optimum_ane.runtimes.portable import PortableSession
        from optimum_ane.runtimes.portable.inspection import Recorder, new_state, profile

        if args.threads is not None:
            torch.set_num_threads(args.threads)
        console = Console(highlight=False, markup=False, soft_wrap=True)
        session = PortableSession(package, args.function, args.precision)
        if given is None:
            given = random_arrays(session.inputs, args.seed)
            console.print(f"no --inputs: random ones of seed {args.seed}; integers are 0 or 1")
        recorder = Recorder(patterns, rounded=args.precision == "program") if patterns else None
        outputs = session.predict(given, new_state(session), observer=recorder)
        console.print(f"{package.name}, function {session.function_name}, precision {args.precision}")
        if session.states:
            console.print(f"states, all zeros before: {', '.join(session.states)}")
        for name, value in outputs.items():
            console.print(f"{name}: {_shown(value)}")
        if args.outputs:
            write_arrays(args.outputs, outputs)
            console.print(f"outputs: {args.outputs}")
        if recorder is not None:
            for name, value in given.items():
                recorder.add(name, np.asarray(value, session.inputs[name].dtype))
            recorder.check()
            write_arrays(args.intermediates_file, recorder.values)
            console.print(f"{len(recorder.values)} intermediate values: {args.intermediates_file}")
            _print_not_finite(console, recorder)
        if args.profile:
            _print_profile(profile(session, given), torch.get_num_threads())


def find_mlpackage(path: Path) -> Path:
    """Finds the .mlpackage: the path itself, or the one inside an exported directory.

    Raises:
        PackageError: There is none, or more than one.
    """
    from optimum_ane.errors import PackageError

    path = path.expanduser()
    if not path.exists():
        raise PackageError(f"{path} does not exist")
    if path.suffix == ".mlpackage" or (path / "Manifest.json").is_file():
        return path
    found = sorted(path.glob("*.mlpackage")) if path.is_dir() else []
    if len(found) != 1:
        several = (
            f"holds {', '.join(each.name for each in found)}: name one of them" if found else "holds no .mlpackage"
        )
        raise PackageError(f"{path} {several}")
    return found[0]


def _patterns(arguments: list[str] | None) -> list[str]:
    """Names and patterns as they were given, those in files included."""
    from optimum_ane.errors import InputError

    patterns = []
    for argument in arguments or []:
        if not argument.startswith("@"):
            patterns.append(argument)
            continue
        try:
            lines = Path(argument[1:]).expanduser().read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{argument[1:]} cannot be read: {error}") from error
        patterns += [line.strip() for line in lines if line.strip()]
    if arguments and not patterns:
        raise InputError(f"{', '.join(arguments)} names no value")
    return patterns


def _shown(value: Any) -> str:
    """One line on an output: a label, probabilities from the highest on, or an array's type, shape and numbers."""
    import numpy as np

    if isinstance(value, dict):
        best = sorted(value.items(), key=lambda item: -item[1])[:_NUMBERS_SHOWN]
        more = ", …" if len(value) > len(best) else ""
        return ", ".join(f"{key} {number:.4f}" for key, number in best) + more
    if not isinstance(value, np.ndarray):
        return str(value)
    numbers = ", ".join(f"{number:.6g}" for number in value.ravel()[:_NUMBERS_SHOWN])
    more = ", …" if value.size > _NUMBERS_SHOWN else ""
    text = f"{value.dtype} {value.shape} [{numbers}{more}]"
    if not value.size or value.dtype.kind not in "fiu":
        return text
    # In float64: the sum of many fp16 numbers is infinite.
    return f"{text}, from {value.min():.6g} to {value.max():.6g}, mean {value.mean(dtype=np.float64):.6g}"


def _print_not_finite(console: Console, recorder: Recorder) -> None:
    import numpy as np

    for name, array in recorder.values.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            kind = "nan" if np.isnan(array).any() else "infinity"
            console.print(f"the first of them that holds {kind}: {name}")
            return


def _print_profile(result: Profile, threads: int) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    total = sum(timing.seconds for timing in result.timings)
    console.print(
        f"\na prediction takes {result.seconds * 1e3:.2f} ms; with a look at each operation {total * 1e3:.2f} ms "
        f"(medians of {result.runs}, {threads} {'thread' if threads == 1 else 'threads'})"
    )
    kinds = Table("operation", title="Time per kind of operation", title_justify="left")
    for heading in ("uses", "ms", "%"):
        kinds.add_column(heading, justify="right")
    for op, uses, seconds in result.by_operation():
        kinds.add_row(op, str(uses), f"{seconds * 1e3:.3f}", f"{100 * seconds / total:.1f}")
    console.print(kinds)
    slowest = Table("operation", "value", title="The slowest operations", title_justify="left")
    for heading in ("ms", "%"):
        slowest.add_column(heading, justify="right")
    for timing in result.slowest():
        share = 100 * timing.seconds / total
        slowest.add_row(timing.op, timing.name, f"{timing.seconds * 1e3:.3f}", f"{share:.1f}")
    console.print(slowest)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
