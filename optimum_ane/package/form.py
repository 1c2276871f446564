"""What an export is asked for, stated once: command line, Python call, manifest and card derive from it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from optimum_ane.errors import ShapeError, UnsupportedModelError
from optimum_ane.package.deployment_targets import canonical_target, is_older

Precision = Literal["float16", "float32"]
PRECISIONS = ("float16", "float32")
COMPUTE_UNITS = ("cpu_and_ne", "all", "cpu_and_gpu", "cpu_only")
METHODS = ("auto", "handwritten", "graph")
KV_CACHES = ("state", "io", "none")
LAYOUTS = ("native", "swift-transformers", "anemll", "whisperkit")
IMAGE_INPUTS = ("image", "tensor")
POOLING_MODES = ("mean", "cls", "lasttoken")
NO_POOLING = "none"
"""Asks for hidden states also where the checkpoint's own files ask for a pooling."""

AUTO = "auto"
GENERATION, TEXT_TO_TEXT, SPEECH = "text-generation", "text2text-generation", "automatic-speech-recognition"
WRITING_TASKS = (GENERATION, TEXT_TO_TEXT, SPEECH, "image-to-text")
"""Those whose packages may write text, with a cache of what was read."""
DEFAULT_LENGTH = 128
CUSTOM = "custom"
"""The task of packages of plain modules; their shapes are those of their example inputs."""
_TASK_NAMES = {
    "image-feature-extraction": "feature-extraction",
    "masked-lm": "fill-mask",
    "ner": "token-classification",
    "semantic-segmentation": "image-segmentation",
    "sentiment-analysis": "text-classification",
    "sequence-classification": "text-classification",
}
"""Other names that people know of tasks: those of transformers' pipelines and of its classes."""
_TASKS_OF_CLASSIFIERS = ("image-classification", "text-classification")
"""Those whose packages may be Core ML classifiers."""
_TASKS_WITH_POSTPROCESSING = ("depth-estimation", "image-segmentation", "object-detection")
AS_LIMITS_ALLOW = 0
"""The number of chunks that `"auto"` stands for, until the checkpoint's layers are known."""
MAX_LENGTH, MAX_BATCH, MAX_LENGTHS, MAX_PIXELS, MAX_AUDIO, MAX_CHUNKS = 1 << 20, 1 << 16, 64, 1 << 14, 1 << 24, 64
"""Larger numbers are no form of a package: they come from a damaged or hostile file."""


def _option(default: Any, help: str, **details: Any) -> Any:
    """A field with what the command line says of it.

    Args:
        default: Of the field.
        help: One line.
        details: `choices`, `type`, `metavar` and `several`, as argparse has them.
    """
    return field(default=default, metadata={"help": help, **details})


