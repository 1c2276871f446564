"""Every architecture and every head under padding of every kind, against the original where its answer is defined."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from verification.row import REPOSITORY, Row

LEAST_DB = 100.0


def measure(folder: Path) -> Iterator[Row]:
    """Measures what `tests/models/test_padding.py` tests, with its models and masks."""
    del folder
    sys.path[:0] = [str(REPOSITORY / "tests"), str(REPOSITORY / "tests" / "models")]
    import test_padding as padding
    from tiny_models import ARCHITECTURES, TASKS, answer, as_tuple, make_original, psnr

    from optimum_ane import convert_to_ane

    least, place, count, undefined = float("inf"), "", 0, 0
    for name in ARCHITECTURES:
        for task in TASKS:
            original = make_original(name, task)
            module = convert_to_ane(original, task)
            for kind, mask in padding.MASKS.items():
                inputs = padding.padded_inputs(original, mask)
                reference = answer(original, inputs)
                rows = padding.is_defined(original, inputs, reference)
                expected = padding.compared(inputs, reference, rows)
                actual = padding.compared(inputs, as_tuple(module(**inputs)), rows)
                count, undefined = count + len(rows), undefined + int((~rows).sum())
                ratio = min(map(psnr, expected, actual))
                if ratio < least:
                    least, place = ratio, f"{name}, {task}, {kind}"
    yield Row(
        f"padding on the left and right, holes, first token masked, rows of one token; {len(ARCHITECTURES)} "
        f"configurations × {len(TASKS)} tasks, module in float32",
        f"≥ {LEAST_DB:.0f} dB",
        f"{least:.1f} dB ({place}); {count} rows, {undefined} of them without a defined answer",
        least >= LEAST_DB,
    )
