"""`optimum-cli export ane`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum.commands.base import CommandInfo

from optimum_ane.commands.base import BaseANECommand
from optimum_ane.commands.dataset_arguments import (
    accuracy_limits_from_args,
    add_dataset_arguments,
    dataset_spec_from_args,
)
from optimum_ane.commands.form_arguments import LEFT_OVER, add_form_arguments, form_from_args, output_from_args
from optimum_ane.commands.gate_arguments import add_gate_arguments, gates_from_args
from optimum_ane.screen import make_console

if TYPE_CHECKING:
    from optimum_ane.package.form import ExportForm
    from optimum_ane.workflows.export import ExportResult

DESCRIPTION = """\
Export a transformers checkpoint to a Core ML package written for the Apple Neural Engine.

Architectures that are written by hand for the engine (--list) go through their module, any other of transformers
through the graph of the original, which passes rewrite into the engine's layout; --method chooses.

The saved package is run on this machine, Mac or not, and compared with the original; one that does not answer as
the original does is not written.

examples:
  optimum-cli export ane --model distilbert-base-uncased-finetuned-sst-2-english out/
  optimum-cli export ane --model bert-base-cased --task fill-mask --sequence-length 64 out/
  optimum-cli export ane --model sentence-transformers/all-MiniLM-L6-v2 --pooling mean --normalize out/
  optimum-cli export ane --model my-classifier/ --sequence-length 32 64 128 out/
  optimum-cli export ane --model my-roformer/ --method graph out/
  optimum-cli export ane --model my-classifier/ --eval-dataset dev.tsv --max-accuracy-drop 0.5 out/
  optimum-cli export ane --model my-classifier/ --compress int8 --eval-dataset dev.tsv out/
  optimum-cli export ane --model my-classifier/ --chip A15 --min-residency 0.98 --max-latency-ms 5 out/
  optimum-cli export ane --list
