"""`ANEModelForX` for sounds: what a feature extractor gives in, transformers' own output classes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.modeling_outputs import ModelOutput

from optimum_ane.errors import InputError, PackageError
from optimum_ane.modeling.input_checks import check_mask
from optimum_ane.modeling.rows import ANERowsModel, check_numbers
from optimum_ane.package.layout import ANE_CONFIG
from optimum_ane.package.manifest import Manifest
from optimum_ane.runtimes import Session

MASK = "attention_mask"
SOUNDS = ("input_values", "input_features")


class ANEAudioModel(ANERowsModel):
    """Base of the model classes of sounds, which have one length in a package.

    Shorter sounds are filled up as the feature extractor does with `padding="max_length"`: the answer is that of the
    original to the same sound filled up, which of some models is another one than to the bare sound.
    """

    modality = "audio"
    input_modalities = ("audio",)

    def __init__(self, sessions: Mapping[str, Session], config: PretrainedConfig, manifest: Manifest) -> None:
        super().__init__(sessions, config, manifest)
        self._check_inputs(frozenset([MASK, *SOUNDS]))
        sounds = [name for name in self._session.inputs if name != MASK]
        lengths = {value for name in sounds for value in self._session.inputs[name].shape[1:]}
        if len(sounds) != 1 or self.manifest.audio is None or self.manifest.audio.length not in lengths:
            raise PackageError(
                f"function {self._session.function_name} takes {', '.join(self._session.inputs)}, and {ANE_CONFIG} "
                "says of no axis of one sound that it is as long; export or download the package again"
            )
        (self.main_input_name,) = sounds

    @property
    def audio_length(self) -> int:
        """Samples of a sound, or frames of a spectrogram."""
        assert self.manifest.audio is not None
        return self.manifest.audio.length

    def forward(
        self,
        input_values: Tensor | np.ndarray | None = None,
        attention_mask: Tensor | np.ndarray | None = None,
        input_features: Tensor | np.ndarray | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ModelOutput | tuple[Any, ...]:
        """Runs the package over any number of sounds.

        Args:
            input_values: (N, samples), floating point, up to the package's length; of some models spectrograms.
            attention_mask: (N, samples), 1 for sound and 0 for padding; None stands for ones. Packages that take none
                take a mask of ones alone.
            input_features: Spectrograms, for packages that take them under this name.
            output_hidden_states: Also give what enters and what leaves each layer, (N, S, C) each, as far as the
                program names them. Core ML gives no values in between, so this needs the portable runtime.
            return_dict: False gives a tuple of the outputs in place of the output class.

        Returns:
            transformers' own output class of the task, float32 on the sounds' device.

        Raises:
            InputError: A sound is longer than the package takes, or holds NaN or infinity; or the mask does not fit.
        """
        name = self.main_input_name
        given = {"input_values": input_values, "input_features": input_features}
        if given[name] is None or any(value is not None for other, value in given.items() if other != name):
            raise InputError(f"this package takes {name}, as its feature extractor gives it")
        values = torch.as_tensor(given[name])
        check_numbers(name, values)
        values, missing = self._filled_up(name, values)
        inputs = {name: values, **self._mask(attention_mask, len(values), missing)}
        return self._answer(inputs, output_hidden_states, return_dict)

    def _filled_up(self, name: str, values: Tensor) -> tuple[Tensor, int]:
        """Sounds of the package's length, and how much of it was missing."""
        shape = self._session.inputs[name].shape
        if tuple(values.shape[1:]) == shape[1:]:
            return values, 0
        pairs = zip(values.shape[1:], shape[1:], strict=True) if values.ndim == len(shape) else ()
        differing = [axis for axis, (given, wanted) in enumerate(pairs, 1) if given != wanted]
        fits = len(differing) == 1 and shape[differing[0]] == self.audio_length
        if not fits or values.shape[differing[0]] > self.audio_length:
            extents = " × ".join(map(str, shape[1:]))
            raise InputError(
                f"{name} has shape {tuple(values.shape)}, and this package takes rows of {extents}, of which "
                f"{self.audio_length} may be fewer; cut with the feature extractor's truncation=True and "
                f"max_length={self.audio_length}, or export with another --audio-length"
            )
        (axis,) = differing
        missing = shape[axis] - values.shape[axis]
        assert self.manifest.audio is not None
        padding = self.manifest.audio.padding_value
        filling = [missing if each == axis else extent for each, extent in enumerate(values.shape)]
        return torch.cat([values, values.new_full(filling, padding)], axis), missing

    def _mask(self, mask: Tensor | np.ndarray | None, rows: int, missing: int) -> dict[str, Tensor]:
        """The mask where the package takes one."""
        length = self.audio_length - missing
        known = torch.ones((rows, length), dtype=torch.int32) if mask is None else torch.as_tensor(mask)
        if known.shape != (rows, length):
            raise InputError(f"{MASK} has shape {tuple(known.shape)}; expected {(rows, length)}, as the sounds have")
        check_mask(known)
        if MASK not in self._session.inputs:
            if not known.bool().all():
                raise InputError(f"this package takes no {MASK}; give each sound alone, or a mask of ones")
            return {}
        return {MASK: torch.nn.functional.pad(known.int(), (0, missing))}

    def _extents(self) -> str:
        kind = "samples" if len(self._session.inputs[self.main_input_name].shape) == 2 else "frames"
        return f"{self.audio_length} {kind}"


