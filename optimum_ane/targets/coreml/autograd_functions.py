"""Functions with a gradient of their own, traced as what they compute.

A trace of `torch.autograd.Function.apply` is a call of Python, of which nothing can be converted. BLOOM's activation
is such a function.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.autograd import Function

from optimum_ane.errors import UnsupportedModelError


class _Context:
    """Takes what a forward keeps for its backward, which never runs."""

    needs_input_grad: tuple[bool, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        """Keeps nothing."""

    def mark_non_differentiable(self, *tensors: Any) -> None:
        """Keeps nothing."""

    def set_materialize_grads(self, value: bool) -> None:
        """Keeps nothing."""

    def mark_dirty(self, *tensors: Any) -> None:
        """Refuses what is changed in place.

        Raises:
            UnsupportedModelError: Always.
        """
        raise UnsupportedModelError("a function with a gradient of its own changes its arguments in place")


@contextmanager
def forwards_traced() -> Iterator[None]:
    """Has functions with a gradient of their own recorded by traces of this thread, while the block runs.

    Other threads, and calls that are not traced, see nothing of it.
    """
    apply = Function.__dict__["apply"]

    def forward(cls: type[Function], *arguments: Any, **named: Any) -> Any:
        if not torch.jit.is_tracing():
            return apply.__func__(cls, *arguments, **named)
        if cls.setup_context is not Function.setup_context:
            return cls.forward(*arguments, **named)
        return cls.forward(_Context(), *arguments, **named)

    with mock.patch.object(Function, "apply", classmethod(forward)):
        yield
