"""How a package writes by default, as its files say."""

from __future__ import annotations

from pathlib import Path

from transformers import GenerationConfig

from optimum_ane.errors import PackageError
from optimum_ane.package.layout import GENERATION_CONFIG


def load_generation_config(directory: Path) -> GenerationConfig | None:
    """Reads `generation_config.json` of a package; None where it has none.

    Raises:
        PackageError: It is damaged.
    """
    if not (directory / GENERATION_CONFIG).is_file():
        return None
    try:
        return GenerationConfig.from_pretrained(directory)
    except Exception as error:  # transformers raises what each entry sets off
        raise PackageError(
            f"{directory / GENERATION_CONFIG} is damaged ({type(error).__name__}: {error}); export or download the "
            "package again"
        ) from error
