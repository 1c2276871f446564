"""What is done already: one small file per job, and the packages themselves.

A job is done when its record bears the key of what is asked for now, the package on disk is the one of the record
and its files verify, and it was published where it should be. Everything is written to a temporary file and renamed,
so a kill at any point leaves either the old state or the new one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from model_zoo.catalog import Job, Model
from optimum_ane.errors import ANEError, OutputError, PackageError
from optimum_ane.package.file_writing import write_file
from optimum_ane.package.files import verify_files
from optimum_ane.package.layout import ANE_CONFIG, EXPORT_REPORT
from optimum_ane.package.manifest import Manifest

_TOOLS = ("optimum-ane", "coremltools", "torch", "transformers")
_NOT_OF_THE_PACKAGE = ("name", "repository", "first_at_root", "license", "form", "sequence_lengths", "compress")


@dataclass(frozen=True)
class Published:
    """Where a package was published.

    Attributes:
        repository: Hub id.
        subfolder: In it; empty for the root.
        license: As the list gave it; None where the source states one.
        package: SHA-256 of the `ane_config.json` on disk, which stands for all that was sent.
        url: For people.
    """

    repository: str
    subfolder: str
    license: str | None
    package: str
    url: str


@dataclass(frozen=True)
class Record:
    """What is known of a job.

    Attributes:
        key: Hash of all that the package depends on; see `make_key`.
        replaces: SHA-256 of the `ane_config.json` that stood there when the export began; None if none did.
        package: SHA-256 of the `ane_config.json` that the export wrote; None while it is under way.
        seconds: That the export took.
        published: None until it is.
    """

    key: str
    replaces: str | None = None
    package: str | None = None
    seconds: float | None = None
    published: Published | None = None

    def write(self, path: Path) -> None:
        """Writes the record, whole or not at all."""
        write_atomically(path, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> Record | None:
        """Reads a record; None where there is none that can be read, for then the job is simply done again."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            published = values.pop("published")
            return cls(**values, published=None if published is None else Published(**published))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None


@dataclass(frozen=True)
class Workplace:
    """The output directory: `packages/`, `records/`, `logs/` and `summary.json`."""

    root: Path

    def package(self, job: Job) -> Path:
        """The directory of a job's package."""
        return self.root / "packages" / job.model.name / job.variant

    def record(self, job: Job) -> Path:
        """The file of its record."""
        return self.root / "records" / job.model.name / f"{job.variant}.json"

    def log(self, job: Job) -> Path:
        """The file of its log; of the last try."""
        return self.root / "logs" / job.model.name / f"{job.variant}.log"

    def lock(self, repository: str) -> Path:
        """The file that is locked while something is published to a repository."""
        return self.root / "records" / f"{repository.replace('/', '--')}.lock"


def make_key(job: Job, source: str) -> str:
    """Hashes all that a package depends on: the entry of the list, the source, the dataset's file, the tools.

    Args:
        job: The job.
        source: The commit of the checkpoint on the Hub, or `hash_directory` of it.
    """
    settings = {name: value for name, value in asdict(job.model).items() if name not in _NOT_OF_THE_PACKAGE}
    evaluation = job.model.evaluation
    files = [evaluation.dataset if evaluation else None, job.recipe]
    content = {
        "settings": settings | {"form": asdict(job.form), "recipe": job.recipe},
        "source": source,
        "files": [hash_file(Path(name)) for name in files if name and name.startswith("/")],
        "tools": {name: version(name) for name in _TOOLS},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def source_of(model: Model) -> str:
    """The commit of a checkpoint on the Hub, or the hash of a directory's files.

    Raises:
        PackageError: The Hub cannot be reached, or there is no such repository or revision.
    """
    if model.model.startswith("/"):
        return hash_directory(Path(model.model))
    from huggingface_hub import HfApi, is_offline_mode
    from huggingface_hub.errors import HFValidationError, HTTPError, RevisionResolutionError

    from optimum_ane.hub.download_errors import explain

    is_offline = is_offline_mode()
    try:
        return HfApi().resolve_revision(model.model, revision=model.revision, local_files_only=is_offline).resolved
    except (HTTPError, HFValidationError, RevisionResolutionError, OSError) as error:
        raise explain(error, model.model, model.revision, None, is_offline) from error


def package_hash(package: Path) -> str | None:
    """The SHA-256 of a package's `ane_config.json`, which holds those of its files; None without one."""
    path = package / ANE_CONFIG
    return hash_file(path) if path.is_file() else None


def is_exported(record: Record | None, key: str, package: Path) -> bool:
    """Whether the package on disk is whole and what an export with this key gives.

    An export that was killed between its last two steps has put the package in place, and the record does not say so
    yet: then it is another package than the one that stood there when the export began.
    """
    if record is None or record.key != key:
        return False
    found = package_hash(package)
    if found is None or (found == record.replaces if record.package is None else found != record.package):
        return False
    try:
        verify_files(package, Manifest.read(package))
    except PackageError:
        return False
    return True


def is_published(record: Record | None, job: Job, package: Path) -> bool:
    """Whether the package on disk was published where the job says."""
    if record is None or record.published is None:
        return False
    wanted = Published(job.repository or "", job.subfolder, job.model.license, package_hash(package) or "", "")
    return replace(record.published, url="") == wanted


def read_report(package: Path) -> Mapping[str, Any]:
    """What `export_report.json` says; empty where it cannot be read."""
    try:
        report = json.loads((package / EXPORT_REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}


def hash_file(path: Path) -> str:
    """The SHA-256 of a file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror}") from error


def hash_directory(directory: Path) -> str:
    """One SHA-256 over the names and the content of all files below a directory."""
    digest = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(directory).as_posix()}\0{hash_file(path)}\n".encode())
    return digest.hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Writes a file whole or not at all, and the directories above it.

    Raises:
        OutputError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}; choose another --output") from error
    write_file(path, text)


class BusyError(ANEError, RuntimeError):
    """Another run works in the same output directory."""


@contextmanager
def locked(path: Path, patience: float | None = None) -> Iterator[None]:
    """Holds a lock on a file. The system releases it when the process dies, however it dies.

    Args:
        path: The file; made if need be.
        patience: Seconds to wait for whoever holds it; None waits for ever.

    Raises:
        BusyError: It is still held after that time.
        OutputError: The file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}; choose another --output") from error
    with file:
        limit = None if patience is None else time.monotonic() + patience
        while not _try_lock(file):
            if limit is not None and time.monotonic() > limit:
                raise BusyError(f"another run works in {path.parent}; wait for it, or choose another --output")
            time.sleep(0.1)
        yield


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
