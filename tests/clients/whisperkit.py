"""What WhisperKit does with three programs: its host's loop over tokens and windows, without anything of the library.

Written from `Sources/WhisperKit/Core` (`TextDecoder`, `LogitsFilter`, `TranscribeTask`, `SegmentSeeker`, `Models`) of
github.com/argmaxinc/WhisperKit. Left out: the fallback to higher temperatures, which draws random numbers, and the
warping of alignment weights into times of words.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from optimum_ane.runtimes.portable import PortableSession

MOST_TOKENS = 448 // 2
"""`Constants.maxTokenContext`."""
SAMPLE_RATE = 16000
SECONDS_PER_TIME_TOKEN = 0.02
DEFAULTS = {
    "<|endoftext|>": 50257,
    "<|startoftranscript|>": 50258,
    "<|en|>": 50259,
    "<|translate|>": 50358,
    "<|transcribe|>": 50359,
    "<|notimestamps|>": 50363,
    "<|0.00|>": 50364,
}
"""`WhisperTokenizerWrapper`: what a token is taken for that the tokenizer does not know."""


class SpecialTokens:
    """Of the folder's `tokenizer.json`."""

    def __init__(self, folder):
        tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        found = {token: tokenizer.token_to_id(token) for token in DEFAULTS}
        ids = {token: DEFAULTS[token] if number is None else number for token, number in found.items()}
        self.end, self.start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
        self.english, self.transcribe, self.translate = ids["<|en|>"], ids["<|transcribe|>"], ids["<|translate|>"]
        self.no_timestamps, self.time_begin = ids["<|notimestamps|>"], ids["<|0.00|>"]


class DecoderInputs:
    """`DecodingInputs`: caches in the width of two bytes, the mask of the update in whole numbers."""

    def __init__(self, decoder):
        _, embed, _, self.columns = decoder.inputs["key_cache"].shape
        positions = decoder.inputs["encoder_output_embeds"].shape[3]
        self.key_cache = np.zeros((1, embed, 1, self.columns), np.float16)
        self.value_cache = np.zeros((1, embed, 1, self.columns), np.float16)
        self.alignment_weights = np.zeros((self.columns, positions), np.float16)
        self.update_mask = np.zeros((1, self.columns), np.int32)
        self.padding_mask = np.full((1, self.columns), -10000, np.float16)
        self.update_mask[0, 0], self.padding_mask[0, 0] = 1, 0
        self.prompt = []

    def reset(self, most_tokens=MOST_TOKENS):
        """Between windows: the masks, and nothing of the caches."""
        self.padding_mask[0, 0], self.update_mask[0, 0] = 0, 1
        for column in range(1, most_tokens):
            self.padding_mask[0, column], self.update_mask[0, column] = -10000, 0


def log_softmax(logits):
    numbers = logits.astype(np.float32)
    shifted = numbers - numbers.max()
    return shifted - np.log(np.exp(shifted).sum())


def filter_timestamps(logits, tokens, special, begin, is_multilingual):
    """`TimestampRulesFilter`, on logits (V,), which it writes to."""
    if is_multilingual:
        tasks = [at for at, token in enumerate(tokens[:3]) if token in (special.transcribe, special.translate)]
        if not tasks:
            return logits
        begin = max(tasks[0] + 1, begin)
    if begin > len(tokens):
        return logits
    time_begin = special.time_begin
    logits[special.no_timestamps] = -np.inf
    sampled = tokens[begin:]
    if sampled:
        last_was = sampled[-1] >= time_begin
        before_was = len(sampled) < 2 or sampled[-2] >= time_begin
        if last_was and before_was:
            logits[time_begin:] = -np.inf
        elif last_was:
            logits[: special.end] = -np.inf
        times = [token for token in sampled if token >= time_begin]
        if times:
            least = times[-1] if last_was and not before_was else times[-1] + 1
            logits[time_begin:least] = -np.inf
    logarithms = log_softmax(logits)
    with np.errstate(divide="ignore"):
        of_times = np.log(np.exp(logarithms[time_begin:]).sum())
    if of_times > logarithms[:time_begin].max():
        logits[:time_begin] = -np.inf
    return logits


