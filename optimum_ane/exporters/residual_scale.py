"""Residual streams that float16 cannot hold, made smaller by a factor α that the weights carry.

What is added to the stream is multiplied by α, and each norm that reads it gives the same again: a root-mean-square
norm of α·x with ε·α² is that of x with ε. Which parameters carry α is a recipe of each family.

Gemma 3's residuals reach 61,040 (1B) to 292,969 (4B), and float16 ends at 65,504 (ANEMLL, who found the remedy).
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass

from torch import nn

from optimum_ane.errors import UnsupportedModelError

FLOAT16_MAX = 65504.0
TARGET_PEAK = 50_000.0
"""What the stream may reach on a text that was looked at: others reach a little more."""


@dataclass(frozen=True)
class ResidualRecipe:
    """Which parameters of a family carry α; regular expressions over the paths of modules.

    Attributes:
        embedding: Modules with a buffer `embed_scale`, which multiplies the embeddings.
        norms: Root-mean-square norms that multiply by 1 + weight, and whose results are added to the stream.
        linears: Linear layers whose results are added to the stream as they are.
        readers: Norms that read the stream, with an attribute `eps`.
    """

    embedding: str
    norms: str
    linears: str
    readers: str


_SANDWICH = ResidualRecipe(
    embedding=r"(.*\.)?embed_tokens",
    norms=r".*\.(post_attention_layernorm|post_feedforward_layernorm)",
    linears=r"(?!)",
    readers=r".*\.(input_layernorm|pre_feedforward_layernorm)|(.*\.)?model\.norm",
)
RESIDUAL_RECIPES = {
    "gemma": ResidualRecipe(
        embedding=r"(.*\.)?embed_tokens",
        norms=r"(?!)",
        linears=r".*\.(o_proj|down_proj)",
        readers=r".*\.(input_layernorm|post_attention_layernorm)|(.*\.)?model\.norm",
    ),
    "gemma2": _SANDWICH,
    "gemma3_text": _SANDWICH,
}
"""By model type. Elsewhere norms and projections carry other names, or the stream is read by something else."""


def choose_scale(model_type: str, peaks: tuple[float, ...]) -> float:
    """The factor that a residual stream needs.

    Args:
        model_type: As transformers names it.
        peaks: The largest absolute value behind each layer, on a text; empty where it is not known.

    Returns:
        1 where float16 holds the stream as it is.

    Raises:
        UnsupportedModelError: It does not, and the family has no recipe; the message has layer and number.
    """
    largest = max(peaks, default=0.0)
    if model_type in RESIDUAL_RECIPES:
        return min(1.0, TARGET_PEAK / largest) if largest else 1.0
    if largest >= FLOAT16_MAX:
        raise UnsupportedModelError(
            f"the residual stream reaches {largest:,.0f} behind layer {peaks.index(largest)}, float16 ends at "
            f"{FLOAT16_MAX:,.0f}, and {model_type} has no recipe to make it smaller (there are some for "
            f"{', '.join(RESIDUAL_RECIPES)}); export with --precision float32, for CPU and GPU"
        )
    return 1.0


def scale_residual(model: nn.Module, model_type: str, scale: float) -> ExitStack:
    """Lets the weights of a model carry α.

    Args:
        model: In float32, and changed; parameters on the meta device are passed over.
        model_type: One of `RESIDUAL_RECIPES` where the factor is not 1.
        scale: α.

    Returns:
        What gives the weights back: at the end of a `with` block, or by `close`.

    Raises:
        UnsupportedModelError: The recipe finds nothing to scale: the family's modules have changed.
    """
    undo = ExitStack()
    if scale == 1:
        return undo
    recipe = RESIDUAL_RECIPES[model_type]
    adding = reading = 0
    for path, module in model.named_modules():
        if re.fullmatch(recipe.embedding, path) and hasattr(module, "embed_scale"):
            before = module.get_buffer("embed_scale")
            undo.callback(module._buffers.__setitem__, "embed_scale", before)
            module._buffers["embed_scale"] = before * scale
        if re.fullmatch(recipe.norms, path):
            _replace(module, "weight", scale, scale - 1, undo)
            adding += 1
        if re.fullmatch(recipe.linears, path):
            for name in [name for name, value in module.named_parameters(recurse=False) if value is not None]:
                _replace(module, name, scale, 0, undo)
            adding += 1
        if re.fullmatch(recipe.readers, path):
            undo.callback(setattr, module, "eps", module.eps)
            module.eps = module.eps * scale**2
            reading += 1
    if not adding or not reading:
        undo.close()
        raise UnsupportedModelError(
            f"{model_type} has no modules of the names that its recipe for large residuals knows; report it with the "
            "checkpoint's config.json"
        )
    return undo


def _replace(module: nn.Module, name: str, factor: float, summand: float, undo: ExitStack) -> None:
    before = module._parameters[name]
    if before is None or before.is_meta:
        return
    undo.callback(module._parameters.__setitem__, name, before)
    value = before.detach() * factor + summand
    module._parameters[name] = nn.Parameter(value, requires_grad=False)
