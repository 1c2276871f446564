"""`ANEModelForImageTextToText`: texts of images, captions for one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.modeling_outputs import Seq2SeqLMOutput

from optimum_ane.errors import InputError
from optimum_ane.exporters.encoder_sides import ENCODER
from optimum_ane.modeling.decoder_cache import ANECache
from optimum_ane.modeling.encoder_decoder import ANEEncoderDecoderModel, EncodedRows
from optimum_ane.modeling.image import ANEImageModel
from optimum_ane.package.manifest import Manifest
from optimum_ane.runtimes import Session

_PIXELS = "pixel_values"


class _Images(ANEImageModel):
    """The encoder's program, for what it takes."""

    task = "image-to-text"


class ANEModelForImageTextToText(ANEEncoderDecoderModel):
    """Writes a text of an image: `generate(pixel_values)` as of transformers' `VisionEncoderDecoderModel`."""

    task = "image-to-text"
    modality = "image"
    main_input_name = _PIXELS
    input_modalities = ("image",)

    def __init__(self, sessions: Mapping[str, Session], config: PretrainedConfig, manifest: Manifest) -> None:
        super().__init__(sessions, config, manifest)
        self._images = _Images({"model": sessions[ENCODER]}, config, manifest)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of images in pixels."""
        return self._images.image_size

    def _extents(self) -> str:
        return f"{self.image_size[0]} × {self.image_size[1]} pixels to {self.context_length} tokens"

    def encode(self, pixel_values: Tensor | np.ndarray | None = None) -> EncodedRows:
        """Encodes a batch of images.

        Args:
            pixel_values: (N, channels, height, width), floating point, as the image processor of the package gives
                them; see `ANEImageModel.forward`.

        Returns:
            `last_hidden_state` (N, T, C) float32.

        Raises:
            InputError: See `ANEImageModel.forward`.
        """
        if pixel_values is None:
            raise InputError(f"no {_PIXELS} were given")
        pixels = self._images._pixels(pixel_values)
        dtype = self._programs.inputs[_PIXELS].dtype
        rows = pixels.detach().cpu().numpy().astype(dtype)
        return self._encode_rows([{_PIXELS: rows[index : index + 1]} for index in range(len(rows))], pixels.device)

    def forward(
        self,
        pixel_values: Tensor | np.ndarray | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: ANECache | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
    ) -> Seq2SeqLMOutput | tuple[Any, ...]:
        """Gives the logits behind the tokens of texts that are written of images.

        Args:
            pixel_values: The images; see `encode`. Not read where there are `encoder_outputs`.
            decoder_input_ids: The texts so far, or what follows the cache, (N, Q).
            decoder_attention_mask: (N, …) of ones: texts that are written have no padding.
            encoder_outputs: What `encode` gave.
            past_key_values: What was read before; it is changed. None starts anew.
            use_cache: False keeps what was read out of the answer.
            return_dict: False gives a tuple in place of the output class.

        Returns:
            logits (N, Q, vocabulary), float32 on the device of `decoder_input_ids`; the cache; the encoder's states.

        Raises:
            InputError: Shapes do not fit each other, a text is too long, or an id is no row of the vocabulary.
        """
        if decoder_input_ids is None:
            raise InputError("no decoder_input_ids were given; generate() makes them itself")
        if decoder_attention_mask is not None and not torch.as_tensor(decoder_attention_mask).bool().all():
            raise InputError("decoder_attention_mask has padding; texts of one length are given without any")
        cache = ANECache() if past_key_values is None else past_key_values
        if encoder_outputs is None and not cache.rows:
            encoder_outputs = self.encode(pixel_values)
        logits = self._decode(encoder_outputs, None, decoder_input_ids, cache)
        return self._output(logits, cache, encoder_outputs, use_cache, return_dict)
