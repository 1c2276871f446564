"""A repository of the Hub at one commit: what it holds, and small files of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import tqdm

from optimum_ane.errors import PackageError, PublishError
from optimum_ane.hub.contents import LocalFile
from optimum_ane.package.layout import ANE_CONFIG, MLPACKAGE_SUFFIX

DEFAULT_BRANCH = "main"
MOST_FILES = 20_000
"""Of a repository that packages are published to; the Hub itself advises against more than 100,000."""
_MAX_READ_BYTES = 1 << 22


@dataclass(frozen=True)
class RemoteFile:
    """A file as the Hub lists it.

    Attributes:
        size: Bytes.
        blob_id: Git's id of the file, or of the pointer to it where it is in LFS.
        sha256: Of an LFS file; None for others.
    """

    size: int
    blob_id: str
    sha256: str | None

    def is_same(self, file: LocalFile) -> bool:
        """Whether it has the content of a local file, by size and hash."""
        if self.size != file.size:
            return False
        return self.sha256 == file.sha256 if self.sha256 is not None else self.blob_id == file.blob_id


@dataclass(frozen=True)
class Remote:
    """A repository at one commit.

    Attributes:
        repo_id: Owner and name.
        branch: Where a commit would go.
        head: The commit; None where there is no repository.
        has_branch: Whether the branch is there already; if not, `head` is where it would start.
        is_private: Whether only its owners see it.
        files: By path.
    """

    api: HfApi
    repo_id: str
    branch: str
    head: str | None = None
    has_branch: bool = False
    is_private: bool = False
    files: Mapping[str, RemoteFile] = field(default_factory=dict)

    @property
    def packages(self) -> tuple[str, ...]:
        """The folders that hold a package, sorted; the root is an empty string."""
        paths = (PurePosixPath(path) for path in self.files)
        found = {path.parent for path in paths if path.name == ANE_CONFIG and not is_in_program(path)}
        return tuple(sorted("" if folder == PurePosixPath() else folder.as_posix() for folder in found))

    def read(self, path: str) -> bytes:
        """The content of a file at this commit, from the Hub client's cache where it was read before.

        Raises:
            PackageError: It is too large for what it should be.
            HTTPError: The Hub refused, or cannot be reached.
        """
        size = self.files[path].size
        if size > _MAX_READ_BYTES:
            raise PackageError(
                f"{path} of {self.repo_id} has {size:,} bytes; no more than {_MAX_READ_BYTES:,} are read"
            )
        name = self.api.hf_hub_download(self.repo_id, path, revision=self.head, tqdm_class=_Silent)
        return Path(name).read_bytes()


def is_in_program(path: PurePosixPath) -> bool:
    """Whether a path lies in an `.mlpackage`, or is one."""
    return any(part.endswith(MLPACKAGE_SUFFIX) for part in path.parts)


def look(api: HfApi, repo_id: str, branch: str) -> Remote:
    """Lists a branch of a repository, of its main branch if that branch is not there yet.

    Raises:
        HTTPError: The Hub refused, or cannot be reached.
    """
    has_branch = True
    try:
        try:
            info = api.repo_info(repo_id, revision=branch)
        except RevisionNotFoundError:
            has_branch = False
            info = api.repo_info(repo_id, revision=DEFAULT_BRANCH)
    except RepositoryNotFoundError as error:
        # The client says the same of a token that has expired.
        if error.response.status_code == 401 and api_token(api) is not None:
            raise
        return Remote(api, repo_id, branch)
    files = list_files(api, repo_id, info.sha)
    return Remote(api, repo_id, branch, info.sha, has_branch, bool(info.private), files)


def list_files(api: HfApi, repo_id: str, commit: str | None) -> dict[str, RemoteFile]:
    """All files of a commit, by path.

    Raises:
        PublishError: There are more than a repository of packages has, or their list has no end.
    """
    entries = [*islice(api.list_repo_tree(repo_id, recursive=True, revision=commit), MOST_FILES + 1)]
    if len(entries) > MOST_FILES:
        raise PublishError(
            f"{repo_id} lists more than {MOST_FILES:,} files and folders, which is no repository of packages; publish "
            "to another one"
        )
    return {
        entry.path: RemoteFile(entry.size, entry.blob_id, None if entry.lfs is None else entry.lfs.sha256)
        for entry in entries
        if isinstance(entry, RepoFile)
    }


def api_token(api: HfApi) -> str | None:
    """The token that requests bear: the one given, else the one that is stored."""
    return api.token if isinstance(api.token, str) else get_token()


class _Silent(tqdm):
    """No bar for a file of a few kilobytes."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **(options | {"disable": True}))