"""

_FLAGS = {"dataset": "--eval-dataset"}
_OPTIONS_OF_THIS_MACHINE = ("output", "overwrite", "cache_dir", "token", "verbose", LEFT_OVER)
"""What does not change the package; the token must be written nowhere."""


class ANEExportCommand(BaseANECommand):
    """Turns a checkpoint into a package."""

    COMMAND = CommandInfo(name="ane", help="Export a transformers model to the Apple Neural Engine (Core ML).")
    DESCRIPTION = DESCRIPTION
    LOADS = "PyTorch, transformers and coremltools"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """See `BaseANECommand.add_arguments`."""
        parser.add_argument("output", nargs="?", type=Path, help="directory to make; empty or absent")
        parser.add_argument("-m", "--model", metavar="ID|DIR", help="Hub id or directory of the checkpoint")
        parser.add_argument("--list", action="store_true", help="print the architectures and tasks, and stop")
        _add_form(parser)
        _add_checkpoint(parser)
        _add_validation(parser)
        add_dataset_arguments(parser, "--eval-dataset")
        add_gate_arguments(parser)
        _add_hub(parser)

    def execute(self) -> None:
        """See `BaseANECommand.execute`."""
        if self.args.list:
            _print_supported()
            return
        self.args.output = output_from_args(self.args)
        missing = [name for name in ("model", "output") if getattr(self.args, name) is None]
        if missing:
            self.parser.error(f"{' and '.join(missing)} must be given; see --help")
        result = _export(self.args, form_from_args(self.args), self._command_line())
        self.INTERRUPTED = f"{result.path} is in place"
        _print_result(result, with_residuals=self.args.precision_report)

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
    group = add_form_arguments(parser)
    group.add_argument(
        "--compress",
        metavar="RECIPE",
        help="compress the weights: a recipe's name (`optimum-cli ane compress --list`) or a YAML file",
    )
    group.add_argument("--overwrite", action="store_true", help="replace a package that is already there")


def _add_checkpoint(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("the checkpoint")
    group.add_argument(
        "--adapter", metavar="ID|DIR", help="a PEFT adapter that is merged into the checkpoint, its base model"
    )
    group.add_argument(
        "--gguf-file",
        metavar="NAME",
        help="a GGUF file of the checkpoint's directory or repository, read in place of its weights",
    )


def _add_validation(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("validation")
    group.add_argument(
        "--psnr-threshold",
        type=float,
        metavar="DB",
        help="fail if an output of the package is further from the original's (default: 50 for float16, 90 for "
        "float32, the recipe's own with --compress)",
    )
    group.add_argument(
        "--precision-report",
        action="store_true",
        help="print the largest value behind each layer of a language model, which float16 must hold",
    )
    group.add_argument(
        "--no-validate",
        action="store_true",
        help="do not compare with the original, nor measure whether what it computes fits float16",
    )


def _add_hub(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("the Hub")
    group.add_argument("--revision", metavar="REV", help="branch, tag or commit (default: the repository's own)")
    group.add_argument("--cache-dir", metavar="DIR", help="where downloads are kept (default: the Hub client's cache)")
    group.add_argument("--token", help="access token (default: the one that `hf auth login` stored)")
    group.add_argument("--trust-remote-code", action="store_true", help="run Python code of the model's repository")


def _export(args: Namespace, form: ExportForm, command: str) -> ExportResult:
    from optimum_ane.checkpoints.hub_options import HubOptions
    from optimum_ane.evaluation.accuracy import AccuracyLimits
    from optimum_ane.workflows.export import ExportChecks, export_checkpoint

    checks = ExportChecks(
        dataset=dataset_spec_from_args(args),
        limits=accuracy_limits_from_args(args) or AccuracyLimits(),
        psnr_threshold=args.psnr_threshold,
        validate=not args.no_validate,
        chip=args.chip,
        gates=gates_from_args(args),
    )
    return export_checkpoint(
        args.model,
        args.output,
        form,
        checks,
        compress=args.compress,
        overwrite=args.overwrite,
        hub=HubOptions(args.revision, args.cache_dir, args.token, args.trust_remote_code),
        adapter=args.adapter,
        gguf_file=args.gguf_file,
        command=command,
    )


def _print_result(result: ExportResult, *, with_residuals: bool) -> None:

    from optimum_ane.compression.coverage import print_coverage
    from optimum_ane.evaluation.report import print_report

    report = result.report
    console = make_console(wraps=False)
    if result.accuracy is not None:
        print_report(result.accuracy)
    if report.compression is not None:
        print_coverage(report.compression, console)
    if with_residuals:
        for layer, peak in enumerate(report.residual_peaks):
            console.print(f"largest value behind layer {layer}: {peak:,.1f} (float16 ends at 65,504)")
    elif report.residual_peaks:
        console.print(f"largest value behind a layer: {max(report.residual_peaks):,.1f} (float16 ends at 65,504)")
    for name, ratio in report.package_psnr.items():
        console.print(f"{name}: PSNR {ratio:.1f} dB against the original ({report.runtime} runtime)")
    if report.residency is not None:
        console.print(_residency(report.residency))
    operations = sum(report.operations.values())
    functions = f" in each of {len(report.functions)} functions" if report.functions else ""
    size, peak = report.sizes["package"] / 1e6, (report.peak_memory_bytes or 0) / 1e9
    console.print(
        f"{operations} operations{functions}, {size:.1f} MB: {result.path}/ ({peak:.2f} GB of memory at the peak)"
    )


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
    from rich.table import Column, Table

    import optimum_ane.models  # noqa: F401 - registers the architectures
    from optimum_ane.exporters.config import get_ane_config_class, graph_tasks, supported_tasks
    from optimum_ane.tasks import all_rows, task_row

    table = Table("architecture", "tasks", title="What can be exported to the Neural Engine")
    for model_type, tasks in supported_tasks().items():
        table.add_row(model_type, ", ".join(tasks))
    console = make_console()
    console.print(table)
    by_graph = graph_tasks()
    console.print(
        f"These are written by hand. Any other of {len(by_graph)} model types is exported by the graph of the "
        "original (--method), where transformers has a model of the task."
    )
    counts = Counter(
        task_row(task, modality=get_ane_config_class(model_type, task, "graph").MODALITY).model_class
        for model_type, tasks in by_graph.items()
        for task in tasks
    )
    columns = (Column(name, no_wrap=True) for name in ("task", "of", "model class"))
    table = Table(*columns, Column("types", justify="right"), title="The tasks, with the model types by graph")
    for row in sorted(all_rows(), key=lambda row: row.name):
        table.add_row(row.name, row.modality, row.model_class, str(counts[row.model_class]))
    console.print(table)
