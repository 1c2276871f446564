"""The front page of a repository: the card of all packages that it holds, and who may overwrite whose words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard

from optimum_ane.errors import PackageError, PublishError
from optimum_ane.hub.card import make_card
from optimum_ane.hub.card_package import CardPackage, read_card_package
from optimum_ane.hub.contents import LocalFile, LocalPackage
from optimum_ane.hub.picture import make_picture
from optimum_ane.hub.remote import Remote
from optimum_ane.hub.repository_packages import fetch_card_package
from optimum_ane.package.card_marker import is_generated
from optimum_ane.package.file_names import show
from optimum_ane.package.layout import CARD, PICTURE

CARD_CHOICES = ("ask", "keep", "replace")
_MAX_PACKAGES = 100


@dataclass(frozen=True)
class PageRequest:
    """What the user wants of the front page.

    Attributes:
        license: Id on the Hub; None takes what the package says, else what the page says already.
        card: `"keep"` or `"replace"` a card on the Hub that a person wrote; `"ask"` refuses to choose.
        template: A Jinja template of the user's own.
    """

    license: str | None = None
    card: str = "ask"
    template: Path | None = None


@dataclass(frozen=True)
class Page:
    """What belongs on the front page.

    Attributes:
        files: The card, unless the one on the Hub is kept, and the picture that it shows.
        card: The text of the card, if it is not kept.
        warnings: What the user should know.
    """

    files: tuple[LocalFile, ...]
    card: str | None
    warnings: tuple[str, ...]


def compose(package: LocalPackage, remote: Remote, folder: str, request: PageRequest) -> Page:
    """Writes the front page of a repository as it will be after the publication.

    The same package, repository and request give the same bytes.

    Raises:
        PublishError: The licence is not known, a person's card would be overwritten, or a card has broken metadata.
        HTTPError: The Hub refused, or cannot be reached.
    """
    warnings: list[str] = []
    packages = _collect(package, remote, folder, warnings)
    written = package.readme if package.readme is not None and not is_generated(package.readme) else None
    files: list[LocalFile] = []
    if written is not None and folder:
        own = LocalFile(f"{folder}/{CARD}", written.encode())
        files += [own] if _kept_card(own, remote, request.card) is None else []
        written = None
    elif written is not None and request.template is not None:
        warnings.append(f"{CARD} of the package was written by hand; what the template gives is published instead")
        written = None
    license = request.license or package.manifest.source.license
    if license is None and written is not None:
        license = _license_of(written, str(package.directory / CARD))
    if license is None and CARD in remote.files:
        license = _license_of(_read_card(remote, CARD), f"the {CARD} of {remote.repo_id}")
    if license is None:
        raise PublishError(
            f"the licence of {package.manifest.source.name} is not known: its card names none; look it up and pass "
            "--license ID, such as apache-2.0 (https://huggingface.co/docs/hub/repositories-licenses)"
        )
    card = written
    if card is None:
        card = make_card(packages, repo_id=remote.repo_id, license=license, template=request.template)
    _check_license(card)
    kept = _kept_card(LocalFile(CARD, card.encode()), remote, request.card)
    if kept is None:
        files.append(LocalFile(CARD, card.encode()))
    picture = make_picture(packages) if PICTURE in (kept or card) else None
    if picture is not None:
        files.append(LocalFile(PICTURE, picture))
    return Page(tuple(files), card if kept is None else None, tuple(warnings))


def _kept_card(new: LocalFile, remote: Remote, choice: str) -> str | None:
    """What stands on the Hub in a card's place, if a person wrote it and wants to keep it."""
    if new.path not in remote.files or remote.files[new.path].is_same(new) or choice == "replace":
        return None
    current = _read_card(remote, new.path)
    if is_generated(current):
        return None
    if choice == "ask":
        raise PublishError(
            f"the {new.path} of {remote.repo_id} was written or edited by a person; pass --card keep to leave it as "
            "it is, or --card replace to publish the new one in its place"
        )
    return current


def _read_card(remote: Remote, path: str) -> str:
    # What is no UTF-8 was not generated, and replaced characters keep it from being taken for what is.
    return remote.read(path).decode("utf-8", errors="replace")


def _license_of(card: str, where: str) -> str | None:
    value = _metadata(card, where).get("license")
    return value if isinstance(value, str) else None


def _check_license(card: str) -> None:
    metadata = _metadata(card, f"the new {CARD}")
    if metadata.get("license") == "other" and not metadata.get("license_name"):
        raise PublishError(
            "the licence 'other' needs a name: write license_name and license_link into the metadata of the package's "
            f"{CARD}, or of a template for --template"
        )


def _metadata(card: str, where: str) -> Mapping[str, Any]:
    try:
        data = ModelCard(card, ignore_metadata_errors=True).data.to_dict()
    except (ValueError, TypeError, yaml.YAMLError, RecursionError) as error:
        raise PublishError(f"the metadata at the top of {where} cannot be read: {error}; mend it") from error
    return dict(data)


def _collect(package: LocalPackage, remote: Remote, folder: str, warnings: list[str]) -> list[CardPackage]:
    """The package and those that stand beside it; one that cannot be read is left off the card with a warning."""
    packages = [read_card_package(folder, package.directory)]
    others = [other for other in remote.packages if other != folder]
    if len(others) > _MAX_PACKAGES:
        warnings.append(f"the card lists {_MAX_PACKAGES} of the {len(others)} packages beside this one")
    for other in others[:_MAX_PACKAGES]:
        try:
            found = fetch_card_package(remote, other)
            make_card([found], repo_id=remote.repo_id, license="unknown")
            packages.append(found)
        except PackageError:
            where = f"the package in {show(other)}" if other else "the package at the root"
            warnings.append(f"{where} cannot be read, so the card does not list it; it was left as it is")
    return sorted(packages, key=lambda entry: entry.path)
