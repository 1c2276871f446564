"""Modules in PyTorch behind the interface of a session: what a program is traced from, before any conversion."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from optimum_ane.errors import InputError, PackageError
from optimum_ane.runtimes.session import HIDDEN_STATE, TensorSpec


@dataclass(frozen=True)
class TorchFunction:
    """A function of a program that was not converted.

    Attributes:
        module: Takes the inputs in order as int64 or float32 tensors and returns the outputs in order. It keeps states
            in buffers of their names and writes into these in place.
        inputs: Of fixed shape, in the order of the module's arguments.
        outputs: Names, in the order in which the module returns them.
        states: By name.
        other_shapes: Further ones that inputs may have, by name.
    """

    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    states: tuple[TensorSpec, ...] = field(default=())
    other_shapes: Mapping[str, Sequence[tuple[int, ...]]] = field(default_factory=dict)


class TorchState:
    """See `runtimes.State`; the modules' buffers are bound to these tensors during a call."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    @property
    def names(self) -> tuple[str, ...]:
        """See `State`."""
        return tuple(self.tensors)

    def read(self, name: str) -> np.ndarray:
        """See `State`."""
        return self.tensors[name].numpy().copy()

    def write(self, name: str, value: np.ndarray) -> None:
        """See `State`."""
        self.tensors[name] = torch.from_numpy(checked_state(name, value, self.read(name))).clone()

    def copy(self) -> TorchState:
        """See `State`."""
        return TorchState({name: tensor.clone() for name, tensor in self.tensors.items()})


class TorchSession:
    """See `runtimes.Session`; computes in float32, whatever the program will be rounded to.

    Args:
        functions: By name; the first is the default.
        function_name: Which one; None takes the default.
    """

    runtime = "torch"

    def __init__(self, functions: Mapping[str, TorchFunction], function_name: str | None = None) -> None:
        name = function_name or next(iter(functions))
        if name not in functions:
            raise PackageError(f"there is no function {name!r}; there are {', '.join(functions)}")
        self._functions, self._function = functions, functions[name]
        self._lock = threading.Lock()
        self.function_name = name
        self.inputs: Mapping[str, TensorSpec] = {spec.name: spec for spec in self._function.inputs}
        self.outputs: Mapping[str, TensorSpec] = {
            name: TensorSpec(name, (), "float32") for name in self._function.outputs
        }
        self.states: Mapping[str, TensorSpec] = {spec.name: spec for spec in self._function.states}

    @property
    def functions(self) -> tuple[str, ...]:
        """See `Session`."""
        return tuple(sorted(self._functions))

    def function(self, name: str) -> TorchSession:
        """See `Session`."""
        return TorchSession(self._functions, name)

    def with_rows(self, rows: int) -> TorchSession:
        """See `Session`: a module runs in its own shape only."""
        return self

    def make_state(self) -> TorchState:
        """See `Session`; states are float32 here."""
        return TorchState({name: torch.zeros(spec.shape) for name, spec in self.states.items()})

    def predict(
        self, inputs: Mapping[str, Any], state: TorchState | None = None, *, intermediates: Sequence[str] = ()
    ) -> dict[str, Any]:
        """See `Session`."""
        if inputs.keys() != self.inputs.keys():
            raise InputError(f"the module takes the inputs {', '.join(self.inputs)}; given were {', '.join(inputs)}")
        if bool(self.states) != (state is not None):
            raise InputError("the module has states: pass one from make_state()" if self.states else "no states here")
        arguments = [self._argument(spec, inputs[name]) for name, spec in self.inputs.items()]
        module, values = self._function.module, dict[str, Tensor]()
        with torch.inference_mode(), self._lock, ExitStack() as stack:
            if state is not None:
                stack.enter_context(_bound(module, state))
            if intermediates:
                values = stack.enter_context(_recorded(module))
            answer = module(*arguments)
        answers = answer if isinstance(answer, tuple) else (answer,)
        results = {name: value.numpy() for name, value in zip(self.outputs, answers, strict=True)}
        return results | {
            name: value.numpy()
            for name, value in values.items()
            if any(fnmatchcase(name, pattern) for pattern in intermediates)
        }

    def _argument(self, spec: TensorSpec, value: Any) -> Tensor:
        tensor = torch.as_tensor(value)
        if tuple(tensor.shape) not in (spec.shape, *self._function.other_shapes.get(spec.name, ())):
            raise InputError(f"input {spec.name!r} takes shape {spec.shape} and got {tuple(tensor.shape)}")
        # Embeddings take int64 or int32; what transformers is given is int64.
        return tensor.long() if np.dtype(spec.dtype).kind in "biu" else tensor.float()


def checked_state(name: str, value: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Returns a value that may replace a state's present one.

    Raises:
        InputError: It has another shape, or holds other than numbers.
    """
    array = np.asarray(value)
    if array.shape != present.shape or array.dtype.kind not in "biuf":
        raise InputError(f"state {name!r} is {present.dtype} {present.shape}; given was {array.dtype} {array.shape}")
    return array.astype(present.dtype)


@contextmanager
def _bound(module: nn.Module, state: TorchState) -> Iterator[None]:
    """Puts a state's tensors in the place of the module's buffers of the same names, and takes back what is there."""
    owners = {name: module.get_submodule(name.rpartition(".")[0]) for name in state.tensors}
    kept = {name: module.get_buffer(name) for name in state.tensors}
    try:
        for name, tensor in state.tensors.items():
            setattr(owners[name], name.rpartition(".")[2], tensor)
        yield
        for name in state.tensors:
            state.tensors[name] = module.get_buffer(name)
    finally:
        for name, buffer in kept.items():
            setattr(owners[name], name.rpartition(".")[2], buffer)


@contextmanager
def _recorded(module: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collects the hidden states that a module declares (`layer_stack()`) while the block runs."""
    stack: Any = module.layer_stack()  # type: ignore[operator]
    values = dict[str, Tensor]()

    def keep(value: Tensor) -> None:
        values[f"{HIDDEN_STATE}{len(values)}"] = value

    with ExitStack() as hooks:
        for layer in dict.fromkeys(stack.layers):
            hooks.callback(layer.register_forward_pre_hook(lambda _, arguments: keep(arguments[0])).remove)
        hooks.callback(stack.output.register_forward_hook(lambda _, arguments, result: keep(result)).remove)
        yield values
