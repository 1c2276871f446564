"""Whisper: tiny configurations; whisper-tiny.en beside PyTorch in accuracy and speed; WhisperKit's loop over it."""

from __future__ import annotations

import logging
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import soundfile
import torch
from transformers import AutoFeatureExtractor, AutoTokenizer, WhisperForConditionalGeneration, pipeline
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from optimum_ane import ANEModelForSpeechSeq2Seq, export
from optimum_ane.validation.psnr import psnr
from verification.row import REPOSITORY, Row, shared
from verification.timed_process import OPTIMUM_CLI, run_timed

LEAST_IN_PYTORCH, LEAST_AS_PROGRAM, LEAST_OF_MEL = 120.0, 60.0, 60.0
MOST_SECONDS, MOST_BYTES = 60.0, 2 * 1024**3
LARGEST_DIFFERENCE, LEAST_EQUAL = 3, 19
LEAST_SPEED = 1.0

_CHECKPOINT, _SOUNDS = "models/whisper-tiny-en", "data/speech"
_GREEDY = " Ever tried, ever failed. No matter, try again. Fail again. Fail better."
_OF_THE_PIPELINE = " Ever tried. Ever failed. No matter. Try again. Fail again. Fail better."
_TINY: dict[str, dict[str, Any]] = {
    "one head": {"heads": 1, "layers": 1},
    "three heads, 128 mels": {"heads": 3, "layers": 3, "mels": 128},
    "English": {"heads": 2, "layers": 2},
}
_STEPS, _ROUNDS = 24, 9


