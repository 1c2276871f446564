"""Lets coremltools' own `MLModel` predict off macOS, for code that speaks coremltools already.

Where the seams are. `MLModel` reaches Core ML through one name, `_MLModelProxy` of `coremltools.models.model`, a class
of its compiled binding, which is None where there is no Core ML: `enable_predict` puts a class of the same methods in
its place, and nothing else is needed for `MLModel(path)`, `coremltools.convert` and `predict`. `make_state` alone asks
for macOS before it asks the proxy, and has no seam: it is the one method that is replaced, by one that asks the proxy
first and leaves everything else to the original.
"""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import wraps
from types import TracebackType
from typing import Any

import numpy as np
import torch

from optimum_ane.errors import ANEError, InputError
from optimum_ane.runtimes.portable.session import PortableSession, PortableState, Precision
from optimum_ane.runtimes.portable.values import by_name, volume
from optimum_ane.runtimes.session import TensorSpec

_NANOSECONDS = 1e9


class _StateProxy:
    """What coremltools' `MLState` wraps."""

    def __init__(self, session: PortableSession) -> None:
        self._specs = session.states
        self.state: PortableState = session.make_state()

    def read_state(self, name: str) -> np.ndarray:
        """Returns a copy of a state; fp16 as float32, as coremltools hands it out."""
        self._spec(name)
        return self.state.cells[name].tensor.numpy().copy()

    def write_state(self, name: str, value: Any) -> None:
        """Replaces a state."""
        spec = self._spec(name)
        array = np.asarray(value)
        if array.shape != spec.shape:
            raise RuntimeError(f"state {name!r} has shape {spec.shape} and was given {array.shape}")
        with np.errstate(over="ignore"):  # beyond fp16's range is infinity
            stored = array.astype(spec.dtype)
        self.state.cells[name].tensor = torch.from_numpy(stored).to(by_name(spec.dtype).carrier)

    def _spec(self, name: str) -> TensorSpec:
        if name not in self._specs:
            raise RuntimeError(f"no state {name!r}; the states are: {', '.join(self._specs)}")
        return self._specs[name]


class _ModelProxy:
    """The methods of coremltools' binding to a loaded model, answered by the portable runtime.

    A package that cannot be run is no error yet: `MLModel(path)` also serves to look into models. As Core ML does, it
    warns when the model is loaded and fails when it should predict, both times with the reason.
    """

    def __init__(self, path: str, function_name: str, precision: Precision) -> None:
        self._session: PortableSession | None = None
        self._refusal: ANEError | None = None
        self._predict_duration: int | None = None
        start = time.perf_counter()
        try:
            self._session = PortableSession(path, function_name or None, precision)
        except ANEError as error:
            self._refusal = error
            warnings.warn(f"predict() will not run on this model: {error}", RuntimeWarning, stacklevel=5)
        self._load_duration = int((time.perf_counter() - start) * _NANOSECONDS)

    def predict(self, data: Mapping[str, Any], state: _StateProxy | None = None) -> dict[str, Any]:
        """Runs the model once. What Core ML refuses with a RuntimeError is one here as well."""
        session = self._loaded()
        start = time.perf_counter()
        try:
            inputs = {name: _fitted(value, session.inputs.get(name)) for name, value in data.items()}
            outputs = session.predict(inputs, None if state is None else state.state)
        except InputError as error:
            raise RuntimeError(str(error)) from error
        self._predict_duration = int((time.perf_counter() - start) * _NANOSECONDS)
        return {name: _handed_out(value) for name, value in outputs.items()}

    # The names of the methods below are the binding's.
    def batchPredict(self, data: list[dict[str, Any]]) -> list[dict[str, Any]]:  # noqa: N802
        """Runs the model once for each dictionary of inputs."""
        return [self.predict(inputs) for inputs in data]

    def newState(self) -> _StateProxy:  # noqa: N802
        """Returns a new state, all zeros."""
        session = self._loaded()
        if not session.states:
            raise RuntimeError(f"{session.path} has no states")
        return _StateProxy(session)

    def get_compiled_model_path(self) -> str:
        """Says that there is none: nothing is compiled here."""
        raise RuntimeError("the portable runtime reads the package itself: there is no compiled model off macOS")

    def get_load_duration_in_nano_seconds(self) -> int | None:
        """Returns how long loading took."""
        return self._load_duration

    def get_last_predict_duration_in_nano_seconds(self) -> int | None:
        """Returns how long the latest prediction took; None before the first."""
        return self._predict_duration

    def _loaded(self) -> PortableSession:
        if self._session is None:
            raise RuntimeError(str(self._refusal)) from self._refusal
        return self._session