class ANEModelForAudioClassification(ANEAudioModel):
    """Scores of a whole sound."""

    task = "audio-classification"


class ANEModelForCTC(ANEAudioModel):
    """Scores of each entry of the vocabulary at each frame, which a CTC tokenizer reads as text.

    Logits are (N, frames, V), of the frames that the original has for sounds of the length given: those of what the
    sounds were filled up with are cut off. Longer sounds go through transformers' pipeline in chunks, with
    `chunk_length_s` of the package's length or less.
    """

    task = "automatic-speech-recognition"

    def forward(
        self,
        input_values: Tensor | np.ndarray | None = None,
        attention_mask: Tensor | np.ndarray | None = None,
        input_features: Tensor | np.ndarray | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ModelOutput | tuple[Any, ...]:
        """See `ANEAudioModel.forward`."""
        given = input_values if self.main_input_name == "input_values" else input_features
        answer = super().forward(input_values, attention_mask, input_features, output_hidden_states)
        assert isinstance(answer, ModelOutput)
        assert given is not None
        axis = 1 + self._session.inputs[self.main_input_name].shape[1:].index(self.audio_length)
        logits = answer["logits"]
        frames = ctc_frames(self.config, int(given.shape[axis]), logits.shape[1], self.audio_length)
        answer["logits"] = logits[:, :frames]
        return answer if return_dict is not False else answer.to_tuple()


class ANEModelForAudioFeatureExtraction(ANEAudioModel):
    """Hidden states of each frame, those of padding among them."""

    task = "feature-extraction"


def ctc_frames(config: PretrainedConfig, length: int, frames: int, longest: int) -> int:
    """Frames of logits that a sound has.

    Args:
        config: The checkpoint's.
        length: Samples of the sound, or frames of its spectrogram.
        frames: Frames of logits of the longest sound.
        longest: Its samples, or frames of its spectrogram.
    """
    kernels, strides = (getattr(config, name, None) for name in ("conv_kernel", "conv_stride"))
    if kernels is None or strides is None:  # spectrograms, whose convolutions fill up at the ends
        return min(frames, -(-length * frames // longest))
    for kernel, stride in zip(kernels, strides, strict=True):
        length = (length - kernel) // stride + 1
    if getattr(config, "add_adapter", False):
        for _ in range(config.num_adapter_layers):
            length = (length - 1) // config.adapter_stride + 1
    return max(0, min(frames, length))
