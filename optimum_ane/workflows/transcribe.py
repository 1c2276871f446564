"""What is said in sound files, written by a package of speech: CTC, or a decoder such as Whisper's."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from optimum_ane.errors import InputError, UnsupportedModelError
from optimum_ane.evaluation.sounds import SUFFIXES, Sound, read_sound
from optimum_ane.evaluation.transcripts import SPEECH, rate_of
from optimum_ane.hub.download import fetch_package
from optimum_ane.modeling import model_class_of
from optimum_ane.modeling.package_configuration import load_feature_extractor, load_tokenizer
from optimum_ane.package.manifest import Manifest
from optimum_ane.screen import say

if TYPE_CHECKING:
    from optimum_ane.modeling import ANEModel

TIMESTAMPS = ("segment", "word", "char")
AS_THE_MODEL_HAS_THEM = ""
"""Segments of a decoder that writes, words of CTC."""


@dataclass(frozen=True)
class Passage:
    """A part of a transcript, with when it is said.

    Attributes:
        text: What is said.
        start: In seconds; None where the model does not tell.
        end: In seconds; None where the model does not tell.
    """

    text: str
    start: float | None
    end: float | None

    def __str__(self) -> str:
        """A line for a person."""
        ends = ("?" if second is None else f"{second:.2f}" for second in (self.start, self.end))
        return f"[{' → '.join(ends)}] {self.text.strip()}"


@dataclass(frozen=True)
class Transcript:
    """What is said in a file.

    Attributes:
        file: As it was given.
        text: All of it.
        seconds: Length of the sound.
        took: Seconds that it took to write, on this machine.
        runtime: What executed the package.
        passages: With when they are said; empty where that was not asked for.
        notices: What was done to the sound before; see `Sound`.
    """

    file: str
    text: str
    seconds: float
    took: float
    runtime: str
    passages: tuple[Passage, ...] = ()
    notices: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class SpeechOptions:
    """What is asked for beside the text.

    Attributes:
        timestamps: One of `TIMESTAMPS`, or `AS_THE_MODEL_HAS_THEM`; None gives none.
        language: That is spoken, by its name or ISO code, for models of several; None lets the model find out.
        task: `"transcribe"`, or `"translate"` into English, for models that do both.
    """

    timestamps: str | None = None
    language: str | None = None
    task: str | None = None


class Transcriber:
    """A package of speech with its feature extractor and its tokenizer, behind transformers' own pipeline.

    Args:
        package: Directory or Hub id.
        runtime: As `ANEModel.from_pretrained` takes it.
        revision: Branch, tag or commit on the Hub.
        token: Access token.

    Raises:
        ANEError: The package is damaged, or of another task.
    """

    def __init__(
        self, package: str | Path, runtime: str = "auto", revision: str | None = None, token: str | None = None
    ) -> None:
        import transformers

        make_pipeline: Any = transformers.pipeline  # typed by the pipelines' own models, of which ours are none
        directory = fetch_package(package, revision=revision, token=token)
        manifest = Manifest.read(directory)
        if manifest.form.task != SPEECH or manifest.audio is None:
            raise UnsupportedModelError(
                f"{package} is a package for {manifest.form.task}, which writes nothing of what is said; export a "
                f"checkpoint of speech with --task {SPEECH}"
            )
        self.model: ANEModel = model_class_of(SPEECH, manifest.modality).from_pretrained(directory, runtime=runtime)
        self.is_ctc = manifest.modality == "audio"
        self._extractor: Any = load_feature_extractor(directory)
        self._pipeline = make_pipeline(
            SPEECH, model=self.model, tokenizer=load_tokenizer(directory), feature_extractor=self._extractor
        )
        self._audio = manifest.audio

    @property
    def rate(self) -> int:
        """Samples a second of the sounds that it takes."""
        return rate_of(self._extractor)

    def check(self, options: SpeechOptions) -> None:
        """Refuses, before any work, what the package cannot do.

        Raises:
            InputError: The message names the option.
        """
        if options.timestamps not in (None, AS_THE_MODEL_HAS_THEM, *TIMESTAMPS):
            raise InputError(f"--timestamps is {options.timestamps!r}; it is one of {', '.join(TIMESTAMPS)}")
        if self.is_ctc and options.timestamps == "segment":
            raise InputError("this package writes letter by letter and knows no segments; take --timestamps word")
        if not self.is_ctc and options.timestamps == "char":
            raise InputError("this package does not tell when a letter is said; take --timestamps word or segment")
        for name, value in (("language", options.language), ("task", options.task)):
            if self.is_ctc and value is not None:
                raise InputError(f"--{name} is for models of several languages, as Whisper's are; leave it out")

    def write(self, sound: Sound, options: SpeechOptions) -> tuple[str, tuple[Passage, ...]]:
        """Writes what is said in a sound of `rate`.

        Returns:
            The text, and its passages where they were asked for.

        Raises:
            InputError: The package refuses an option, or the sound is too short for it.
        """
        arguments: dict[str, Any] = {}
        if self.is_ctc:
            seconds = self._longest_seconds()
            if sound.seconds > seconds:
                arguments["chunk_length_s"] = seconds
            if options.timestamps is not None:
                arguments["return_timestamps"] = options.timestamps or "word"
        else:
            given = {"language": options.language, "task": options.task}
            arguments["generate_kwargs"] = {name: value for name, value in given.items() if value is not None}
            is_long = len(sound.samples) > getattr(self._extractor, "n_samples", len(sound.samples))
            if options.timestamps is not None:
                arguments["return_timestamps"] = "word" if options.timestamps == "word" else True
            elif is_long:
                arguments["return_timestamps"] = True
        try:
            answer = self._pipeline({"raw": sound.samples.copy(), "sampling_rate": sound.rate}, **arguments)
        except (ValueError, KeyError) as error:  # of languages and tasks that a model lacks
            raise InputError(f"the model refuses: {' '.join(str(error).split())[:300]}") from error
        passages = tuple(
            Passage(chunk["text"], *chunk["timestamp"])
            for chunk in (answer.get("chunks") or () if options.timestamps is not None else ())
        )
        return answer["text"].strip(), passages

    def _longest_seconds(self) -> float:
        """What a package of CTC takes at once."""
        length = self._audio.length
        ratio = int(getattr(self.model.config, "inputs_to_logits_ratio", None) or 1)
        if getattr(self.model.config, "conv_kernel", None) is not None:
            return max(1, length // ratio) * ratio / self.rate
        import numpy as np

        # Frames of a spectrogram: as many as the extractor makes of a second.
        second = self._extractor(np.zeros(self.rate, np.float32), sampling_rate=self.rate, return_tensors="np")
        frames = next(value.shape[1] for name, value in second.items() if name.startswith("input"))
        return max(1.0, length // frames)


def transcribe(
    package: str | Path,
    files: Sequence[str | Path],
    options: SpeechOptions | None = None,
    *,
    runtime: str = "auto",
    revision: str | None = None,
    token: str | None = None,
    each: Callable[[Transcript], None] | None = None,
) -> list[Transcript]:
    """Writes what is said in files.

    Args:
        package: Directory or Hub id.
        files: Sounds that libsndfile reads, of any rate and number of channels.
        options: What is asked for beside the text.
        runtime: As `ANEModel.from_pretrained` takes it.
        revision: Branch, tag or commit on the Hub.
        token: Access token.
        each: Is called with each transcript as soon as it is there.

    Raises:
        ANEError: What was wrong, and what to do.
    """
    options = options or SpeechOptions()
    for file in files:
        _check_name(Path(file).expanduser())
    transcriber = Transcriber(package, runtime, revision, token)
    transcriber.check(options)
    runtime = transcriber.model.runtime
    transcripts = []
    for file in files:
        sound = read_sound(file, transcriber.rate)
        began = time.perf_counter()
        text, passages = transcriber.write(sound, options)
        took = time.perf_counter() - began
        transcripts.append(Transcript(str(file), text, sound.seconds, took, runtime, passages, sound.notices))
        if each is not None:
            each(transcripts[-1])
    return transcripts


def print_transcripts(
    package: str | Path,
    files: Sequence[str | Path],
    options: SpeechOptions,
    *,
    as_json: bool = False,
    runtime: str = "auto",
    revision: str | None = None,
    token: str | None = None,
    stream: TextIO | None = None,
    notes: TextIO | None = None,
) -> None:
    """Writes transcripts onto a stream as they come, what was done to sounds and the speed onto another.

    One file gives its text alone, several a line each, the file's name and the text with a tab between: what
    `ane evaluate` reads as `transcripts.tsv`, once it is mended by ear. With timestamps a line for each passage
    follows.

    Args:
        package: Directory or Hub id.
        files: See `transcribe`.
        options: See `transcribe`.
        as_json: Write one list of objects, with the fields of `Transcript`, when all is done.
        runtime: As `ANEModel.from_pretrained` takes it.
        revision: Branch, tag or commit on the Hub.
        token: Access token.
        stream: None is stdout.
        notes: None is stderr.

    Raises:
        ANEError: What was wrong, and what to do.
    """
    stream, notes = stream or sys.stdout, notes or sys.stderr
    count, done = len(files), 0

    def show(transcript: Transcript) -> None:
        nonlocal done
        done += 1
        for notice in transcript.notices:
            say(f"{transcript.file}: {notice}", file=notes)
        if not as_json:
            line = " ".join(transcript.text.split())  # a text of several lines would be several rows
            say(line if count == 1 else f"{transcript.file}\t{line}", file=stream, flush=True)
            for passage in transcript.passages:
                say(passage, file=stream, flush=True)
        place = "" if count == 1 else f"{done} of {count}: "
        speed = f"{transcript.seconds:.1f} s of sound in {transcript.took:.1f} s"
        where = " on this machine's CPU, which tells nothing of a device" if transcript.runtime == "portable" else ""
        say(f"[{place}{speed}, {transcript.runtime} runtime{where}]", file=notes, flush=True)

    transcripts = transcribe(package, files, options, runtime=runtime, revision=revision, token=token, each=show)
    if as_json:
        print(json.dumps([asdict(each) for each in transcripts], indent=2), file=stream)


def _check_name(path: Path) -> None:
    """Refuses, before a model is loaded, what is no sound by its name."""
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        read_sound(path, 1)  # says what is wrong
