"""Memory of a program: its weights, its activations at their peak, and what padding adds to them.

The engine lays each buffer out with its last axis contiguous and aligned to 64 bytes (Apple, "Deploying Transformers
on the Apple Neural Engine", 2022): a last axis of one fp16 element takes the place of 32. Numbers here follow from
shapes; what Core ML really allocates, and reuses, only the device knows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from optimum_ane.analysis.operations import Program, Tensor
from optimum_ane.analysis.residency import Placement
from optimum_ane.analysis.steps import padded_bytes

_WORST = 10
_CACHE_WORDS = ("cache", "past", "key", "value", "kv")


@dataclass(frozen=True)
class WeightGroup:
    """The weights of one element type.

    Attributes:
        dtype: What they are computed with.
        stored_dtype: What they are stored as; the same unless they are compressed.
        count: How many arrays.
        stored_bytes: What they take in the package; what two compressed weights share is counted with each.
        dense_bytes: What they take decoded.
    """

    dtype: str
    stored_dtype: str
    count: int
    stored_bytes: int
    dense_bytes: int


@dataclass(frozen=True)
class Padding:
    """What one value loses to alignment.

    Attributes:
        name: The value's name.
        shape: Its extents.
        dtype: Its element type.
        bytes: Without padding.
        padded_bytes: With it.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    bytes: int
    padded_bytes: int

    @property
    def factor(self) -> float:
        """How many times the memory it takes: 32 for a last axis of 1 in fp16."""
        return self.padded_bytes / max(1, self.bytes)


@dataclass(frozen=True)
class Held:
    """A state, or a cache that is passed in and out: memory that lives between predictions.

    Attributes:
        name: Its name.
        shape: Its extents.
        dtype: Its element type.
        bytes: Without padding.
        is_state: Whether it is a state of Core ML's; otherwise an input that comes back as an output, or of which new
            rows do.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    bytes: int
    is_state: bool


@dataclass(frozen=True)
class Memory:
    """Memory of one prediction, in bytes; a lower bound where shapes are not known.

    Attributes:
        weights: By element type, the largest first.
        weight_bytes: Of all weights as stored, what several share once.
        dense_weight_bytes: Of all weights decoded.
        peak_bytes: Of the activations that are alive at once, at most. Each value has a buffer of its own, from the
            operation that makes it to the last that reads it.
        peak_at: The operation at which that is.
        padded_peak_bytes: The same with padding.
        padding_bytes: What padding adds to all values that the engine reads or writes, together.
        worst_padding: The values that lose most, at most ten.
        held: States and caches.
    """

    weights: tuple[WeightGroup, ...]
    weight_bytes: int
    dense_weight_bytes: int
    peak_bytes: int
    peak_at: str
    padded_peak_bytes: int
    padding_bytes: int
    worst_padding: tuple[Padding, ...]
    held: tuple[Held, ...]


def measure_memory(program: Program, placements: Sequence[Placement]) -> Memory:
    """Adds up what a program takes.

    Args:
        program: The program.
        placements: Where its operations run: only what the engine reads or writes is padded.
    """
    on_engine: set[Tensor] = set()
    for placement in placements:
        if placement.verdict != "fallback":
            on_engine.update(placement.operation.operands, placement.operation.outputs)
    sizes = {tensor: padded_bytes(tensor) for tensor in on_engine}
    padding = [
        Padding(t.name, t.shape, t.dtype, t.dense_bytes, size) for t, size in sizes.items() if size > t.dense_bytes
    ]
    padding.sort(key=lambda p: (p.bytes - p.padded_bytes, p.name))
    peak, peak_at = _peak(program, {})
    padded_peak, _ = _peak(program, sizes)
    return Memory(
        weights=_weights(program.weights),
        weight_bytes=program.weight_bytes,
        dense_weight_bytes=sum(tensor.dense_bytes for tensor in program.weights),
        peak_bytes=peak,
        peak_at=peak_at,
        padded_peak_bytes=padded_peak,
        padding_bytes=sum(p.padded_bytes - p.bytes for p in padding),
        worst_padding=tuple(padding[:_WORST]),
        held=_held(program),
    )


def _weights(tensors: Iterable[Tensor]) -> tuple[WeightGroup, ...]:
    groups: dict[tuple[str, str], list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        groups[tensor.dtype, tensor.stored_dtype or tensor.dtype].append(tensor)
    found = [
        WeightGroup(*key, len(own), sum(t.stored_bytes or 0 for t in own), sum(t.dense_bytes for t in own))
        for key, own in groups.items()
    ]
    return tuple(sorted(found, key=lambda group: -group.stored_bytes))


def _peak(program: Program, sizes: Mapping[Tensor, int]) -> tuple[int, str]:
    """Goes through the program and returns the most bytes that are alive at once, and at which operation.

    Args:
        program: The program.
        sizes: Bytes of values that take others than those of their elements.
    """
    last: dict[Tensor, int] = {}
    for step, operation in enumerate(program.operations):
        last.update(dict.fromkeys((*operation.operands, *operation.outputs), step))
    last.update((output, len(program.operations)) for output in program.outputs if not output.is_constant)
    # A state holds its memory anyhow, and is written in place; it is told apart.
    states = set(program.states)
    for operation in program.operations:
        if operation.type in ("read_state", "coreml_update_state") or (
            operation.type == "slice_update" and not states.isdisjoint(operation.inputs["x"])
        ):
            states.update(operation.outputs)
    ends: dict[int, list[Tensor]] = defaultdict(list)
    for tensor, step in last.items():
        ends[step].append(tensor)
    alive = set(program.inputs) & last.keys()
    held = sum(sizes.get(tensor, tensor.dense_bytes) for tensor in alive)
    peak, where = held, ""
    for step, operation in enumerate(program.operations):
        born = set(operation.outputs) - alive - states
        alive |= born
        held += sum(sizes.get(tensor, tensor.dense_bytes) for tensor in born)
        if held > peak:
            peak, where = held, operation.name
        gone = alive.intersection(ends[step])
        alive -= gone
        held -= sum(sizes.get(tensor, tensor.dense_bytes) for tensor in gone)
    return peak, where


def _held(program: Program) -> tuple[Held, ...]:
    """Finds states, and inputs that are named as caches are and come back as outputs, whole or in new rows."""
    states = [Held(t.name, t.shape, t.dtype, t.dense_bytes, True) for t in program.states]
    caches = [
        Held(t.name, t.shape, t.dtype, t.dense_bytes, False)
        for t in program.inputs
        if t.dtype.startswith("float") and any(word in t.name.lower() for word in _CACHE_WORDS)
        if any(_comes_back(t, output) for output in program.outputs)
    ]
    return (*states, *caches)


def _comes_back(cache: Tensor, output: Tensor) -> bool:
    """Tells whether an output is of a cache's shape, or shorter along one of its axes."""
    if output.dtype != cache.dtype or len(output.shape) != len(cache.shape):
        return False
    differing = [(a, b) for a, b in zip(cache.shape, output.shape, strict=True) if a != b]
    return not differing or (len(differing) == 1 and (differing[0][1] or 0) < (differing[0][0] or 0))
