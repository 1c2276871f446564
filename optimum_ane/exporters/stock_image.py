"""The export configuration of every image model of transformers that goes by its graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.exporters.image_normalization import PIXEL_VALUES, ask_normalization
from optimum_ane.exporters.image_size import size_of, square_of
from optimum_ane.exporters.letterbox import PIXEL_MASK, LetterboxedModule, make_masks
from optimum_ane.exporters.programs import ProgramSpec, ValueSpec
from optimum_ane.exporters.stock_rows import StockRowsANEConfig
from optimum_ane.nn.image_outputs import ClassMap, DepthImage, Detections
from optimum_ane.nn.pixel_normalization import PixelNormalization
from optimum_ane.tasks import Modality

if TYPE_CHECKING:
    from torch import Tensor, nn

    from optimum_ane.exporters.config import Processor
    from optimum_ane.exporters.stock_module import StockModule
    from optimum_ane.package.form import ExportForm
    from optimum_ane.package.manifest import Manifest
    from optimum_ane.package.normalization import Normalization

_FURTHER_OUTPUTS = {
    "depth-estimation": (ValueSpec("depth", None, "float16", image="GRAYSCALE_FLOAT16"),),
    "image-segmentation": (ValueSpec("class_map", None, "int32"),),
    "object-detection": (ValueSpec("confidence", None, "float32"), ValueSpec("coordinates", None, "float32")),
}
FURTHER_NAMES = tuple(value.name for values in _FURTHER_OUTPUTS.values() for value in values)
"""Outputs that are made for apps, which the model classes do not read."""
_GREY, _SPREAD = 127.5, 85.0
"""What numbers of about −1 to 1, times strengths of up to 1.5, become of eight bits."""


class StockImageANEConfig(StockRowsANEConfig):
    """Images, of Core ML's own kind or as tensors `pixel_values` of (B, channels, height, width).

    Attributes:
        normalization: What the program does to an image in the image processor's place; None where it takes tensors.
        why_tensors: Why it takes tensors where it was not asked to; empty where it does not, or was.
    """

    MODALITY: ClassVar[Modality] = "image"
    normalization: Normalization | None = None
    why_tensors: str = ""
    _is_letterboxed = False

    @property
    def input_names(self) -> tuple[str, ...]:
        """See `StockANEConfig.input_names`."""
        return (PIXEL_VALUES, PIXEL_MASK) if self._is_letterboxed else (PIXEL_VALUES,)

    @property
    def module_class(self) -> type[StockModule]:
        """See `StockANEConfig.module_class`."""
        return LetterboxedModule if self._is_letterboxed else super().module_class

    @property
    def channels(self) -> int:
        """Of the images; 3 where the configuration does not say."""
        return _of_vision(self._config, "num_channels") or 3

    def complete(self, form: ExportForm, processor: Processor | None) -> ExportForm:
        """See `ANEConfig.complete`: the size is the processor's, or else the configuration's.

        Where both leave it to the image, as DETR's do, it is a square of the shortest edge that the processor makes.

        Raises:
            UnsupportedModelError: See `ANEConfig.complete`; or images were asked for, and the processor does to them
                what no program can.
        """
        form = super().complete(form, processor)
        self._is_letterboxed = form.letterbox
        return self._with_input(form if form.image_size is not None else self._with_size(form, processor), processor)

    def _with_size(self, form: ExportForm, processor: Processor | None) -> ExportForm:
        size = (
            size_of(processor, self.channels)
            or _as_size(_of_vision(self._config, "image_size"))
            or square_of(processor)
        )
        if size is None:
            raise UnsupportedModelError(
                f"neither an image processor nor the configuration of {self._config.model_type} says how large images "
                "are; give --image-size"
            )
        return replace(form, image_size=size)

    def _with_input(self, form: ExportForm, processor: Processor | None) -> ExportForm:
        """Decides what the program takes, and keeps how it normalises it."""
        assert form.image_size is not None
        if form.image_input == "tensor":
            return form
        try:
            if form.batch_size != 1:
                raise UnsupportedModelError(f"an image of Core ML's is one, and the batch size is {form.batch_size}")
            self.normalization = ask_normalization(processor, (form.image_size[0], form.image_size[-1]), self.channels)
        except UnsupportedModelError as error:
            if form.image_input == "image":
                raise UnsupportedModelError(
                    f"the program cannot normalise images itself: {error}; --image-input tensor leaves it to the "
                    "image processor"
                ) from error
            self.why_tensors = str(error)
            return replace(form, image_input="tensor")
        return replace(form, image_input="image")

    def restore(self, manifest: Manifest) -> None:
        """See `ANEConfig.restore`."""
        self.normalization = None if manifest.image is None else manifest.image.normalization
        self._is_letterboxed = manifest.form.letterbox

    def image_layout(self, name: str, form: ExportForm) -> str:
        """See `StockRowsANEConfig.image_layout`."""
        is_image = form.image_input == "image" and name == PIXEL_VALUES
        return self.normalization.layout if is_image and self.normalization is not None else ""

    def prepare(self, program: ProgramSpec) -> Mapping[str, nn.Module]:
        """See `StockANEConfig.prepare`."""
        names = {value.name for function in program.functions for value in function.inputs if value.image}
        if not names:
            return {}
        assert self.normalization is not None
        return {name: PixelNormalization(self.normalization.scale, self.normalization.bias) for name in names}

    def further_outputs(self, form: ExportForm) -> tuple[ValueSpec, ...]:
        """See `StockRowsANEConfig.further_outputs`."""
        return _FURTHER_OUTPUTS[self.task] if form.postprocess else ()

    def finish(self, program: ProgramSpec) -> nn.Module | None:
        """See `StockANEConfig.finish`."""
        (function,) = program.functions
        pixels = function.inputs[0]
        if not {value.name for value in function.outputs} & {*FURTHER_NAMES}:
            return None
        assert pixels.shape is not None
        size = (pixels.shape[-2], pixels.shape[-1])
        if self.task == "object-detection":
            return Detections(self._config.num_labels)
        return ClassMap(size) if self.task == "image-segmentation" else DepthImage(size)

    def check(self, form: ExportForm) -> None:
        """See `ANEConfig.check`."""
        if PIXEL_VALUES not in self.forward_arguments():
            raise UnsupportedModelError(
                f"the forward of {self._config.model_type} for {self.task} takes no {PIXEL_VALUES}: it is no model of "
                "images alone"
            )
        if form.letterbox and PIXEL_MASK not in self.forward_arguments():
            raise UnsupportedModelError(
                f"the forward of {self._config.model_type} takes no {PIXEL_MASK}, which would say what is image where "
                "the size is filled up; leave out --letterbox"
            )

    def input_shapes(self, form: ExportForm) -> dict[str, tuple[int, ...]]:
        """See `StockRowsANEConfig.input_shapes`."""
        assert form.image_size is not None
        shapes: dict[str, tuple[int, ...]] = {PIXEL_VALUES: (self.channels, *form.image_size)}
        return shapes | ({PIXEL_MASK: form.image_size} if form.letterbox else {})

    def make_rows(self, count: int, shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
        """See `StockRowsANEConfig.make_rows`.

        In turn noise, a ramp from corner to corner, noise of coarse patches, and one grey throughout, the edge of what
        an image can be; with other strengths in each channel. Where the program normalises, they are images of eight
        bits a channel that were normalised, else numbers of about −1 to 1, where processors normalise to about that.
        """
        rows = self.program_rows(count, shapes, seed)
        if self.normalization is not None:
            rows[PIXEL_VALUES] = torch.from_numpy(self.normalization.apply(rows[PIXEL_VALUES].numpy()))
        if PIXEL_MASK in rows:
            rows[PIXEL_VALUES] = rows[PIXEL_VALUES] * rows[PIXEL_MASK][:, None]
        return rows

    def program_rows(self, count: int, shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
        """See `StockRowsANEConfig.program_rows`: whole numbers of 0 to 255 where the program normalises."""
        images = _images(count, shapes[PIXEL_VALUES], seed)
        rows = {PIXEL_VALUES: images}
        if self.normalization is not None:
            rows[PIXEL_VALUES] = (_GREY + _SPREAD * images).round().clip(0, 255)
        if PIXEL_MASK in shapes:
            height, width = shapes[PIXEL_MASK]
            rows[PIXEL_MASK] = make_masks(count, (height, width))
        return rows


def _images(count: int, shape: tuple[int, ...], seed: int) -> Tensor:
    channels, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None, :]
    images = []
    for index in range(count):
        strength = torch.rand((channels, 1, 1), generator=generator) + 0.5
        coarse = torch.randn((1, channels, 4, 4), generator=generator)
        kinds = (
            torch.randn((channels, height, width), generator=generator),
            ((rows + columns) / 2).expand(channels, height, width),
            torch.nn.functional.interpolate(coarse, (height, width))[0],
            torch.full((channels, height, width), 1.0 - 2.0 * (index // 4 % 2)),
        )
        images.append(kinds[index % len(kinds)] * strength)
    return torch.stack(images)


def _of_vision(config: Any, name: str) -> Any:
    """An entry of a configuration, or of its part about images."""
    value = getattr(config, name, None)
    return value if value is not None else getattr(getattr(config, "vision_config", None), name, None)


def _as_size(value: Any) -> tuple[int, int] | None:
    """Height and width, in whichever form configurations write them."""
    if isinstance(value, int):
        return (value, value)
    if isinstance(value, list | tuple) and len(value) == 2:
        return (int(value[0]), int(value[1]))
    return None
