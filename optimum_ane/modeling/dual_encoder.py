"""`ANEModelForZeroShotImageClassification`: texts and images in, their vectors and how well they fit out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.modeling_outputs import ModelOutput

from optimum_ane.errors import InputError, PackageError
from optimum_ane.modeling.base import ANEModel
from optimum_ane.modeling.image import ANEImageModel
from optimum_ane.modeling.text import ANETextModel
from optimum_ane.package.layout import ANE_CONFIG
from optimum_ane.package.manifest import Manifest
from optimum_ane.runtimes import Session
from optimum_ane.tasks import TASKS, resolve

_TASK = "zero-shot-image-classification"


class _Texts(ANETextModel):
    """The program of texts."""

    task = _TASK
    _required = frozenset(["input_ids"])

    def _arrays(self, inputs: dict[str, Tensor]) -> dict[str, np.ndarray]:
        arrays = super()._arrays(inputs)
        if "attention_mask" in arrays:
            return arrays
        # Every token counts: rows that the program filled up would be other texts.
        ids = arrays["input_ids"]
        if ids.shape[1] != self.sequence_length:
            raise InputError(
                f"input_ids has {ids.shape[1]} tokens a row, and this checkpoint takes texts padded to "
                f'{self.sequence_length}, without a mask; tokenize with padding="max_length" and '
                f"max_length={self.sequence_length}"
            )
        return arrays | {"attention_mask": np.ones_like(ids)}

    def encode(self, inputs: dict[str, Tensor]) -> np.ndarray:
        """The vectors of texts, float32 (N, C)."""
        outputs, _ = self._answer(inputs, with_hidden_states=False)
        return outputs["text_embeds"]


class _Images(ANEImageModel):
    """The program of images."""

    task = _TASK
    _wanted = ("image_embeds",)

    def encode(self, pixel_values: Tensor) -> np.ndarray:
        """The vectors of images, float32 (N, C)."""
        outputs, _ = self._run({"pixel_values": self._pixels(pixel_values)})
        return outputs["image_embeds"]


class ANEModelForZeroShotImageClassification(ANEModel):
    """Says how well each of some images fits each of some texts.

    Each side can be asked alone: vectors of a library of images are made once and kept.
    """

    task = _TASK
    modality = "image-text"
    main_input_name = "input_ids"
    input_modalities = ("text", "image")

    def __init__(self, sessions: Mapping[str, Session], config: PretrainedConfig, manifest: Manifest) -> None:
        super().__init__(sessions, config, manifest)
        missing = [name for name in ("text", "image") if name not in sessions]
        if missing:
            raise PackageError(f"the package lacks the program {missing[0]}; it has {', '.join(sessions)}")
        unknown = [name for name in ("logit_scale", "logit_bias") if name not in manifest.constants]
        if unknown:
            raise PackageError(
                f"{ANE_CONFIG} has no constant {unknown[0]}, by which products of vectors become scores; export or "
                "download the package again"
            )
        self._texts = _Texts({"model": sessions["text"]}, config.get_text_config(), manifest)
        self._images = _Images({"model": sessions["image"]}, config, manifest)

    @property
    def sequence_length(self) -> int:
        """The most tokens that a text may have."""
        return self._texts.sequence_length

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of images in pixels."""
        return self._images.image_size

    def forward(
        self,
        input_ids: Tensor | np.ndarray | None = None,
        pixel_values: Tensor | np.ndarray | None = None,
        attention_mask: Tensor | np.ndarray | None = None,
        token_type_ids: Tensor | np.ndarray | None = None,
        return_dict: bool | None = None,
    ) -> ModelOutput | tuple[Any, ...]:
        """Runs each program over its rows, and multiplies their vectors.

        Args:
            input_ids: (T, S) of T texts; None asks for images alone.
            pixel_values: (I, channels, height, width) of I images; None asks for texts alone.
            attention_mask: (T, S), 1 for a token and 0 for padding; None stands for ones. Ignored by packages whose
                tokenizer gives none (SigLIP), which take texts padded to their full length.
            token_type_ids: (T, S); None stands for zeros. Ignored by packages that take none.
            return_dict: False gives a tuple of the outputs in place of the output class.

        Returns:
            `text_embeds` (T, C) and `image_embeds` (I, C), each vector of length 1, and where both are asked for
            `logits_per_image` (I, T) and `logits_per_text` (T, I): their products by the checkpoint's scale and bias.

        Raises:
            InputError: Neither was given; or see the model classes of texts and of images.
        """
        if input_ids is None and pixel_values is None:
            raise InputError("neither input_ids nor pixel_values was given; give texts, images or both")
        fields: dict[str, Tensor] = {}
        if input_ids is not None:
            ids = torch.as_tensor(input_ids)
            given = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
            inputs = {name: torch.as_tensor(value).cpu() for name, value in given.items() if value is not None}
            vectors = self._texts.encode({"input_ids": ids.detach().cpu()} | inputs)
            fields["text_embeds"] = torch.from_numpy(vectors).to(ids.device)
        if pixel_values is not None:
            pixels = torch.as_tensor(pixel_values)
            fields["image_embeds"] = torch.from_numpy(self._images.encode(pixels)).to(pixels.device)
        if len(fields) == 2:
            constants = self.manifest.constants
            products = fields["text_embeds"] @ fields["image_embeds"].t().to(fields["text_embeds"].device)
            logits = products * constants["logit_scale"] + constants["logit_bias"]
            fields = {"logits_per_image": logits.t(), "logits_per_text": logits, **fields}
        answer = resolve(TASKS[self.task].output_class)(**fields)
        return answer if return_dict is not False else answer.to_tuple()

    def _extents(self) -> str:
        height, width = self.image_size
        return f"{self._texts._extents()}, {height} × {width} pixels"