def measure(folder: Path) -> Iterator[Row]:
    """Exports tiny random models and whisper-tiny.en, and compares them with the originals."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    sys.path[:0] = [str(REPOSITORY / "tests"), str(REPOSITORY / "tests" / "clients")]
    yield from _tiny(folder)
    checkpoint = shared(_CHECKPOINT)
    package, kit = folder / "package", folder / "kit"
    run = run_timed([OPTIMUM_CLI, "export", "ane", "--model", checkpoint, package])
    yield Row(
        "whisper-tiny.en: export of mel, encoder and decoder, with validation",
        f"≤ {MOST_SECONDS:.0f} s, ≤ {MOST_BYTES / 1024**3:.0f} GB",
        f"{run.seconds:.1f} s, {run.peak / 1024**3:.2f} GB",
        run.seconds <= MOST_SECONDS and run.peak <= MOST_BYTES,
    )
    original = WhisperForConditionalGeneration.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    model = ANEModelForSpeechSeq2Seq.from_pretrained(package, runtime="portable")
    yield _mel(model)
    yield from _texts(original, model, checkpoint)
    yield from _speed(original, model, checkpoint)
    export(checkpoint, kit, layout="whisperkit", quiet=True)
    yield _whisperkit(original, kit)


def _tiny(folder: Path) -> Iterator[Row]:
    from whisper_models import END_OF_ENGLISH, make_extractor, make_tokenizer, make_whisper

    exact: dict[str, float] = {}
    rounded: dict[str, float] = {}
    for name, sizes in _TINY.items():
        for cache in ("state", "io"):
            tokenizer = make_tokenizer(END_OF_ENGLISH if name == "English" else None)
            original = make_whisper(tokenizer, **sizes)
            extractor = make_extractor(sizes.get("mels", 80))
            path = folder / f"{name} {cache}"
            report = export(
                original,
                path,
                tokenizer=tokenizer,
                processor=extractor,
                kv_cache=cache,
                quiet=True,
                psnr_threshold=0.0,
            ).report
            label = f"{name}, --kv-cache {cache}"
            exact[label], rounded[label] = min(report.module_psnr.values()), min(report.package_psnr.values())
    for what, least, found in (
        ("modules in float32", LEAST_IN_PYTORCH, exact),
        ("programs in float16", LEAST_AS_PROGRAM, rounded),
    ):
        yield Row(
            f"Whisper, tiny random configurations: {what}, two sounds through one state, 12 tokens each",
            f"≥ {least:.0f} dB",
            ", ".join(f"{name} {value:.1f}" for name, value in found.items()),
            min(found.values()) >= least,
        )


def _sounds() -> dict[str, np.ndarray]:
    found = {}
    for path in sorted(shared(_SOUNDS).glob("*.wav")):
        samples, rate = soundfile.read(path, dtype="float32")
        assert rate == 16000
        found[path.name] = samples
    return found


def _transcripts() -> dict[str, str]:
    lines = (shared(_SOUNDS) / "transcripts.tsv").read_text().splitlines()
    return dict(line.split("\t")[:2] for line in lines)  # type: ignore[misc]


def _mel(model: ANEModelForSpeechSeq2Seq) -> Row:
    extractor = AutoFeatureExtractor.from_pretrained(shared(_CHECKPOINT))
    random = np.random.default_rng(0)
    sounds = {
        "silence": np.zeros(480_000, np.float32),
        "clipped noise": np.clip(2 * random.standard_normal(480_000), -1, 1).astype(np.float32),
        **_sounds(),
    }
    ratios = {}
    for name, sound in sounds.items():
        expected = extractor(sound, sampling_rate=16000, return_tensors="np").input_features
        ratios[name] = psnr(expected, model.spectrogram(sound).numpy())
    worst = min(ratios, key=lambda name: ratios[name])
    return Row(
        "whisper-tiny.en: program mel against the feature extractor, silence, noise, 21 files",
        f"≥ {LEAST_OF_MEL:.0f} dB",
        f"least {ratios[worst]:.1f} dB ({worst})",
        ratios[worst] >= LEAST_OF_MEL,
    )


def _texts(original: Any, model: Any, checkpoint: Path) -> Iterator[Row]:
    extractor, tokenizer = AutoFeatureExtractor.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    transcripts, texts = _transcripts(), {}
    errors, words = [0, 0], 0
    for name, sound in _sounds().items():
        heard = extractor(sound, sampling_rate=16000, return_tensors="pt", return_attention_mask=True)
        both = [
            tokenizer.batch_decode(each.generate(**heard, num_beams=1), skip_special_tokens=True)[0]
            for each in (original, model)
        ]
        texts[name] = both
        reference = _plain(transcripts[name])
        words += len(reference.split())
        for index, text in enumerate(both):
            found = jiwer.process_words(reference, _plain(text))
            errors[index] += found.substitutions + found.deletions + found.insertions
    yield Row(
        "whisper-tiny.en: words wrong on 21 files, lower case, without punctuation",
        f"PyTorch's {errors[0]} of {words} ± {LARGEST_DIFFERENCE}",
        f"{errors[1]} of {words}",
        abs(errors[1] - errors[0]) <= LARGEST_DIFFERENCE,
    )
    equal = sum(theirs == ours for theirs, ours in texts.values())
    yield Row(
        "whisper-tiny.en: same text as PyTorch's, greedy",
        f"≥ {LEAST_EQUAL} of {len(texts)}",
        f"{equal} of {len(texts)}",
        equal >= LEAST_EQUAL,
    )
    make: Any = pipeline
    sound = {"raw": _sounds()["beckett.wav"], "sampling_rate": 16000}
    transcribe = make("automatic-speech-recognition", model=model, tokenizer=tokenizer, feature_extractor=extractor)
    through = transcribe(dict(sound))["text"]
    greedy = texts["beckett.wav"][1]
    yield Row(
        "whisper-tiny.en: beckett.wav word for word, greedy and through the pipeline with its five beams",
        f"{_GREEDY!r}; {_OF_THE_PIPELINE!r}",
        f"{greedy!r}; {through!r}",
        (greedy, through) == (_GREEDY, _OF_THE_PIPELINE),
    )
    times = [
        make("automatic-speech-recognition", model=each, tokenizer=tokenizer, feature_extractor=extractor)(
            dict(sound), return_timestamps="word"
        )["chunks"]
        for each in (original, model)
    ]
    same = sum(theirs == ours for theirs, ours in zip(*times, strict=False))
    yield Row(
        "whisper-tiny.en: beckett.wav, words with the times that PyTorch gives",
        f"{len(times[0])} of {len(times[0])}",
        f"{same} of {len(times[1])}",
        times[0] == times[1],
    )


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s']", "", text.lower()).split())


def _speed(original: Any, model: Any, checkpoint: Path) -> Iterator[Row]:
    """Steps of a decoder, and whole transcriptions, in turns; one thread."""
    extractor = AutoFeatureExtractor.from_pretrained(checkpoint)
    sound = _sounds()["beckett.wav"]
    heard = extractor(sound, sampling_rate=16000, return_tensors="pt", return_attention_mask=True)
    tokens = [50257, 50362, *range(1000, 1000 + _STEPS)]

    @torch.no_grad()
    def eager_steps() -> float:
        hidden = (original.model.encoder(heard.input_features).last_hidden_state,)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        # The first token projects the source.
        for position, token in enumerate(tokens):
            if position == 1:
                begin = time.perf_counter()
            original(
                encoder_outputs=hidden,
                decoder_input_ids=torch.tensor([[token]]),
                past_key_values=cache,
                use_cache=True,
            )
        return (time.perf_counter() - begin) / (len(tokens) - 1)

    def package_steps() -> float:
        encoded = model._programs.encode({"input_features": heard.input_features.numpy()})
        text = model._programs.begin(encoded)
        model._programs.step(text, tokens[0])
        begin = time.perf_counter()
        for token in tokens[1:]:
            model._programs.step(text, token)
        return (time.perf_counter() - begin) / (len(tokens) - 1)

    def whole(each: Any) -> Callable[[], float]:
        def run() -> float:
            begin = time.perf_counter()
            each.generate(**heard, num_beams=1)
            return time.perf_counter() - begin

        return run

    for what, theirs, ours in (
        ("a step of the decoder", eager_steps, package_steps),
        ("a whole transcription, 10 s of sound, greedy", whole(original), whole(model)),
    ):
        pairs = [(theirs(), ours()) for _ in range(_ROUNDS + 1)][1:]
        eager, own = (statistics.median(each) for each in zip(*pairs, strict=True))
        yield Row(
            f"whisper-tiny.en: {what}, portable runtime against transformers eager, one thread, in turns",
            f"≥ {LEAST_SPEED:.1f} ×",
            f"{eager / own:.2f} × ({1000 * own:.1f} ms against {1000 * eager:.1f})",
            eager / own >= LEAST_SPEED,
        )


def _whisperkit(original: Any, package: Path) -> Row:
    """The host's loop against transformers' greedy search under the host's rules, on the first window of each file."""
    from test_whisperkit_packages import host_text
    from whisperkit import WhisperKit

    kit = WhisperKit(package)
    extractor = AutoFeatureExtractor.from_pretrained(shared(_CHECKPOINT))
    sounds = _sounds()
    equal = sum(
        kit.transcribe(sound)[0][:-1] == host_text(original, kit, extractor, sound) for sound in sounds.values()
    )
    return Row(
        "whisper-tiny.en: tokens of WhisperKit's loop (emulated) against transformers' greedy tokens, same rules",
        f"≥ {LEAST_EQUAL} of {len(sounds)}",
        f"{equal} of {len(sounds)}",
        equal >= LEAST_EQUAL,
    )
