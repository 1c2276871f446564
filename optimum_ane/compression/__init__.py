"""Weights in fewer bits: recipes mapped onto `coremltools.optimize.coreml`, and a table of what they covered."""

from __future__ import annotations

from optimum_ane.compression.compress import compress_mlpackage
from optimum_ane.compression.coverage import Coverage, CoveredWeight
from optimum_ane.compression.recipes import Recipe, get_recipe, recipe_names

__all__ = ["Coverage", "CoveredWeight", "Recipe", "compress_mlpackage", "get_recipe", "recipe_names"]
