"""Runs a saved ML Program on any machine that has torch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from optimum_ane.errors import ExecutionError, InputError, PackageError
from optimum_ane.runtimes.portable import limits
from optimum_ane.runtimes.portable.graph import Graph, read_function
from optimum_ane.runtimes.portable.guard import refuse_excess
from optimum_ane.runtimes.portable.images import picture
from optimum_ane.runtimes.portable.interface import Feature, describe_function, read_features
from optimum_ane.runtimes.portable.limits import prediction
from optimum_ane.runtimes.portable.package import Package
from optimum_ane.runtimes.portable.program import Observer, Program
from optimum_ane.runtimes.portable.recorder import Recorder
from optimum_ane.runtimes.portable.registry import Cell
from optimum_ane.runtimes.portable.row_axis import rows_at_once
from optimum_ane.runtimes.portable.values import TensorType, by_name, volume
from optimum_ane.runtimes.session import TensorSpec

Precision = Literal["program", "float32"]
_IMAGE_TYPES = ("float16", "float32", "uint8")


class PortableState:
    """See `runtimes.State`.

    Attributes:
        cells: The states by name, each in the type that carries it. Predictions write into their tensors or replace
            them; `read` gives copies.
    """

    def __init__(self, cells: dict[str, Cell], specs: Mapping[str, TensorSpec]) -> None:
        self.cells = cells
        self._specs = specs

    @property
    def names(self) -> tuple[str, ...]:
        """See `State`."""
        return tuple(self.cells)

    def fits(self, states: Mapping[str, TensorSpec]) -> bool:
        """Whether a function that declares these states can take it."""
        return dict(self._specs) == dict(states)

    def read(self, name: str) -> np.ndarray:
        """See `State`."""
        return np.array(self.cells[name].tensor.numpy(), dtype=self._specs[name].dtype)

    def write(self, name: str, value: np.ndarray) -> None:
        """See `State`."""
        spec = self._specs[name]
        array = np.asarray(value)
        if array.shape != spec.shape or array.dtype.kind not in "biuf":
            raise InputError(f"state {name!r} is {spec.dtype} {spec.shape}; given was {array.dtype} {array.shape}")
        tensor = torch.from_numpy(array.astype(spec.dtype))
        self.cells[name].tensor = tensor.to(by_name(spec.dtype).carrier).clone()

    def copy(self) -> PortableState:
        """See `State`."""
        return PortableState({name: Cell(cell.tensor.clone()) for name, cell in self.cells.items()}, self._specs)


class PortableSession:
    """A package, executed from its protobuf and weight file with torch on the CPU.

    A prediction changes nothing in the session: several threads may predict at once, each with a state of its own.

    Attributes:
        runtime: `"portable"`.
        path: The package.
        function_name: The function that `predict` runs.
        precision: `"program"`: a value of type fp16 is rounded to fp16 after each operation, sums inside an operation
            accumulate in float32. `"float32"`: weights as they are stored, nothing rounded but fp16 inputs and
            outputs; it tells an error of rounding from one of logic.
        inputs: The inputs by name.
        outputs: The outputs by name.
        states: The states by name.
    """

    runtime = "portable"

    def __init__(
        self,
        path: str | Path | Package,
        function_name: str | None = None,
        precision: Precision = "program",
    ) -> None:
        """Loads a package.

        Args:
            path: The `.mlpackage` folder, or one that is open already.
            function_name: Which function of a program with several; the package's default where None.
            precision: See the class.

        Raises:
            PackageError: The package is damaged.
            UnsupportedOperationError: The program uses operations that this runtime lacks.
        """
        if precision not in ("program", "float32"):
            raise ValueError(f"precision is 'program' or 'float32', not {precision!r}")
        package = path if isinstance(path, Package) else Package(path)
        self._package = package
        self.path = package.path
        self.precision = precision
        try:
            self._load(package, function_name)
        except PackageError as error:
            if str(self.path) in str(error):
                raise
            # Of a value, whose reader does not know where it comes from.
            raise PackageError(f"{self.path}: {error}") from error

    def _load(self, package: Package, function_name: str | None) -> None:
        self.function_name, description = describe_function(package.spec, function_name, self.path)
        self._input_features = read_features(description.input, "input", self.path)
        output_features = read_features(description.output, "output", self.path)
        self._state_features = read_features(description.state, "state", self.path)
        held = sum(
            volume(f.spec.shape) * by_name(f.spec.dtype).carrier.itemsize for f in self._state_features.values()
        )
        if held > limits.memory():
            raise PackageError(f"{self.path}: the states take {held} bytes of memory; there are {limits.memory()}")
        graph = self._read(package)
        refuse_excess(graph, str(self.path))
        self._input_features = _with_image_types(self._input_features, graph)
        self._check_signature(graph, output_features)
        self._argument_names = [value.name for value in graph.inputs]
        shapes = {name: o.type for name, o in zip(graph.names, graph.outputs, strict=True)}
        self.inputs: Mapping[str, TensorSpec] = {name: f.spec for name, f in self._input_features.items()}
        self.outputs: Mapping[str, TensorSpec] = {
            name: _with_shape(f.spec, shapes.get(name)) for name, f in output_features.items()
        }
        self.states: Mapping[str, TensorSpec] = {name: f.spec for name, f in self._state_features.items()}
        # Of outputs the program may have more than the description names; what is not described is not returned.
        self._output_names = graph.names
        self._rows, self._rows_at_once = self._count_rows(graph)
        features = (*self._input_features.values(), *output_features.values())
        self._is_flexible = any(feature.shapes or feature.ranges for feature in features)
        with torch.inference_mode():
            self._program = Program(graph, rounds=self.precision == "program", source=str(self.path))
        package.release_pages()

    def _read(self, package: Package) -> Graph:
        return read_function(package, self.function_name)

    @property
    def functions(self) -> tuple[str, ...]:
        """The names of the program's functions."""
        return tuple(sorted(self._package.spec.mlProgram.functions))

    def function(self, name: str) -> PortableSession:
        """Loads another function of the package.

        Args:
            name: One of `functions`.

        Returns:
            Its session. Weights that both functions use, packed for multiplication or not, are in memory once.
        """
        return PortableSession(self._package, name, self.precision)

    def with_rows(self, rows: int) -> PortableSession:
        """See `Session`: more rows than declared where the graph shows that they do not see each other."""
        granted = min(rows, self._rows_at_once)
        if granted <= self._rows:
            return self
        wide = copy.copy(self)
        wide._input_features = {
            name: replace(feature, spec=_of_rows(feature.spec, granted))
            for name, feature in self._input_features.items()
        }
        wide.inputs = {name: feature.spec for name, feature in wide._input_features.items()}
        wide.outputs = {name: _of_rows(spec, granted) for name, spec in self.outputs.items()}
        wide._rows = granted
        return wide

    def _count_rows(self, graph: Graph) -> tuple[int, int]:
        """The rows that the function declares, and those that it may be run with."""
        features = self._input_features.values()
        extents = {feature.spec.shape[:1] for feature in features}
        is_fixed = not self.states and not any(
            feature.shapes or feature.ranges or feature.spec.image for feature in features
        )
        if not is_fixed or len(extents) != 1 or extents == {()}:
            return 0, 0
        ((declared,),) = extents
        return declared, rows_at_once(graph, declared)

    def make_state(self) -> PortableState:
        """Returns a new state, all zeros."""
        cells = {}
        with torch.inference_mode():
            for name, spec in self.states.items():
                cells[name] = Cell(torch.zeros(spec.shape, dtype=by_name(spec.dtype).carrier))
        return PortableState(cells, self.states)

    def predict(
        self,
        inputs: Mapping[str, Any],
        state: PortableState | None = None,
        *,
        intermediates: Sequence[str] = (),
        observer: Observer | None = None,
    ) -> dict[str, Any]:
        """Runs the function once.

        Args:
            inputs: A numpy array, torch tensor, Python number or list for each of `self.inputs`; for an image one of
                PIL's as well.
            state: From `make_state`, for a program with states; holds their new values afterwards.
            intermediates: Names, or patterns of them, of values that are returned beside the outputs.
            observer: Called after each operation with its step and result; not with `intermediates`.

        Returns:
            A numpy array of the declared type for each of `self.outputs`, or PIL's image where it is one; of a
            classifier the label, and the probabilities by label.

        Raises:
            InputError: A name, element type, value or shape does not match the package's declaration.
            ExecutionError: An operation refused its operands. The updates before it stay in the state.
        """
        arrays = self._check_inputs(inputs, state)
        recorder = Recorder(intermediates, rounded=self.precision == "program") if intermediates else None
        # In a new Python thread oneDNN takes every core, whatever `torch.set_num_threads` said, until torch tells it,
        # which torch does when a thread first asks: 1.7 times slower where other predictions run beside this one.
        torch.get_num_threads()
        with torch.inference_mode():
            arguments: list[Any] = []
            for name in self._argument_names:
                if name in arrays:
                    dtype = by_name(self.inputs[name].dtype)
                    arguments.append(torch.from_numpy(arrays[name]).to(dtype.carrier))
                elif state is not None:
                    arguments.append(state.cells[name])
            with prediction():
                values = self._program.run(arguments, observer or recorder)
        results = dict(zip(self._output_names, values, strict=True))
        named = {name: _result(results[name], spec, self.path) for name, spec in self.outputs.items()}
        if not self._is_flexible:
            for name, spec in self.outputs.items():
                _check_shape(named[name], spec, self.path)
        if recorder is None:
            return named
        recorder.check()
        return recorder.values | named

    def _check_inputs(self, inputs: Mapping[str, Any], state: PortableState | None) -> dict[str, np.ndarray]:
        unknown = [name for name in inputs if name not in self._input_features]
        if unknown:
            expected = ", ".join(self.inputs)
            raise InputError(f"{self.path} has no input {', '.join(map(repr, unknown))}; its inputs are: {expected}")
        arrays = {}
        missing = []
        for name, feature in self._input_features.items():
            if name in inputs:
                arrays[name] = feature.array(inputs[name])
            elif feature.optional:
                arrays[name] = feature.filled()
            else:
                missing.append(f"{name!r} ({feature.spec.dtype}, shape {feature.spec.shape})")
        if missing:
            raise InputError(f"{self.path} lacks input {', '.join(missing)}")
        if self.states and (state is None or not state.fits(self.states)):
            raise InputError(f"{self.path} has states ({', '.join(self.states)}): pass one from make_state()")
        if state is not None and not self.states:
            raise InputError(f"{self.path} has no states, and one was passed")
        return arrays

    def _check_signature(self, graph: Graph, outputs: Mapping[str, Feature]) -> None:
        """Checks that the program takes and returns what the description declares."""
        taken = [value.name for value in graph.inputs]
        declared = {**self._input_features, **self._state_features}
        if sorted(taken) != sorted(declared):
            raise PackageError(
                f"{self.path}: the description has inputs {sorted(declared)}, the program {sorted(taken)}"
            )
        for value in graph.inputs:
            feature = declared[value.name]
            if value.type is None or not _agree(feature, value.type):
                stated = "no tensor" if value.type is None else f"{value.type.dtype.name} {value.type.shape}"
                raise PackageError(
                    f"{self.path}: input {value.name!r} is {feature.spec.dtype} {feature.spec.shape} in the "
                    f"description and {stated} in the program"
                )
        lost = sorted(outputs.keys() - set(graph.names))
        if lost:
            raise PackageError(f"{self.path}: the description has outputs {lost}, which the program does not return")


