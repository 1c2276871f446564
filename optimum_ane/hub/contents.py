"""What of a directory may be published: the package's own files, whole and verified, and nothing else."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from optimum_ane.errors import PackageError, PublishError, UnsupportedOperationError
from optimum_ane.package.card_marker import MAX_CARD_BYTES
from optimum_ane.package.file_names import check_files, show
from optimum_ane.package.files import verify_files
from optimum_ane.package.layout import ANE_CONFIG, CARD, CARD_AND_REPORT, HTML_REPORT, MLPACKAGE_SUFFIX
from optimum_ane.package.manifest import FunctionEntry, Manifest, TensorEntry
from optimum_ane.runtimes import Session, TensorSpec, open_session


@dataclass(frozen=True)
class LocalFile:
    """A file to be published.

    Attributes:
        path: In the repository.
        source: Where its content is, or the content itself.
        listed: The SHA-256 that the package records; None for what no package lists.
    """

    path: str
    source: Path | bytes
    listed: str | None = None

    @cached_property
    def size(self) -> int:
        """Bytes."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size

    @cached_property
    def sha256(self) -> str:
        """What the Hub's LFS knows a file by: as listed, for that is what must be published."""
        return self.listed or self._hash(hashlib.sha256())

    @cached_property
    def blob_id(self) -> str:
        """What git knows a file by: SHA-1 over `blob <size>`, a zero byte, and the content.

        Raises:
            PackageError: The content is not what the package lists.
        """
        sha256 = hashlib.sha256()
        blob_id = self._hash(hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False), sha256)
        self.check(sha256.hexdigest())
        return blob_id

    def check(self, sha256: str) -> None:
        """Compares what was found in the file, after the package was verified, with what the package lists.

        Raises:
            PackageError: It is another content.
        """
        if self.listed not in (None, sha256):
            raise PackageError(f"{self.path} was changed while it was being published; publish again, or export again")

    def _hash(self, *digests: hashlib._Hash) -> str:
        """Feeds all digests, and returns the first."""
        with io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source.open("rb") as file:
            while piece := file.read(1 << 20):
                for digest in digests:
                    digest.update(piece)
        return digests[0].hexdigest()


@dataclass(frozen=True)
class LocalPackage:
    """A package that was found whole.

    Attributes:
        directory: Where it is.
        manifest: Its `ane_config.json`.
        files: What is published of it, by name; the card is not among them.
        readme: The text of its README.md; None without one.
        left_out: What else lies in the directory, folders once.
        warnings: What the user should know.
    """

    directory: Path
    manifest: Manifest
    files: Mapping[str, Path | bytes]
    readme: str | None
    left_out: tuple[str, ...]
    warnings: tuple[str, ...]


def read_package(directory: Path) -> LocalPackage:
    """Reads and verifies a package that is to be published.

    Raises:
        PackageError: It is no package, a file is missing or does not match its SHA-256, or the program does not load.
        PublishError: A file is a link that leads out of the directory, or README.md is no text.
    """
    if not directory.is_dir():
        raise PackageError(f"{directory} is no directory; give one that `optimum-cli export ane` wrote")
    manifest = Manifest.read(directory)
    names = [name for name in check_files(manifest, str(directory)) if name not in CARD_AND_REPORT]
    names += [ANE_CONFIG, *([HTML_REPORT] if (directory / HTML_REPORT).is_file() else [])]
    files = {name: directory / name for name in names}
    for path in (*files.values(), directory / CARD):
        _refuse_link(path, directory)
    verify_files(directory, manifest)
    warnings = _check_programs(directory, manifest)
    left_out = _find_others(directory, {*files, *CARD_AND_REPORT})
    published: dict[str, Path | bytes] = {**files, ANE_CONFIG: manifest.as_published().encode()}
    return LocalPackage(directory, manifest, published, _read_readme(directory), left_out, warnings)


def _refuse_link(path: Path, directory: Path) -> None:
    if path.exists() and not path.resolve().is_relative_to(directory.resolve()):
        raise PublishError(
            f"{path} is a link that leads out of {directory}, so it is not published; put the file itself in its place"
        )


def _check_programs(directory: Path, manifest: Manifest) -> tuple[str, ...]:
    """Loads each function of each program, and compares what it takes and gives with what the package says."""
    warnings = []
    for program in manifest.programs:
        path = directory / program.path
        try:
            session = open_session(path, "portable")
            if set(session.functions) != {function.name for function in program.functions}:
                raise PackageError(
                    f"{path} has the functions {', '.join(session.functions)}, and {ANE_CONFIG} says "
                    f"{', '.join(function.name for function in program.functions)}; export it again"
                )
            for function in program.functions:
                own = session if function.name == session.function_name else session.function(function.name)
                _check_function(path, own, function)
        except UnsupportedOperationError as error:
            warnings.append(f"{program.path} was not loaded, so nothing here can judge it: {error}")
    return tuple(warnings)


def _check_function(path: Path, session: Session, function: FunctionEntry) -> None:
    for kind, specs, entries in (
        ("inputs", session.inputs, function.inputs),
        ("outputs", session.outputs, function.outputs),
        ("states", session.states, function.states),
    ):
        found, said = _describe(specs.values()), _describe(entries)
        if found != said:
            raise PackageError(
                f"{path}, function {function.name}: its {kind} are {', '.join(found)}, and {ANE_CONFIG} says "
                f"{', '.join(said)}; export it again"
            )


def _describe(tensors: Iterable[TensorSpec | TensorEntry]) -> list[str]:
    """`"input_ids int32 (1, 128)"`, sorted."""
    return sorted(f"{tensor.name} {tensor.dtype} {tensor.shape}" for tensor in tensors)


def _find_others(directory: Path, known: set[str]) -> tuple[str, ...]:
    others: dict[str, int] = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            path = (Path(folder) / name).relative_to(directory)
            if path.as_posix() not in known:
                place = (
                    path.parts[0] + "/"
                    if len(path.parts) > 1 and not path.parts[0].endswith(MLPACKAGE_SUFFIX)
                    else path.as_posix()
                )
                others[place] = others.get(place, 0) + 1
    return tuple(show(place) + (f" ({count} files)" if count > 1 else "") for place, count in sorted(others.items()))


def _read_readme(directory: Path) -> str | None:
    path = directory / CARD
    if not path.exists():
        return None
    try:
        if path.stat().st_size > MAX_CARD_BYTES:
            raise PublishError(f"{path} is larger than 1 MiB, which is no card; make it shorter")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PublishError(f"{path} cannot be read as UTF-8 text ({error}); mend or remove it") from error
