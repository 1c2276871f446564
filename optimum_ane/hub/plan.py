"""What a publication would change in a repository, decided before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from optimum_ane.errors import PublishError
from optimum_ane.hub.contents import LocalFile
from optimum_ane.hub.remote import Remote
from optimum_ane.package.file_names import show_all
from optimum_ane.package.layout import ANE_CONFIG, CARD, CARD_AND_REPORT, HTML_REPORT, PICTURE
from optimum_ane.package.manifest import Manifest


@dataclass(frozen=True)
class Change:
    """A file that is added, changed or removed.

    Attributes:
        path: In the repository.
        size: Bytes that it will have; None if it is removed.
        old_size: Bytes that it has now; None if it is added.
    """

    path: str
    size: int | None
    old_size: int | None


@dataclass(frozen=True)
class Plan:
    """Changes of one commit, each sorted by path.

    Attributes:
        added: Files that are not there yet.
        changed: Files whose content differs.
        removed: Files of the package as it was published before that are no longer part of it.
        unchanged: How many files are there already as they should be.
    """

    added: tuple[Change, ...]
    changed: tuple[Change, ...]
    removed: tuple[Change, ...]
    unchanged: int

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.added or self.changed or self.removed)

    @property
    def sent_paths(self) -> frozenset[str]:
        """What is sent."""
        return frozenset(change.path for change in (*self.added, *self.changed))

    @property
    def sent_bytes(self) -> int:
        """The sum of what is added and changed."""
        return sum(change.size or 0 for change in (*self.added, *self.changed))


def make_plan(
    files: Iterable[LocalFile], remote: Remote, folder: str, manifest: Manifest, old_manifest: Manifest | None
) -> Plan:
    """Compares what should be in a folder of a repository with what is there.

    Args:
        files: All that should be there, by their paths in the repository.
        remote: What is there.
        folder: The published package's; empty for the root.
        manifest: What the published package says of itself.
        old_manifest: What the package says that the folder holds now; None where there is none that can be read.

    Raises:
        PublishError: Files would be overwritten that belong to no package, or to another one.
    """
    prefix = f"{folder}/" if folder else ""
    added, changed, unchanged = [], [], 0
    wanted = {file.path: file for file in files}
    for path, file in sorted(wanted.items()):
        present = remote.files.get(path)
        if present is None:
            added.append(Change(path, file.size, None))
        elif present.is_same(file):
            unchanged += 1
        else:
            changed.append(Change(path, file.size, present.size))
    others = tuple(f"{other}/" for other in remote.packages if other != folder and other.startswith(prefix) and other)
    _refuse_places(wanted, changed, others, prefix, remote)
    known = [manifest] if old_manifest is None else [manifest, old_manifest]
    stale = set() if old_manifest is None else {f"{prefix}{name}" for name in old_manifest.files}
    stale -= {f"{prefix}{name}" for name in CARD_AND_REPORT}
    programs = tuple(f"{prefix}{program.path}/" for each in known for program in each.programs)
    stale |= {path for path in remote.files if path.startswith(programs)}
    if any(change.path.startswith(prefix) and change.path not in CARD_AND_REPORT for change in (*added, *changed)):
        stale.add(f"{prefix}{HTML_REPORT}")  # it tells of another package
    removed = [
        Change(path, None, remote.files[path].size)
        for path in sorted(stale & set(remote.files) - set(wanted))
        if not path.startswith(others) and path != ".gitattributes"
    ]
    return Plan(tuple(added), tuple(changed), tuple(removed), unchanged)


def _refuse_places(
    wanted: Iterable[str], changed: Iterable[Change], others: tuple[str, ...], prefix: str, remote: Remote
) -> None:
    """Refuses to touch what is not the package's own."""
    inside = [path for path in wanted if path.startswith(others)]
    if inside:
        raise PublishError(
            f"{show_all(inside)} would lie inside another package of {remote.repo_id}; publish with another "
            "--subfolder"
        )
    if f"{prefix}{ANE_CONFIG}" in remote.files:
        return
    # Cards are guarded where they are composed. The picture is ours where there is another package.
    ours = {CARD, f"{prefix}{CARD}", *([PICTURE] if remote.packages else [])}
    strangers = [change.path for change in changed if change.path not in ours]
    if strangers:
        raise PublishError(
            f"{remote.repo_id} holds other files under the names {show_all(strangers)}, and no package lists them; "
            "publish with --subfolder NAME, or into another repository"
        )
