"""Translations that coremltools lacks or gets wrong: each as a program of its own beside PyTorch, by both captures."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY
from coremltools.converters.mil.frontend.torch.utils import TorchFrontend
from torch import nn

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.targets.coreml.build import ConvertibleFunction, build_program
from optimum_ane.targets.coreml.conversion import Conversion
from optimum_ane.targets.coreml.metadata import Metadata
from optimum_ane.targets.coreml.translations import missing_translations

GENERATOR = torch.Generator().manual_seed(0)


def numbers(*shape):
    return torch.randn(*shape, generator=GENERATOR)


def counts(below, *shape):
    return torch.randint(0, below, shape, generator=GENERATOR)


def assigned(key, value=None):
    """`x[key] = value` on a copy, the value given as a second argument where it is None."""

    def function(x, *values):
        copy = x.clone()
        copy[key] = values[0] if value is None else value
        return copy.float()

    return function


X, Y = numbers(3, 4), numbers(3, 4)
COUNTS = counts(5, 3, 4)
INDEX = torch.tensor([[0, 2], [1, 3], [3, 0]])
SAME_INDEX = torch.tensor([[0, 2], [1, 3], [3, 3]])
IMAGE = numbers(1, 2, 8, 6)
S = slice
ALL = S(None)

CASES = {
    "and, or, xor": (
        lambda x, y: torch.stack([(x > 0) & (y > 0), (x > 0) | (y > 0), (x > 0) ^ (y > 0)]).float(), X, Y,
    ),
    "bitwise_or": (lambda x, y: torch.bitwise_or(x > 0, y > 0).float(), X, Y),
    "where with numbers": (lambda x: torch.where(x > 0, x, -2.0) + torch.where(x > 1, 2, x), X),
    "where of integers": (lambda x: torch.where(x > 1, x, 0).float(), COUNTS),
    "cumsum": (lambda x: torch.cumsum(x, -2) + torch.cumsum(x > 0, 0) + torch.cumsum(x, -1, dtype=torch.float32), X),
    "a matrix of whole numbers": (
        lambda x: torch.arange(3.0)[:, None] @ x[:1] + x @ torch.arange(16).reshape(4, 4).float(), X,
    ),
    "outer": (lambda x: torch.outer(torch.arange(3).float(), x[0]) + torch.outer(x[:, 0], x[0]), X),
    "diff": (lambda x: torch.diff(x, n=2, dim=0) + torch.diff(x.long()[:2], dim=0), numbers(3, 4) * 5),
    "roll": (lambda x: torch.roll(x, (-1, 2, 8), (2, 3, 2)) + torch.roll(x, 5, -1) + torch.roll(x, 7), IMAGE),
    "diff with more": (lambda x: torch.diff(x, dim=-1, prepend=x[:, :1] - 1), X),
    "add and subtract with a factor": (lambda x, y: torch.sub(x, y, alpha=2) + torch.add(x, y, alpha=3), X, Y),
    "reciprocal": (lambda x: torch.reciprocal(x.abs() + 1e-3), X),
    "trunc and fmod": (lambda x: torch.trunc(x) + torch.fmod(x, 1.5), X * 3),
    "addcmul and addcdiv": (lambda x, y: torch.addcmul(x, y, y, value=2) + torch.addcdiv(x, y, y.abs() + 1), X, Y),
    "lerp and erfc": (lambda x, y: torch.lerp(x, y, 0.3) + torch.erfc(x), X, Y),
    "log_sigmoid": (lambda x: F.logsigmoid(x), X * 30),
    "gelu": (lambda x: F.gelu(x, approximate="tanh") + F.gelu(x), X),
    "prod": (lambda x: x.prod(-1) + x.prod(), X),
    "var_mean": (lambda x: sum(torch.var_mean(x, -1)) + torch.std_mean(x, -1, correction=0)[0], X),
    "cdist": (lambda x, y: torch.cdist(x, y), X, numbers(5, 4)),
    "other names": (lambda x, y: torch.multiply(x, y).subtract(y).swapaxes(0, 1) * torch.greater(x, y).T, X, Y),
    "matrix times vector": (lambda x, y: x @ y, X, numbers(4)),
    "constants with a type": (
        lambda x: torch.full_like(x, 3, dtype=torch.long) * x.new_full((4,), 2, dtype=torch.int), X,
    ),
    "triangle of infinities": (lambda x: (torch.full((4, 4), float("-inf")).triu(1) + x).softmax(-1), numbers(4, 4)),
    "a constant turned round": (lambda x: x * torch.arange(4).flip(0).to(torch.float32), X),
    "identity of integers": (lambda x: x * torch.eye(3, 4, dtype=torch.int32), X),
    "negative padding": (lambda x: F.pad(x, (-1, 2, 1, -1), value=3.0), numbers(2, 3, 4)),
    "padding of integers and flags": (
        lambda x: (F.pad(x, (1, 2), value=7) * F.pad(x > 1, (2, 1), value=True)).float(), COUNTS,
    ),
    "circular padding": (lambda x: F.pad(x, (2, 1), mode="circular"), numbers(1, 3, 4)),
    "tile with a new axis": (lambda x: torch.tile(x, (2, 1, 2)), X),
    "repeat": (lambda x: x.sum().repeat(2, 3) + x.repeat(2, 1, 1)[:, :2, :3].sum(1), X),
    "repeat_interleave by numbers": (lambda x: torch.repeat_interleave(x, torch.tensor([1, 2, 3]), dim=0), X),
    "movedim": (lambda x: x.movedim((0, 1), (2, 0)), numbers(2, 3, 4)),
    "chunks": (
        lambda x: x.unsafe_chunk(2, -1)[1] + x.tensor_split(2, -1)[0][:, :2] + x.unsafe_split(3, 1)[1], numbers(3, 5),
    ),
    "diagonal": (lambda x: x.diagonal(1, 1, 2), numbers(2, 3, 4)),
    "windows": (lambda x: x.unfold(1, 3, 2), numbers(3, 9)),
    "as_strided of a whole": (lambda x: (x * 2).as_strided((2, 3, 4), (4, 2, 1)), numbers(4, 4)),
    "as_strided of a copy": (lambda x: x.T.reshape(2, 6).as_strided((2, 2, 2), (6, 2, 1)), X),
    "view_as": (lambda x, y: x.view_as(y), X, numbers(4, 3)),
    "bicubic": (lambda x: F.interpolate(x, size=(5, 9), mode="bicubic"), IMAGE),
    "bicubic with corners": (lambda x: F.interpolate(x, size=(5, 9), mode="bicubic", align_corners=True), IMAGE),
    "bicubic by factors": (lambda x: F.interpolate(x, scale_factor=(1.7, 2.3), mode="bicubic"), IMAGE),
    "bicubic, smooth": (lambda x: F.interpolate(x, size=(3, 9), mode="bicubic", antialias=True), IMAGE),
    "bilinear, smooth": (lambda x: F.interpolate(x, size=(3, 9), mode="bilinear", antialias=True), IMAGE),
    "scatter of integers": (lambda x, i: x.scatter(1, i, torch.ones_like(i)).float(), COUNTS, INDEX),
    "scatter into fewer rows": (lambda x, i, y: x.scatter(0, i, y), numbers(5, 4), INDEX[:2], numbers(3, 3)),
    "scatter in place": (lambda x, i: torch.zeros_like(x).scatter_(1, i, 1), X, INDEX),
    "scatter_reduce": (lambda x, i, y: x.scatter_reduce(1, i, y, reduce="amax"), X, SAME_INDEX, numbers(3, 2)),
    "scatter_reduce, mean": (
        lambda x, i, y: x.scatter_reduce(1, i, y, reduce="mean", include_self=False), X, SAME_INDEX, numbers(3, 2),
    ),
    "scatter_reduce, least": (
        lambda x, i, y: x.scatter_reduce(1, i, y, reduce="amin", include_self=False), X, SAME_INDEX, numbers(3, 2),
    ),
    "scatters of constants": (
        lambda x: (
            x
            + torch.zeros(4).scatter_add(0, torch.tensor([0, 0, 3]), torch.tensor([1.0, 2.0, 4.0]))
            + torch.zeros(4).scatter_reduce(0, torch.tensor([1, 1]), torch.tensor([7.0, 5.0]), "amax")
        ),
        X,
    ),
    "division of large integers": (
        lambda x: ((x * 4099) // 7 + torch.div(x * 5003 - 20000, 3, rounding_mode="trunc")).float(), COUNTS,
    ),
    "complex numbers": (lambda x, angle: turned(x, angle), numbers(1, 4, 2, 6), numbers(1, 4, 3)),
    "index_add": (
        lambda x, i, y: x.index_add(1, i, y, alpha=2), numbers(5, 4), torch.tensor([0, 2, 2]), numbers(5, 3),
    ),
    "index_copy": (lambda x, i, y: x.index_copy(0, i, y), numbers(5, 4), torch.tensor([4, 1]), numbers(2, 4)),
    "masked_scatter": (lambda x, m, y: x.masked_scatter(m > 2, y), X, COUNTS, numbers(12)),
    "gather of flags": (lambda x, i: (x > 0).gather(1, i).float(), X, INDEX),
    "take_along_dim": (lambda x, i: torch.take_along_dim(x, i[:, :1], 1), X, INDEX),
    "a row": (assigned(0), X, numbers(4)),
    "broadcast into columns": (assigned((ALL, S(1, 3))), X, numbers(2)),
    "a number into columns": (assigned((ALL, S(1, 3)), 5.0), X),
    "one element": (assigned((1, -2), 5.0), X),
    "every second column": (assigned((ALL, S(1, None, 2))), X, numbers(3, 2)),
    "integers into integers": (assigned((S(1, None), S(None, -1)), 7), COUNTS),
    "numbers where a mask is set": (lambda x, m: assigned(m > 1, -1.0)(x), X, COUNTS),
    "rows where a mask is set": (lambda x, m, y: assigned(m > 0)(x, y), X, torch.tensor([1, 0, 1]), numbers(4)),
    "rows at indices": (lambda x, i, y: assigned(i)(x, y), X, torch.tensor([2, -3]), numbers(2, 4)),
    "bucketize": (lambda x: torch.bucketize(x, torch.tensor([-1.0, 0.0, 0.5]), right=True).float(), X.round()),
    "searchsorted": (lambda x: torch.searchsorted(torch.tensor([-1.0, 0.0, 0.5]), x).float(), X.round()),
    "isin": (lambda x: torch.isin(x, torch.tensor([1, 3])).float(), COUNTS),
    "grouped queries": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        numbers(1, 4, 5, 4), numbers(1, 2, 5, 4), numbers(1, 2, 5, 4),
    ),
    "rms_norm": (lambda x: F.rms_norm(x, (4,), torch.arange(4.0), 0.1), X),
}  # fmt: skip


def turned(x, angle):
    """Rotary positions by complex numbers, as Llama 4 has them."""
    turns = torch.polar(torch.ones_like(angle), angle)
    pairs = torch.view_as_complex(x.reshape(1, 4, 2, 3, 2))
    return torch.view_as_real(pairs * turns[:, :, None]).flatten(3)


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(context, gradient):
        return gradient


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(x, factor):
        return x * factor

    @staticmethod
    def setup_context(context, inputs, output):
        context.factor = inputs[1]

    @staticmethod
    def backward(context, gradient):
        return gradient * context.factor, None


def test_a_function_with_a_gradient_of_its_own_keeps_it_outside_of_traces(tmp_path):
    def function(x):
        return Scaled.apply(Swish.apply(x), 3.0)

    compare(build(function, [X], "trace", tmp_path / "a.mlpackage"), function, [X])
    x = torch.ones(2, requires_grad=True)
    function(x).sum().backward()
    assert x.grad.tolist() == [3.0, 3.0]


def write_through_views(y):
    y[..., 0:2, :] = 1.0
    row = y[:, 1]
    row.add_(2.0)
    y.masked_fill_(y > 2.5, 0.5)
    y[:, :, 0].zero_()
    return y * 2 + row[:, None]


def write_through_reshaped_views(y):
    flat = y.view(2, 12)
    flat[:, 3] = 5.0
    flat.add_(1)
    y[0].copy_(y[1])
    y.transpose(0, 1)[1] = 9.0
    y.permute(2, 0, 1)[3] += 0.5
    return y + flat.view(2, 3, 4)


def write_into_overlapping_views(y):
    first, second, same = y[:, :2], y[:, 1:], y.contiguous()
    first.fill_(1.0)
    second.mul_(3)
    same.add_(first.sum())
    return y + 1


def write_into_a_copy(y):
    part = y[:1].float().clone()
    part.mul_(2)
    whole = y.to(torch.float64).to(torch.float32)
    whole.zero_()
    return y + part + whole


WRITING = (
    write_through_views,
    write_through_reshaped_views,
    write_into_overlapping_views,
    write_into_a_copy,
)


@pytest.mark.parametrize("capture", ["trace", "export"])
@pytest.mark.parametrize("write", WRITING)
def test_what_is_written_in_place_is_in_every_view(write, capture, tmp_path):
    def function(x):
        return write(x.clone())

    inputs = [numbers(2, 3, 4)]
    session = build(function, inputs, capture, tmp_path / "a.mlpackage")
    compare(session, function, inputs)
    compare(session, function, [inputs[0].flip(0)])


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *values):
        return self.function(*values)


def build(function, inputs, capture, path, target="iOS17"):
    named = {f"x{index}": value for index, value in enumerate(inputs)}
    build_program(
        [ConvertibleFunction("main", lambda: Function(function).eval(), named, ("y",))],
        path,
        precision="float32",
        minimum_deployment_target=target,
        class_labels=None,
        metadata=Metadata("A module.", "somebody", "mit", "7", {}),
        conversion=Conversion(capture, is_stock=True),
    )
    return PortableSession(path)


def compare(session, function, inputs):
    given = {
        f"x{n}": value.numpy().astype("float32" if value.is_floating_point() else "int32")
        for n, value in enumerate(inputs)
    }
    np.testing.assert_allclose(session.predict(given)["y"], function(*inputs).numpy(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("capture", ["trace", "export"])
@pytest.mark.parametrize("name", CASES)
def test_a_program_answers_as_pytorch(name, capture, tmp_path):
    function, *inputs = CASES[name]
    session = build(function, inputs, capture, tmp_path / "a.mlpackage")
    compare(session, function, inputs)
    compare(session, function, [value.flip(0) for value in inputs])


@pytest.mark.parametrize("name", ["a row", "a number into columns", "one element", "every second column"])
def test_assignment_for_newer_systems(name, tmp_path):
    function, *inputs = CASES[name]
    compare(build(function, inputs, "trace", tmp_path / "a.mlpackage", "iOS18"), function, inputs)


REFUSED = {
    "bits of integers": (lambda x: (x & 2).float(), "only supports boolean", COUNTS),
    "as_strided of a part": (lambda x: x[1:].as_strided((2, 2), (4, 1)), "as_strided .* a part", X),
    "a write into one of several parts": (
        lambda x: (y := x.clone(), y.chunk(2, -1)[0].add_(1))[0], "view by prim::ListUnpack", X,
    ),
    "a mirrored negative padding": (lambda x: F.pad(x, (2, -1), mode="reflect"), "negative width", numbers(1, 3, 4)),
}  # fmt: skip


def test_as_strided_of_a_rearrangement_reads_its_memory(tmp_path):
    def function(x):
        heads = (x * 2).view(1, 4, 2, 3).transpose(1, 2).reshape(2, 4, 3)  # a view
        return heads.as_strided((2, 3, 2, 3), (3, 6, 6, 1))

    compare(build(function, [numbers(4, 6)], "trace", tmp_path / "a.mlpackage"), function, [numbers(4, 6)])
    with pytest.raises(UnsupportedModelError, match=r"as_strided .* a rearrangement"):
        build(function, [numbers(4, 6)], "export", tmp_path / "b.mlpackage")


@pytest.mark.parametrize("capture", ["trace", "export"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_a_translation_does_not_cover_is_refused(name, capture, tmp_path):
    function, message, *inputs = REFUSED[name]
    if capture == "export" and "ListUnpack" in message:
        pytest.skip("an export is functional")
    with pytest.raises(UnsupportedModelError, match=message):
        build(function, inputs, capture, tmp_path / "a.mlpackage")


def test_an_argument_that_a_translation_does_not_read_is_refused():
    context = SimpleNamespace(frontend=TorchFrontend.TORCHEXPORT, add=lambda *_, **__: None)
    node = SimpleNamespace(kind="detach", name="y", inputs=[None], kwinputs={"alpha": (2,), "device": ()})
    with missing_translations(), pytest.raises(NotImplementedError, match="detach with alpha"):
        _TORCH_OPS_REGISTRY.get_func("detach")(context, node)


def test_the_table_of_coremltools_is_as_before():
    table = _TORCH_OPS_REGISTRY.name_to_func_mapping
    before = dict(table)
    with missing_translations():
        assert "new_ones" in table
        assert table["int"] is not before["int"]
    assert list(table.items()) == list(before.items())
