"""Whether an original answers the same input in the same way each time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from optimum_ane.errors import ValidationError
from optimum_ane.validation.comparison import MODULE_PSNR, answer_examples, compare_fields

if TYPE_CHECKING:
    from torch import Tensor

    from optimum_ane.tasks import OutputField
    from optimum_ane.validation.comparison import Model


def check_draws_nothing(model: Model, examples: Sequence[Mapping[str, Tensor]], fields: Sequence[OutputField]) -> None:
    """Asks an original the same twice: what it draws at random would be frozen in a program.

    Args:
        model: The original.
        examples: Batches of keyword arguments.
        fields: The fields of its output.

    Raises:
        ValidationError: The two answers differ.
    """
    first, second = (answer_examples(model, examples, fields) for _ in range(2))
    for name, ratio in compare_fields(first, second, examples, fields).items():
        if not ratio >= MODULE_PSNR:
            raise ValidationError(
                f"the original draws random numbers: asked the same twice, its two answers for {name} are {ratio:.1f} "
                "dB apart, and a program would hold one draw for ever; nothing was written. Switch the draw off in "
                "the checkpoint's configuration"
            )