@dataclass(frozen=True)
class ExportForm:
    """The shape and form of one package.

    Attributes:
        task: A task of Optimum's, `"text-classification"` for one; `"auto"` until the checkpoint's own is known.
        sequence_length: Tokens per row, ascending. A row takes the shortest that it fits into, padding included; a
            single number may be given for one length. Empty for a plain module.
        batch_size: Rows per prediction.
        precision: Of weights and arithmetic; the Neural Engine takes float16 only.
        minimum_deployment_target: Oldest system that runs the package, by coremltools' name; None stands for the
            oldest that the form needs (see `target`).
        compute_units: The default when the package is loaded; not part of the program.
        class_labels: Make it a Core ML classifier with the checkpoint's own labels.
        pooling: Give one vector per row in place of the hidden states; feature extraction only. None takes what the
            checkpoint's own files say, `"none"` hidden states in any case.
        normalize: Divide that vector by its Euclidean norm.
        letterbox: Images of object detection keep their proportions and are filled up to the size; a mask of what is
            image, (B, height, width), is an input.
        postprocess: Give, beside the outputs of the original, what apps read of them: `class_map` (height, width) of
            image segmentation, `confidence` (boxes, labels) and `coordinates` (boxes, 4) of object detection, `depth`
            of depth estimation, an image of float16. For one image at once.
        method: How the programs are made: `"handwritten"` by a module that is written for the engine, `"graph"` by
            passes over the graph of the original, `"auto"` by the former where there is one.
        image_size: Height and width of images in pixels; None takes what the checkpoint's image processor or
            configuration says. A single number may be given for a square.
        image_input: What a program of images takes: `"image"` one of Core ML's, of eight bits a channel, which the
            program normalises, or `"tensor"` numbers that the image processor has normalised. None takes the former
            where the image processor does what a program can.
        audio_length: Samples of a sound, or frames where the model takes spectrograms; None takes what the
            checkpoint's feature extractor or configuration says, else a few seconds.
        context_length: Tokens that a language model's cache holds, those of the prompt and those that follow; None
            takes 1,024, or the positions of the checkpoint where these are fewer. Of a decoder that writes of a
            source, the tokens that it writes; None takes 256, or fewer likewise.
        prefill_length: Tokens of a prompt that are read at once; None takes 64.
        kv_cache: Where a language model keeps keys and values: `"state"` in states of the program, `"io"` in inputs
            and outputs, for hosts that write the cache themselves, `"none"` nowhere: whole rows of `sequence_length`
            tokens, without generation. None takes `"state"` for text generation.
        chunks: Programs that a language model's layers are shared out to; `"auto"` takes as few as the limits of size
            and layers allow, None one where it is below that of size.
        layout: Names, files and types of a language model's package: `"native"` for the drivers and the Swift of this
            library, or those that a client of others expects.
    """

    task: str = _option(AUTO, "auto takes that of the checkpoint; else one of")
    sequence_length: tuple[int, ...] = _option(
        (DEFAULT_LENGTH,),
        "tokens per row; several give one package with a function for each, and a row takes the shortest that it "
        "fits into (from iOS18 on)",
        metavar="N",
        several=True,
    )
    batch_size: int = _option(1, "rows per prediction", metavar="N")
    precision: Precision = _option(  # noqa: RUF009 - the field of a dataclass, made by `dataclasses.field`
        "float16", "of weights and arithmetic; the Neural Engine takes float16 only", choices=PRECISIONS
    )
    minimum_deployment_target: str | None = _option(
        None,
        "oldest system that runs it, by coremltools' name: iOS15 … iOS26, macOS12 … (default: iOS16 for one function, "
        "iOS18 for several)",
        metavar="TARGET",
    )
    compute_units: str = _option(
        "cpu_and_ne", "default when the package is loaded, recorded in ane_config.json", choices=COMPUTE_UNITS
    )
    class_labels: bool = _option(
        False,
        "make it a Core ML classifier with the checkpoint's own labels (of images, Vision then gives "
        "VNClassificationObservation)",
    )
    pooling: str | None = _option(
        None,
        "sentence embeddings in place of hidden states (feature-extraction; default: what a sentence-transformers "
        "checkpoint says, else none)",
        choices=(*POOLING_MODES, NO_POOLING),
    )
    normalize: bool = _option(False, "divide sentence embeddings by their length")
    method: str = _option(
        AUTO,
        "how it is made: handwritten (of a module that is written for the engine), graph (by passes over the graph of "
        "the original), or auto: handwritten where the architecture has a module for the task, else graph",
        choices=METHODS,
    )
    letterbox: bool = _option(
        False,
        "images keep their proportions and are filled up to the size, with a mask of what is image as an input "
        "(object-detection; default: they are stretched)",
    )
    postprocess: bool = _option(
        False,
        "also give what apps read: class_map of image-segmentation, the best class of each point of the image; "
        "confidence and coordinates of object-detection; depth of depth-estimation, as an image",
    )
    image_size: tuple[int, ...] | None = _option(
        None,
        "height and width of images in pixels, or one number for a square (default: what the checkpoint says)",
        metavar="N",
        several=True,
    )
    image_input: str | None = _option(
        None,
        "what a program of images takes: image (one of Core ML's, a CVPixelBuffer in apps, which the program "
        "normalises) or tensor (numbers that the image processor has normalised) (default: image, where the processor "
        "does no more than scale and shift each channel)",
        choices=IMAGE_INPUTS,
    )
    audio_length: int | None = _option(
        None,
        "samples of a sound, or frames where the model takes spectrograms (default: what the checkpoint says, else "
        "five seconds)",
        metavar="N",
        type=int,
    )

    context_length: int | None = _option(
        None,
        "tokens that the cache holds, of prompt and answer together, or of what is written of a source (tasks that "
        "write text; default: 1024, or 256 of a source, or the checkpoint's positions where fewer)",
        metavar="N",
        type=int,
    )
    prefill_length: int | None = _option(
        None, "tokens of a prompt that are read at once (text-generation; default: 64)", metavar="N", type=int
    )
    kv_cache: str | None = _option(
        None,
        "where keys and values are kept: state (in the program, from iOS18 on), io (inputs and outputs, for hosts "
        "that write the cache themselves; before iOS18 with the function for one token alone), or none (whole rows of "
        "--sequence-length tokens, which cannot generate, of text-generation) (tasks that write text; default: "
        "state)",
        choices=KV_CACHES,
    )
    chunks: int | None = _option(
        None,
        "programs that the layers are shared out to, or auto: as few as keep each at 950 MB and 15 layers "
        "(text-generation; default: one, or auto where it were larger)",
        metavar="N|auto",
        type=str,
    )
    layout: str = _option(
        "native",
        "names, files and types: native, or those that a client of others expects: swift-transformers and anemll of "
        "text-generation, whisperkit of automatic-speech-recognition",
        choices=LAYOUTS,
    )

    def __post_init__(self) -> None:
        """Refuses what cannot work.

        Raises:
            ShapeError: A number out of range.
            UnsupportedModelError: Options that contradict each other or are not known.
        """
        object.__setattr__(self, "task", _TASK_NAMES.get(self.task, self.task))
        object.__setattr__(self, "sequence_length", self._rows_of_tokens())
        _check_number("batch size", self.batch_size, MAX_BATCH)
        object.__setattr__(self, "image_size", _image_size(self.image_size))
        self._check_image_input()
        if self.audio_length is not None:
            _check_number("audio length", self.audio_length, MAX_AUDIO)
        if self.precision not in PRECISIONS:
            raise UnsupportedModelError(f"precision {self.precision!r} is not one of {', '.join(PRECISIONS)}")
        if self.compute_units not in COMPUTE_UNITS:
            raise UnsupportedModelError(f"compute units {self.compute_units!r} are not {', '.join(COMPUTE_UNITS)}")
        if self.method not in METHODS:
            raise UnsupportedModelError(f"method {self.method!r} is not one of {', '.join(METHODS)}")
        self._check_pooling()
        self._check_classifier()
        self._check_postprocessing()
        if self.letterbox and self.task not in (AUTO, "object-detection"):
            raise UnsupportedModelError(f"--letterbox is for the task object-detection, not for {self.task}")
        self._check_language_model()
        self._check_target()

    def _rows_of_tokens(self) -> tuple[int, ...]:
        if self.task == CUSTOM:
            return ()
        if not self.has_cache or self.task in (AUTO, TEXT_TO_TEXT):
            lengths = _lengths(self.sequence_length)
            if self.task == TEXT_TO_TEXT and len(lengths) > 1:
                raise UnsupportedModelError(
                    f"{len(lengths)} sequence lengths were given, and the cache of a source has one; give one "
                    "--sequence-length"
                )
            return lengths
        if self.sequence_length not in ((), (DEFAULT_LENGTH,)):
            raise UnsupportedModelError(
                "--sequence-length is of packages without a cache: give --context-length for the tokens that the "
                "cache holds, or --kv-cache none for whole rows"
            )
        return ()

    def _check_image_input(self) -> None:
        if self.image_input not in (None, *IMAGE_INPUTS):
            raise UnsupportedModelError(f"image input {self.image_input!r} is not one of {', '.join(IMAGE_INPUTS)}")
        if self.image_input == "image" and self.batch_size != 1:
            raise ShapeError(
                f"an image of Core ML's is one, batch size {self.batch_size} was asked for; leave --batch-size out, "
                "or give --image-input tensor"
            )

    def _check_pooling(self) -> None:
        if self.pooling not in (None, NO_POOLING, *POOLING_MODES):
            raise UnsupportedModelError(f"pooling {self.pooling!r} is not one of {', '.join(POOLING_MODES)}")
        if self.pools and self.task not in (AUTO, "feature-extraction"):
            raise UnsupportedModelError(f"pooling is for the task feature-extraction, not for {self.task}")
        if self.normalize and not self.pools:
            raise UnsupportedModelError(f"normalize needs a pooling, {', '.join(POOLING_MODES)}")

    def _check_classifier(self) -> None:
        if not self.class_labels:
            return
        if self.task not in (AUTO, *_TASKS_OF_CLASSIFIERS):
            raise UnsupportedModelError(
                f"class labels are for the tasks {' and '.join(_TASKS_OF_CLASSIFIERS)}, not for {self.task}"
            )
        if self.batch_size != 1:
            raise ShapeError(f"a Core ML classifier takes one row, batch size {self.batch_size} was asked for")
        if len(self.sequence_length) > 1:
            raise UnsupportedModelError(
                "a Core ML classifier has one function, and several sequence lengths need several; leave out "
                "--class-labels (class_labels), or export one length"
            )

    def _check_postprocessing(self) -> None:
        if not self.postprocess:
            return
        if self.task not in (AUTO, *_TASKS_WITH_POSTPROCESSING):
            raise UnsupportedModelError(
                f"--postprocess is for the tasks {', '.join(_TASKS_WITH_POSTPROCESSING)}, not for {self.task}; leave "
                "it out"
            )
        if self.batch_size != 1:
            raise ShapeError(f"--postprocess is for one image at once, batch size {self.batch_size} was asked for")

    def _check_language_model(self) -> None:
        given: Any = self.chunks
        if isinstance(given, str):
            if given != AUTO and not given.isdecimal():
                raise ShapeError(f"chunks is {given!r:.60}; it must be a whole number, or {AUTO}")
            object.__setattr__(self, "chunks", AS_LIMITS_ALLOW if given == AUTO else int(given))
        for name, most in (("context_length", MAX_LENGTH), ("prefill_length", MAX_LENGTH), ("chunks", MAX_CHUNKS)):
            value = getattr(self, name)
            if value is not None and (name, value) != ("chunks", AS_LIMITS_ALLOW):
                _check_number(name.replace("_", " "), value, most)
        if self.kv_cache not in (None, *KV_CACHES):
            raise UnsupportedModelError(f"kv cache {self.kv_cache!r} is not one of {', '.join(KV_CACHES)}")
        if self.layout not in LAYOUTS:
            raise UnsupportedModelError(f"layout {self.layout!r} is not one of {', '.join(LAYOUTS)}")
        of_a_cache = [
            name for name in ("context_length", "prefill_length", "chunks") if getattr(self, name) is not None
        ]
        self._check_of_writing(of_a_cache)
        if of_a_cache and self.kv_cache == "none":
            raise UnsupportedModelError(
                f"--{of_a_cache[0].replace('_', '-')} is of a cache, and --kv-cache none asks for none; give "
                "--sequence-length, or leave --kv-cache out"
            )
        if self.has_cache and self.batch_size != 1:
            raise ShapeError(
                f"a program with a cache takes one row, batch size {self.batch_size} was asked for; the model class "
                "runs more rows one after another, each with a cache of its own"
            )

    def _check_of_writing(self, of_a_cache: Sequence[str]) -> None:
        """Refuses options of packages that write where the task is another."""
        given = [*of_a_cache, *(["kv_cache"] if self.kv_cache is not None else [])]
        if self.layout != "native":
            given.append("layout")
        for name in given:
            tasks = WRITING_TASKS if name in ("context_length", "kv_cache") else (GENERATION,)
            if name == "layout" and self.layout == "whisperkit":
                tasks = (SPEECH,)
            if self.task not in (AUTO, *tasks):
                kind = f"task {tasks[0]}" if len(tasks) == 1 else f"tasks {', '.join(tasks)}"
                raise UnsupportedModelError(
                    f"--{name.replace('_', '-')} is for the {kind}, not for {self.task}; leave it out"
                )

    def _check_target(self) -> None:
        if self.minimum_deployment_target is None:
            return
        needed, reason = self._needed_target
        target = canonical_target(self.minimum_deployment_target)
        object.__setattr__(self, "minimum_deployment_target", target)
        if is_older(target, needed):
            raise UnsupportedModelError(
                f"this form needs {needed} ({reason}) and the deployment target is {target}; raise it, or "
                + (
                    "pass the cache as inputs and outputs, --kv-cache io"
                    if self.kv_cache == "state"
                    else "export each length to a directory of its own"
                )
            )

    @property
    def _needed_target(self) -> tuple[str, str]:
        """The oldest system that can run it, and why."""
        if self.kv_cache == "state":
            return "iOS18", "states in a program"
        if self.kv_cache == "io":
            return "iOS16", "inputs of float16"
        if len(self.sequence_length) > 1:
            return "iOS18", f"{len(self.sequence_length)} sequence lengths are several functions in one package"
        return "iOS15", "ML Programs"

    @property
    def target(self) -> str:
        """The deployment target that was asked for, else the oldest that the form needs, and iOS 16 at least."""
        return self.minimum_deployment_target or self._default_target

    @property
    def _default_target(self) -> str:
        if self.has_cache and self.layout != "whisperkit":
            return "iOS18"  # also where the cache is no state: its functions share one program
        needed, _ = self._needed_target
        return "iOS16" if is_older(needed, "iOS16") else needed

    def pinned(self) -> ExportForm:
        """The same form with its deployment target spelled out, as a package states it."""
        return replace(self, minimum_deployment_target=self.target)

    @property
    def has_cache(self) -> bool:
        """Whether the package holds a language model with a cache of keys and values."""
        return self.kv_cache in ("state", "io")

    @property
    def pools(self) -> bool:
        """Whether the package gives one vector per row in place of the hidden states."""
        return self.pooling in POOLING_MODES

    @property
    def longest(self) -> int:
        """The most tokens that a row may have: a row of a source, where a decoder writes of texts."""
        if self.has_cache and self.context_length is not None and self.task != TEXT_TO_TEXT:
            return self.context_length
        return self.sequence_length[-1]

    def differences(self) -> dict[str, Any]:
        """The options that are not as by default, by name, as a person writes them."""
        changed = {
            entry.name: getattr(self, entry.name)
            for entry in fields(self)
            if getattr(self, entry.name) != entry.default and entry.name != "sequence_length"
        }
        if self.minimum_deployment_target == self._default_target:
            changed.pop("minimum_deployment_target", None)
        if self.sequence_length not in ((), ExportForm().sequence_length):
            lengths = self.sequence_length
            changed["sequence_length"] = lengths[0] if len(lengths) == 1 else lengths
        if self.image_size is not None and len(set(self.image_size)) == 1:
            changed["image_size"] = self.image_size[0]
        return {entry.name: changed[entry.name] for entry in fields(self) if entry.name in changed}