class WhisperKit:
    """The client, with the options that it has by default: timestamps, and nothing suppressed.

    Args:
        folder: With the programs, uncompiled, and the tokenizer.
        task: `"transcribe"` or `"translate"`, of models of several languages.
        language: A code.
    """

    def __init__(self, folder, task="transcribe", language="en"):
        self.mel, self.encoder, self.decoder = (
            PortableSession(Path(folder) / f"{name}.mlpackage")
            for name in ("MelSpectrogram", "AudioEncoder", "TextDecoder")
        )
        self.special, self.task, self.language = SpecialTokens(folder), task, language
        self.tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        self.is_multilingual = self.decoder.outputs["logits"].shape[2] != 51864
        self.window_samples = self.mel.inputs["audio"].shape[0]
        self.has_words = "alignment_heads_weights" in self.decoder.outputs
        self.inputs = DecoderInputs(self.decoder)
        self.inputs.prompt = self.prompt()

    def prompt(self):
        """`prefillDecoderInputs`."""
        tokens = [self.special.start]
        if self.is_multilingual:
            language = self.tokenizer.token_to_id(f"<|{self.language}|>")
            tokens.append(self.special.english if language is None else language)
            tokens.append(getattr(self.special, self.task))
        return [*tokens, self.special.time_begin]

    def encode(self, audio):
        """A window of samples, at most as long as the program takes."""
        padded = np.zeros(self.window_samples, np.float32)
        padded[: len(audio)] = audio
        features = self.mel.predict({"audio": padded})["melspectrogram_features"]
        return self.encoder.predict({"melspectrogram_features": features})["encoder_output_embeds"]

    def decode(self, embeds):
        """`decodeText`: the tokens of a window, from the start of the transcript to the end of the text."""
        inputs, special = self.inputs, self.special
        current, next_token = list(inputs.prompt), inputs.prompt[-1]
        prompt_length = len(inputs.prompt)
        for index in range(min(MOST_TOKENS, MOST_TOKENS - 1)):
            if index < prompt_length:
                are_times = current[index] >= special.time_begin and next_token >= special.time_begin
                if index == prompt_length - 1 and are_times:
                    current[index] = next_token
                else:
                    next_token = current[index]
            answer = self.decoder.predict(
                {
                    "input_ids": np.array([next_token], np.int32),
                    "cache_length": np.array([index], np.int32),
                    "key_cache": inputs.key_cache,
                    "value_cache": inputs.value_cache,
                    # Core ML turns them into what the program declares.
                    "kv_cache_update_mask": inputs.update_mask.astype(np.float16),
                    "encoder_output_embeds": embeds,
                    "decoder_key_padding_mask": inputs.padding_mask,
                }
            )
            logits = answer["logits"]
            assert logits.dtype == np.float16
            assert logits.shape[:2] == (1, 1)
            filtered = filter_timestamps(logits[0, 0].copy(), current, special, prompt_length, self.is_multilingual)
            next_token = int(filtered.argmax())
            if next_token == special.end or len(current) >= MOST_TOKENS - 1:
                break
            if index >= prompt_length - 1:
                current.append(next_token)
            self._copy_columns(answer, index)
            inputs.padding_mask[0, index + 1] = 0
            inputs.update_mask[0, index], inputs.update_mask[0, index + 1] = 0, 1
            if self.has_words:
                inputs.alignment_weights[index + 1] = answer["alignment_heads_weights"][0]
        current.append(special.end)
        first = current.index(special.start) if special.start in current else 0
        return current[first : current.index(special.end) + 1]

    def _copy_columns(self, answer, index):
        """`updateKVCache`: two bytes a number, by the strides of a slice of one column."""
        for cache, name in (
            (self.inputs.key_cache, "key_cache_updates"),
            (self.inputs.value_cache, "value_cache_updates"),
        ):
            column = answer[name]
            assert column.dtype == np.float16
            assert column.shape == (1, cache.shape[1], 1, 1)
            cache[0, :, 0, index] = column[0, :, 0, 0]

    def transcribe(self, audio):
        """The tokens of each window of a sound; the host's inputs are kept from one to the next."""
        windows, seek = [], 0
        while seek < len(audio) - SAMPLE_RATE:
            size = min(self.window_samples, len(audio) - seek)
            tokens = self.decode(self.encode(audio[seek : seek + size]))
            windows.append(tokens)
            seek = max(seek, seek + self._moves(tokens, size))
            self.inputs.reset()
        return windows

    def _moves(self, tokens, size):
        """`findSeekPointAndSegments`: how far the next window begins behind this one."""
        time_begin = self.special.time_begin
        is_time = [token >= time_begin for token in tokens]
        pairs = [at for at in range(1, len(tokens)) if is_time[at - 1] and is_time[at]]
        if not pairs or is_time[-3:] == [False, False, False]:
            return size
        ends_in_one = is_time[-3:] == [False, True, False]
        if ends_in_one:
            pairs.append(max(at for at, each in enumerate(is_time) if each) + 1)
        last = tokens[pairs[-1] - (1 if ends_in_one else 0)] - time_begin
        return int(last * SECONDS_PER_TIME_TOKEN * SAMPLE_RATE)

    def text(self, windows):
        """What is written, without special tokens."""
        tokens = [token for window in windows for token in window if token < self.special.end]
        return self.tokenizer.decode(tokens).strip()
