"""`ane_config.json`: what a package says of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from optimum_ane.errors import CheckpointError, PackageError
from optimum_ane.package.form import ExportForm
from optimum_ane.package.json_entries import COUNT, WORD, read_entries
from optimum_ane.package.layout import ANE_CONFIG, MLPACKAGE_SUFFIX
from optimum_ane.package.manifest_version_1 import version_2_of
from optimum_ane.package.normalization import Normalization

FORMAT_VERSION, MINOR_VERSION = 2, 5
"""A later minor version may have entries that this one does not know; they are passed over."""

_MAX_PROGRAMS, _MAX_FUNCTIONS = 64, 64


@dataclass(frozen=True)
class TensorEntry:
    """An input, output or state of a function.

    Attributes:
        name: In the program.
        shape: The extents; empty for a classifier's label and dictionary.
        dtype: numpy's name, or `"string"` and `"dictionary"`.
        meaning: One sentence for a person.
    """

    name: str = field(metadata=WORD)
    shape: tuple[int, ...] = field(metadata=COUNT)
    dtype: str = field(metadata=WORD)
    meaning: str = ""


@dataclass(frozen=True)
class FunctionEntry:
    """One function of a program, its tensors in the order of the program."""

    name: str = field(metadata=WORD)
    inputs: tuple[TensorEntry, ...] = ()
    outputs: tuple[TensorEntry, ...] = ()
    states: tuple[TensorEntry, ...] = ()


@dataclass(frozen=True)
class ProgramEntry:
    """One `.mlpackage`.

    Attributes:
        name: Its file's name without the suffix.
        functions: One at least.
        precision: Of weights and arithmetic.
        compute_units: The default when it is loaded.
    """

    name: str = field(metadata=WORD)
    functions: tuple[FunctionEntry, ...]
    precision: str = field(default="float16", metadata=WORD)
    compute_units: str = field(default="cpu_and_ne", metadata=WORD)

    @property
    def path(self) -> str:
        """Of the `.mlpackage`, relative to the package."""
        return f"{self.name}{MLPACKAGE_SUFFIX}"


@dataclass(frozen=True)
class SourceEntry:
    """The checkpoint that a package was made from.

    Attributes:
        model: Hub id, or the directory as the user gave it.
        name: Hub id, or the directory's own name without the path that leads to it; what a card says.
        is_hub: Whether it is a Hub id.
        revision: Commit on the Hub; None for a directory.
        license: The licence's id on the Hub, by the source's card; this and the next are None if it is silent.
        license_name: Its name, where the id is `"other"`.
        license_link: Its text, where the id is `"other"`.
        languages: ISO 639 codes, by the source's card.
        datasets: Hub ids of what it was trained on, by the source's card.
    """

    model: str
    name: str
    is_hub: bool = False
    revision: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    languages: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()


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
    leading: int = field(metadata=COUNT)
    trailing: int = field(metadata=COUNT)
    separators: int | None = field(metadata=COUNT)
    mask_token: str | None
    mask_id: int | None = field(metadata=COUNT)


@dataclass(frozen=True)
class TextEntry:
    """How texts become inputs.

    Attributes:
        padding_id: What shorter rows are padded with; None in packages that do not say.
        tokenizer: How texts become rows; None without a tokenizer.
        prompts: Texts that sentence-transformers puts before others, by their names.
        default_prompt: Name of the prompt that is put before every text; None where none is.
        end_ids: Tokens that end what a language model writes.
    """

    padding_id: int | None = field(default=None, metadata=COUNT)
    tokenizer: TokenizerEntry | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    end_ids: tuple[int, ...] = field(default=(), metadata=COUNT)


@dataclass(frozen=True)
class ImageEntry:
    """How images become inputs: (value · rescale_factor − mean) / std for each channel, of 0 to 255.

    That is the image processor's affair, unless there is a `normalization`, which the program computes.

    Attributes:
        height: In pixels.
        width: In pixels.
        channels: Of the input, which comes first in it.
        rescale_factor: What a value is multiplied by; None where the package does not say, or nothing is.
        mean: Of each channel; empty where the package does not say, or nothing is normalised.
        std: Of each channel; likewise.
        normalization: What the program does to an image that it takes as one of Core ML's; None where it takes
            tensors that are normalised.
        fit: How images of other proportions get that size: `"fill"` stretched, `"crop"` cut off at both ends, `"pad"`
            filled up; empty where the package does not say.
    """

    height: int = field(metadata=COUNT)
    width: int = field(metadata=COUNT)
    channels: int = field(metadata=COUNT)
    rescale_factor: float | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    normalization: Normalization | None = None
    fit: Literal["fill", "crop", "pad", ""] = ""


@dataclass(frozen=True)
class AudioEntry:
    """How sounds become inputs.

    Attributes:
        length: Samples, or frames of a spectrogram.
        sampling_rate: Samples a second; None where the package does not say.
        padding_value: What shorter sounds are filled up with, after they are normalised.
        is_normalized: Whether the feature extractor brings each sound of samples to mean 0 and variance 1.
    """

    length: int = field(metadata=COUNT)
    sampling_rate: int | None = field(default=None, metadata=COUNT)
    padding_value: float = 0.0
    is_normalized: bool = False


@dataclass(frozen=True)
class ConversionEntry:
    """How the graph of the original became a program.

    Attributes:
        capture: What recorded it: `"trace"` is `torch.jit.trace`, `"export"` is `torch.export`.
        engine_layout: Whether it was rewritten into the engine's layout.
        residual_scale: What the residual stream was multiplied by, in the weights, so that float16 holds it.
    """

    capture: str = field(metadata=WORD)
    engine_layout: bool
    residual_scale: float = 1.0

    def describe(self) -> str:
        """In a few words, for a person."""
        recorder = {"trace": "torch.jit.trace", "export": "torch.export"}.get(self.capture, self.capture)
        layout = "rewritten into the engine's layout" if self.engine_layout else "in the original's own layout"
        scaled = "" if self.residual_scale == 1 else f", residuals × {self.residual_scale:.3g} for float16"
        return f"captured by {recorder}, {layout}{scaled}"


@dataclass(frozen=True)
class Manifest:
    """What `ane_config.json` says.

    Attributes:
        form: What the export was asked for.
        model_type: The architecture.
        source: The checkpoint that the package was made from.
        programs: The `.mlpackage`s, one at least.
        labels: The checkpoint's labels by id, for tasks that have them.
        text: How texts become inputs; None for packages that take none.
        image: How images become inputs; None for packages that take none.
        audio: How sounds become inputs; None for packages that take none.
        constants: Values of the checkpoint that belong to no program and that the model class computes with, by name.
        compression: Name of the recipe; None: the weights are stored as they are.
        method: How the programs came to be: `"handwritten"` modules of ours, or by `"graph"` from the original's own.
        conversion: How the original's graph became a program; None of hand-written modules.
        versions: Of the tools that made the package.
        files: The SHA-256 of every other file, by path relative to the directory.
        format_version: Of this file.
        minor_version: Of this file.
    """

    form: ExportForm
    model_type: str = field(metadata=WORD)
    source: SourceEntry
    programs: tuple[ProgramEntry, ...]
    labels: tuple[str, ...] = ()
    text: TextEntry | None = None
    image: ImageEntry | None = None
    audio: AudioEntry | None = None
    constants: Mapping[str, float] = field(default_factory=dict)
    compression: str | None = None
    method: str = field(default="handwritten", metadata=WORD)
    conversion: ConversionEntry | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    minor_version: int = MINOR_VERSION

    @property
    def modality(self) -> str:
        """What the rows are: `"text"`, `"image"`, `"audio"`, or texts beside them, `"image-text"`, `"audio-text"`."""
        kinds = ("image",) if self.image is not None else ("audio",) if self.audio is not None else ()
        return "-".join((*kinds, *(("text",) if self.text is not None or not kinds else ())))

    @property
    def functions(self) -> tuple[FunctionEntry, ...]:
        """The functions of all programs."""
        return tuple(function for program in self.programs for function in program.functions)

    @property
    def tokenizer(self) -> TokenizerEntry | None:
        """How texts become rows; None without a tokenizer."""
        return None if self.text is None else self.text.tokenizer

    def program(self, name: str) -> ProgramEntry:
        """Looks a program up.

        Raises:
            PackageError: There is none of the name.
        """
        for program in self.programs:
            if program.name == name:
                return program
        known = ", ".join(program.name for program in self.programs)
        raise PackageError(f"the package has no program {name!r}; it has {known}")

    def function_name(self, program: ProgramEntry, function: FunctionEntry) -> str:
        """What tells a function from all others of the package: `"seq_32"`, `"text"` or `"decoder.infer"`."""
        if len(self.programs) == 1:
            return function.name
        return program.name if len(program.functions) == 1 else f"{program.name}.{function.name}"

    def original(self) -> tuple[str, str | None]:
        """The checkpoint that the package was made from: Hub id and commit, or directory and None.

        Raises:
            CheckpointError: It was a directory, and none of that name is here.
        """
        source = self.source
        if source.is_hub or Path(source.model).is_dir():
            return source.model, source.revision if source.is_hub else None
        raise CheckpointError(f"the package was made from a directory, {source.model}, which is not here")

    def as_published(self) -> str:
        """The text of `ane_config.json` for others to read: of a directory, its name and not the path to it."""
        source = self.source if self.source.is_hub else replace(self.source, model=self.source.name)
        return replace(self, source=source)._as_text()

    def write(self, directory: Path) -> None:
        """Writes `ane_config.json`."""
        (directory / ANE_CONFIG).write_text(self._as_text(), encoding="utf-8")

    def _as_text(self) -> str:
        entries = asdict(self)
        entries = {name: entries.pop(name) for name in ("format_version", "minor_version")} | entries
        return json.dumps(entries, indent=2) + "\n"

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Reads `ane_config.json`, of this version or of version 1.

        Raises:
            PackageError: It is missing, damaged, or of a later format.
        """
        path = directory / ANE_CONFIG
        if not path.is_file():
            raise PackageError(f"{directory} holds no {ANE_CONFIG}; it is not an exported package")
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise PackageError(f"{path} is damaged: {error}") from error
        if not isinstance(entries, dict):
            raise PackageError(f"{path} is damaged: it should hold an object")
        return cls._from_entries(entries, path)

    @classmethod
    def _from_entries(cls, entries: dict[str, Any], path: Path) -> Manifest:
        version, minor = entries.get("format_version"), entries.get("minor_version", 0)
        if version == 1 and not isinstance(version, bool):
            entries = version_2_of(entries, path)
        elif version != FORMAT_VERSION:
            raise PackageError(
                f"{path} has format {version!r:.20}, this version reads {FORMAT_VERSION} and earlier; update "
                "optimum-ane, or export the package again"
            )
        is_later = isinstance(minor, int) and minor > MINOR_VERSION
        manifest = read_entries(cls, entries, str(path), tolerant=is_later)
        manifest._check(path)
        return manifest

    def _check(self, path: Path) -> None:
        for what, names, most in (
            ("programs", [program.name for program in self.programs], _MAX_PROGRAMS),
            *((f"functions of {p.name}", [f.name for f in p.functions], _MAX_FUNCTIONS) for p in self.programs),
        ):
            if not names or len(names) > most or len(set(names)) < len(names):
                raise PackageError(f"{path}: {what} should be 1 to {most} of different names, they are {names!r:.100}")
