"""The export configuration of Whisper for WhisperKit: programs, names, shapes and types as its host reads them."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from optimum_ane.errors import CheckpointError, ShapeError, UnsupportedModelError
from optimum_ane.exporters.cached_decoder.whisperkit import WhisperKitDecoder, WhisperKitEncoder, WhisperKitMel
from optimum_ane.exporters.mel import spectrogram_of
from optimum_ane.exporters.programs import FunctionSpec, ProgramSpec, ValueSpec
from optimum_ane.exporters.text import MAIN
from optimum_ane.exporters.whisper import SpeechToTextANEConfig

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase, WhisperForConditionalGeneration

    from optimum_ane.exporters.config import Processor
    from optimum_ane.package.form import ExportForm

KIT_MEL, KIT_ENCODER, KIT_DECODER = "MelSpectrogram", "AudioEncoder", "TextDecoder"
"""The programs."""
KIT_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
"""What stands beside them in the client's folder."""

_LEAST_COLUMNS = 224
"""The host clears so many columns of its masks between windows, however many there are (`maxTokenContext`)."""
_ENGLISH_WORDS = 51864
"""The one vocabulary that the host takes for an English model's (`ModelUtilities.isModelMultilingual`)."""
_END_OF_ENGLISH = 50256
"""What `<|endoftext|>` is in English models, which have the words of GPT-2; others have it one behind."""
_END, _START, _NO_TIMES, _FIRST_TIME = "<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>", "<|0.00|>"
_OF_SEVERAL_LANGUAGES = ("<|en|>", "<|transcribe|>", "<|translate|>")
_TIMES = 1501
"""From 0 to 30 seconds, each 20 ms after the one before."""


