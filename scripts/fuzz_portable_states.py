"""Builds random small programs with states and compares the portable runtime with numpy, which copies everything.

    python scripts/fuzz_portable_states.py --count 2000 --seed 1

The programs read, slice, reshape, combine, update and write two states in any order, some of it under a condition, and
return windows into them. Two programs of one seed share their states; predictions on two states are interleaved, and
states are copied and written from outside in between. All numbers are small integers: results must be equal.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partialmethod
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil import Builder
from coremltools.converters.mil.mil import types
from tqdm import tqdm

from optimum_ane.runtimes.portable import PortableSession

SHAPE = (3, 4)
STATES = ("s", "t")
MOST = 64.0
KINDS = (
    *("read", "read", "window", "decode", "decode", "decode", "shift", "combine", "combine", "update"),
    *("row", "row", "write", "write", "choose"),
)
Value = Any
"""A variable of MIL while a program is built, an array of numpy while it is computed."""


class MismatchError(AssertionError):
    """The runtime and numpy disagree."""


@dataclass
class Language:
    """The operations of a program, either way: as MIL builds them or as numpy computes them."""

    read: Callable[[str], Value]
    write: Callable[[str, Value], Value]
    slice: Callable[[Value, tuple[int, ...], tuple[int, ...]], Value]
    update: Callable[[Value, Value, tuple[int, ...], tuple[int, ...]], Value]
    update_at: Callable[[Value, Value, Value], Value]
    transpose: Callable[[Value], Value]
    reshape: Callable[[Value, tuple[int, ...]], Value]
    combine: Callable[[str, Value, Value], Value]
    same: Callable[[Value], Value]
    choose: Callable[[Value, Callable[[], Value], Callable[[], Value]], Value]


@dataclass
class Instruction:
    """One operation: from the values so far to a new one, of this shape."""

    text: str
    run: Callable[[Language, list[Value]], Value]
    shape: tuple[int, ...]


@dataclass
class StatefulProgram:
    """A random program; its values are the inputs `x` (of `SHAPE`), `row`, `flag` (int32), then one of each step."""

    steps: list[Instruction]
    returned: list[int] = field(default_factory=list)

    def run(self, language: Language, inputs: list[Value]) -> list[Value]:
        """Runs or builds it."""
        values = [*inputs]
        for step in self.steps:
            values.append(step.run(language, values))
        return [values[place] for place in self.returned]

    def __str__(self) -> str:
        lines = [f"  {place}: {step.text} -> {step.shape}" for place, step in enumerate(self.steps, 3)]
        return "\n".join([*lines, f"  returns {self.returned}"])


def make(rng: np.random.Generator) -> StatefulProgram:
    """Makes a program that writes each state at least once."""
    steps: list[Instruction] = []
    shapes: dict[int, tuple[int, ...]] = {0: SHAPE}
    pending = [*STATES]
    for _ in range(int(rng.integers(6, 18))):
        name = str(rng.choice(KINDS))
        steps.append(_instruction(name, rng, shapes, pending))
        shapes[len(steps) + 2] = steps[-1].shape
    while pending:
        steps.append(_instruction("decode", rng, shapes, pending))
        shapes[len(steps) + 2] = steps[-1].shape
    places = rng.permutation(np.arange(3, len(steps) + 3))
    return StatefulProgram(steps, [int(place) for place in places[: rng.integers(1, 5)]])


def _instruction(
    name: str, rng: np.random.Generator, shapes: dict[int, tuple[int, ...]], pending: list[str]
) -> Instruction:
    def pick(shape: tuple[int, ...] | None = None) -> int:
        places = [place for place, known in shapes.items() if shape in (None, known)]
        return places[-1] if rng.random() < 0.8 else int(rng.choice(places))

    def ranges(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        begin = tuple(int(rng.integers(0, extent)) for extent in shape)
        end = tuple(int(rng.integers(first + 1, extent + 1)) for first, extent in zip(begin, shape, strict=True))
        return begin, end

    state = pending[0] if pending and rng.random() < 0.5 else str(rng.choice(STATES))
    if name in ("decode", "shift", "write", "choose") and state in pending:
        pending.remove(state)
    if name == "read":
        return Instruction(f"read {state}", lambda do, _: do.read(state), SHAPE)
    if name == "window":
        x = pick()
        way = int(rng.integers(3))
        if way == 0 and len(shapes[x]) == 2:
            return Instruction(f"transpose {x}", lambda do, v: do.transpose(v[x]), shapes[x][::-1])
        if way == 1:
            flat = (int(np.prod(shapes[x])),)
            return Instruction(f"reshape {x}", lambda do, v: do.reshape(v[x], flat), flat)
        begin, end = ranges(shapes[x])
        extents = tuple(b - a for a, b in zip(begin, end, strict=True))
        return Instruction(f"slice {x} {begin} {end}", lambda do, v: do.slice(v[x], begin, end), extents)
    if name == "decode":  # what a decoder does: a row of the present value, at a place that is computed
        x = pick(SHAPE)

        def decode(do: Language, v: list[Value]) -> Value:
            row = do.slice(v[x], (0, 0), (1, SHAPE[1]))
            return do.write(state, do.update_at(do.read(state), row, v[1]))

        return Instruction(f"decode {state} with {x}", decode, SHAPE)
    if name == "row":  # the same of any value; whether and when it is written is left to other operations
        x, y = pick(SHAPE), pick(SHAPE)
        return Instruction(
            f"row of {y} into {x}",
            lambda do, v: do.update_at(v[x], do.slice(v[y], (0, 0), (1, SHAPE[1])), v[1]),
            SHAPE,
        )
    if name == "shift":  # rows of a state moved within it

        def shift(do: Language, v: list[Value]) -> Value:
            whole = do.read(state)
            rows = do.slice(whole, (0, 0), (SHAPE[0] - 1, SHAPE[1]))
            return do.write(state, do.update(whole, rows, (1, 0), SHAPE))

        return Instruction(f"shift {state}", shift, SHAPE)
    if name == "combine":
        x = pick()
        y = pick(shapes[x])
        way = str(rng.choice(("add", "sub", "maximum", "minimum")))
        return Instruction(f"{way} {x} {y}", lambda do, v: do.combine(way, v[x], v[y]), shapes[x])
    if name == "update":
        x = pick()
        begin, end = ranges(shapes[x])
        y = pick(shapes[x])
        return Instruction(
            f"update {x} with {y} {begin} {end}",
            lambda do, v: do.update(v[x], do.slice(v[y], begin, end), begin, end),
            shapes[x],
        )
    if name == "write":
        x = pick(SHAPE)
        return Instruction(f"write {state} {x}", lambda do, v: do.write(state, v[x]), SHAPE)
    x = pick(SHAPE)

    def choose(do: Language, v: list[Value]) -> Value:
        def decode() -> Value:
            return do.write(state, do.update_at(do.read(state), do.slice(v[x], (0, 0), (1, SHAPE[1])), v[1]))

        return do.choose(v[2], decode, lambda: do.same(v[x]))

    return Instruction(f"if flag: decode {state} with {x}", choose, SHAPE)


def numpy_language(states: dict[str, np.ndarray]) -> Language:
    """Computes on these states; nothing is ever written into an array that somebody else may hold."""

    def write(name: str, value: np.ndarray) -> np.ndarray:
        states[name] = value.copy()
        return states[name].copy()

    def update(x: np.ndarray, y: np.ndarray, begin: tuple[int, ...], end: tuple[int, ...]) -> np.ndarray:
        result = x.copy()
        result[tuple(slice(a, b) for a, b in zip(begin, end, strict=True))] = y
        return result

    ways = {"add": np.add, "sub": np.subtract, "maximum": np.maximum, "minimum": np.minimum}
    return Language(
        read=lambda name: states[name].copy(),
        write=write,
        slice=lambda x, begin, end: x[tuple(slice(a, b) for a, b in zip(begin, end, strict=True))].copy(),
        update=update,
        update_at=lambda x, y, row: update(x, y, (int(row[0]), 0), (int(row[0]) + 1, SHAPE[1])),
        transpose=lambda x: x.T.copy(),
        reshape=lambda x, shape: x.reshape(shape).copy(),
        combine=lambda way, x, y: np.clip(ways[way](x, y), -MOST, MOST),
        same=lambda x: x.copy(),
        choose=lambda flag, yes, no: yes() if flag[0] > 0 else no(),
    )


def mil_language(states: dict[str, Any]) -> Language:
    """Builds MIL on these states."""

    def update_at(x: Any, y: Any, row: Any) -> Any:
        begin = Builder.concat(values=[row, np.array([0], np.int32)], axis=0)
        end = Builder.concat(values=[Builder.add(x=row, y=np.int32(1)), np.array([SHAPE[1]], np.int32)], axis=0)
        return Builder.slice_update(x=x, update=y, begin=begin, end=end)

    def combine(way: str, x: Any, y: Any) -> Any:
        return Builder.clip(x=getattr(Builder, way)(x=x, y=y), alpha=np.float16(-MOST), beta=np.float16(MOST))

    def choose(flag: Any, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
        pred = Builder.greater(x=Builder.squeeze(x=flag, axes=[0]), y=np.int32(0))
        return Builder.cond(pred=pred, _true_fn=yes, _false_fn=no)

    return Language(
        read=lambda name: Builder.read_state(input=states[name]),
        write=lambda name, value: Builder.coreml_update_state(state=states[name], value=value),
        slice=lambda x, begin, end: Builder.slice_by_index(x=x, begin=begin, end=end),
        update=lambda x, y, begin, end: Builder.slice_update(x=x, update=y, begin=begin, end=end),
        update_at=update_at,
        transpose=lambda x: Builder.transpose(x=x, perm=(1, 0)),
        reshape=lambda x, shape: Builder.reshape(x=x, shape=shape),
        combine=combine,
        same=lambda x: Builder.identity(x=x),
        choose=choose,
    )


def save(program: StatefulProgram, path: Path) -> None:
    """Saves a program as it is written, without coremltools' graph passes."""
    specs = [Builder.TensorSpec(SHAPE, types.fp16), Builder.TensorSpec((1,), types.int32)]
    specs += [Builder.TensorSpec((1,), types.int32), *(Builder.StateTensorSpec(SHAPE, types.fp16) for _ in STATES)]

    @Builder.program(input_specs=specs, opset_version=ct.target.iOS18)
    def built(x: Any, row: Any, flag: Any, s: Any, t: Any) -> Any:
        # Each input is read, as Core ML wants it.
        kept = Builder.add(x=row, y=flag)
        return *program.run(mil_language({"s": s, "t": t}), [x, row, flag]), kept

    model = ct.convert(
        built,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )
    model.save(str(path))