class _Engine:
    """Stands in the place of coremltools' class of proxies."""

    def __init__(self, precision: Precision) -> None:
        self.precision: Precision = precision

    def __call__(self, path: str, compute_units: str, function_name: str, hints: Any, asset: Any) -> _ModelProxy:
        """Loads a model, as the constructor of coremltools' proxy does. Units and hints are of no use to a CPU."""
        return _ModelProxy(path, function_name, self.precision)

    @staticmethod
    def maximum_supported_specification_version() -> int:
        """Returns a version above all: what matters is which operations a program uses, and that is seen at load."""
        return sys.maxsize


def _fitted(value: Any, spec: TensorSpec | None) -> Any:
    """Converts an array to the kind of number that an input takes, as Core ML does, unless that loses something.

    coremltools' own tests pass float32 arrays to integer inputs.
    """
    if spec is None or not isinstance(value, np.ndarray):
        return value
    if value.ndim == 0 and volume(spec.shape) == 1:
        value = value.reshape(spec.shape)  # `MLModel.predict` has made arrays of Python's numbers already
    wanted, kind = np.dtype(spec.dtype).kind, value.dtype.kind
    if wanted == "f" and kind in "biu":
        return value.astype(np.float64)
    if wanted == "i" and kind == "f":
        if not (np.isfinite(value).all() and (value == np.trunc(value)).all()):
            raise InputError(f"input {spec.name!r} takes {spec.dtype} and got fractions")
        # Bounded, so that the cast cannot wrap round: what is too large for an int32 is still too large after it.
        return np.clip(value, -(2.0**62), 2.0**62).astype(np.int64)
    return value


def _handed_out(value: Any) -> Any:
    """Converts an output as coremltools' binding does, which has no fp16 arrays: they come out as float32."""
    return value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype == np.float16 else value


_lock = threading.RLock()
_originals: tuple[Any, Any] | None = None
"""What `_MLModelProxy` and `MLModel.make_state` are, while others stand in their place."""
_enabled: Precision | None = None


class _Enabled(AbstractContextManager["_Enabled"]):
    """Undoes one `enable_predict` at the end of a `with` block."""

    def __init__(self, before: Precision | None) -> None:
        self._before = before

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _install(self._before)


def enable_predict(precision: Precision = "program") -> AbstractContextManager[Any]:
    """Lets `coremltools.models.MLModel` predict off macOS, with the portable runtime.

    It holds for models that are loaded from now on (`MLModel(path)`, `coremltools.convert(...)` without
    `skip_model_load`), until `disable_predict` or the end of a `with enable_predict():` block. Models loaded meanwhile
    keep predicting after that; new ones do not. On macOS, where Core ML is, it does nothing.

    Args:
        precision: As `PortableSession` takes it.

    Returns:
        A context manager that restores what was before; it need not be used.
    """
    if precision not in ("program", "float32"):
        raise ValueError(f"precision is 'program' or 'float32', not {precision!r}")
    with _lock:
        before = _enabled
        _install(precision)
    return _Enabled(before)


def disable_predict() -> None:
    """Restores coremltools exactly as it was before the first `enable_predict`."""
    _install(None)


def _install(precision: Precision | None) -> None:
    global _enabled, _originals
    if sys.platform == "darwin":
        return
    from coremltools.models import model as module

    with _lock:
        if _originals is None and precision is not None:
            _originals = module._MLModelProxy, module.MLModel.make_state
            module.MLModel.make_state = _make_state_before(module.MLModel.make_state)
        if precision is not None:
            module._MLModelProxy = _Engine(precision)
        elif _originals is not None:
            module._MLModelProxy, module.MLModel.make_state = _originals
            _originals = None
        _enabled = precision


def _make_state_before(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Returns a `make_state` that serves our models and leaves the others to the original."""

    @wraps(original)
    def make_state(self: Any) -> Any:
        if isinstance(self.__proxy__, _ModelProxy):
            from coremltools.models.model import MLState

            return MLState(self.__proxy__.newState())
        return original(self)

    return make_state
