"""Builds programs operation by operation, without weights: for models that are too large to convert here."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

from optimum_ane.analysis.flops import count_flops
from optimum_ane.analysis.operations import Operation, Tensor

Shape = tuple[int, ...]


class ProgramBuilder:
    """Collects operations as a converted program would hold them, in fp16.

    Args:
        bits: Of each weight as it is stored.
        convolves: Whether linear layers are convolutions; the layout's transposes are left out.
    """

    def __init__(self, bits: float = 16, convolves: bool = False) -> None:
        self.bits = bits
        self.convolves = convolves
        self.operations: list[Operation] = []

    def input(self, *shape: int) -> Tensor:
        """A value that the program is given."""
        return Tensor("input", "float16", shape)

    def weight(self, *shape: int) -> Tensor:
        """A constant of the weight file."""
        dense = Tensor("weight", "float16", shape)
        return Tensor("weight", "float16", shape, True, round(dense.elements * self.bits / 8), True)

    def add(self, op: str, shape: Shape, attributes: dict[str, Any] | None = None, **inputs: Any) -> Tensor:
        """Appends an operation and returns its result."""
        operands = {key: value if isinstance(value, tuple) else (value,) for key, value in inputs.items()}
        index = len(self.operations)
        output = Tensor(f"{op}_{index}", "float16", shape)
        shapes = {key: [tensor.shape for tensor in tensors] for key, tensors in operands.items()}
        stored = sum(t.stored_bytes or 0 for tensors in operands.values() for t in tensors if t.in_file)
        flops = count_flops(op, shapes, [shape], attributes or {})
        operation = Operation(
            index, output.name, op, MappingProxyType(operands), (output,), attributes or {}, flops, stored
        )
        self.operations.append(operation)
        return output

    def conv(self, x: Tensor, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> Tensor:
        """A convolution with padding that keeps the extent, or halves it with stride 2."""
        batch, inner, height, width = x.shape
        tall = kernel if height > 1 else 1
        weight = self.weight(channels, inner // groups, tall, kernel)
        shape = (batch, channels, -(-height // (stride if height > 1 else 1)), -(-width // stride))
        return self.add("conv", shape, x=x, weight=weight)

    def linear(self, x: Tensor, features: int) -> Tensor:
        """A linear layer over the last axis."""
        shape = (*x.shape[:-1], features)
        if self.convolves:
            return self.add("conv", shape, x=x, weight=self.weight(features, x.shape[-1], 1, 1))
        return self.add("linear", shape, x=x, weight=self.weight(features, x.shape[-1]))

    def einsum(self, equation: str, x: Tensor, y: Tensor) -> Tensor:
        """A product of two values."""
        left, right = equation.split("->")
        extents = dict(zip(left.replace(",", ""), (*x.shape, *y.shape), strict=True))
        shape = tuple(extents[letter] for letter in right)
        return self.add("einsum", shape, {"equation": equation}, values=(x, y))

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """A batched matrix product."""
        return self.add("matmul", (*x.shape[:-1], y.shape[-1]), x=x, y=y)

    def unary(self, op: str, x: Tensor) -> Tensor:
        """An operation that keeps the shape."""
        return self.add(op, x.shape, x=x)

    def binary(self, op: str, x: Tensor, y: Tensor | None = None) -> Tensor:
        """An elementwise operation on two values, or on one and a constant."""
        return self.add(op, x.shape, x=x) if y is None else self.add(op, x.shape, x=x, y=y)

    def transpose(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        """A transpose."""
        return self.add("transpose", tuple(x.shape[axis] for axis in axes), x=x)

    def reshape(self, x: Tensor, *shape: int) -> Tensor:
        """A reshape."""
        return self.add("reshape", shape, x=x)

    def part(self, x: Tensor, extent: int, axis: int) -> Tensor:
        """A slice, or one part of a split."""
        shape = list(x.shape)
        shape[axis] = extent
        return self.add("slice_by_index", tuple(shape), x=x)

    def concat(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        """A concatenation."""
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        return self.add("concat", tuple(shape), values=tuple(parts))
