"""The options that name the original, the same for every command that compares a package with it."""

from __future__ import annotations

from argparse import ArgumentParser


def add_reference_arguments(parser: ArgumentParser, without: str) -> None:
    """Adds `--reference` or `--no-reference`, and `--trust-remote-code`.

    Args:
        parser: The command's parser.
        without: What the command does with `--no-reference`, for its help.
    """
    against = parser.add_mutually_exclusive_group()
    against.add_argument(
        "--reference",
        metavar="MODEL",
        help="the original: Hub id or directory (default: the source that the package names)",
    )
    against.add_argument("--no-reference", action="store_true", help=without)
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="let code from the original's repository run; only for repositories that you have read",
    )
