"""Core ML's attention as one operation, taken apart: each head by itself, with the softmax over the channels.

    scaled_dot_product_attention(query (B, H, L, E), key (B, H, S, E), value (B, H, S, V), mask)

becomes, for each head,

    einsum(key (B, S, 1, E), query · E^−½ (B, E, 1, L))  ─►  add(mask (B, S, 1, L))  ─►  softmax(axis=1)
    ─►  einsum(value (B, V, 1, S), (B, S, 1, L))  ─►  (B, V, 1, L)
"""

from __future__ import annotations

import numpy as np
from coremltools.converters.mil.mil import Operation, Var, types

from optimum_ane.targets.coreml.passes.to_engine_layout.form import CHANNEL, WIDTH, Form, Place
from optimum_ane.targets.coreml.passes.to_engine_layout.mapping import map_tensors
from optimum_ane.targets.coreml.passes.to_engine_layout.products import contract, leading_places
from optimum_ane.targets.coreml.passes.to_engine_layout.rewriting import Rewriting, rewrites

_MASKED = -3e4
"""What a score becomes that a flag hides; float16 holds it, and e to the power of it is 0."""


@rewrites("scaled_dot_product_attention")
def _attention(rewriting: Rewriting, operation: Operation) -> Form | None:
    query, key, value, mask = operation.query, operation.key, operation.value, operation.attn_mask
    leading = leading_places(rewriting, query, key, tuple(int(extent) for extent in query.shape[:-2]))
    if leading is None:
        return None
    shape = (*query.shape[:-1], key.shape[-2])
    places: tuple[Place, ...] = (*leading, WIDTH, CHANNEL)
    queries = rewriting.enter(query, places)
    if queries is None:
        return None
    scale = types.nptype_from_builtin(query.dtype)(float(query.shape[-1]) ** -0.5)
    queries = map_tensors(
        rewriting, lambda tensor: rewriting.emit("mul", x=tensor, y=scale), [queries], queries.places, queries.shape
    )
    for piece in queries.pieces.flat:
        rewriting.tensor(piece)
    keys, values = rewriting.enter(key, (*leading, CHANNEL, WIDTH)), rewriting.enter(value, places)
    if keys is None or values is None:
        return None
    scores = contract(rewriting, keys, queries, places, shape)
    masked = scores if mask is None else _masked(rewriting, scores, mask)
    if masked is None:
        return None
    weights = map_tensors(
        rewriting, lambda tensor: rewriting.emit("softmax", x=tensor, axis=CHANNEL), [masked], masked.places, shape
    )
    return contract(rewriting, values, weights, places, operation.outputs[0].shape)


def _masked(rewriting: Rewriting, scores: Form, mask: Var) -> Form | None:
    """Scores with a mask: numbers that are added, or flags of what takes part."""
    form = rewriting.enter(mask, scores.places[len(scores.shape) - mask.rank :])
    if form is None:
        return None
    if not types.is_bool(mask.dtype):
        return map_tensors(
            rewriting,
            lambda score, term: rewriting.emit("add", x=score, y=term),
            [scores, form],
            scores.places,
            scores.shape,
        )
    dtype = types.nptype_from_builtin(rewriting.tensor(scores.pieces.flat[0]).dtype)
    return map_tensors(
        rewriting,
        lambda score, flag: rewriting.emit("select", cond=flag, a=score, b=np.array(_MASKED, dtype)[()]),
        [scores, form],
        scores.places,
        scores.shape,
    )
