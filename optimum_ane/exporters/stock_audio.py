"""The export configuration of every model of sounds of transformers that goes by its graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.exporters.stock_rows import StockRowsANEConfig
from optimum_ane.tasks import Modality

if TYPE_CHECKING:
    from torch import Tensor, nn

    from optimum_ane.exporters.config import Processor
    from optimum_ane.package.form import ExportForm

MASK = "attention_mask"
SOUNDS = ("input_values", "input_features")
"""What models call a sound or its spectrogram."""

_SECONDS, _SAMPLING_RATE, _FRAMES = 5, 16_000, 500
"""Of a sound whose length nothing states: samples of the rate that speech models take, or frames of 10 ms."""


class StockAudioANEConfig(StockRowsANEConfig):
    """Sounds, (B, samples), or spectrograms, as the feature extractor gives them, of one length.

    A mask, (B, samples) or (B, frames), is an input where both the original's forward and the feature extractor have
    one.
    """

    MODALITY: ClassVar[Modality] = "audio"

    _left_out: frozenset[str] = frozenset()

    def limit_inputs(self, available: Collection[str]) -> None:
        """See `ANEConfig.limit_inputs`."""
        self._left_out = frozenset([MASK]).difference(available)

    @property
    def input_names(self) -> tuple[str, ...]:
        """See `StockANEConfig.input_names`."""
        taken = self.forward_arguments()
        sounds = [name for name in SOUNDS if name in taken][:1]
        # A model with a position for each frame takes spectrograms of that length, padding and all.
        is_masked = MASK in taken and MASK not in self._left_out and _own_length(self._config) is None
        return (*sounds, *([MASK] if is_masked else ()))

    @property
    def bins(self) -> int | None:
        """Numbers in each frame of a spectrogram; None of models that take the sound itself."""
        config = self._config
        names = ("num_mel_bins", "feature_projection_input_dim", "input_feat_per_channel")
        found = [getattr(part, name, None) for part in (config, _encoder(config)) for name in names]
        return next((int(number) for number in found if number), None)

    def part_of(self, original: nn.Module) -> nn.Module:
        """See `ANEConfig.part_of`: the features of what has a decoder too are those of its encoder."""
        has_decoder = getattr(self._config, "is_encoder_decoder", False)
        return original.get_encoder() if has_decoder and self.task == "feature-extraction" else original

    def complete(self, form: ExportForm, processor: Processor | None) -> ExportForm:
        """See `ANEConfig.complete`: the length is that of the model's own positions where it has some."""
        form = super().complete(form, processor)
        if form.audio_length is not None:
            return form
        rate = getattr(processor, "sampling_rate", None) or _SAMPLING_RATE
        own = _own_length(self._config)
        return replace(form, audio_length=own or (_FRAMES if self.bins else _SECONDS * int(rate)))

    def check(self, form: ExportForm) -> None:
        """See `ANEConfig.check`."""
        if not set(SOUNDS) & set(self.input_names):
            raise UnsupportedModelError(
                f"the forward of {self._config.model_type} for {self.task} takes neither {' nor '.join(SOUNDS)}: it "
                "is no model of sounds alone"
            )

    def input_shapes(self, form: ExportForm) -> dict[str, tuple[int, ...]]:
        """See `StockRowsANEConfig.input_shapes`."""
        length, bins = form.audio_length, self.bins
        assert length is not None
        shape: tuple[int, ...] = (length,)
        if bins is not None:
            shape = (bins, length) if _has_frames_last(self._config) else (length, bins)
        return {name: (length,) if name == MASK else shape for name in self.input_names}

    def make_rows(self, count: int, shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
        """See `StockRowsANEConfig.make_rows`.

        In turn noise, a tone that rises, noise that swells, and a sound that is padded after a quarter of the length;
        of zero mean and unit variance, as feature extractors make them.
        """
        name = self.input_names[0]
        shape = shapes[name]
        time = shape.index(max(shape)) if self.bins is None else (1 if _has_frames_last(self._config) else 0)
        length = shape[time]
        generator = torch.Generator().manual_seed(seed)
        along = torch.linspace(0, 1, length)
        along = along[:, None] if len(shape) == 2 and time == 0 else along
        is_sound = torch.ones(count, length, dtype=torch.int32)
        rows = []
        for index in range(count):
            noise = torch.randn(shape, generator=generator)
            pitch = 20 + 60 * torch.rand((), generator=generator)
            tone = (1.4 * torch.sin(pitch * (along + along**2))).expand(shape)
            kinds = (noise, tone + 0.05 * noise, noise * 1.7 * along, noise)
            kind = index % len(kinds)
            if kind == 3:
                is_sound[index, max(1, length // 4) :] = 0
                mask = is_sound[index].float()
                kinds = (*kinds[:3], noise * (mask[:, None] if len(shape) == 2 and time == 0 else mask))
            rows.append(kinds[kind])
        values = {name: torch.stack(rows)}
        return {**values, MASK: is_sound} if MASK in shapes else values


def _encoder(config: Any) -> Any:
    return getattr(config, "encoder_config", None) or getattr(config, "audio_config", None)


def _has_frames_last(config: Any) -> bool:
    """Whether spectrograms are (bins, frames), as Whisper's are, whose positions are counted after a stride of 2."""
    return hasattr(config, "max_source_positions") and hasattr(config, "num_mel_bins")


def _own_length(config: Any) -> int | None:
    """Frames that a model's table of positions is made for."""
    if _has_frames_last(config):
        return 2 * config.max_source_positions
    length = getattr(config, "max_length", None)
    return int(length) if length and getattr(config, "num_mel_bins", None) else None
