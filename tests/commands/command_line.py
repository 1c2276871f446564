"""A command run in this process, as `optimum-cli` would run it."""

from argparse import ArgumentParser

import pytest
from optimum.commands.base import CommandInfo


def run_command(command, name, line, code=0):
    """Parses the line and runs the command; with a code, it must end the process with that."""
    parser = ArgumentParser()
    command(parser.add_subparsers(), command=CommandInfo(name=name, help=""))
    args = parser.parse_args([name, *map(str, line)])
    if not code:
        args.func(args).run()
        return
    with pytest.raises(SystemExit) as ended:
        args.func(args).run()
    assert ended.value.code == code
