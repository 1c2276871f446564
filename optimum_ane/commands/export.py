"""`optimum-cli export ane`."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum.commands.base import CommandInfo

from optimum_ane.commands.base import BaseANECommand
from optimum_ane.commands.dataset_arguments import add_dataset_arguments, dataset_spec_from_args
from optimum_ane.commands.gate_arguments import add_gate_arguments, gates_from_args

if TYPE_CHECKING:
    from optimum_ane.workflows.export import ExportResult

DESCRIPTION = """\
Export a transformers checkpoint to a Core ML package written for the Apple Neural Engine.

The saved package is run on this machine, Mac or not, and compared with the original; one that does not answer as
the original does is not written.

examples:
  optimum-cli export ane --model distilbert-base-uncased-finetuned-sst-2-english out/
  optimum-cli export ane --model bert-base-cased --task fill-mask --sequence-length 64 out/
  optimum-cli export ane --model sentence-transformers/all-MiniLM-L6-v2 --pooling mean --normalize out/
  optimum-cli export ane --model my-classifier/ --eval-dataset dev.tsv --max-accuracy-drop 0.5 out/
  optimum-cli export ane --model my-classifier/ --compress int8 --eval-dataset dev.tsv out/
  optimum-cli export ane --model my-classifier/ --chip A15 --min-residency 0.98 --max-latency-ms 5 out/
  optimum-cli export ane --list