def form_from_options(options: Mapping[str, Any], function: str) -> ExportForm:
    """Makes a form of the keyword arguments of a Python call.

    Args:
        options: Fields of `ExportForm` by name.
        function: What was called, for the message.

    Raises:
        TypeError: A name is no option of an export, as Python says of any function.
        ANEError: A value cannot be.
    """
    known = [entry.name for entry in fields(ExportForm)]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; options of the export are {', '.join(known)}"
            raise TypeError(f"{function} got an unexpected keyword argument {name!r}{hint}")
    return ExportForm(**options)


def _lengths(given: Any) -> tuple[int, ...]:
    lengths = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else (given,)
    if not lengths or len(lengths) > MAX_LENGTHS:
        raise ShapeError(f"{len(lengths)} sequence lengths were given; give 1 to {MAX_LENGTHS}")
    for length in lengths:
        _check_number("sequence length", length, MAX_LENGTH)
    return tuple(sorted(set(lengths)))


def _image_size(given: Any) -> tuple[int, int] | None:
    if given is None:
        return None
    size = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else (given,)
    if len(size) not in (1, 2):
        raise ShapeError(f"image size has {len(size)} numbers; give height and width, or one number for a square")
    for extent in size:
        _check_number("image size", extent, MAX_PIXELS)
    return (size[0], size[-1])


def _check_number(name: str, value: Any, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ShapeError(f"{name} is {value!r:.60}; it must be a whole number")
    if not 1 <= value <= most:
        raise ShapeError(
            f"{name} is {value}; it must be at least 1" + (f" and at most {most}" if value > most else "")
        )