def _agree(feature: Feature, declared: TensorType) -> bool:
    """Tells whether the description of an input is that of the program's; -1 in the program is any extent."""
    spec = feature.spec
    return (
        spec.dtype == declared.dtype.name
        and len(spec.shape) == len(declared.shape)
        and all(b in (-1, a) for a, b in zip(spec.shape, declared.shape, strict=True))
    )


def _with_image_types(features: Mapping[str, Feature], graph: Graph) -> dict[str, Feature]:
    """Gives images the element type that the program takes, of which the description does not tell."""
    types = {value.name: value.type for value in graph.inputs}
    typed = {}
    for name, feature in features.items():
        declared = types.get(name)
        if feature.spec.image and declared is not None and declared.dtype.name in _IMAGE_TYPES:
            feature = replace(feature, spec=replace(feature.spec, dtype=declared.dtype.name))
        typed[name] = feature
    return typed


def _with_shape(spec: TensorSpec, declared: TensorType | None) -> TensorSpec:
    """Adds the shape that the program declares to an output of which the description tells none."""
    if spec.shape or declared is None or min(declared.shape, default=0) < 0:
        return spec
    if spec.dtype in ("string", "dictionary", "int64"):
        return spec
    return replace(spec, shape=declared.shape or (1,))


def _of_rows(spec: TensorSpec, rows: int) -> TensorSpec:
    return replace(spec, shape=(rows, *spec.shape[1:])) if spec.shape else spec


def _check_shape(value: Any, spec: TensorSpec, path: Path) -> None:
    """A caller takes the description's word for how much it will get."""
    if isinstance(value, np.ndarray) and spec.shape and value.shape != spec.shape:
        raise ExecutionError(
            f"{path}: output {spec.name!r} has shape {value.shape}, and the description says {spec.shape}; "
            "the package is damaged"
        )


def _result(value: Any, spec: TensorSpec, path: Path) -> Any:
    """Turns a value of the program into what `predict` returns."""
    kind: type = {"string": str, "dictionary": dict}.get(spec.dtype, torch.Tensor)
    if not isinstance(value, kind):
        raise ExecutionError(f"{path}: output {spec.name!r} should be of {spec.dtype}, the program gives another kind")
    if not isinstance(value, torch.Tensor):
        return value
    if spec.dtype == "int64" and value.ndim == 0:
        return int(value)
    array = value.numpy()
    if spec.image:
        try:
            return picture(array, spec.image)
        except ValueError as error:
            raise ExecutionError(f"{path}: output {spec.name!r}: {error}") from error
    with np.errstate(over="ignore"):
        # Always a copy: a program may return an input or a constant as it is.
        return np.array(array if array.ndim else array.reshape(1), dtype=spec.dtype, order="C")
