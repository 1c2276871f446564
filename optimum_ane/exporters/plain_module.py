"""Any module of PyTorch's behind the interface of ours: named inputs by position, named outputs as a tuple."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from optimum_ane.errors import InputError
from optimum_ane.exporters.config import ANEConfig
from optimum_ane.exporters.programs import FunctionSpec, ProgramSpec, ValueSpec
from optimum_ane.exporters.variations import vary

if TYPE_CHECKING:
    from optimum_ane.package.form import ExportForm

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VARIATIONS = 3


class PlainModule(nn.Module):
    """A module with its arguments in an order, and what it returns as a tuple.

    Args:
        model: In float32 and evaluation mode. It is neither copied nor changed.
        inputs: Names of the arguments of its `forward` that are tensors, in the order of the program's inputs.
        outputs: Names of what it returns: the keys of a mapping, or for a tensor or a tuple whatever they shall be
            called, in order; a tuple may be longer. None takes all, and calls those of a tuple `output_0` and so on.
        constants: Further arguments of every call.

    Attributes:
        outputs: The names; empty until the first call where they were not given.
    """

    def __init__(
        self, model: nn.Module, inputs: Sequence[str], outputs: Sequence[str] | None, constants: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.model = model
        self.inputs, self.constants = tuple(inputs), dict(constants)
        self.outputs = tuple(outputs or ())

    @property
    def original(self) -> nn.Module:
        """Whose modules the values of the program are named by."""
        return self.model

    def answer(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Calls the module with inputs by name; gives its outputs by name.

        Raises:
            InputError: It returns something else than tensors under the names, or fewer of them.
        """
        named = _named(self.model(**values, **self.constants), self.outputs)
        self.outputs = tuple(named)
        return named

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Gives the outputs, of the shapes that the module gives them."""
        return tuple(self.answer(dict(zip(self.inputs, values, strict=True))).values())


def _named(answer: Any, names: Sequence[str]) -> dict[str, Tensor]:
    if isinstance(answer, Tensor):
        found = {names[0] if names else "output": answer}
    elif isinstance(answer, Mapping):
        found = {name: answer[name] for name in names or answer if name in answer}
    elif isinstance(answer, tuple | list):
        found = dict(zip(names or [f"output_{index}" for index in range(len(answer))], answer, strict=False))
    else:
        found = {}
    wrong = [name for name, value in found.items() if not isinstance(value, Tensor)]
    if not found or wrong or len(found) < len(names):
        kind = type(answer).__name__
        what = f"its {wrong[0]} is none" if wrong else f"{len(found)} of the {len(names)} outputs were found in it"
        raise InputError(
            f"the module returns a {kind}, and tensors are wanted by names: {what}; name those that are tensors with "
            "outputs, or wrap the module in one that returns them"
        )
    return found


class PlainModuleANEConfig(ANEConfig):
    """What is exported of a module outside of transformers: one function, of the shapes of the example inputs.

    Args:
        module: The module.
        examples: Example inputs by name.
    """

    METHOD = "graph"

    def __init__(self, module: PlainModule, examples: Mapping[str, Tensor]) -> None:
        self.module, self._examples = module, dict(examples)

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """Input names; no axis of theirs is known to be anything in particular."""
        return {name: {} for name in self._examples}

    def check(self, form: ExportForm) -> None:
        """Refuses names and inputs that a program cannot have.

        Raises:
            InputError: A name, shape or type; the message says which.
        """
        names = [*self._examples, *self.module.outputs]
        for name in names:
            if not _NAME.fullmatch(name) or names.count(name) > 1:
                raise InputError(
                    f"{name!r} cannot be the name of an input or output of a program: names are letters, digits and "
                    "underscores, and each belongs to one of them"
                )
        for name, value in self._examples.items():
            if value.ndim == 0 or value.numel() == 0:
                raise InputError(
                    f"the example input {name} has the shape {tuple(value.shape)}; a program takes tensors with an "
                    "axis at least and an element at least: give a number as torch.tensor([…])"
                )
            if value.is_complex():
                raise InputError(f"the example input {name} is {value.dtype}; a program takes floats and integers")

    def programs(self, form: ExportForm) -> tuple[ProgramSpec, ...]:
        """See `ANEConfig.programs`."""
        inputs = tuple(ValueSpec(name, tuple(v.shape), _type(v)) for name, v in self._examples.items())
        outputs = tuple(ValueSpec(name, None, form.precision) for name in self.module.outputs)
        return (ProgramSpec("model", (FunctionSpec("main", inputs, outputs),), form.precision, form.compute_units),)

    def examples(self, form: ExportForm, seed: int = 0) -> tuple[dict[str, Tensor], ...]:
        """The example inputs, and seeded variations of them; see `vary`."""
        varied = (
            {name: vary(value, seed + index) for name, value in self._examples.items()}
            for index in range(1, _VARIATIONS + 1)
        )
        return (dict(self._examples), *varied)

    def function_inputs(self, function: FunctionSpec, seed: int = 0) -> dict[str, Tensor]:
        """See `ANEConfig.function_inputs`: the example inputs themselves."""
        return dict(self._examples)


def _type(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.") if value.is_floating_point() else "int32"
