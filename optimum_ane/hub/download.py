"""A package's directory, wherever it is."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, is_offline_mode
from huggingface_hub.errors import (
    HFValidationError,
    HTTPError,
    RemoteEntryNotFoundError,
    RevisionResolutionError,
)

from optimum_ane.access_tokens import check_stored_token, check_token, tokens_hidden
from optimum_ane.checkpoints.hub_answers import answers_checked, check_commit
from optimum_ane.errors import PackageError
from optimum_ane.hub.download_errors import explain
from optimum_ane.package.file_names import check_files, check_subfolder, show, show_all
from optimum_ane.package.files import verify_files
from optimum_ane.package.layout import ANE_CONFIG, CARD_AND_REPORT, package_directory
from optimum_ane.package.manifest import Manifest

_MAX_CONFIG_BYTES = 2**20
_MOST_LISTED = 10_000


def fetch_package(
    model_id: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | None = None,
    token: str | None = None,
    subfolder: str = "",
    local_files_only: bool = False,
    force_download: bool = False,
    verify: bool = True,
) -> Path:
    """Finds a package in a directory, or downloads it from the Hub into the client's cache.

    From the Hub come `ane_config.json` and the files that it lists, and nothing else of the repository; all are of one
    commit, and each must have its SHA-256. Where the Hub cannot be reached, what is cached is used, with a warning.

    Args:
        model_id: A directory or a Hub id.
        revision: Branch, tag or commit on the Hub.
        cache_dir: Where downloads are kept; None is the Hub client's own cache.
        token: Access token; None takes the one that `hf auth login` stored.
        subfolder: Folder of the repository or directory that holds the package.
        local_files_only: Do not go to the network, as `HF_HUB_OFFLINE=1` does for all.
        force_download: Fetch the files even if they are cached.
        verify: Whether the files of a directory are compared with their SHA-256, as those of a download always are.

    Returns:
        The package's directory. Its files are symlinks where it comes from the Hub.

    Raises:
        PackageError: There is no such directory, repository, revision or package, it cannot be reached, or a file
            does not match its checksum.
    """
    folder = check_subfolder(subfolder)
    check_token(token, PackageError)
    path = package_directory(model_id)
    if path.is_dir():
        package = _subfolder_of(path, folder)
        manifest = Manifest.read(package)
        check_files(manifest, str(package))
        if verify:
            verify_files(package, manifest)
        return package
    name = str(model_id)
    if path.exists():
        raise PackageError(f"{name} is a file; give the directory that holds the package")
    if isinstance(model_id, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        raise PackageError(f"there is no directory {name}, and a Hub id is like org/name; check the path")
    is_offline = local_files_only or is_offline_mode()
    if force_download and is_offline:
        raise PackageError("force_download needs the network; drop it, or local_files_only and HF_HUB_OFFLINE")
    if token is None and not local_files_only:
        check_stored_token(PackageError)
    with tokens_hidden(), answers_checked(name, PackageError, {ANE_CONFIG: _MAX_CONFIG_BYTES}):
        return _Repository(name, revision, cache_dir, token, is_offline, force_download).fetch(folder)


def _subfolder_of(directory: Path, folder: str) -> Path:
    package = directory / folder
    if (package / ANE_CONFIG).is_file():
        return package
    found = sorted(config.parent.name for config in directory.glob(f"*/{ANE_CONFIG}"))
    if found:
        raise PackageError(f"{package} holds no {ANE_CONFIG}; packages are in the subfolders {show_all(found)}")
    if (package / "config.json").is_file():
        raise PackageError(
            f"{package} is a checkpoint, not a package; export it with `optimum-cli export ane --model {package} "
            "out/`, or pass export=True to from_pretrained"
        )
    raise PackageError(f"{package} holds no {ANE_CONFIG}; it is not an exported package")


@dataclass(frozen=True)
class _Repository:
    """A repository on the Hub, and how to reach it."""

    id: str
    revision: str | None
    cache_dir: str | None
    token: str | None
    is_offline: bool
    force_download: bool

    def fetch(self, folder: str) -> Path:
        """Downloads the package of a folder, or finds it in the cache, and checks it."""
        try:
            # Once, for all files: a push in between would mix two states.
            commit = self._resolve()
            directory, manifest = self._fetch(commit, folder)
        except (HTTPError, HFValidationError, RevisionResolutionError, OSError) as error:
            if isinstance(error, PackageError):
                raise
            raise explain(error, self.id, self.revision, self.token, self.is_offline) from error
        try:
            verify_files(directory, manifest)
        except PackageError as error:
            remedy = f"force_download=True does; if that does not help, {self.id} itself is damaged: tell its owner"
            raise PackageError(f"{error} ({remedy})") from error
        return directory

    def _resolve(self) -> str:
        resolved = HfApi(token=self.token).resolve_revision(
            self.id, revision=self.revision, cache_dir=self.cache_dir, local_files_only=self.is_offline
        )
        check_commit(self.id, resolved.resolved, PackageError)
        return resolved.resolved

    def _fetch(self, commit: str, folder: str) -> tuple[Path, Manifest]:
        where = f"{self.id}/{folder}" if folder else self.id
        try:
            path = self._download(commit, folder, ANE_CONFIG)
        except RemoteEntryNotFoundError as error:
            raise PackageError(self._what_is_there(commit, folder)) from error
        size = path.stat().st_size
        if size > _MAX_CONFIG_BYTES:
            raise PackageError(f"{where}: {ANE_CONFIG} has {size:,} bytes; a package's has fewer than 100,000")
        manifest = Manifest.read(path.parent)
        for name in check_files(manifest, where):
            if name in CARD_AND_REPORT:
                continue
            try:
                self._download(commit, folder, name)
            except RemoteEntryNotFoundError as error:
                raise PackageError(
                    f"{where} lacks {show(name)}, which its {ANE_CONFIG} lists; its owner must publish it again"
                ) from error
        return path.parent, manifest

    def _download(self, commit: str, folder: str, name: str) -> Path:
        path = hf_hub_download(
            self.id,
            name,
            subfolder=folder,
            revision=commit,
            cache_dir=self.cache_dir,
            token=self.token,
            local_files_only=self.is_offline,
            force_download=self.force_download,
        )
        return Path(path)

    def _what_is_there(self, commit: str, folder: str) -> str:
        """Says what a repository without a package at the place holds instead."""
        api = HfApi(token=self.token)
        # As far as is of use for a message: lists of others need not end.
        listed = islice(api.list_repo_tree(self.id, recursive=True, revision=commit), _MOST_LISTED)
        paths = [entry.path for entry in listed]
        folders = sorted(path.rpartition("/")[0] for path in paths if path.rpartition("/")[2] == ANE_CONFIG)
        where = (
            f"{self.id} has no package in the subfolder {show(folder)}"
            if folder
            else f"{self.id} has none at its root"
        )
        if folders:
            return f"{where}; there are packages in {show_all(name or 'the root' for name in folders)}; name one"
        if "config.json" in paths:
            return (
                f"{self.id} is a checkpoint, not a package; export it with `optimum-cli export ane --model {self.id} "
                "out/`, or pass export=True to from_pretrained"
            )
        return f"{self.id} holds no package: there is no {ANE_CONFIG} in it"
