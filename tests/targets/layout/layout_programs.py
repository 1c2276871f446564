"""Small PyTorch functions as ML Programs in the engine's layout, run and compared with PyTorch."""

from collections import Counter
from dataclasses import dataclass

import coremltools as ct
import numpy as np
import torch
from torch import nn

from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.targets.coreml.passes import graph_pass_pipeline
from optimum_ane.targets.coreml.quiet import quiet
from optimum_ane.targets.coreml.translations import missing_translations

OLD_FORMS = {"linear", "matmul", "scaled_dot_product_attention"}


class _Module(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        if isinstance(function, nn.Module):
            self.module = function

    def forward(self, *inputs):
        return self.function(*inputs)


@dataclass
class Rewritten:
    """A program after the pass.

    Attributes:
        operations: How many of each type.
        ranks: Of the results of the types that compute.
        error: The largest difference from PyTorch on any output, over the outputs' largest number.
        program: coremltools' program.
    """

    operations: Counter
    ranks: dict
    error: float
    program: object


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seeded(make, seed=0):
    """A module with weights drawn from a seed, none near zero on average."""
    torch.manual_seed(seed)
    module = make().eval().requires_grad_(False)
    for parameter in module.parameters():
        parameter.copy_(torch.randn(parameter.shape) * 0.5)
    return module


def rewrite(function, *inputs, precision="float32", target="iOS17"):
    """Converts a function with the pass, and runs it on inputs that were not traced."""
    module = _Module(function).eval()
    others = [value.flip(-1) if value.is_floating_point() else value for value in inputs]
    with torch.no_grad(), quiet(), missing_translations():
        traced = torch.jit.trace(module, inputs, check_trace=False)
        expected = module(*others)
        expected = (expected,) if isinstance(expected, torch.Tensor) else tuple(expected)
        names = [f"in_{k}" for k in range(len(inputs))]
        model = ct.convert(
            traced,
            inputs=[
                ct.TensorType(name=n, shape=tuple(x.shape), dtype=_dtype(x))
                for n, x in zip(names, inputs, strict=True)
            ],
            outputs=[ct.TensorType(name=f"out_{k}") for k in range(len(expected))],
            minimum_deployment_target=ct.target[target],
            compute_precision=getattr(ct.precision, precision.upper()),
            pass_pipeline=graph_pass_pipeline(precision, is_classifier=False),
            skip_model_load=True,
        )
        answer = PortableSession(model.package_path).predict(
            {name: value.numpy().astype(_dtype(value)) for name, value in zip(names, others, strict=True)}
        )
    errors = []
    for k, want in enumerate(expected):
        got = np.asarray(answer[f"out_{k}"], np.float64)
        assert got.shape == tuple(want.shape)
        errors.append(np.abs(got - want.numpy()).max() / max(float(want.abs().max()), 1e-6))
    operations = [each for each in model._mil_program.functions["main"].operations if each.op_type != "const"]
    ranks = {}
    for each in operations:
        ranks.setdefault(each.op_type, set()).add(each.outputs[0].rank)
    return Rewritten(Counter(each.op_type for each in operations), ranks, max(errors), model._mil_program)


def _dtype(value):
    return np.float32 if value.is_floating_point() else np.int32


def check(rewritten, tolerance=1e-5, **counts):
    """The values are PyTorch's, nothing is left of the old form, and there are as many operations of some types."""
    assert rewritten.error < tolerance
    assert not OLD_FORMS & set(rewritten.operations), rewritten.operations
    for name in ("conv", "einsum", "layer_norm", "softmax"):
        assert rewritten.ranks.get(name, {4}) == {4}, name
    assert {name: rewritten.operations[name] for name in counts} == counts
