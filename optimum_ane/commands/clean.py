"""`optimum-cli ane clean`: what killed runs have left."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from optimum_ane.commands.base import BaseANECommand
from optimum_ane.screen import say


class CleanCommand(BaseANECommand):
    """Removes what runs that were killed have left."""

    DESCRIPTION = """\
Removes what runs that were killed have left: hidden folders and files that end in .partial beside an output, and
optimum-ane-* in the system's folder for temporary files. What belongs to a process that still runs, or that cannot be
looked up from this machine, is left and named. A package whose replacement was broken off is put in place.

The next run that writes into the same directory does the same.

examples:
  optimum-cli ane clean
  optimum-cli ane clean exports/"""

    INTERRUPTED = "what was not removed yet is left. Run the command again to go on"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Adds the directory."""
        parser.add_argument(
            "directory",
            nargs="?",
            type=Path,
            default=Path(),
            metavar="DIRECTORY",
            help="where outputs were written; folders in it are not looked into (default: the current directory)",
        )

    def execute(self) -> None:
        """Cleans the directory and the system's folder for temporary files, and prints what was done.

        Raises:
            OutputError: There is no such directory.
        """
        import tempfile

        from optimum_ane.errors import OutputError
        from optimum_ane.package.recovery import clean
        from optimum_ane.package.working_folders import TEMPORARY

        directory = self.args.directory
        if not directory.is_dir():
            raise OutputError(f"there is no directory {directory}; name one that outputs were written into")
        is_empty = True
        for found in (clean(directory), clean(Path(tempfile.gettempdir()), TEMPORARY)):
            for word, paths in (("put in place", found.restored), ("removed", found.removed)):
                for path in paths:
                    say(f"{word}: {path}")
            for path in found.left:
                say(f"left, its process runs or cannot be looked up from here: {path}")
            is_empty &= not (found.restored or found.removed or found.left)
        if is_empty:
            say("nothing to remove")
