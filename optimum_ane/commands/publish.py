"""`optimum-cli ane publish`: puts a package on the Hub, with its card, in one commit."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import TYPE_CHECKING

from optimum_ane.commands.base import BaseANECommand
from optimum_ane.screen import say

if TYPE_CHECKING:
    from optimum_ane.hub.plan import Plan
    from optimum_ane.workflows.publish import Publication


class PublishCommand(BaseANECommand):
    """Publishes an exported package."""

    DESCRIPTION = """\
Publishes a package that `optimum-cli export ane` wrote on the Hugging Face Hub: its files and a model card, in one
commit, or nothing at all. Log in first with `hf auth login`, or set HF_TOKEN.

Before anything is sent the package is verified: each file against its SHA-256, the program is loaded, the licence must
be known, and the Hub checks the card's metadata. Afterwards the hashes are read back and compared. Only files of the
package are sent; whatever else lies in its directory is left out and named. What is there already is not sent again,
and a publication that would change nothing makes no commit. Whatever fails, run the same command again.

A repository holds one package in its root, several in subfolders, or both; the card lists them all:
  optimum-cli ane publish out-128/ my-org/distilbert-sst2-ane
  optimum-cli ane publish out-512/ my-org/distilbert-sst2-ane --subfolder length-512

examples:
  optimum-cli ane publish out/ my-org/distilbert-sst2-ane --dry-run
  optimum-cli ane publish out/ my-org/distilbert-sst2-ane --private --license apache-2.0
  optimum-cli ane publish out/ other-org/distilbert-sst2-ane --create-pr"""

    INTERRUPTED = "the Hub holds the old state or the new one. Run the command again to finish"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Adds the package, the place on the Hub, and what is said about it."""
        parser.add_argument("package", metavar="PACKAGE", help="exported directory")
        parser.add_argument("repo_id", metavar="REPO", help="org/name; a name alone stands for your own account")
        parser.add_argument(
            "--dry-run", action="store_true", help="send nothing, print what would be sent; works without network"
        )
        place = parser.add_argument_group("where to")
        place.add_argument("--subfolder", metavar="NAME", default="", help="folder of the repository (default: root)")
        place.add_argument(
            "--private",
            action="store_true",
            default=None,
            help="make a new repository private; one that is public is refused",
        )
        place.add_argument("--revision", metavar="BRANCH", help="branch, made from main if new (default: main)")
        place.add_argument("--create-pr", action="store_true", help="open a pull request in an existing repository")
        place.add_argument("--message", metavar="TEXT", help="of the commit (default: names the model)")
        place.add_argument(
            "--token", help="access token; a command line can be seen by others, so prefer `hf auth login` or HF_TOKEN"
        )
        card = parser.add_argument_group("the model card")
        card.add_argument(
            "--license",
            metavar="ID",
            help="the Hub's id of the licence, such as apache-2.0; needed where the source's card names none",
        )
        card.add_argument(
            "--card",
            choices=("keep", "replace"),
            default="ask",
            help="what to do with a README.md on the Hub that a person wrote or edited (default: stop and ask)",
        )
        card.add_argument(
            "--template", metavar="FILE", help="a Jinja template of your own; model_cards/template.md shows how"
        )

    def execute(self) -> None:
        """Publishes, and prints what was done and where it is.

        Raises:
            ANEError: Anything that the user can mend.
        """
        from optimum_ane.workflows.publish import publish

        args = self.args
        publication = publish(
            args.package,
            args.repo_id,
            subfolder=args.subfolder,
            private=args.private,
            revision=args.revision,
            create_pr=args.create_pr,
            dry_run=args.dry_run,
            license=args.license,
            card=args.card,
            template=args.template,
            token=args.token,
            message=args.message,
        )
        _print_publication(publication, args.dry_run)


def _print_publication(publication: Publication, is_dry_run: bool) -> None:
    for name in publication.left_out:
        say(f"left out, not part of the package: {name}")
    for warning in publication.warnings:
        say(f"warning: {warning}")
    plan = publication.plan
    created = "would create" if is_dry_run else "created"
    if publication.is_new_repository:
        say(f"{created} the repository {publication.repo_id}")
    if publication.is_new_branch:
        say(f"{created} the branch {publication.branch}")
    for line in _describe(plan):
        say(line)
    if plan.is_empty:
        say(f"already published, nothing to send: {plan.unchanged} files at {publication.commit}")
    elif not publication.is_compared:
        say(f"would send {_megabytes(plan.sent_bytes)}, less what is there already. Nothing was sent")
    elif is_dry_run:
        say(f"would send {_megabytes(plan.sent_bytes)}; {plan.unchanged} files are there already. Nothing was sent")
    else:
        say(
            f"committed {_megabytes(plan.sent_bytes)}, read back and compared {_megabytes(publication.compared_bytes)}"
        )
        say(f"commit {publication.commit} on {publication.branch}")
    if not is_dry_run:
        say(publication.url)


def _describe(plan: Plan) -> list[str]:
    lines = [f"+ {_shown(change.path)}  {change.size:,} bytes" for change in plan.added]
    lines += [f"~ {_shown(change.path)}  {change.size:,} bytes, were {change.old_size:,}" for change in plan.changed]
    return lines + [f"- {_shown(change.path)}  {change.old_size:,} bytes" for change in plan.removed]


def _shown(path: str) -> str:
    """A repository's path may hold what moves the cursor of a terminal."""
    return path if path.isprintable() else repr(path)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
