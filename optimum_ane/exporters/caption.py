"""The export configuration of models that write texts of images: an encoder of images, and a decoder of texts."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.exporters.encoder_decoder import EncoderDecoderANEConfig
from optimum_ane.exporters.encoder_sides import EncoderSide, Source
from optimum_ane.exporters.programs import ValueSpec
from optimum_ane.exporters.stock_image import PIXEL_VALUES, StockImageANEConfig
from optimum_ane.exporters.stock_module import StockModule
from optimum_ane.tasks import Modality

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig

    from optimum_ane.exporters.config import Processor
    from optimum_ane.exporters.programs import FunctionSpec, ProgramSpec
    from optimum_ane.package.form import ExportForm
    from optimum_ane.package.manifest import Manifest

_NOISE, _COARSE = 0, 2
"""Kinds of images that `StockImageANEConfig.make_rows` makes, by their number."""


class ImageSide(EncoderSide):
    """Images, as packages of images take them.

    Attributes:
        images: What is stated of them.
    """

    def __init__(self, config: PretrainedConfig, task: str) -> None:
        super().__init__(config, task)
        self.images = StockImageANEConfig(config.encoder, task)

    def complete(self, form: ExportForm, processor: Processor | None) -> ExportForm:
        """See `EncoderSide.complete`."""
        return self.images.complete(form, processor)

    def check(self, form: ExportForm) -> None:
        """See `EncoderSide.check`: nothing that is not seen when the encoder is run."""

    def inputs(self, form: ExportForm) -> tuple[ValueSpec, ...]:
        """See `EncoderSide.inputs`."""
        ((name, shape),) = self.images.input_shapes(form).items()
        return (ValueSpec(name, (1, *shape), "float32", image=self.images.image_layout(name, form)),)

    def wrap(self, original: nn.Module, program: ProgramSpec) -> Any:
        """See `EncoderSide.wrap`."""
        encoder: nn.Module = original.get_encoder()
        return StockModule(encoder, [PIXEL_VALUES], ["last_hidden_state"], prepare=self.images.prepare(program))

    def function_inputs(self, function: FunctionSpec, seed: int = 0) -> dict[str, Tensor]:
        """See `EncoderSide.function_inputs`."""
        return self.images.function_inputs(function, seed)

    def sources(self, form: ExportForm, seed: int = 0) -> tuple[Source, ...]:
        """See `EncoderSide.sources`: two images of different kinds; all of them have the same columns."""
        shapes = self.images.input_shapes(form)
        taken = self.images.program_rows(_COARSE + 1, shapes, seed)
        given = self.images.make_rows(_COARSE + 1, shapes, seed)
        return tuple(
            Source(
                {name: value[index : index + 1] for name, value in taken.items()},
                {name: value[index : index + 1] for name, value in given.items()},
            )
            for index in (_NOISE, _COARSE)
        )

    def hidden_shape(self, empty_model: nn.Module, form: ExportForm) -> tuple[int, int]:
        """See `EncoderSide.hidden_shape`; what a program does to an image before is left out."""
        encoder: nn.Module = empty_model.get_encoder()
        ((name, shape),) = self.images.input_shapes(form).items()
        if name not in inspect.signature(encoder.forward).parameters:
            raise UnsupportedModelError(f"the encoder of {self.config.model_type} takes no {name}")
        try:
            with torch.no_grad():
                hidden = encoder(**{name: torch.zeros(1, *shape, device="meta")}).last_hidden_state
        except Exception as error:  # a model raises whatever it stumbles over
            lines = str(error).strip().splitlines()
            raise UnsupportedModelError(
                f"the encoder {type(encoder).__name__} cannot be run on images of {' × '.join(map(str, shape[1:]))} "
                f"pixels: {type(error).__name__}: {lines[0] if lines else 'no reason given'}"
            ) from error
        if hidden.ndim != 3:
            raise UnsupportedModelError(f"{type(encoder).__name__} gives {hidden.ndim} axes, and a decoder takes 3")
        return int(hidden.shape[1]), int(hidden.shape[2])


class CaptionANEConfig(EncoderDecoderANEConfig):
    """Texts of images. What lies between the widths of the two halves, `enc_to_dec_proj`, is in the decoder's program.

    `begin` projects the encoder's states, so that it is computed once for an image.
    """

    MODALITY: ClassVar[Modality] = "image"
    side: ImageSide

    @staticmethod
    def make_side(config: PretrainedConfig, task: str) -> EncoderSide:
        """See `EncoderDecoderANEConfig.make_side`."""
        return ImageSide(config, task)

    def restore(self, manifest: Manifest) -> None:
        """See `ANEConfig.restore`."""
        self.side.images.restore(manifest)

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """See `EncoderDecoderANEConfig.inputs`."""
        return {PIXEL_VALUES: {0: "batch_size"}}
