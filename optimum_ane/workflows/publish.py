"""Publishing a package on the Hub: one commit for everything, or nothing."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi

from optimum_ane.access_tokens import check_token, tokens_hidden
from optimum_ane.errors import PublishError
from optimum_ane.hub.contents import read_package
from optimum_ane.hub.page import CARD_CHOICES, PageRequest
from optimum_ane.hub.publish_errors import HubUnreachableError, explained
from optimum_ane.hub.publisher import Publication, Publisher, say
from optimum_ane.hub.remote import DEFAULT_BRANCH, is_in_program
from optimum_ane.package.file_names import check_subfolder
from optimum_ane.package.layout import package_directory

__all__ = ["Publication", "publish"]

_COMMIT_ID = re.compile(r"[0-9a-f]{40}")


@tokens_hidden()
def publish(
    package: str | Path,
    repo_id: str,
    *,
    subfolder: str = "",
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    dry_run: bool = False,
    license: str | None = None,
    card: str = "ask",
    template: str | Path | None = None,
    token: str | None = None,
    message: str | None = None,
) -> Publication:
    """Publishes an exported package with a model card, in one commit.

    The package is verified first. A publication of what is there already makes no commit. Files of the package as it
    was published before that are no longer part of it are removed; all else in the repository stays. Where somebody
    else commits meanwhile, everything is planned anew from what stands there then, up to three times.

    Args:
        package: Directory that `optimum-cli export ane` wrote.
        repo_id: `org/name`, or a name alone for the token's own account. Created if it is not there.
        subfolder: Folder of the repository, so that it can hold several packages; the root by default.
        private: Whether a new repository is private; None leaves it to the Hub.
        revision: Branch; created from main if it is not there.
        create_pr: Open a pull request in an existing repository instead of committing.
        dry_run: Send nothing, only say what would be sent; without network, what would be sent to a repository that
            holds nothing yet.
        license: The licence's id on the Hub, where the package does not know the one of its source.
        card: `"keep"` or `"replace"` a README.md on the Hub that a person wrote or edited; `"ask"` is an error then.
        template: A Jinja template for the card.
        token: Access token; None takes the one that `hf auth login` stored, or HF_TOKEN.
        message: Of the commit.

    Raises:
        PackageError: The package is not whole.
        PublishError: The Hub refused or cannot be reached, or something would be lost.
    """
    check_token(token, PublishError)
    folder = check_subfolder(subfolder)
    if is_in_program(PurePosixPath(folder)):
        raise PublishError(f"the subfolder {folder} would look like the inside of an .mlpackage; choose another name")
    if card not in CARD_CHOICES:
        raise PublishError(f"card is {card!r}; it must be one of {', '.join(CARD_CHOICES)}")
    if template is not None and not Path(template).is_file():
        raise PublishError(f"there is no template {template}; give a file")
    if revision is not None and _COMMIT_ID.fullmatch(revision):
        raise PublishError(f"{revision} is a commit, which cannot be changed; name a branch")
    say(f"checking {package}")
    contents = read_package(package_directory(package))
    request = PageRequest(license, card, None if template is None else Path(template))
    api = HfApi(token=token, library_name="optimum-ane")
    if "/" not in repo_id:
        repo_id = _with_owner(repo_id, api, token, dry_run)
    publisher = Publisher(api, contents, repo_id, folder, revision or DEFAULT_BRANCH, private, create_pr, request)
    return publisher.run(dry_run, message or f"Publish {contents.manifest.source.name or repo_id} with optimum-ane")


def _with_owner(name: str, api: HfApi, token: str | None, dry_run: bool) -> str:
    """Puts the account of the token before a name; a dry run that does not reach the Hub leaves the name as it is."""
    try:
        with explained("looking up whose token this is", name, token):
            return f"{api.whoami()['name']}/{name}"
    except HubUnreachableError:
        if not dry_run:
            raise
        return name
