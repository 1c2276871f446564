"""A package on disk: its layout, its `ane_config.json`, and how it comes into being whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from optimum_ane.errors import CheckpointError, PackageError
from optimum_ane.package.layout import ANE_CONFIG
from optimum_ane.package.manifest_checks import check_config

FORMAT_VERSION = 1


@dataclass(frozen=True)
class TensorEntry:
    """An input or output as `ane_config.json` records it; a classifier's label and dictionary have no shape."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class TokenizerEntry:
    """What a program without Python must know to build the inputs.

    Attributes:
        tokenizer_class: As `tokenizer_config.json` says.
        model: The algorithm, by `tokenizer.json`'s name: `"WordPiece"`, `"BPE"`, `"Unigram"`; None without that file.
        leading: Special tokens before a text.
        trailing: Special tokens after a text.
        separators: How many more separators stand between two texts than after one; None if a pair is not
            `first`, its special tokens, these, `second` without its leading ones.
        mask_token: The token to be filled in; None where there is none.
        mask_id: Its id.
    """

    tokenizer_class: str | None
    model: str | None
    leading: int
    trailing: int
    separators: int | None
    mask_token: str | None
    mask_id: int | None


@dataclass(frozen=True)
class PackageConfig:
    """What `ane_config.json` says.

    Attributes:
        task: Optimum's name of the task.
        model_type: The architecture.
        sequence_length: Tokens per row.
        batch_size: Rows per prediction.
        precision: Of weights and arithmetic.
        minimum_deployment_target: Oldest system that runs the package.
        compute_units: The default when the package is loaded.
        inputs: In the order of the program.
        outputs: In the order of the program.
        source_model: Hub id, or the directory as the user gave it.
        source_name: Hub id, or the directory's own name without the path that leads to it; what a card says.
        source_is_hub: Whether it is a Hub id.
        source_revision: Commit on the Hub; None for a directory.
        source_license: The licence's id on the Hub, by the source's card; this and the next are None if it is silent.
        source_license_name: Its name, where the id is `"other"`.
        source_license_link: Its text, where the id is `"other"`.
        source_languages: ISO 639 codes, by the source's card.
        source_datasets: Hub ids of what it was trained on, by the source's card.
        pooling: How rows become one vector; None for hidden states and heads.
        normalize: Whether that vector has length 1.
        class_labels: Whether it is a Core ML classifier.
        compression: None: the weights are stored as they are.
        labels: The checkpoint's labels by id, for tasks that have them.
        padding_id: What shorter rows are padded with; None in packages that do not say.
        tokenizer: How texts become rows; None without a tokenizer.
        versions: Of the tools that made the package.
        files: The SHA-256 of every other file, by path relative to the directory.
        format_version: Of this file.
    """

    task: str
    model_type: str
    sequence_length: int
    batch_size: int
    precision: str
    minimum_deployment_target: str
    compute_units: str
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    source_model: str
    source_revision: str | None = None
    pooling: str | None = None
    normalize: bool = False
    class_labels: bool = False
    compression: str | None = None
    source_name: str = ""
    source_is_hub: bool = False
    source_license: str | None = None
    source_license_name: str | None = None
    source_license_link: str | None = None
    source_languages: tuple[str, ...] = ()
    source_datasets: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    padding_id: int | None = None
    tokenizer: TokenizerEntry | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def original(self) -> tuple[str, str | None]:
        """The checkpoint that the package was made from: Hub id and commit, or directory and None.

        Raises:
            CheckpointError: It was a directory, and none of that name is here.
        """
        if self.source_is_hub or Path(self.source_model).is_dir():
            return self.source_model, self.source_revision if self.source_is_hub else None
        raise CheckpointError(f"the package was made from a directory, {self.source_model}, which is not here")

    def as_published(self) -> str:
        """The text of `ane_config.json` for others to read: of a directory, its name and not the path to it."""
        return (self if self.source_is_hub else replace(self, source_model=self.source_name))._as_text()

    def write(self, directory: Path) -> None:
        """Writes `ane_config.json`."""
        (directory / ANE_CONFIG).write_text(self._as_text(), encoding="utf-8")

    def _as_text(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def read(cls, directory: Path) -> PackageConfig:
        """Reads `ane_config.json`.

        Raises:
            PackageError: It is missing, damaged, or of a later format.
        """
        path = directory / ANE_CONFIG
        if not path.is_file():
            raise PackageError(f"{directory} holds no {ANE_CONFIG}; it is not an exported package")
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            return cls._from_entries(entries, path)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            if isinstance(error, PackageError):
                raise
            raise PackageError(f"{path} is damaged: {error}") from error

    @classmethod
    def _from_entries(cls, entries: dict[str, Any], path: Path) -> PackageConfig:
        if not isinstance(entries, dict):
            raise PackageError(f"{path} is damaged: it should hold an object")
        version = entries.get("format_version")
        if version != FORMAT_VERSION:
            found = f"{version!r:.20}"
            raise PackageError(f"{path} has format {found}, this version reads {FORMAT_VERSION}; export it again")
        unknown = entries.keys() - {entry.name for entry in fields(cls)}
        if unknown:
            raise PackageError(f"{path} has unknown entries: {sorted(unknown)!r:.200}")
        for name in ("inputs", "outputs"):
            entries[name] = tuple(
                TensorEntry(str(tensor["name"]), tuple(int(n) for n in tensor["shape"]), str(tensor["dtype"]))
                for tensor in entries[name]
            )
        if entries.get("tokenizer") is not None:
            entries["tokenizer"] = TokenizerEntry(**entries["tokenizer"])
        for name in ("source_languages", "source_datasets", "labels"):
            if isinstance(entries.get(name), list):
                entries[name] = tuple(entries[name])
        config = cls(**entries)
        check_config(config, path)
        return config if config.source_name else replace(config, source_name=Path(config.source_model).name)
