"""`optimum-cli ane …`: what is done with a package once it exists."""

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

from optimum_ane.commands.benchmark import BenchmarkCommand
from optimum_ane.commands.clean import CleanCommand
from optimum_ane.commands.compress import CompressCommand
from optimum_ane.commands.evaluate import EvaluateCommand
from optimum_ane.commands.generate import GenerateCommand
from optimum_ane.commands.inspect import InspectCommand
from optimum_ane.commands.optimize import OptimizeCommand
from optimum_ane.commands.plan import PlanCommand
from optimum_ane.commands.publish import PublishCommand
from optimum_ane.commands.run import RunCommand
from optimum_ane.commands.sweep import SweepCommand
from optimum_ane.commands.transcribe import TranscribeCommand


class ANECommand(BaseOptimumCLICommand):
    """The group of commands that take an exported package."""

    COMMAND = CommandInfo(name="ane", help="Work with exported Apple Neural Engine packages.")
    SUBCOMMANDS = (
        CommandInfo(
            name="benchmark",
            help="Time a package beside the original and beside a stock-layout conversion.",
            subcommand_class=BenchmarkCommand,
        ),
        CommandInfo(
            name="clean",
            help="Remove what killed runs have left.",
            subcommand_class=CleanCommand,
        ),
        CommandInfo(
            name="compress",
            help="Compress a package's weights by a recipe, into a new package.",
            subcommand_class=CompressCommand,
        ),
        CommandInfo(
            name="evaluate",
            help="Measure a package's accuracy on a dataset, beside the original's.",
            subcommand_class=EvaluateCommand,
        ),
        CommandInfo(
            name="generate",
            help="Write text with a language model's package, or talk with it.",
            subcommand_class=GenerateCommand,
        ),
        CommandInfo(
            name="inspect",
            help="Predict what runs on the Neural Engine, what it takes, and what to do about the rest.",
            subcommand_class=InspectCommand,
        ),
        CommandInfo(
            name="optimize",
            help="Rewrite a package that anyone made for the engine, and prove that it answers as before.",
            subcommand_class=OptimizeCommand,
        ),
        CommandInfo(
            name="plan",
            help="Say from a configuration what a language model takes on a device, and how fast it may be.",
            subcommand_class=PlanCommand,
        ),
        CommandInfo(
            name="publish",
            help="Publish a package on the Hub, with its card, in one commit.",
            subcommand_class=PublishCommand,
        ),
        CommandInfo(
            name="run",
            help="Run a package once, on any machine; profile it, or write the values in between.",
            subcommand_class=RunCommand,
        ),
        CommandInfo(
            name="sweep",
            help="Compress a package with several recipes, and compare size, accuracy and latency.",
            subcommand_class=SweepCommand,
        ),
        CommandInfo(
            name="transcribe",
            help="Write what is said in sound files, with a package of speech.",
            subcommand_class=TranscribeCommand,
        ),
    )
