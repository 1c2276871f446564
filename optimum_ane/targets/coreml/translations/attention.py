"""Attention, and the norm before it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation

from optimum_ane.targets.coreml.translations.arguments import arguments, constant, integers
from optimum_ane.targets.coreml.translations.register import Translation, replaces


@replaces("scaled_dot_product_attention")
def attention(context: Any, node: Any, otherwise: Translation) -> None:
    """With grouped queries: keys and values are repeated, each head of them for its group, which coremltools omits."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    query, *keys_and_values, _, dropout, _, _, grouped = arguments(context, node, *names)
    if dropout is not None and constant(dropout, "a dropout") != 0:
        raise NotImplementedError("attention with a dropout")
    plain = copy.copy(node)
    plain.inputs = list(node.inputs[:7])
    if node.kwinputs is not None:
        plain.kwinputs = {key: value for key, value in node.kwinputs.items() if key not in ("dropout_p", "enable_gqa")}
    if grouped is not None and constant(grouped, "whether queries are grouped"):
        for place, each in enumerate(keys_and_values, 1):
            heads = np.repeat(np.arange(each.shape[-3]), query.shape[-3] // each.shape[-3]).astype(np.int32)
            plain.inputs[place] = f"{node.name}_{names[place]}"
            repeated = mb.gather(x=each, indices=heads, axis=each.rank - 3, name=plain.inputs[place])
            context.add(repeated, torch_name=plain.inputs[place])
    otherwise(context, plain)


@replaces("rms_norm")
def rms_norm(context: Any, node: Any, otherwise: Translation) -> None:
    """`x / sqrt(mean(x²) + eps) * weight`, as models write it themselves.

    coremltools adds the epsilon to another mean, that of x divided by its largest element.
    """
    x, shape, weight, epsilon = arguments(context, node, "input", "normalized_shape", "weight", "eps")
    axes = list(range(x.rank - len(integers(shape, "the shape of a norm")), x.rank))
    added = np.finfo(np.float32).eps if epsilon is None else np.float32(constant(epsilon, "an epsilon"))
    mean = mb.reduce_mean(x=mb.mul(x=x, y=x), axes=axes, keep_dims=True)
    root = mb.rsqrt(x=mb.add(x=mean, y=added))
    if weight is None:
        context.add(mb.mul(x=x, y=root, name=node.name))
    else:
        context.add(mb.mul(x=mb.mul(x=x, y=root), y=weight, name=node.name))
