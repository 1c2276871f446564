"""Products of two computed values: one einsum for each head.

    matmul(x (B, H, M, K), y (B, H, K, N))  ─►  for each head  einsum(a (B, N, 1, K), b (B, K, 1, M)) (B, N, 1, M)

The einsum, `nchw,nwhu->nchu`, sums over the width of its first operand and the channels of its second. The result has
N on its channels and M on its width, so that a softmax over N runs over the channels: y is the first operand with N on
its channels, and x the second with K on its channels. For scores that means one transpose of the keys, for the values
none. Where the places that the operands have suit it better, the result has M on the channels instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from coremltools.converters.mil.mil import Operation, Var

from optimum_ane.targets.coreml.passes.compressed_weights import is_constant_expression
from optimum_ane.targets.coreml.passes.to_engine_layout.form import (
    BATCH,
    CHANNEL,
    HEIGHT,
    PARTS,
    WIDTH,
    Form,
    Place,
    single,
)
from optimum_ane.targets.coreml.passes.to_engine_layout.mapping import map_tensors
from optimum_ane.targets.coreml.passes.to_engine_layout.projections import project
from optimum_ane.targets.coreml.passes.to_engine_layout.rewriting import (
    MOST_PIECES,
    Product,
    Rewriting,
    is_float,
    rewrites,
)

_EQUATION = "nchw,nwhu->nchu"

Scale = Callable[[Var], Var]
"""Multiplies one tensor by a number."""


@rewrites("matmul")
def _matmul(rewriting: Rewriting, operation: Operation) -> Form | Var | None:
    x, y = operation.x, operation.y
    if not (is_float(x) and is_float(y)) or min(x.rank, y.rank) < 2:
        return None
    flip_x, flip_y = bool(operation.transpose_x.val), bool(operation.transpose_y.val)
    if y.val is not None and y.rank == 2 and not flip_x:
        weight = y if flip_y else rewriting.const(np.ascontiguousarray(y.val.T))
        return project(rewriting, operation, x, weight, None)
    return multiply(rewriting, operation, x, y, flip_x, flip_y)


@rewrites("einsum")
def _einsum(rewriting: Rewriting, operation: Operation) -> Form | None:
    """A product that is written for the engine already, of operands that need not be where it wants them."""
    values = list(operation.values)
    if str(operation.equation.val).replace(" ", "") != _EQUATION:
        return None
    if any(is_constant_expression(each) for each in values) or not is_float(operation.outputs[0]):
        return None
    if all(rewriting.form(each) is None or rewriting.is_kept(each) for each in values):
        return rewriting.keep(operation)
    forms = [rewriting.enter(each, (BATCH, CHANNEL, HEIGHT, WIDTH)) for each in values]
    if any(form is None for form in forms):
        return None
    tensors = [rewriting.tensor(form.pieces.item()) for form in forms if form is not None]
    if tensors == values:
        return rewriting.keep(operation)
    product = rewriting.emit("einsum", values=tensors, equation=_EQUATION)
    return single(product, (BATCH, CHANNEL, HEIGHT, WIDTH), operation.outputs[0].shape)


def multiply(
    rewriting: Rewriting, operation: Operation, x: Var, y: Var, flip_x: bool, flip_y: bool
) -> Form | None:  # fmt: skip
    """Multiplies the last two axes of two values, as `matmul` does."""
    shape = tuple(int(extent) for extent in operation.outputs[0].shape)
    leading = leading_places(rewriting, x, y, shape[:-2])
    if leading is None:
        return None
    last = ((WIDTH, CHANNEL), (CHANNEL, WIDTH))  # of the result: with N on the channels, or with M on them
    ways = []
    for of_result in last:
        places_x = _operand_places(x, leading, of_result[::-1] if flip_x else of_result)
        places_y = _operand_places(y, leading, of_result[::-1] if flip_y else of_result)
        moves = _moves(rewriting, x, places_x) + _moves(rewriting, y, places_y)
        ways.append((moves, of_result, places_x, places_y))
    _, of_result, places_x, places_y = min(ways, key=lambda way: way[0])
    operands = [(y, places_y), (x, places_x)]
    (first, places_first), (second, places_second) = operands if of_result == last[0] else operands[::-1]
    b = rewriting.enter(second, places_second)
    if b is None:
        return None
    # Split before the other operand is transposed, as a second run finds them: it has nothing to change then.
    for piece in b.pieces.flat:
        rewriting.tensor(piece)
    a = rewriting.enter(first, places_first)
    if a is None:
        return None
    places = (*leading, *of_result)
    rewriting.products[operation.outputs[0]] = Product(a, b, places)
    return contract(rewriting, a, b, places, shape)


def scaled_product(rewriting: Rewriting, operation: Operation, product: Var, scale: Scale) -> Form | None:
    """Multiplies a product by a number, by multiplying its second operand: the queries, before they are split.

    The scale is then folded into the convolution that they come from. None where the product is read by others too.

    Args:
        rewriting: The walk.
        operation: What is made again: multiplies or divides by a constant.
        product: The result of `matmul`.
        scale: Multiplies or divides one tensor.
    """
    known = rewriting.products.get(product)
    if known is None or len(product.child_ops) != 1 or product in rewriting.block.outputs:
        return None
    b = map_tensors(rewriting, scale, [known.b], known.b.places, known.b.shape)
    return contract(rewriting, known.a, b, known.places, tuple(operation.outputs[0].shape))


def contract(rewriting: Rewriting, a: Form, b: Form, places: Sequence[Place], shape: Sequence[int]) -> Form:
    """The einsum of each pair of tensors, summed over the width of the first and the channels of the second."""

    def product(*tensors: Var) -> Var:
        return rewriting.emit("einsum", values=tensors, equation=_EQUATION)

    return map_tensors(rewriting, product, [a, b], places, shape, chunkable=False)


def leading_places(
    rewriting: Rewriting, x: Var, y: Var, leading: tuple[int, ...]
) -> tuple[Place, ...] | None:  # fmt: skip
    """Where the axes before the last two are: heads spread over tensors, what is left in the batch or the height."""
    places: list[Place] = [None] * len(leading)
    axes = [axis for axis, extent in enumerate(leading) if extent > 1]
    forms = [form for form in (rewriting.form(x), rewriting.form(y)) if form is not None]
    for axis in axes:
        behind = axis - len(leading) - 2
        if any(len(form.places) >= -behind and form.places[behind] == PARTS for form in forms):
            places[axis] = PARTS
    free = [BATCH, HEIGHT]
    for axis in axes:
        if places[axis] is None:
            is_heads = axis == len(leading) - 1 and len(leading) > 1
            if is_heads and leading[axis] * _spread(places, leading) <= MOST_PIECES:
                places[axis] = PARTS
            elif free:
                # The einsum takes the height as a second batch, which both operands must have.
                place = free.pop(0)
                if place == HEIGHT and not (_has_axis(x, axis, leading) and _has_axis(y, axis, leading)):
                    return None
                places[axis] = place
            else:
                return None
    if BATCH in places:
        axis = places.index(BATCH)
        if not (_has_axis(x, axis, leading) and _has_axis(y, axis, leading)):
            return None
    return tuple(places)


def _spread(places: list[Place], leading: tuple[int, ...]) -> int:
    count = 1
    for place, extent in zip(places, leading, strict=True):
        count *= extent if place == PARTS else 1
    return count


def _has_axis(operand: Var, axis: int, leading: tuple[int, ...]) -> bool:
    """Whether an operand is as long along a leading axis as the result, and not broadcast."""
    own = axis - len(leading) - 2
    return operand.rank >= -own and int(operand.shape[own]) == leading[axis]


def _operand_places(operand: Var, leading: tuple[Place, ...], last: tuple[int, int]) -> tuple[Place, ...]:
    return (*leading[len(leading) - (operand.rank - 2) :], *last)


def _moves(rewriting: Rewriting, operand: Var, places: tuple[Place, ...]) -> int:
    """How many transposes bring an operand to its places: none, or one for each of its tensors that are no chunks."""
    form = rewriting.form(operand)
    wanted = tuple(None if extent == 1 else place for place, extent in zip(places, operand.shape, strict=True))
    if form is None:
        return 0 if operand.val is not None else 1
    if form.places == wanted:
        return 0
    return len({piece.var for piece in form.pieces.flat})
