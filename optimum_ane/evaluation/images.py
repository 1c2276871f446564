"""Opens one image of a dataset, which is untrusted: bounded in bytes and in pixels, of known formats alone."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

from optimum_ane.errors import DatasetError
from optimum_ane.evaluation.dataset_errors import dataset_error

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_BYTES = 64 * 1024 * 1024
"""Largest file of one image."""

MAX_PIXELS = 50_000_000
"""Most pixels of one image, 150 MB as RGB. A few kilobytes of PNG can stand for gigabytes."""

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Of the files that a folder is searched for, in lower case."""

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow reads more, some through other programs, and by content whatever the suffix says."""


def open_image(data: bytes, name: str, row: int | None = None, column: str | None = None) -> Image:
    """Opens an image as transformers' pipelines do: turned as its EXIF says, in RGB.

    Args:
        data: What the file holds.
        name: The file, or the dataset.
        row: The dataset's row, 1-based, where `name` is a dataset.
        column: The dataset's column.

    Returns:
        An image of mode RGB, loaded.

    Raises:
        DatasetError: It is too large, damaged, or of another format.
    """
    return _open(data, name, row, column, as_rgb=True)


def open_class_map(data: bytes, name: str) -> Image:
    """Opens a map of class ids, one number a point, as it is stored: of mode L, I;16, I, P or 1.

    Args:
        data: What the file holds.
        name: The file.

    Raises:
        DatasetError: See `open_image`; or it has several numbers a point.
    """
    image = _open(data, name, None, None, as_rgb=False)
    if image.mode not in ("L", "I;16", "I;16B", "I", "P", "1"):
        what = f"a map of class ids has one number a point, and this is an image of mode {image.mode}"
        raise dataset_error(name, what, "save ids as a grayscale or palette PNG")
    return image


def _open(data: bytes, name: str, row: int | None, column: str | None, *, as_rgb: bool) -> Image:
    import PIL.Image
    from transformers.image_utils import load_image

    def error(what: str, remedy: str) -> DatasetError:
        return dataset_error(name, what, remedy, row=row, column=column)

    if len(data) > MAX_BYTES:
        raise error(f"the image has {len(data):,} bytes, the limit is {MAX_BYTES:,}", "shrink or remove it")
    damaged = "save it again or remove it"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata; the number of pixels is looked at below
            image = PIL.Image.open(io.BytesIO(data), formats=_FORMATS)
            if image.width * image.height <= MAX_PIXELS:
                image.load()
                return load_image(image) if as_rgb else image
    except PIL.UnidentifiedImageError as cause:
        raise error(f"no image of a format that is read ({', '.join(_FORMATS)})", damaged) from cause
    except PIL.Image.DecompressionBombError as cause:
        raise error(f"more than {MAX_PIXELS:,} pixels", "shrink or remove the image") from cause
    except Exception as cause:  # Pillow's readers raise whatever a damaged byte sets off
        text = " ".join(str(cause).split())[:200]
        raise error(f"the image cannot be read ({type(cause).__name__}: {text})", damaged) from cause
    what = f"an image of {image.width:,} × {image.height:,} pixels, the limit is {MAX_PIXELS:,}"
    raise error(what, "shrink or remove it")
