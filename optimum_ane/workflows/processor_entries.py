"""What the manifest says of how images and sounds become inputs, for a client without Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.exporters.caption import CaptionANEConfig
from optimum_ane.exporters.dual_encoder import DualEncoderANEConfig
from optimum_ane.exporters.image_size import fit_of, with_size
from optimum_ane.exporters.letterbox import letterboxing
from optimum_ane.exporters.stock_image import StockImageANEConfig
from optimum_ane.package.manifest import AudioEntry, ImageEntry

if TYPE_CHECKING:
    from optimum_ane.exporters.config import ANEConfig, Processor
    from optimum_ane.package.form import ExportForm
_OF_CHANNELS = ("image_mean", "image_std")


def image_config_of(ane_config: ANEConfig) -> StockImageANEConfig:
    """What is stated of images; of several programs, of that which takes them."""
    images: ANEConfig = ane_config
    if isinstance(ane_config, DualEncoderANEConfig):
        images = ane_config.images
    elif isinstance(ane_config, CaptionANEConfig):
        images = ane_config.side.images
    assert isinstance(images, StockImageANEConfig)
    return images


def image_entry(form: ExportForm, ane_config: ANEConfig, processor: Processor | None) -> ImageEntry:
    """Describes images; what the processor does not do, or does not say, is left open."""
    images = image_config_of(ane_config)
    assert form.image_size is not None
    factor = getattr(processor, "rescale_factor", None) if getattr(processor, "do_rescale", False) else None
    is_normalized = getattr(processor, "do_normalize", False)
    mean, std = (_numbers(getattr(processor, name, None)) if is_normalized else () for name in _OF_CHANNELS)
    height, width = form.image_size
    return ImageEntry(
        height,
        width,
        images.channels,
        None if factor is None else float(factor),
        mean,
        std,
        images.normalization,
        fit_of(processor, images.channels),
    )


def sized_processor(form: ExportForm, ane_config: ANEConfig, processor: Processor) -> tuple[Processor, str]:
    """The image processor that goes into a package, which makes images of the exported size.

    Returns:
        It, and what there is to say of it; nothing where it is the checkpoint's own.
    """
    assert form.image_size is not None
    height, width = form.image_size
    try:
        channels = image_config_of(ane_config).channels
        fit = letterboxing if form.letterbox else with_size
        sized = fit(processor, (height, width), channels)
    except UnsupportedModelError as error:
        if form.letterbox:
            raise
        return processor, f"warning: {error}"
    if sized is processor:
        return processor, ""
    return sized, f"image processor: set to {height} × {width} pixels"


def audio_entry(form: ExportForm, processor: Processor | None) -> AudioEntry:
    """Describes sounds."""
    assert form.audio_length is not None
    rate = getattr(processor, "sampling_rate", None)
    padding = getattr(processor, "padding_value", None)
    is_normalized = bool(getattr(processor, "do_normalize", False))
    return AudioEntry(form.audio_length, None if rate is None else int(rate), float(padding or 0.0), is_normalized)


def _numbers(values: Any) -> tuple[float, ...]:
    if values is None:
        return ()
    return tuple(float(value) for value in (values if isinstance(values, list | tuple) else [values]))
