"""The logarithmic mel spectrogram of a sound, in convolutions, as Whisper's models take it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEAST_POWER = 1e-10
"""What powers below are taken for, so that silence has a logarithm."""
_RANGE = 8.0
"""Powers of ten below the loudest value that are told apart."""


class MelSpectrogram(nn.Module):
    """Whisper's spectrogram: log10 of the mel filters over the power of a short-time Fourier transform.

    The transform is one convolution with the cosines and the sines of each frequency under a Hann window, its stride
    the hop. It has to compute in float32: most powers lie below float16's normal numbers.

    Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (2022), section 2.2, and
    `WhisperFeatureExtractor` of transformers, which frames a sound around multiples of the hop, mirrored at both
    ends, and drops the last frame.

    Args:
        filters: (1 + n_fft / 2, mels), the weight of each frequency in each mel band.
        n_fft: Samples of a frame.
        hop: Samples from one frame to the next.
    """

    waves: Tensor
    bands: Tensor

    def __init__(self, filters: Tensor, n_fft: int, hop: int) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.bins = filters.shape[0]
        times = torch.arange(n_fft, dtype=torch.float64)
        # Whole turns are taken off first, while the numbers are whole.
        turns = torch.outer(torch.arange(self.bins, dtype=torch.float64), times).remainder(n_fft) / n_fft
        angles = 2 * math.pi * turns
        window = torch.hann_window(n_fft, dtype=torch.float64)
        waves = torch.cat((angles.cos(), angles.sin())) * window
        self.register_buffer("waves", waves.float()[:, None, None, :])
        self.register_buffer("bands", filters.float().T.contiguous()[:, :, None, None])

    def forward(self, audio: Tensor) -> Tensor:
        """(B, samples) → (B, mels, samples / hop).

        Args:
            audio: Float32 between −1 and 1, at the rate that the filters are made for.
        """
        half = self.n_fft // 2
        # To the right only what the last frame but one still reaches.
        framed = F.pad(audio[:, None, :], (half, max(0, half - self.hop)), mode="reflect")
        parts = F.conv2d(framed[:, :, None, :], self.waves, stride=(1, self.hop))
        cosines, sines = parts.split(self.bins, dim=1)
        power = F.conv2d(cosines * cosines + sines * sines, self.bands)
        logarithm = torch.log(power.clamp(min=_LEAST_POWER)) * (1 / math.log(10))
        loudest = logarithm.amax(dim=(1, 2, 3), keepdim=True)
        scaled = (torch.maximum(logarithm, loudest - _RANGE) + 4.0) / 4.0
        return scaled.squeeze(2)