class WhisperKitANEConfig(SpeechToTextANEConfig):
    """`MelSpectrogram`, `AudioEncoder` and `TextDecoder`, over caches that the host keeps, a column for each token."""

    def complete(self, form: ExportForm, processor: Processor | None) -> ExportForm:
        """See `EncoderDecoderANEConfig.complete`; the caches are inputs."""
        return super().complete(replace(form, kv_cache=form.kv_cache or "io"), processor)

    def check(self, form: ExportForm) -> None:
        """See `ANEConfig.check`."""
        super().check(form)
        if form.kv_cache != "io":
            raise UnsupportedModelError(
                f"WhisperKit keeps the cache itself, not as --kv-cache {form.kv_cache} asks for: leave it out"
            )
        if form.precision != "float16":
            raise UnsupportedModelError("WhisperKit copies float16 numbers, two bytes each; leave --precision out")
        assert form.context_length is not None
        if form.context_length < _LEAST_COLUMNS:
            raise ShapeError(
                f"a context of {form.context_length} tokens is below the {_LEAST_COLUMNS} columns that WhisperKit "
                f"clears between windows; choose --context-length {_LEAST_COLUMNS} or more"
            )

    def adapt_tokenizer(self, tokenizer: PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase | None:
        """See `ANEConfig.adapt_tokenizer`: with tokens of times, which the host looks up.

        Raises:
            CheckpointError: The checkpoint has no tokenizer, or one that the host would misread.
        """
        if tokenizer is None:
            raise CheckpointError("WhisperKit reads tokenizer.json, and this checkpoint has no tokenizer")
        check_client_vocabulary(tokenizer, self._config)
        return with_times(tokenizer, self.vocab_size)

    def programs(self, form: ExportForm) -> tuple[ProgramSpec, ...]:
        """See `ANEConfig.programs`."""
        config, side, half = self._config, self.side, "float16"
        columns, kept = form.context_length, config.decoder_layers * config.d_model
        assert columns is not None
        features = ValueSpec("melspectrogram_features", (1, config.num_mel_bins, 1, side.frames), half)
        embeds = ValueSpec("encoder_output_embeds", (1, config.d_model, 1, config.max_source_positions), half)
        cache = (1, kept, 1, columns)
        mel = FunctionSpec(MAIN, (ValueSpec("audio", (side.extractor.n_samples,), half),), (_open(features),))
        encode = FunctionSpec(MAIN, (features,), (_open(embeds),))
        decode = FunctionSpec(
            MAIN,
            inputs=(
                ValueSpec("input_ids", (1,), "int32"),
                ValueSpec("cache_length", (1,), "int32"),
                ValueSpec("key_cache", cache, half),
                ValueSpec("value_cache", cache, half),
                ValueSpec("kv_cache_update_mask", (1, columns), half),
                embeds,
                ValueSpec("decoder_key_padding_mask", (1, columns), half),
            ),
            outputs=tuple(
                ValueSpec(name, None, half)
                for name in ("logits", "key_cache_updates", "value_cache_updates", "alignment_heads_weights")
            ),
        )
        return (
            ProgramSpec(KIT_ENCODER, (encode,), form.precision, form.compute_units),
            ProgramSpec(KIT_DECODER, (decode,), form.precision, form.compute_units),
            ProgramSpec(KIT_MEL, (mel,), "float32", "cpu_only"),
        )

    def wrap(self, original: nn.Module, program: ProgramSpec) -> Any:
        """See `StockANEConfig.wrap`."""
        model: WhisperForConditionalGeneration = original  # type: ignore[assignment]
        if program.name == KIT_MEL:
            return WhisperKitMel(spectrogram_of(self.side.extractor))
        if program.name == KIT_ENCODER:
            return WhisperKitEncoder(model)
        return WhisperKitDecoder(model, self.alignment_heads(model))

    def function_inputs(self, function: FunctionSpec, seed: int = 0) -> dict[str, Tensor]:
        """See `ANEConfig.function_inputs`."""
        generator = torch.Generator().manual_seed(seed)
        specs = {value.name: value for value in function.inputs}
        columns = (specs["key_cache"].shape or ())[3] if "key_cache" in specs else 0
        position, made = columns // 2, {}
        for name, spec in specs.items():
            shape, dtype = spec.shape or (), getattr(torch, spec.dtype)
            if name == "audio":
                value = self.side.sound(seed)
            elif name == "input_ids":
                value = torch.randint(0, self.vocab_size, shape, generator=generator)
            elif name == "cache_length":
                value = torch.tensor([position])
            elif name == "kv_cache_update_mask":
                value = (torch.arange(columns) == position)[None]
            elif name == "decoder_key_padding_mask":
                value = torch.where(torch.arange(columns) <= position, 0.0, -1e4)[None]
            else:
                value = torch.randn(shape, generator=generator)
            made[name] = value.to(dtype)
        return made


def _open(spec: ValueSpec) -> ValueSpec:
    return replace(spec, shape=None)


def check_client_vocabulary(tokenizer: PreTrainedTokenizerBase, config: Any) -> None:
    """Refuses a vocabulary that WhisperKit would misread.

    It tells an English model by its 51,864 words alone, and takes each special token that it does not find for that
    of the model of several languages.

    Raises:
        CheckpointError: The message says what is misread.
    """
    ids, words = tokenizer.get_vocab(), config.vocab_size
    is_english = ids.get(_END) == _END_OF_ENGLISH
    if is_english != (words == _ENGLISH_WORDS):
        kind, taken = ("English", "several languages") if is_english else ("several languages", "English")
        raise CheckpointError(
            f"WhisperKit tells an English model by its {_ENGLISH_WORDS} words, and would take this one, whose "
            f"tokenizer is that of {kind} and whose vocabulary has {words}, for one of {taken}; choose --layout native"
        )
    names = (_END, _START, _NO_TIMES, *(() if is_english else _OF_SEVERAL_LANGUAGES))
    for name in names:
        if name not in ids:
            raise CheckpointError(
                f"the tokenizer has no {name}, for which WhisperKit would take a token of OpenAI's models of several "
                "languages; give the tokenizer that the model was trained with"
            )
    for name, entry in ((_END, "eos_token_id"), (_START, "decoder_start_token_id")):
        if ids[name] != getattr(config, entry):
            raise CheckpointError(
                f"the tokenizer gives {ids[name]} for {name}, and {entry} of config.json is {getattr(config, entry)}; "
                "WhisperKit reads the tokenizer alone"
            )


def with_times(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> PreTrainedTokenizerBase:
    """A tokenizer with the tokens of times, `<|0.00|>` to `<|30.00|>`, behind `<|notimestamps|>`.

    Without them WhisperKit takes the first for 50,364, which is another one in English models.

    Raises:
        CheckpointError: They stand elsewhere, or cannot be put there.
    """
    ids, first = tokenizer.get_vocab(), tokenizer.convert_tokens_to_ids(_NO_TIMES) + 1
    if ids.get(_FIRST_TIME, first) != first or (_FIRST_TIME not in ids and len(tokenizer) != first):
        raise CheckpointError(
            f"the model has {_FIRST_TIME} at {first}, behind {_NO_TIMES}, and the tokenizer has something else there"
        )
    if vocab_size < first + _TIMES:
        raise CheckpointError(
            f"the vocabulary of {vocab_size} words ends before the {_TIMES} tokens of times from {first} on"
        )
    if _FIRST_TIME in ids:
        return tokenizer
    from tokenizers import AddedToken

    tokenizer = copy.deepcopy(tokenizer)
    times = [f"<|{0.02 * step:.2f}|>" for step in range(_TIMES)]
    tokenizer.add_tokens([AddedToken(each, special=False, normalized=False) for each in times])
    return tokenizer
