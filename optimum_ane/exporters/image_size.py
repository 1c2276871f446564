"""Which size an image processor gives images, how, and one like it that gives another size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.exporters.image_normalization import PIXEL_VALUES, picture

if TYPE_CHECKING:
    from optimum_ane.exporters.config import Processor

_ASKED = ((360, 480), (640, 400))
"""Heights and widths of the images that a processor is asked about."""
_EXTREME = 4
"""How much wider than its size the image is that tells how a processor fits it in."""


def size_of(processor: Processor | None, channels: int) -> tuple[int, int] | None:
    """Height and width of what an image processor makes of images; None where these depend on the image.

    It is asked, on two images of other proportions: what its entries mean differs from one to the next.
    """
    if processor is None:
        return None
    sizes = set()
    for height, width in _ASKED:
        try:
            pixels = processor(picture(np.zeros((channels, height, width), np.uint8)), return_tensors="np")[
                PIXEL_VALUES
            ]
        except Exception as error:  # processors raise whatever an entry sets off
            raise UnsupportedModelError(
                f"{type(processor).__name__} cannot be run on an image of {height} × {width} pixels "
                f"({type(error).__name__}: {error}); give --image-size, or mend preprocessor_config.json"
            ) from error
        sizes.add(tuple(np.shape(pixels)[-2:]))
    return sizes.pop() if len(sizes) == 1 else None


def square_of(processor: Processor | None) -> tuple[int, int] | None:
    """A square of the shortest edge that a processor makes of any image; None where it does not say."""
    edge = _entries(getattr(processor, "size", None)).get("shortest_edge")
    return None if edge is None else (edge, edge)


def with_size(processor: Processor, size: tuple[int, int], channels: int) -> Processor:
    """A processor that makes images of a size, as near to the given one as can be.

    One that crops the middle of a larger image crops it of one that is larger by as much; others stretch the image.
    Whether it does is found by asking it.

    Args:
        processor: The checkpoint's; it is not changed.
        size: Height and width.
        channels: Of the images.

    Returns:
        The processor itself where it makes that size of any image.

    Raises:
        UnsupportedModelError: None of what it can be set to makes that size.
    """
    if size_of(processor, channels) == size:
        return processor
    reason = "none of its entries says so"
    for changes in _ways(processor, size):
        try:
            other = changed(processor, changes)
            if size_of(other, channels) == size:
                return other
        except UnsupportedModelError as error:
            reason = str(error)
    raise UnsupportedModelError(
        f"{type(processor).__name__} cannot be set to make images of {size[0]} × {size[1]} pixels ({reason}): resize "
        "them before it, or choose another --image-size"
    )


def changed(processor: Any, changes: Mapping[str, Any]) -> Any:
    """A processor with some other entries."""
    try:
        return type(processor).from_dict({**processor.to_dict(), **changes})
    except Exception as error:  # processors raise whatever an entry sets off
        raise UnsupportedModelError(f"{type(error).__name__}: {error}") from error


def _ways(processor: Any, size: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Entries that may make a processor give a size, the nearest to its own first."""
    height, width = size
    crop, before = (_entries(getattr(processor, name, None)) for name in ("crop_size", "size"))
    extents = {"height": height, "width": width}
    if getattr(processor, "do_center_crop", False) and crop.get("height") and crop.get("width"):
        larger = max(height / crop["height"], width / crop["width"])
        yield {"crop_size": extents, "size": {name: round(extent * larger) for name, extent in before.items()}}
    if getattr(processor, "crop_pct", None) is not None and height == width:
        yield {"size": {"shortest_edge": height}}
        yield {"size": {"shortest_edge": height}, "crop_size": extents}
    stretched = {"do_resize": True, "do_center_crop": False, "do_pad": False, "keep_aspect_ratio": False}
    known = {name: value for name, value in stretched.items() if hasattr(processor, name)}
    yield {**known, "size": extents}
    if hasattr(processor, "ensure_multiple_of"):
        yield {**known, "size": extents, "ensure_multiple_of": 1}


def _entries(size: Any) -> Mapping[str, int]:
    """What a size says, in whichever form processors have it: names with their numbers."""
    given = size if isinstance(size, Mapping) else getattr(size, "__dict__", {})
    return {str(name): extent for name, extent in given.items() if isinstance(extent, int)}


def fit_of(processor: Processor | None, channels: int) -> Literal["fill", "crop", "pad", ""]:
    """How a processor fits an image of other proportions into its size, found by asking it.

    Returns:
        `"fill"`: stretched; `"crop"`: what is beyond is cut off at both ends; `"pad"`: filled up; empty where it does
        neither, where there is none, or where it cannot be run on images alone.
    """
    try:
        size = size_of(processor, channels)
    except UnsupportedModelError:
        return ""
    if processor is None or size is None:
        return ""
    height, width = size[0], size[1] * _EXTREME
    black = np.zeros((channels, height, width), np.uint8)
    white, edged = np.full_like(black, 255), black.copy()
    edged[..., : width // 8] = edged[..., -(width // 8) :] = 255
    values = [
        np.asarray(processor(picture(each), return_tensors="np")[PIXEL_VALUES])[0] for each in (black, white, edged)
    ]
    dark, light = values[0].min(), values[1].max()
    middle = (dark.astype(np.float64) + light) / 2
    if (values[1] < middle).any():
        return "pad"
    ends = values[2][..., [0, -1]] > middle
    return "fill" if ends.all() else "crop" if not ends.any() else ""
