"""One walk over a block: which forms its values have, and the operations that make them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import Block, Operation, Var, types

from optimum_ane.runtimes.session import HIDDEN_STATE
from optimum_ane.targets.coreml.module_names import read_name
from optimum_ane.targets.coreml.passes.scopes import scope_of
from optimum_ane.targets.coreml.passes.to_engine_layout.form import (
    PARTS,
    Form,
    Piece,
    Place,
    array_of,
    free_places,
    make_form,
    single,
)

MOST_PIECES = 128
"""A value is not spread over more tensors than this: as many operations would replace each one that reads it."""

Rewrite = Callable[["Rewriting", Operation], Form | Var | Sequence[Form] | None]
"""Makes an operation again for the engine's layout.

It returns the form of the result, one for each result where there are several; a `Var` in the original's layout that
takes the result's place; or None, which leaves the operation as it is.
"""

REWRITES: dict[str, Rewrite] = {}
"""By MIL's operation type."""


def rewrites(*op_types: str) -> Callable[[Rewrite], Rewrite]:
    """Registers a function as what rewrites operations of these types."""

    def register(function: Rewrite) -> Rewrite:
        REWRITES.update(dict.fromkeys(op_types, function))
        return function

    return register


class Rewriting:
    """The state of the walk over one block.

    Values that are made in the engine's layout have a form. What reads them in the original's layout gets them from
    `original`, which makes that layout once, where it is first needed.
    """

    def __init__(self, block: Block) -> None:
        self.block = block
        self.operation: Operation = None  # the one that is being rewritten
        self._stem, self._count = "", 0
        self._emitted: list[Operation] = []
        self._forms: dict[Var, Form] = {}
        self._originals: dict[Var, Var] = {}
        self._entered: dict[tuple[Var, tuple[Place, ...]], Form] = {}
        self._transposed: dict[tuple[Var, tuple[int, ...]], Var] = {}
        self._chunks: dict[tuple[Var, int, int], Sequence[Var]] = {}

    # The walk

    def run(self) -> None:
        """Rewrites the block's operations, in order. What is then read by nothing is left for dead code elimination."""
        for operation in list(self.block.operations):
            if operation.op_type != "const":
                self._rewrite(operation)
        self._restore_outputs()

    def _rewrite(self, operation: Operation) -> None:
        self._begin(operation, operation.outputs[0].name)
        rewrite = REWRITES.get(operation.op_type)
        result = None
        with scope_of(operation):
            if rewrite is not None and _is_understood(operation):
                result = rewrite(self, operation)
            if result is None:
                self._read_originals(operation)
        if result is None:
            return
        if isinstance(result, Var):
            self._originals[operation.outputs[0]] = result
        else:
            for output, form in zip(operation.outputs, [result] if isinstance(result, Form) else result, strict=True):
                self._set_form(output, form)

    def _begin(self, operation: Operation | None, stem: str) -> None:
        """Lets what is made from here on stand before an operation, or at the end, with names of a stem."""
        self.operation, self._stem, self._count, self._emitted = operation, stem, 0, []

    def _name(self) -> str:
        self._count += 1
        return f"{self._stem}_{self._count}"

    def _set_form(self, output: Var, form: Form) -> None:
        """Remembers the form of a result, and lets the tensor that it is have the result's name."""
        if tuple(output.shape) != form.shape:
            raise AssertionError(f"{self.operation.op_type} {output.name}: {form.shape} for {tuple(output.shape)}")
        self._forms[output] = form
        if not form.is_single or output in self.block.outputs:
            return
        var = form.pieces.item().var
        if var is output or var.op is None or not (var.op in self._emitted or _is_hidden_state(output)):
            return
        if not _is_hidden_state(var) and len(var.op.outputs) == 1:
            name = output.name
            output.name = f"{name}_of_original"
            var.name = var.op.name = name

    def _read_originals(self, operation: Operation) -> None:
        """Lets an operation that stays as it is read originals, which the walk has made again where it had to."""
        replaced = {}
        for name, given in operation.inputs.items():
            if isinstance(given, list | tuple):
                values = [self.original(each) for each in given]
                if any(new is not old for new, old in zip(values, given, strict=True)):
                    replaced[name] = tuple(values)
            elif given is not None and (value := self.original(given)) is not given:
                replaced[name] = value
        if replaced:
            operation.set_inputs(no_check_var_types=True, **replaced)

    def _restore_outputs(self) -> None:
        """Gives the block's outputs in the original's layout, under their names."""
        outputs: list[Var] = []
        for output in self.block.outputs:
            if output.op is None:
                outputs.append(output)
                continue
            self._begin(None, f"{output.name}_restored")
            with scope_of(output.op):
                value = self.original(output)
                if value is not output and (value in outputs or value in self.block.inputs or _has_name(value)):
                    value = self.emit("identity", x=value)
            if value is not output:
                name = output.name
                output.name = f"{name}_of_original"
                value.name = value.op.name = name
            outputs.append(value)
        self.block.set_outputs(outputs)

    # What is known of a value

    def form(self, var: Var) -> Form | None:
        """The form that a value has; None if it has none yet."""
        return self._forms.get(var)

    def is_kept(self, var: Var) -> bool:
        """Whether a value is in the engine's layout as the original made it."""
        form = self._forms.get(var)
        return form is not None and form.is_single and form.pieces.item().var is var

    def keep(self, operation: Operation) -> Form:
        """Leaves an operation that reads and makes the engine's layout already.

        Args:
            operation: Has one result, of rank 4.

        Returns:
            The form of the operation's own result, whose axes are the engine's.
        """
        self._read_originals(operation)
        output = operation.outputs[0]
        return single(output, range(4), output.shape)

    def keep_chunks(self, operation: Operation, along: int, count: int) -> None:
        """Leaves a split that reads the engine's layout, and lets it serve whatever needs these chunks."""
        self._read_originals(operation)
        self._chunks[operation.x, along, count] = operation.outputs

    # Making operations

    def emit(self, op_type: str, **inputs: Any) -> Any:
        """Makes an operation before the one that is being rewritten.

        Returns:
            The result, or a tuple of the results.
        """
        made = getattr(mb, op_type)(**inputs, name=self._name(), before_op=self.operation)
        self._emitted.append((made[0] if isinstance(made, list | tuple) else made).op)
        return made

    def const(self, value: np.ndarray) -> Var:
        """Makes a constant."""
        return mb.const(val=value, name=self._name(), before_op=self.operation)

    def tensor(self, piece: Piece) -> Var:
        """The tensor of a piece; what is read in chunks is split once, for all of them."""
        if piece.count == 1:
            return piece.var
        key = piece.var, piece.along, piece.count
        if key not in self._chunks:
            self._chunks[key] = self.emit("split", x=piece.var, num_splits=piece.count, axis=piece.along)
        return self._chunks[key][piece.index]

    def in_chunks(self, piece: Piece, along: int, count: int) -> list[Piece]:
        """The chunks of a piece; those of a chunk are chunks of the same tensor where they lie along the same axis."""
        if piece.count == 1 or piece.along == along:
            return [Piece(piece.var, along, piece.count * count, piece.index * count + k) for k in range(count)]
        return [Piece(self.tensor(piece), along, count, k) for k in range(count)]

    def joined(self, pieces: Sequence[Piece], along: int) -> Piece:
        """Tensors one behind the other: chunks that were split from one are that one again, others a concat."""
        first, length = pieces[0], len(pieces)
        run = [replace(first, index=first.index + k) for k in range(length)]
        if first.count > 1 and first.along == along and list(pieces) == run:
            if (chunk := _coarser(first, length)) is not None:
                return chunk
        return Piece(self.emit("concat", values=[self.tensor(piece) for piece in pieces], axis=along))

    def reshape(self, var: Var, shape: Sequence[int]) -> Var:
        """A tensor in another shape, by the operation that says the least: nothing, axes of length 1, a reshape."""
        old, new = [int(extent) for extent in var.shape], [int(extent) for extent in shape]
        if old == new:
            return var
        if (axes := _inserted_ones(old, new)) is not None:
            return self.emit("expand_dims", x=var, axes=axes)
        if (axes := _inserted_ones(new, old)) is not None:
            return self.emit("squeeze", x=var, axes=axes)
        return self.emit("reshape", x=var, shape=new)

    # From the original's layout into the engine's, and back

    def enter(self, var: Var, places: Sequence[Place]) -> Form | None:
        """A value's form with its axes in certain places.

        Args:
            var: Any value with a static shape.
            places: For each axis; those of axes of length 1 do not matter.

        Returns:
            None where there is no way.
        """
        shape = tuple(var.shape)
        places = tuple(None if extent == 1 else place for place, extent in zip(places, shape, strict=True))
        if any(place is None and extent != 1 for place, extent in zip(places, shape, strict=True)):
            return None
        taken = [place for place in places if place is not None and place != PARTS]
        if len(taken) != len(set(taken)) or _number_of_pieces(places, shape) > MOST_PIECES:
            return None
        form = self._forms.get(var)
        if form is not None and form.places == places:
            return form
        if (var, places) not in self._entered:
            made = self._enter_original(var, places) if form is None else self.place(form, places)
            if made is None:
                return None
            self._entered[var, places] = made
        return self._entered[var, places]

    def _enter_original(self, var: Var, places: tuple[Place, ...]) -> Form | None:
        shape = tuple(var.shape)
        spread_axes = [axis for axis, place in enumerate(places) if place == PARTS]
        if var.val is not None:
            return self._enter_constant(var, places)
        free = free_places(places)
        if len(spread_axes) > len(free):
            return None
        temporary = list(places)
        for axis, place in zip(spread_axes, free, strict=False):
            temporary[axis] = place
        form = single(self._moved_in(self.original(var), temporary), temporary, shape)
        return self.place(form, places)

    def _enter_constant(self, var: Var, places: tuple[Place, ...]) -> Form | None:
        shape, value = tuple(var.shape), np.asarray(var.val)
        spread_axes = [axis for axis, place in enumerate(places) if place == PARTS]
        kept = [axis for axis, place in enumerate(places) if place is not None and place != PARTS]
        order = spread_axes + sorted(kept, key=lambda axis: places[axis])
        ones = [axis for axis in range(len(shape)) if axis not in order]
        moved = value.transpose([*order, *ones])
        engine = [1, 1, 1, 1]
        for axis in kept:
            engine[places[axis]] = shape[axis]
        moved = moved.reshape([*(shape[axis] for axis in spread_axes), *engine])
        pieces = np.empty(moved.shape[: len(spread_axes)], dtype=object)
        for index in np.ndindex(pieces.shape):
            pieces[index] = Piece(self.const(np.ascontiguousarray(moved[index])))
        return make_form(pieces, places, shape)

    def _moved_in(self, var: Var, places: Sequence[Place]) -> Var:
        """An original of rank 4 or less, or with enough axes of length 1, as one tensor with its axes in places."""
        shape = [int(extent) for extent in var.shape]
        engine = [1, 1, 1, 1]
        for axis, place in enumerate(places):
            if place is not None:
                engine[place] = shape[axis]
        if len(shape) > 4:
            shape = [extent for extent in shape if extent != 1]
            places = [place for place in places if place is not None]
            var = self.reshape(var, shape)
        perm = _order(places, len(shape))
        if perm != sorted(perm) and [axis for axis in perm if shape[axis] > 1] != sorted(
            axis for axis in perm if shape[axis] > 1
        ):
            var = self.emit("transpose", x=var, perm=perm)
        return self.reshape(var, engine)

    def original(self, var: Var) -> Var:
        """A value in the original's layout, made once."""
        if var in self._originals:
            return self._originals[var]
        form = self._forms.get(var)
        if form is None or self.is_kept(var):
            return var
        self._originals[var] = self._moved_out(form)
        return self._originals[var]

    def _moved_out(self, form: Form) -> Var:
        spread_axes = form.spread
        free = free_places(form.places)
        if len(spread_axes) <= len(free):
            places = list(form.places)
            for axis, place in zip(spread_axes, free, strict=False):
                places[axis] = place
            joined = self.place(form, places)
            assert joined is not None
            return self.moved_out(self.tensor(joined.pieces.item()), places, form.shape)
        return self._joined(form, form.pieces, list(form.shape), [*spread_axes])

    def _joined(self, form: Form, pieces: np.ndarray, shape: list[int], spread_axes: list[int]) -> Var:
        """Joins tensors in the original's layout, where an engine tensor has no axis to join them along."""
        if not spread_axes:
            places = [None if place == PARTS else place for place in form.places]
            return self.moved_out(self.tensor(pieces.item()), places, shape)
        axis, rest = spread_axes[0], spread_axes[1:]
        inner = [*shape]
        inner[axis] = 1
        values = [self._joined(form, pieces[index, ...], inner, rest) for index in range(shape[axis])]
        return self.emit("concat", values=values, axis=axis)

    def moved_out(self, var: Var, places: Sequence[Place], shape: Sequence[int]) -> Var:
        """One tensor in the original's layout: of a shape, its axes in these places of the tensor."""
        kept = [axis for axis, place in enumerate(places) if place is not None]
        order = [places[axis] for axis in kept]
        shape = [int(extent) for extent in shape]
        if len(kept) < 4 and len(shape) < 4:
            engine = [int(extent) for extent in var.shape]
            # An original with few axes is squeezed first, so that what is transposed is small and of its rank.
            ones = [place for place in range(4) if place not in order]
            extra = len(shape) - len(kept)  # axes of length 1 that the original has as well
            dropped = ones[extra:] if extra else ones
            remaining = [place for place in range(4) if place not in dropped]
            if dropped:
                var = self.emit("squeeze", x=var, axes=dropped)
            perm = _filled([remaining.index(places[a]) if places[a] is not None else None for a in range(len(shape))])
            squeezed = [engine[place] for place in remaining]
        else:
            squeezed = [int(extent) for extent in var.shape]
            ranked = list(places) if len(shape) == 4 else [place for place in places if place is not None]
            ranked += [None] * (4 - len(ranked))
            perm = _filled(ranked)
        moving = [axis for axis in perm if squeezed[axis] > 1]
        if moving != sorted(moving):
            var = self.emit("transpose", x=var, perm=perm)
        return self.reshape(var, shape)

    # From one form into another

    def place(self, form: Form, places: Sequence[Place]) -> Form | None:
        """The same value with its axes in other places.

        Axes that are no longer spread are joined, then the tensors are transposed, then split along those that are to
        be spread. A tensor that is read in chunks is transposed whole.

        Returns:
            None where an axis of the engine's tensors is lacking on the way.
        """
        wanted = tuple(None if extent == 1 else place for place, extent in zip(places, form.shape, strict=True))
        for axis in form.spread:
            if wanted[axis] != PARTS:
                joined = self._join_axis(form, axis, wanted[axis])
                if joined is None:
                    return None
                form = joined
        splitting = [axis for axis in range(len(wanted)) if wanted[axis] == PARTS and form.places[axis] != PARTS]
        between = list(wanted)
        free = free_places(wanted)
        if len(splitting) > len(free):
            return None
        for axis, place in zip(splitting, free, strict=False):
            # An axis stays where it is if nothing else comes there, and is split there.
            here = form.places[axis]
            between[axis] = here if here in free else place
            free = [each for each in free if each != between[axis]]
        form = self._permute(form, between)
        for axis in splitting:
            form = self._split_axis(form, axis)
        return form

    def _join_axis(self, form: Form, axis: int, wanted: Place) -> Form | None:
        """Joins the tensors along one of the original's axes that is spread over them."""
        free = free_places(form.places)
        if not free:
            return None
        place = wanted if wanted in free else free[0]
        position = form.spread.index(axis)
        places = list(form.places)
        places[axis] = place
        pieces = np.moveaxis(form.pieces, position, -1)
        joined = np.empty(pieces.shape[:-1], dtype=object)
        for index in np.ndindex(joined.shape):
            joined[index] = self.joined(list(pieces[index]), place)
        return make_form(joined, places, form.shape)

    def _permute(self, form: Form, places: Sequence[Place]) -> Form:
        """Transposes the tensors; which axes are spread stays as it is."""
        wanted = tuple(places)
        if wanted == form.places:
            return form
        source: list[int | None] = [None] * 4
        for old, new in zip(form.places, wanted, strict=True):
            if new is not None and new != PARTS:
                source[new] = old
        pieces = np.empty(form.pieces.shape, dtype=object)
        for index in np.ndindex(pieces.shape):
            piece = form.pieces[index]
            pieces[index] = self._transposed_piece(form.pieces[index], source)
        return make_form(pieces, wanted, form.shape)

    def _transposed_piece(self, piece: Piece, source: Sequence[int | None]) -> Piece:
        if piece.count > 1 and piece.along not in source:
            # Chunks of one element along an axis that has no place in the value.
            source = list(source)
            source[source.index(None)] = piece.along
        perm = _filled(source)
        key = piece.var, tuple(perm)
        if key not in self._transposed:
            shape = [int(extent) for extent in piece.var.shape]
            moving = [axis for axis in perm if shape[axis] > 1]
            if moving == sorted(moving):
                self._transposed[key] = self.reshape(piece.var, [shape[axis] for axis in perm])
            else:
                self._transposed[key] = self.emit("transpose", x=piece.var, perm=perm)
        return replace(piece, var=self._transposed[key], along=perm.index(piece.along))

    def _split_axis(self, form: Form, axis: int) -> Form:
        """Spreads an axis over as many tensors as it is long, split where it is."""
        along, count = form.places[axis], form.shape[axis]
        assert along is not None
        position = sum(1 for each in form.spread if each < axis)
        pieces = np.empty((*form.pieces.shape, count), dtype=object)
        for index in np.ndindex(form.pieces.shape):
            pieces[index] = self.in_chunks(form.pieces[index], along, count)
        places = list(form.places)
        places[axis] = PARTS
        return make_form(np.moveaxis(pieces, -1, position), places, form.shape)

    # One operation on all tensors of a form

    def map(self, function: Callable[..., Var], forms: Sequence[Form], places: Sequence[Place], shape: Sequence[int],
            chunkable: bool = True) -> Form:  # fmt: skip
        """Makes an operation on the tensors of forms whose axes are in the same places.

        It is made once for what is several times among the tensors, and once before the split where all of a form's
        tensors are chunks of one.

        Args:
            function: Makes the operation of one tensor of each form, and returns its result.
            forms: Broadcast against each other over the axes that are spread.
            places: Of the result's axes.
            shape: Of the result.
            chunkable: Whether the operation may be made before the split: it works on each element by itself, or does
                not touch the axis of the split.
        """
        if len(forms) == 1:
            arrays: Sequence[np.ndarray] = [forms[0].pieces]
        else:
            arrays = np.broadcast_arrays(*(_aligned(form, places) for form in forms))
        if chunkable and (chunked := self._before_split(function, arrays)) is not None:
            return make_form(chunked, places, shape)
        made: dict[tuple[Piece, ...], Piece] = {}
        pieces = np.empty(arrays[0].shape, dtype=object)
        for index in np.ndindex(pieces.shape):
            row = tuple(array[index] for array in arrays)
            if row not in made:
                made[row] = Piece(function(*(self.tensor(piece) for piece in row)))
            pieces[index] = made[row]
        return make_form(pieces, places, shape)

    def _before_split(self, function: Callable[..., Var], arrays: Sequence[np.ndarray]) -> np.ndarray | None:
        """Makes the operation on what is split; None where it has to be made on each chunk.

        Each operand is either one tensor for all, of length 1 along the axis of the split, or has as tensors a run of
        chunks of one tensor.
        """
        chunked = [array for array in arrays if array.flat[0].count > 1]
        if not chunked:
            return None
        first = chunked[0].flat[0]
        indices = [piece.index for piece in chunked[0].flat]
        low, length = min(indices), len(set(indices))
        if length == 1 or max(indices) - low + 1 != length:
            return None
        values = []
        for array in arrays:
            pieces = list(array.flat)
            one = pieces[0]
            if one.count == 1:
                if any(piece != one for piece in pieces) or int(one.var.shape[first.along]) != 1:
                    return None
                values.append(one)
                continue
            expected = [replace(one, index=index) for index in indices]
            chunk = _coarser(replace(one, index=low), length)
            if (one.along, one.count) != (first.along, first.count) or pieces != expected or chunk is None:
                return None
            values.append(chunk)
        result = function(*(self.tensor(value) for value in values))
        new = [Piece(result, first.along, length, index - low) for index in indices]
        return array_of(new, arrays[0].shape)


