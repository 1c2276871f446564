"""The operations that this runtime has: one Python function for each, its parameters named as MIL names them.

The annotation of a parameter says how its argument is handed over:

    Tensor            a tensor, in the type that carries the declared one
    Stored            a tensor; a constant comes as it lies in the weight file (fp16 as float16, memory-mapped)
    Sequence[Tensor]  a tuple of tensors, for MIL's variadic parameters
    Cell              a state
    TensorList        a list of tensors
    Each              the values of a variadic parameter that are known at load, as a list
    anything else     a Python number, string or list; a value computed by the program is turned into one when it runs

Every version of an operation set is served by one function: later versions only add parameters. Parameters that MIL
leaves out have Python defaults. A function never writes into its arguments, except where `in_place.py` has proved that
it may.
"""

from __future__ import annotations

import enum
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import torch
from torch import Tensor

from optimum_ane.runtimes.portable.tensor_list import TensorList
from optimum_ane.runtimes.portable.values import Constant, TensorType

Stored = Annotated[Tensor, "as it is stored"]
Each = Annotated[Sequence[Any], "one constant for each"]


class Cell:
    """What a state holds between predictions.

    Attributes:
        tensor: The present value, contiguous and in memory of its own. A prediction may write into it (`in_place.py`)
            or replace it: whoever keeps a value keeps a copy.
    """

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    @property
    def shape(self) -> torch.Size:
        """The extents of the value."""
        return self.tensor.shape


class Role(enum.Enum):
    """How an argument is handed to an operation's function; see the module's docstring."""

    TENSOR = "tensor"
    STORED = "stored"
    TENSORS = "tensors"
    CELL = "cell"
    LIST = "list"
    EACH = "each"
    PYTHON = "python"


@dataclass(frozen=True)
class Operation:
    """An operation that this runtime has.

    Attributes:
        name: MIL's name of it.
        function: Computes it. Takes the parameters by name or in the order of `roles`; returns a tensor, a tuple of
            them where there are several outputs, or None where there is none.
        roles: How each parameter is handed over, in the order in which the function takes them.
        required: The parameters without a default.
        exact: It copies, selects or compares, so that an fp16 result needs no rounding.
    """

    name: str
    function: Callable[..., Any]
    roles: Mapping[str, Role]
    required: frozenset[str]
    exact: bool


@dataclass(frozen=True)
class Call:
    """One use of an operation, as a preparation sees it.

    Attributes:
        constants: The arguments known at load, by parameter.
        dynamic: The parameters whose tensors the program computes; a variadic one once for each tensor.
        types: The declared type of each tensor argument.
        is_stateful: Whether the function has states.
        rounds: Whether the result is of type fp16 and rounded to it.
    """

    constants: Mapping[str, Constant]
    dynamic: tuple[str, ...]
    types: Mapping[str, TensorType]
    is_stateful: bool = False
    rounds: bool = False

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the declared shape of a tensor argument, -1 where unknown; () where there is no such argument."""
        return self.types[name].shape if name in self.types else ()

    def rows(self, axis: int) -> int:
        """Returns how many elements x has along all axes but one together, as declared.

        It is -1 where that is unknown, and where x has no other axis.
        """
        shape = list(self.shape("x"))
        if len(shape) < 2 or not -len(shape) <= axis < len(shape) or min(shape) < 0:
            return -1
        del shape[axis]
        return math.prod(shape)

    def all_float(self, *names: str) -> bool:
        """Tells whether those of these tensor arguments that the call has are all of floats."""
        return all(self.types[name].dtype.is_float for name in names if name in self.types)

    def python(self, name: str, default: Any) -> Any:
        """Returns a constant argument as a Python value, or the default where the call has none."""
        return self.constants[name].python() if name in self.constants else default


@dataclass(frozen=True)
class Prepared:
    """A function for one use of an operation, in two types.

    Attributes:
        call: Takes and gives tensors in the types that carry the declared ones.
        in_half: Does the same with tensors of fp16.
    """

    call: Callable[..., Any]
    in_half: Callable[..., Any]


Preparation = Callable[[Call], "Callable[..., Any] | Prepared | None"]

OPERATIONS: dict[str, Operation] = {}
PREPARATIONS: dict[str, Preparation] = {}


def op(name: str, *, exact: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function as MIL's operation of this name.

    Args:
        name: MIL's name.
        exact: It copies, selects or compares: an fp16 result of fp16 operands needs no rounding.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        hints = get_type_hints(function, include_extras=True)
        parameters = inspect.signature(function).parameters
        roles = {key: _role(hints.get(key)) for key in parameters}
        required = frozenset(key for key, value in parameters.items() if value.default is value.empty)
        _add(Operation(name, function, roles, required, exact))
        return function

    return decorate


def builtin(name: str, function: Callable[..., Any], *parameters: str, exact: bool = False) -> None:
    """Registers a function of torch, which has no annotations, whose arguments are all required tensors.

    Args:
        name: MIL's name.
        function: Takes the tensors in order.
        parameters: MIL's names of them, in that order.
        exact: As in `op`.
    """
    _add(Operation(name, function, dict.fromkeys(parameters, Role.TENSOR), frozenset(parameters), exact))


def prepare(name: str) -> Callable[[Preparation], Preparation]:
    """Registers a preparation: at load it may return a faster function for one use of an operation.

    The function it returns takes the tensors of `Call.dynamic` in order. None leaves the use to the general function.
    """

    def decorate(preparation: Preparation) -> Preparation:
        if name in PREPARATIONS:
            raise ValueError(f"operation {name!r} has a preparation already")
        PREPARATIONS[name] = preparation
        return preparation

    return decorate


def _add(operation: Operation) -> None:
    if operation.name in OPERATIONS:
        raise ValueError(f"operation {operation.name!r} is registered already")
    OPERATIONS[operation.name] = operation


def _role(hint: Any) -> Role:
    """Reads a parameter's role off its annotation; `… | None` only says that MIL may leave it out."""
    options = [o for o in getattr(hint, "__args__", ()) if o is not type(None)]
    if hint in (Tensor, Tensor | None):
        return Role.TENSOR
    if hint == Stored or Stored in options:
        return Role.STORED
    if hint in (Sequence[torch.Tensor],):
        return Role.TENSORS
    return {Cell: Role.CELL, TensorList: Role.LIST, Each: Role.EACH}.get(hint, Role.PYTHON)