def check(seed: int, folder: Path) -> bool:
    """Makes two programs over the same states, runs both in turn and compares them.

    Args:
        seed: Decides everything.
        folder: Where the packages go, over those before.

    Returns:
        Whether a state was changed in its own memory by every update of a prediction.

    Raises:
        MismatchError: A result or a state is wrong.
    """
    rng = np.random.default_rng(seed)
    programs = [make(rng) for _ in range(2)]
    paths = [folder / f"states{number}.mlpackage" for number in range(2)]
    for program, path in zip(programs, paths, strict=True):
        save(program, path)
    is_in_place = False
    for precision in ("program", "float32"):
        sessions = [PortableSession(path, precision=precision) for path in paths]
        states = [sessions[0].make_state() for _ in range(2)]
        known = [{name: np.zeros(SHAPE, np.float32) for name in STATES} for _ in states]
        for turn in range(8):
            chosen, which = int(rng.integers(2)), int(rng.integers(2))
            x = rng.integers(-9, 10, SHAPE).astype(np.float16)
            before = {name: (states[chosen].cells[name].tensor, known[chosen][name]) for name in STATES}
            row, flag = (rng.integers(0, n, 1).astype(np.int32) for n in (SHAPE[0], 2))
            results = list(sessions[which].predict({"x": x, "row": row, "flag": flag}, states[chosen]).values())
            language = numpy_language(known[chosen])
            expected = programs[which].run(language, [x.astype(np.float32), row, flag])
            where = f"seed {seed}, {precision}, turn {turn}"
            _compare(results[: len(expected)], expected, where, programs[which])
            for state, arrays in zip(states, known, strict=True):
                _compare([state.read(n) for n in STATES], list(arrays.values()), where + ", state", programs[which])
            for name, (tensor, array) in before.items():
                is_kept = states[chosen].cells[name].tensor is tensor
                is_in_place |= is_kept and not np.array_equal(array, known[chosen][name])
            action = int(rng.integers(4))
            if action == 0:
                states[0], known[0] = states[1].copy(), {name: a.copy() for name, a in known[1].items()}
            elif action == 1:
                known[0]["s"] = rng.integers(-9, 10, SHAPE).astype(np.float32)
                states[0].write("s", known[0]["s"])
    return is_in_place


def _compare(results: list[np.ndarray], expected: list[np.ndarray], where: str, program: StatefulProgram) -> None:
    for number, (result, meant) in enumerate(zip(results, expected, strict=True)):
        if not np.array_equal(result, meant):
            raise MismatchError(f"{where}, {number}: {result.tolist()} instead of {meant.tolist()}\n{program}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=500, help="how many pairs of programs")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the first; the others follow")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    gc.freeze()  # coremltools collects garbage in each conversion: 0.2 s with torch's modules to look through
    tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)
    warnings.filterwarnings("ignore", module="coremltools")
    failures = in_place = 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.seed, arguments.seed + arguments.count):
            try:
                in_place += check(seed, Path(folder))
            except Exception as error:  # noqa: BLE001  a fuzzer reports whatever comes and goes on
                failures += 1
                print(f"seed {seed}: {type(error).__name__}: {error}", file=sys.stderr)
    print(f"{arguments.count} pairs of programs, {in_place} with a state changed in place, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