"""

_FLAGS = {"dataset": "--eval-dataset"}
_OPTIONS_OF_THIS_MACHINE = ("output", "overwrite", "cache_dir", "token", "verbose")
"""What does not change the package; the token must be written nowhere."""


class ANEExportCommand(BaseANECommand):
    """Turns a checkpoint into a package."""

    COMMAND = CommandInfo(name="ane", help="Export a transformers model to the Apple Neural Engine (Core ML).")
    DESCRIPTION = DESCRIPTION

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """See `BaseANECommand.add_arguments`."""
        parser.add_argument("output", nargs="?", type=Path, help="directory to make; empty or absent")
        parser.add_argument("-m", "--model", metavar="ID|DIR", help="Hub id or directory of the checkpoint")
        parser.add_argument("--list", action="store_true", help="print the architectures and tasks, and stop")
        _add_form(parser)
        _add_validation(parser)
        add_dataset_arguments(parser, "--eval-dataset")
        add_gate_arguments(parser)
        _add_hub(parser)

    def execute(self) -> None:
        """See `BaseANECommand.execute`."""
        if self.args.list:
            _print_supported()
            return
        missing = [name for name in ("model", "output") if getattr(self.args, name) is None]
        if missing:
            self.parser.error(f"{' and '.join(missing)} must be given; see --help")
        _print_result(_export(self.args, self._command_line()))

    def _command_line(self) -> str:
        """This command as a line to copy: options at their defaults and those of this machine alone are left out."""
        from optimum_ane.workflows.command_line import command_line, public_name

        options = {}
        for name, value in vars(self.args).items():
            if name in _OPTIONS_OF_THIS_MACHINE or value == self.parser.get_default(name):
                continue
            flag = _FLAGS.get(name, f"--{name.replace('_', '-')}")
            options[flag] = public_name(value) if isinstance(value, str) else value
        return command_line("optimum-cli export ane", options)


def _add_form(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("the package")
    group.add_argument("--task", default="auto", help="task; auto takes that of the checkpoint (default: %(default)s)")
    group.add_argument(
        "--sequence-length", type=int, default=128, metavar="N", help="tokens per row (default: %(default)s)"
    )
    group.add_argument("--batch-size", type=int, default=1, metavar="N", help="rows per prediction (default: 1)")
    group.add_argument(
        "--precision",
        choices=["float16", "float32"],
        default="float16",
        help="of weights and arithmetic; the Neural Engine takes float16 only (default: %(default)s)",
    )
    group.add_argument(
        "--minimum-deployment-target",
        default="iOS16",
        metavar="TARGET",
        help="oldest system that runs it, by coremltools' name: iOS15 … iOS26, macOS12 … (default: %(default)s)",
    )
    group.add_argument(
        "--compute-units",
        choices=["cpu_and_ne", "all", "cpu_and_gpu", "cpu_only"],
        default="cpu_and_ne",
        help="default when the package is loaded, recorded in ane_config.json (default: %(default)s)",
    )
    group.add_argument(
        "--class-labels", action="store_true", help="make it a Core ML classifier with the checkpoint's own labels"
    )
    group.add_argument(
        "--pooling", choices=["mean", "cls"], help="sentence embeddings in place of hidden states (feature-extraction)"
    )
    group.add_argument("--normalize", action="store_true", help="divide sentence embeddings by their length")
    group.add_argument(
        "--compress",
        metavar="RECIPE",
        help="compress the weights: a recipe's name (`optimum-cli ane compress --list`) or a YAML file",
    )
    group.add_argument("--overwrite", action="store_true", help="replace a package that is already there")


def _add_validation(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("validation")
    group.add_argument(
        "--psnr-threshold",
        type=float,
        metavar="DB",
        help="fail if an output of the package is further from the original's (default: 50 for float16, 90 for "
        "float32, the recipe's own with --compress)",
    )
    group.add_argument("--no-validate", action="store_true", help="do not compare with the original")


def _add_hub(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("the Hub")
    group.add_argument("--revision", metavar="REV", help="branch, tag or commit (default: the repository's own)")
    group.add_argument("--cache-dir", metavar="DIR", help="where downloads are kept (default: the Hub client's cache)")
    group.add_argument("--token", help="access token (default: the one that `hf auth login` stored)")
    group.add_argument("--trust-remote-code", action="store_true", help="run Python code of the model's repository")


def _export(args: Namespace, command: str) -> ExportResult:
    from optimum_ane.checkpoints.hub_options import HubOptions
    from optimum_ane.workflows.export import export

    settings = {} if args.max_accuracy_drop is None else {"max_accuracy_drop": args.max_accuracy_drop}
    return export(
        args.model,
        args.output,
        task=args.task,
        sequence_length=args.sequence_length,
        batch_size=args.batch_size,
        precision=args.precision,
        minimum_deployment_target=args.minimum_deployment_target,
        compute_units=args.compute_units,
        class_labels=args.class_labels,
        pooling=args.pooling,
        normalize=args.normalize,
        eval_dataset=dataset_spec_from_args(args),
        psnr_threshold=args.psnr_threshold,
        validate=not args.no_validate,
        compress=args.compress,
        chip=args.chip,
        gates=gates_from_args(args),
        overwrite=args.overwrite,
        hub=HubOptions(args.revision, args.cache_dir, args.token, args.trust_remote_code),
        command=command,
        **settings,
    )


def _print_result(result: ExportResult) -> None:
    from rich.console import Console

    from optimum_ane.compression.coverage import print_coverage
    from optimum_ane.evaluation.report import print_report

    report = result.report
    console = Console(file=sys.stdout, highlight=False, markup=False, soft_wrap=True)
    if result.accuracy is not None:
        print_report(result.accuracy)
    if report.compression is not None:
        print_coverage(report.compression, console)
    for name, ratio in report.package_psnr.items():
        console.print(f"{name}: PSNR {ratio:.1f} dB against the original ({report.runtime} runtime)")
    if report.residency is not None:
        console.print(_residency(report.residency))
    operations = sum(report.operations.values())
    console.print(f"{operations} operations, {report.sizes['package'] / 1e6:.1f} MB: {result.path}/")


def _residency(residency: Mapping[str, Any]) -> str:
    """One line on what is predicted."""
    counts, latency = residency["operations"], residency["latency_ms"]
    text = (
        f"predicted on the Neural Engine: {counts['ane']} of {sum(counts.values())} operations, "
        f"{residency['flops_share_on_ane']:.1%} of the arithmetic; crossings between devices: {residency['crossings']}"
    )
    if latency is None:
        return text
    return (
        f"{text}; {latency['typical']:.2f} ms estimated on {residency['chip']} "
        f"({latency['low']:.2f} to {latency['high']:.2f})"
    )


def _print_supported() -> None:
    from rich.console import Console
    from rich.table import Table

    import optimum_ane.models  # noqa: F401 - registers the architectures
    from optimum_ane.exporters.config import supported_tasks

    table = Table("architecture", "tasks", title="What can be exported to the Neural Engine")
    for model_type, tasks in supported_tasks().items():
        table.add_row(model_type, ", ".join(tasks))
    Console().print(table)
