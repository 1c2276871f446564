"""One walk over a block: which forms its values have, and the operations that make them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import Block, Operation, Var, types

from optimum_ane.runtimes.session import HIDDEN_STATE
from optimum_ane.targets.coreml.module_names import read_name
from optimum_ane.targets.coreml.passes.scopes import scope_of
from optimum_ane.targets.coreml.passes.to_engine_layout.around_states import around_states
from optimum_ane.targets.coreml.passes.to_engine_layout.entering import enter_original
from optimum_ane.targets.coreml.passes.to_engine_layout.form import (
    PARTS,
    Form,
    Piece,
    Place,
    coarser,
    single,
)
from optimum_ane.targets.coreml.passes.to_engine_layout.leaving import moved_out
from optimum_ane.targets.coreml.passes.to_engine_layout.placing import placed

MOST_PIECES = 128
"""A value is not spread over more tensors than this: as many operations would replace each one that reads it."""

LARGEST_REPEATED = 2**20
"""A constant that is repeated for all heads, such as a table of rotary positions, has no more elements than this."""

Result: TypeAlias = Form | Var | Sequence[Form] | None
"""What rewriting an operation gives.

The form of the result, one for each result where there are several; a `Var` in the original's layout that takes the
result's place; or None, which leaves the operation as it is.
"""

Rewrite = Callable[["Rewriting", Operation], Result]
"""Makes an operation again for the engine's layout."""

REWRITES: dict[str, Rewrite] = {}
"""By MIL's operation type."""


def rewrites(*op_types: str) -> Callable[[Rewrite], Rewrite]:
    """Registers a function as what rewrites operations of these types."""

    def register(function: Rewrite) -> Rewrite:
        REWRITES.update(dict.fromkeys(op_types, function))
        return function

    return register


@dataclass(frozen=True)
class Product:
    """The operands of a product of two computed values.

    Attributes:
        a: The form of the first operand of the einsums.
        b: That of the second.
        places: Of the result's axes.
    """

    a: Form
    b: Form
    places: tuple[Place, ...]


class Rewriting:
    """The state of the walk over one block.

    Values that are made in the engine's layout have a form. What reads them in the original's layout gets them from
    `original`, which makes that layout once, where it is first needed.
    """

    def __init__(self, block: Block) -> None:
        self.block = block
        self.operation: Operation = None  # the one that is being rewritten
        self._left_alone = around_states(block)
        self._stem, self._count = "", 0
        self._emitted: list[Operation] = []
        self.products: dict[Var, Product] = {}
        self._forms: dict[Var, Form] = {}
        self._originals: dict[Var, Var] = {}
        self._entered: dict[tuple[Var, tuple[Place, ...]], Form] = {}
        self._transposed: dict[tuple[Var, tuple[int, ...]], Var] = {}
        self._repeated: dict[tuple[Var, int, int], Var] = {}
        self._chunks: dict[tuple[Var, int, int], Sequence[Var]] = {}

    # The walk

    def run(self) -> None:
        """Rewrites the block's operations, in order; dead code elimination removes what is then read by nothing."""
        for operation in list(self.block.operations):
            if operation.op_type != "const":
                self._rewrite(operation)
        self._restore_outputs()

    def _rewrite(self, operation: Operation) -> None:
        self._begin(operation, operation.outputs[0].name)
        rewrite = REWRITES.get(operation.op_type)
        result = None
        with scope_of(operation):
            if rewrite is not None and operation not in self._left_alone and _is_understood(operation):
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
        if (var.op in self._emitted or not _is_hidden_state(var)) and len(var.op.outputs) == 1:
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
        chunk = coarser(first, length) if first.count > 1 and first.along == along and list(pieces) == run else None
        if chunk is not None:
            return chunk
        return Piece(self.emit("concat", values=[self.tensor(piece) for piece in pieces], axis=along))

    def repeated(self, var: Var, along: int, count: int) -> Var:
        """A tensor several times, one behind the other, made once: a constant if it is one and stays small."""
        key = var, along, count
        if key not in self._repeated:
            if var.val is not None and var.val.size * count <= LARGEST_REPEATED:
                self._repeated[key] = self.const(np.concatenate([var.val] * count, axis=along))
            else:
                self._repeated[key] = self.emit("concat", values=[var] * count, axis=along)
        return self._repeated[key]

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

    def transposed(self, var: Var, perm: Sequence[int]) -> Var:
        """A tensor with its axes in another order, made once; a reshape where only axes of length 1 move."""
        key = var, tuple(perm)
        if key not in self._transposed:
            shape = [int(extent) for extent in var.shape]
            moving = [axis for axis in perm if shape[axis] > 1]
            if moving == sorted(moving):
                self._transposed[key] = self.reshape(var, [shape[axis] for axis in perm])
            else:
                self._transposed[key] = self.emit("transpose", x=var, perm=list(perm))
        return self._transposed[key]

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
            made = None if form is None else placed(self, form, places)
            made = enter_original(self, var, places) if made is None else made
            if made is None:
                return None
            self._entered[var, places] = made
        return self._entered[var, places]

    def original(self, var: Var) -> Var:
        """A value in the original's layout, made once."""
        if var in self._originals:
            return self._originals[var]
        form = self._forms.get(var)
        if form is None or self.is_kept(var):
            return var
        self._originals[var] = moved_out(self, form)
        return self._originals[var]


def _is_understood(operation: Operation) -> bool:
    """Whether an operation holds no blocks, has tensors for results, and nothing but static shapes."""
    given = [
        each for value in operation.inputs.values() for each in (value if isinstance(value, list | tuple) else [value])
    ]
    return (
        not operation.blocks
        and all(types.is_tensor(each.sym_type) for each in operation.outputs)
        and all(_is_static(each) for each in [*given, *operation.outputs] if each is not None)
    )


def _is_static(var: Var) -> bool:
    return not types.is_tensor(var.sym_type) or all(isinstance(extent, int | np.integer) for extent in var.shape)


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
