"""One package as a card knows it: what its own JSON files say, from a directory that anyone may have written."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optimum_ane.errors import PackageError
from optimum_ane.package.deployment_targets import systems_of
from optimum_ane.package.form import CUSTOM, GENERATION
from optimum_ane.package.layout import ANE_CONFIG, EXPORT_REPORT, GENERATION_CONFIG
from optimum_ane.package.manifest import FunctionEntry, Manifest
from optimum_ane.tasks import TASKS, Task, task_row

MODEL_CONFIG = "config.json"
_PROCESSOR = "preprocessor_config.json"
_HUB_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?", re.ASCII)


@dataclass(frozen=True)
class CardPackage:
    """One package of a repository, as its JSON files describe it.

    Attributes:
        path: Its folder in the repository, `""` for the root; of a package that is in none, its directory's name.
        manifest: `ane_config.json`.
        report: `export_report.json`.
        model_config: `config.json`.
        generation_config: `generation_config.json`, of packages that write.
    """

    path: str
    manifest: Manifest
    report: Mapping[str, Any]
    model_config: Mapping[str, Any]
    generation_config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def source_id(self) -> str | None:
        """The Hub id of the source; None if it was a directory, or if what stands there is no id."""
        manifest = self.manifest
        return manifest.source.name if manifest.source.is_hub and _HUB_ID.fullmatch(manifest.source.name) else None

    @property
    def task(self) -> Task:
        """What the table of tasks says of the package's.

        Raises:
            PackageError: The task is none that packages are made for.
        """
        form = self.manifest.form
        if form.task == CUSTOM:
            raise PackageError(
                f"{ANE_CONFIG}: this is a package of a plain module, of which no card can be written; upload it as a "
                "folder, `hf upload`"
            )
        if form.task not in TASKS:
            raise PackageError(f"{ANE_CONFIG}: task {form.task!r} is not one of {', '.join(TASKS)}; export it again")
        return task_row(form.task, form.pools, self.manifest.modality)

    @property
    def labels(self) -> tuple[str, ...]:
        """The checkpoint's labels by id; empty for tasks without any."""
        task = TASKS.get(self.manifest.form.task)
        if self.manifest.labels or task is None or not task.has_labels:
            return self.manifest.labels
        names = self.model_config.get("id2label")
        return tuple(map(str, names.values())) if isinstance(names, Mapping) else ()

    @property
    def prompts(self) -> Mapping[str, str]:
        """Texts that sentence-transformers puts before others, by their names."""
        return {} if self.manifest.text is None else self.manifest.text.prompts

    @property
    def default_prompt(self) -> str:
        """What it puts before every text; empty where it puts nothing."""
        name = None if self.manifest.text is None else self.manifest.text.default_prompt
        return "" if name is None else self.prompts.get(name, "")

    @property
    def padding_id(self) -> int:
        """What shorter rows are padded with."""
        own = None if self.manifest.text is None else self.manifest.text.padding_id
        theirs = self.model_config.get("pad_token_id")
        return own if own is not None else theirs if isinstance(theirs, int) else 0

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end what a language model writes."""
        return () if self.manifest.text is None else self.manifest.text.end_ids

    @property
    def default_function(self) -> FunctionEntry:
        """The function that runs where none is named: the first of the first program."""
        return self.manifest.programs[0].functions[0]

    @property
    def lengths(self) -> str:
        """Tokens per row, for a reader: `"128"`, or `"32, 64, 128"`; with a cache those that it holds."""
        if self.manifest.form.has_cache:
            return str(self.manifest.form.longest)
        return ", ".join(map(str, self.manifest.form.sequence_length))

    @property
    def shape(self) -> str:
        """What a prediction takes, for a reader: `"1 × 128 tokens"`, or `"images of 224 × 224 pixels, 1 at once"`."""
        form = self.manifest.form
        if form.task == CUSTOM:
            return "its example inputs"
        if form.has_cache and form.task == GENERATION:
            return f"{form.longest} tokens of context, {form.prefill_length} of a prompt at once"
        if form.has_cache:
            return f"{self.rows}, up to {form.context_length} tokens of answer"
        if self.manifest.modality == "text":
            return f"{form.batch_size} × {self.lengths} tokens"
        return f"{self.rows}, {form.batch_size} at once"

    @property
    def rows(self) -> str:
        """What a row is, for a reader: `"rows of 128 tokens"`, or `"images of 224 × 224 pixels"`."""
        image, audio = self.manifest.image, self.manifest.audio
        if image is not None:
            images = f"images of {image.height} × {image.width} pixels"
            return images if self.manifest.text is None else f"texts of {self.lengths} tokens and {images}"
        if audio is not None:
            if not self._is_of_samples:
                return f"sounds of {audio.length} frames"
            seconds = f" ({audio.length / audio.sampling_rate:.1f} s)" if audio.sampling_rate else ""
            return f"sounds of {audio.length} samples{seconds}"
        if self.manifest.form.has_cache and self.manifest.form.task == GENERATION:
            return f"a context of {self.lengths} tokens"
        return f"rows of {' or '.join(self.lengths.rsplit(', ', 1))} tokens"

    @property
    def _is_of_samples(self) -> bool:
        """Whether the first input is a sound itself, (rows, samples), and no spectrogram."""
        return len(self.default_function.inputs[0].shape) == 2 if self.default_function.inputs else False

    @property
    def extents(self) -> str:
        """The extents of a row, for a table: `"128"`, or `"224 × 224"`."""
        image, audio = self.manifest.image, self.manifest.audio
        if image is not None:
            extents = f"{image.height} × {image.width}"
            return extents if self.manifest.text is None else f"{self.lengths}; {extents}"
        return self.lengths if audio is None else str(audio.length)

    @property
    def systems(self) -> str:
        """The oldest systems that run it, for a reader."""
        return systems_of(self.manifest.form.target)

    @property
    def has_tokenizer(self) -> bool:
        """Whether the tokenizer's files are in the package, or the processor's."""
        if self.task.modality != "text":
            return _PROCESSOR in self.manifest.files
        return any(name.startswith("tokenizer") for name in self.manifest.files) or self.manifest.tokenizer is not None

    @property
    def accuracy(self) -> Mapping[str, Any] | None:
        """The accuracy report, if it says what the original scored as well."""
        accuracy = self.report.get("accuracy")
        return accuracy if isinstance(accuracy, Mapping) and isinstance(accuracy.get("original"), Mapping) else None

    def number(self, *path: str) -> float | None:
        """A number of the report by the names that lead to it; None where it was not measured or is not defined.

        Raises:
            PackageError: Something else is there.
        """
        value: Any = self.report
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is None:
            return None
        if value in ("inf", "-inf"):
            return float(value)
        number = as_number(value)
        if number is None:
            raise PackageError(f"{EXPORT_REPORT}: {'.'.join(path)} is {value!r:.100}, not a number; export it again")
        return None if math.isnan(number) else number

    def numbers(self, *path: str) -> dict[str, float]:
        """The numbers of a table of the report, by name; those that are not defined are left out."""
        value: Any = self.report
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        found = {str(name): self.number(*path, name) for name in value} if isinstance(value, Mapping) else {}
        return {name: number for name, number in found.items() if number is not None}


def read_card_package(path: str, directory: Path) -> CardPackage:
    """Reads a package's JSON files; of those that are missing, only `ane_config.json` must be there.

    Args:
        path: Its folder in the repository.
        directory: Where it is.

    Raises:
        PackageError: One of them is damaged.
    """
    report, model_config = (_read_json(directory / name) for name in (EXPORT_REPORT, MODEL_CONFIG))
    return CardPackage(path, Manifest.read(directory), report, model_config, read_generation_config(directory))


def read_generation_config(directory: Path) -> dict[str, Any]:
    """Reads how a package writes by default; empty of one that does not say.

    Raises:
        PackageError: The file is damaged.
    """
    return _read_json(directory / GENERATION_CONFIG)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PackageError(f"{path} is damaged: {error}; export it again") from error
    if not isinstance(value, dict):
        raise PackageError(f"{path} is damaged: it should hold an object; export it again")
    return value


def as_number(value: object) -> float | None:
    """A number of JSON, where integers may have any size; None for what is none, or too large."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None
