"""Whether an original's answer to a row depends on the padding beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from optimum_ane.validation.psnr import psnr

if TYPE_CHECKING:
    from torch import Tensor

    from optimum_ane.tasks import OutputField
    from optimum_ane.validation.comparison import Answers, Model

_ROWS = 3


def likeness_without_padding(
    model: Model, reference: Answers, examples: Sequence[Mapping[str, Tensor]], fields: Sequence[OutputField]
) -> float | None:
    """Asks an original for padded rows once more, without their padding.

    A program pads every row to its length. Most models mask what is padded; some let it into a convolution, a pooling
    or a Fourier transform, and give padded rows other answers than bare ones.

    Args:
        model: The original.
        reference: What it answered to the examples.
        examples: Batches of keyword arguments. Rows that are padded on the left are passed by, since models count the
            padding as positions; so are images and sounds, and texts that are compared with images.
        fields: The fields of its output.

    Returns:
        dB, the least of a few rows and all fields; `-inf` where it takes no rows as short as they are; None where no
        row is padded.
    """
    least: list[float] = []
    for index, batch in enumerate(examples):
        if "attention_mask" not in batch or "pixel_values" in batch:
            continue
        mask = batch["attention_mask"].flatten(0, -2)
        lengths, width = mask.sum(-1).tolist(), mask.shape[-1]
        padded = [row for row, length in enumerate(lengths) if 0 < length < width and mask[row, 0]]
        for row in padded[:_ROWS]:
            bare = {name: value[row : row + 1, ..., : lengths[row]] for name, value in batch.items()}
            try:
                with torch.no_grad():
                    answer = model(**bare)
            except (RuntimeError, ValueError, IndexError):
                return float("-inf")
            for field in fields:
                expected = reference.fields[field.name][index][row]
                if field.per != "row":
                    expected = expected[: lengths[row]]
                given = answer[field.name].float()[0]
                same = given.shape == expected.shape
                least.append(psnr(expected.numpy(), given.numpy()) if same else float("-inf"))
    return min(least, default=None)
