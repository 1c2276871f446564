"""The export configuration of Whisper: a spectrogram, an encoder of it, and a decoder that writes what was said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from optimum_ane.errors import ShapeError, UnsupportedModelError
from optimum_ane.exporters.cached_decoder.crossed import ALIGNMENT
from optimum_ane.exporters.encoder_decoder import EncoderDecoderANEConfig
from optimum_ane.exporters.encoder_sides import Answer, EncoderSide, Source
from optimum_ane.exporters.mel import MelProgram, whisper_extractor
from optimum_ane.exporters.programs import FunctionSpec, ProgramSpec, ValueSpec
from optimum_ane.exporters.text import MAIN
from optimum_ane.tasks import Modality

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel, WhisperFeatureExtractor

    from optimum_ane.exporters.config import Processor
    from optimum_ane.package.form import ExportForm
    from optimum_ane.runtimes import Session

MEL = "mel"
"""The program that makes a spectrogram of a sound."""
AUDIO, FEATURES = "audio", "input_features"


class WhisperSide(EncoderSide):
    """Sounds of one length, as spectrograms that are never padded: silence is a part of them."""

    def __init__(self, config: PretrainedConfig, task: str) -> None:
        super().__init__(config, task)
        self._extractor: WhisperFeatureExtractor | None = None

    @property
    def extractor(self) -> WhisperFeatureExtractor:
        """The checkpoint's feature extractor; that of Whisper's paper before `complete` knew of another."""
        return self._extractor or whisper_extractor(self.config, None)

    @property
    def frames(self) -> int:
        """Of a spectrogram: the encoder halves them, and has a position for each that is left."""
        return 2 * int(self.config.max_source_positions)

    def complete(self, form: ExportForm, processor: Processor | None) -> ExportForm:
        """See `EncoderSide.complete`."""
        self._extractor = whisper_extractor(self.config, processor)
        return replace(form, audio_length=form.audio_length or self.frames)

    def check(self, form: ExportForm) -> None:
        """See `EncoderSide.check`."""
        if form.audio_length != self.frames:
            raise ShapeError(
                f"Whisper's encoder takes spectrograms of {self.frames} frames, and {form.audio_length} were asked "
                "for; leave --audio-length out: longer sounds are heard in windows"
            )

    def inputs(self, form: ExportForm) -> tuple[ValueSpec, ...]:
        """See `EncoderSide.inputs`: float32, as `mel` gives it."""
        return (ValueSpec(FEATURES, (1, int(self.config.num_mel_bins), self.frames), "float32"),)

    def function_inputs(self, function: FunctionSpec, seed: int = 0) -> dict[str, Tensor]:
        """See `EncoderSide.function_inputs`."""
        (value,) = function.inputs
        sound = self.sound(seed)[None]
        return {value.name: sound if value.name == AUDIO else self._heard(sound)}

    def hidden_shape(self, empty_model: nn.Module, form: ExportForm) -> tuple[int, int]:
        """See `EncoderSide.hidden_shape`."""
        return int(self.config.max_source_positions), int(self.config.d_model)

    def further_answers(self, sessions: Mapping[str, Session]) -> Mapping[str, Sequence[Answer]]:
        """See `EncoderSide.further_answers`: spectrograms of the feature extractor and of the program."""
        if MEL not in sessions:
            return {}
        extractor, pairs = self.extractor, []
        for seed in range(2):
            sound = self.sound(seed).numpy()
            expected = extractor(sound, sampling_rate=extractor.sampling_rate, return_tensors="np")[FEATURES]
            pairs.append((expected, np.asarray(sessions[MEL].predict({AUDIO: sound[None]})[FEATURES])))
        return {MEL: pairs}

    def sources(self, form: ExportForm, seed: int = 0) -> tuple[Source, ...]:
        """See `EncoderSide.sources`: two sounds, the second short, with silence behind it."""
        features = [self._heard(self.sound(seed + index)[None]) for index in range(2)]
        return tuple(Source({FEATURES: each}, {FEATURES: each}) for each in features)

    def sound(self, seed: int) -> Tensor:
        """A tone that rises under noise, (samples,) float32; of odd seeds a tenth of the length and then silence."""
        samples = self.extractor.n_samples
        generator = torch.Generator().manual_seed(seed)
        time = torch.arange(samples) / self.extractor.sampling_rate
        pitch = 100 + 300 * torch.rand((), generator=generator)
        tone = 0.3 * torch.sin(2 * torch.pi * (pitch + 20 * time) * time)
        sound = tone * (0.6 + 0.4 * torch.sin(9 * time)) + 0.02 * torch.randn(samples, generator=generator)
        return sound if seed % 2 == 0 else sound * (torch.arange(samples) < samples // 10)

    def _heard(self, sounds: Tensor) -> Tensor:
        """Spectrograms (N, mels, frames) of sounds (N, samples)."""
        with torch.no_grad():
            features: Tensor = MelProgram(self.extractor)(sounds)
        return features


class SpeechToTextANEConfig(EncoderDecoderANEConfig):
    """Whisper: the programs of every encoder-decoder model, and `mel`, which computes in float32 on the CPU."""

    MODALITY: ClassVar[Modality] = "audio-text"
    side: WhisperSide

    @staticmethod
    def make_side(config: PretrainedConfig, task: str) -> WhisperSide:
        """See `EncoderDecoderANEConfig.make_side`."""
        return WhisperSide(config, task)

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """Input names of the encoder's program and their axes."""
        return {FEATURES: {0: "batch_size", 2: "frames"}}

    @property
    def default_context(self) -> int:
        """See `EncoderDecoderANEConfig.default_context`: what Whisper has positions for."""
        return int(self._config.max_target_positions)

    @property
    def further_outputs(self) -> tuple[str, ...]:
        """See `EncoderDecoderANEConfig.further_outputs`: times of words are made of them."""
        return (ALIGNMENT,)

    def alignment_heads(self, model: PreTrainedModel) -> list[tuple[int, int]]:
        """See `EncoderDecoderANEConfig.alignment_heads`."""
        return alignment_heads(self._config, model.generation_config)

    def programs(self, form: ExportForm) -> tuple[ProgramSpec, ...]:
        """See `ANEConfig.programs`."""
        audio = ValueSpec(AUDIO, (1, self.side.extractor.n_samples), "float32")
        mel = FunctionSpec(MAIN, (audio,), (ValueSpec(FEATURES, None, "float32"),))
        # The engine has no float32, and most powers of a spectrogram lie below float16's normal numbers.
        return (*super().programs(form), ProgramSpec(MEL, (mel,), "float32", "cpu_only"))

    def wrap(self, original: nn.Module, program: ProgramSpec) -> Any:
        """See `StockANEConfig.wrap`."""
        return MelProgram(self.side.extractor) if program.name == MEL else super().wrap(original, program)

    def function_inputs(self, function: FunctionSpec, seed: int = 0) -> dict[str, Tensor]:
        """See `ANEConfig.function_inputs`."""
        if [value.name for value in function.inputs] == [AUDIO]:
            return self.side.function_inputs(function, seed)
        return super().function_inputs(function, seed)


def alignment_heads(config: Any, generation_config: Any) -> list[tuple[int, int]]:
    """Layer and head of the attentions to the sound that follow the words.

    Those of `generation_config.json`; without, all heads of the upper half of the layers, as `Whisper.__init__` of
    github.com/openai/whisper has it.

    Args:
        config: The model's.
        generation_config: Its generation's.

    Raises:
        UnsupportedModelError: There are no such heads.
    """
    stated = getattr(generation_config, "alignment_heads", None)
    layers, heads = config.decoder_layers, config.decoder_attention_heads
    if not stated:
        return [(layer, head) for layer in range(layers // 2, layers) for head in range(heads)]
    found = [(int(layer), int(head)) for layer, head in stated]
    if any(not (0 <= layer < layers and 0 <= head < heads) for layer, head in found):
        raise UnsupportedModelError(
            f"alignment_heads of generation_config.json names heads that a decoder of {layers} layers with {heads} "
            "heads does not have; correct it, or leave it out"
        )
    return found
