"""The spectrogram of a checkpoint's feature extractor, as the module of a program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.nn.mel_spectrogram import MelSpectrogram

if TYPE_CHECKING:
    from transformers import PretrainedConfig, WhisperFeatureExtractor

    from optimum_ane.exporters.config import Processor


def whisper_extractor(config: PretrainedConfig, processor: Processor | None) -> WhisperFeatureExtractor:
    """The feature extractor that a Whisper model's spectrograms come from.

    Args:
        config: The model's.
        processor: The checkpoint's; None stands for that of Whisper's paper with as many mel bands as the model takes.

    Raises:
        UnsupportedModelError: It is none of Whisper's, or makes other spectrograms than the model takes, or draws
            random numbers; the message says which.
    """
    from transformers import WhisperFeatureExtractor

    bands, frames = int(config.num_mel_bins), 2 * int(config.max_source_positions)
    extractor: Any = WhisperFeatureExtractor(feature_size=bands) if processor is None else processor
    extractor = getattr(extractor, "feature_extractor", extractor)
    if not isinstance(extractor, WhisperFeatureExtractor):
        raise UnsupportedModelError(
            f"the feature extractor of this checkpoint is a {type(extractor).__name__}, and the spectrogram of a "
            "Whisper model's package is that of WhisperFeatureExtractor"
        )
    if getattr(extractor, "dither", 0.0):
        raise UnsupportedModelError(
            f"the feature extractor adds noise to each sound (dither {extractor.dither}), which a program cannot; set "
            "dither to 0 in preprocessor_config.json"
        )
    made = (extractor.feature_size, extractor.n_samples // extractor.hop_length)
    if made != (bands, frames):
        raise UnsupportedModelError(
            f"the feature extractor makes {made[0]} × {made[1]} spectrograms (mel bands × frames), and the model "
            f"takes {bands} × {frames}; give the one that belongs to it"
        )
    if extractor.n_samples % extractor.hop_length or extractor.n_fft % 2:
        raise UnsupportedModelError(
            f"sounds of {extractor.n_samples} samples are no whole number of hops of {extractor.hop_length}, or "
            f"frames of {extractor.n_fft} samples have no middle"
        )
    return extractor


def spectrogram_of(extractor: WhisperFeatureExtractor) -> MelSpectrogram:
    """What a feature extractor computes, in convolutions.

    Args:
        extractor: From `whisper_extractor`.
    """
    return MelSpectrogram(torch.from_numpy(extractor.mel_filters), extractor.n_fft, extractor.hop_length)


class MelProgram(nn.Module):
    """The module of the program `mel`: a sound in, what the feature extractor makes of it out.

    Args:
        extractor: From `whisper_extractor`.
    """

    def __init__(self, extractor: WhisperFeatureExtractor) -> None:
        super().__init__()
        self.model = spectrogram_of(extractor)

    def forward(self, audio: Tensor) -> Tensor:
        """(1, samples) float32 → (1, mels, frames)."""
        spectrogram: Tensor = self.model(audio)
        return spectrogram
