"""What all our commands share: errors become one line and exit code 1, signals one line and their own code."""

from __future__ import annotations

import sys
from abc import abstractmethod
from argparse import ArgumentParser
from typing import NoReturn

from optimum.commands.base import BaseOptimumCLICommand

from optimum_ane.access_tokens import tokens_hidden
from optimum_ane.errors import ANEError, for_command_line
from optimum_ane.screen import say


class BaseANECommand(BaseOptimumCLICommand):
    """A command whose `execute` raises `ANEError` for what a user can mend.

    Subclasses declare their arguments in `add_arguments` and do their work in `execute`, which imports what it needs
    itself: nothing heavy may be imported for a `--help`.
    """

    DESCRIPTION = ""
    """What `--help` says above the options; plain text, line breaks kept."""
    LOADS = "PyTorch and transformers"
    """What takes seconds to load before anything else can be said; empty for a command that loads little."""
    INTERRUPTED = "nothing was written. Run the command again to start over"
    """What Ctrl-C leaves behind, and what to do then; a command sets it anew once that is something else."""

    @classmethod
    def parse_args(cls, parser: ArgumentParser) -> None:
        """Declares the arguments of the command and those that all our commands have."""
        from argparse import RawDescriptionHelpFormatter

        parser.description = cls.DESCRIPTION
        parser.formatter_class = RawDescriptionHelpFormatter
        cls.add_arguments(parser)
        parser.add_argument("--verbose", action="store_true", help="show the whole traceback of an error")

    @classmethod
    @abstractmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Adds this command's own arguments to the parser."""

    @abstractmethod
    def execute(self) -> None:
        """Does the command's work; `self.args` holds the parsed arguments.

        Raises:
            ANEError: Something that the user can mend.
        """

    def run(self) -> None:
        """Runs the command; an error ends the process with one line on stderr and exit code 1.

        So does a signal, with 128 and its number: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP.
        """
        from optimum_ane.package.signals import unwinding_signals

        if self.LOADS and "torch" not in sys.modules:
            say(f"loading {self.LOADS} …", file=sys.stderr, flush=True)
        with for_command_line(), unwinding_signals():
            try:
                with tokens_hidden():
                    self.execute()
            except ANEError as error:
                self._fail(str(error))
            except KeyboardInterrupt as error:
                self._end_interrupted(error)
            except Exception as error:  # noqa: BLE001 - the last line of defence of a command line
                self._fail(f"{type(error).__name__}: {error} (run again with --verbose for the traceback)")

    def _end_interrupted(self, error: KeyboardInterrupt) -> NoReturn:
        import signal

        from optimum_ane.package.signals import Interrupted, ignore_signals_at_exit

        ignore_signals_at_exit()
        number, state = (error.number, error.state) if isinstance(error, Interrupted) else (signal.SIGINT, None)
        self._fail(f"interrupted; {state or self.INTERRUPTED}", 128 + number)

    def _fail(self, message: str, code: int = 1) -> NoReturn:
        if self.args is not None and self.args.verbose:
            import traceback

            traceback.print_exc()
        say(f"error: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(code)
