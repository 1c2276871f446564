"""What the cost model sees of a program: for each operation its kind, arithmetic, weights and activations.

Nothing here depends on a chip.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from optimum_ane.analysis.operations import OTHER, STATE_WRITES, Operation, Tensor

Kind = Literal["convolution", "einsum", "linear", "movement", "free", "host"]
KINDS: tuple[str, ...] = get_args(Kind)

ALIGNMENT = 64
"""Bytes to which the engine pads the last axis of a buffer (Apple, "Deploying Transformers on the Apple Neural
Engine", 2022)."""

_RENAMING = frozenset(
    [
        "reshape",
        "expand_dims",
        "squeeze",
        "flatten2d",
        "identity",
        "read_state",
        "shape",
        "classify",
        *STATE_WRITES,
    ]
)
"""What gives a buffer another name or shape."""

_FUNCTIONS = frozenset(
    [
        "relu",
        "relu6",
        "leaky_relu",
        "clip",
        "gelu",
        "silu",
        "sigmoid",
        "sigmoid_hard",
        "tanh",
        "scaled_tanh",
        "softplus",
        "softplus_parametric",
        "softsign",
        "elu",
        "prelu",
        "clamped_relu",
        "thresholded_relu",
        "linear_activation",
        "erf",
        "cast",
        "abs",
        "square",
        "sqrt",
        "rsqrt",
        "exp",
        "exp2",
        "log",
        "inverse",
        "ceil",
        "floor",
        "round",
        "sign",
        "threshold",
        "logical_not",
        "batch_norm",
    ]
)
"""Functions of one element, which the engine applies on the way out of the operation before."""

_BINARY = frozenset(("add", "sub", "mul", "real_div", "maximum", "minimum", "pow"))
"""Elementwise operations of two operands, of which one may be on its way out of the operation before."""

_PICKING = frozenset(("slice_by_index", "slice_by_size", "gather", "gather_along_axis", "gather_nd"))
"""What reads as much of its operand as it writes."""

_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("conv", "conv_transpose", "conv_quantized"), "convolution"),
    **dict.fromkeys(("linear", "matmul", "scaled_dot_product_attention"), "linear"),
    "einsum": "einsum",
}


@dataclass(frozen=True)
class Step:
    """One operation as the cost model sees it.

    Attributes:
        kind: `convolution`; `einsum`, the product of two activations head by head; `linear`, a matrix product in
            another layout, linear layers and batched `matmul`; `movement`, what is bound by memory: elementwise
            operations, norms, softmax, copies; `free`, what costs nothing; `host`, what runs on the CPU.
        flops: Arithmetic, 2 per multiply-add.
        weight_bytes: Weights that it reads, as stored; of a look-up, the rows that it picks. What it reads of a state
            counts with them, since it comes from memory as they do.
        activation_bytes: What it reads and writes of activations, each last axis padded to 64 bytes; what only the CPU
            sees is not padded.
    """

    kind: Kind
    flops: int
    weight_bytes: int
    activation_bytes: int


def read_steps(operations: Sequence[Operation], on_host: Collection[Operation] = ()) -> list[Step]:
    """Describes operations in the order of the program.

    An operation that renames its operand, or applies a function to each of its elements, costs nothing. An
    elementwise operation of two operands joins the operation that made one of them, if nothing else reads that: it
    costs the other operand.

    Args:
        operations: Of a program.
        on_host: Those that run on the CPU.

    Returns:
        One step for each operation.
    """
    hosted = set(on_host)
    buffers = _Buffers(operations, hosted)
    by_engine = {t for o in operations if o not in hosted for t in (*o.operands, *o.outputs)}
    return [
        _host_step(operation, by_engine) if operation in hosted else buffers.step(operation)
        for operation in operations
    ]


class _Buffers:
    """Which values share a buffer, and how many operations read each."""

    def __init__(self, operations: Sequence[Operation], hosted: Collection[Operation]) -> None:
        self._roots: dict[Tensor, Tensor] = {}
        self._made: set[Tensor] = set()
        self._readers: Counter[Tensor] = Counter()
        self._states = {tensor for each in operations if each.type == "read_state" for tensor in each.operands}
        for operation in operations:
            if operation in hosted:
                continue
            self._made.update(operation.outputs)
            if _is_free(operation):
                self._roots[operation.outputs[0]] = self.root(operation.operands[0])
            else:
                self._readers.update({self.root(tensor) for tensor in operation.operands})

    def root(self, tensor: Tensor) -> Tensor:
        """Returns the value whose buffer this one lives in."""
        return self._roots.get(tensor, tensor)

    def step(self, operation: Operation) -> Step:
        """Describes an operation of the engine."""
        if _is_free(operation) or not operation.operands or operation.type in STATE_WRITES:
            return Step("free", 0, 0, 0)
        kind = _KINDS.get(operation.type, "movement")
        read = {self.root(tensor): padded_bytes(tensor) for tensor in operation.operands}
        written = sum(padded_bytes(tensor) for tensor in operation.outputs)
        if operation.type == "slice_update":  # in place
            return Step(kind, operation.flops, 0, 2 * sum(map(padded_bytes, operation.inputs["update"])))
        if operation.type in _PICKING:
            read = {self.root(tensor): written for tensor in operation.inputs.get("x", ())}
        elif operation.type in _BINARY:
            joined = [root for root in read if self._joins(root, operation)]
            if joined:
                del read[joined[0]]
                written = 0
        of_states = sum(size for root, size in read.items() if root in self._states)
        moved = sum(read.values()) - of_states + written
        return Step(kind, operation.flops, _weights(operation) + of_states, moved)

    def _joins(self, root: Tensor, operation: Operation) -> bool:
        is_whole = root.elements == operation.outputs[0].elements
        return is_whole and root in self._made and self._readers[root] == 1


def _is_free(operation: Operation) -> bool:
    return operation.type in _RENAMING | _FUNCTIONS and bool(operation.operands) and bool(operation.outputs)


def is_converting(operation: Operation) -> bool:
    """Tells whether an operation only renames a buffer or changes its type, as Core ML does at a program's edges."""
    return operation.type in _RENAMING or operation.type == "cast"


def _host_step(operation: Operation, by_engine: Collection[Tensor]) -> Step:
    """Describes an operation on the CPU; only what the engine reads or writes as well, `by_engine`, is padded."""
    # What the CPU hands to the engine is converted on the way in any case.
    if is_converting(operation):
        return Step("free", 0, 0, 0)
    activations = sum(
        padded_bytes(tensor) if tensor in by_engine else tensor.dense_bytes
        for tensor in {*operation.operands, *operation.outputs}
    )
    return Step("host", operation.flops, _weights(operation), activations)


def _weights(operation: Operation) -> int:
    """What is read of the weights: of a look-up, the rows that it picks and not the table."""
    if operation.type.startswith("gather"):
        return min(operation.weight_bytes, sum(tensor.dense_bytes for tensor in operation.outputs))
    return operation.weight_bytes


def padded_bytes(tensor: Tensor) -> int:
    """Returns the bytes of a value whose last axis is padded to 64 bytes; an unknown extent counts as 1."""
    if tensor.dtype == OTHER or not tensor.elements:
        return 0
    row = (tensor.shape[-1] or 1) if tensor.shape else 1
    row_bytes = row * tensor.dense_bytes / tensor.elements
    return tensor.elements // row * math.ceil(row_bytes / ALIGNMENT) * ALIGNMENT