def _aligned(form: Form, places: Sequence[Place]) -> np.ndarray:
    """A form's tensors with an axis for each that the result spreads, aligned from behind."""
    pieces = form.pieces
    axes = [axis for axis, place in enumerate(places) if place == PARTS]
    offset = len(places) - len(form.places)
    for position, axis in enumerate(axes):
        own = axis - offset
        if own < 0 or form.places[own] != PARTS:
            pieces = np.expand_dims(pieces, position)
    return pieces


def _coarser(first: Piece, length: int) -> Piece | None:
    """The chunk that a run of chunks is; None where the tensor cannot be split into chunks of that length."""
    if first.count % length or first.index % length:
        return None
    count = first.count // length
    return Piece(first.var) if count == 1 else Piece(first.var, first.along, count, first.index // length)


def _is_understood(operation: Operation) -> bool:
    """Whether an operation holds no blocks, and has results of static shapes."""
    outputs = operation.outputs
    return not operation.blocks and all(
        types.is_tensor(each.sym_type) and all(isinstance(n, int | np.integer) for n in each.shape) for each in outputs
    )


def is_float(var: Var) -> bool:
    """Whether a value holds floating-point numbers."""
    return types.is_float(var.dtype)


def _is_hidden_state(var: Var) -> bool:
    name = read_name(var.name)
    return name is not None and name.value.startswith(HIDDEN_STATE)


def _has_name(var: Var) -> bool:
    return _is_hidden_state(var) or len(var.op.outputs) != 1


def _number_of_pieces(places: Sequence[Place], shape: Sequence[int]) -> int:
    count = 1
    for place, extent in zip(places, shape, strict=True):
        count *= extent if place == PARTS else 1
    return count


def _inserted_ones(short: Sequence[int], long: Sequence[int]) -> list[int] | None:
    """Where axes of length 1 make the long shape of the short one; None if more than that differs."""
    axes, position = [], 0
    for axis, extent in enumerate(long):
        if position < len(short) and short[position] == extent:
            position += 1
        elif extent == 1:
            axes.append(axis)
        else:
            return None
    return axes if position == len(short) and axes else None


def _filled(source: Sequence[int | None]) -> list[int]:
    """A permutation of the axes, some of which are given; the others take what is left, in order."""
    left = iter(axis for axis in range(len(source)) if axis not in source)
    return [next(left) if axis is None else axis for axis in source]


def _order(places: Sequence[Place], rank: int) -> list[int]:
    """The axes of an original in the order of their places; those of length 1 fill the places between."""
    engine: list[int | None] = [None] * 4
    for axis, place in enumerate(places):
        if place is not None:
            engine[place] = axis
    if rank == 4:
        return _filled(engine)
    ones = [axis for axis in range(rank) if places[axis] is None]
    kept = [axis for axis in engine if axis is not None]
    return ones + kept
