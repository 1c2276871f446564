"""States over several predictions, and packages of several functions."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder
from portable_programs import save_program, stateful

from optimum_ane.errors import PackageError
from optimum_ane.runtimes.portable import PortableSession, kernels

HEADS, LENGTH, WIDTH = 2, 8, 4


class Cached(torch.nn.Module):
    """One attention layer that keeps its keys and values: what a decoder does at each step."""

    def __init__(self):
        super().__init__()
        self.project = torch.nn.Linear(8, 24)
        self.out = torch.nn.Linear(8, 8)
        for name in ("keys", "values"):
            self.register_buffer(name, torch.zeros(1, HEADS, LENGTH, WIDTH))

    def forward(self, x, mask):
        past = mask.shape[-1] - x.shape[1]
        end = mask.shape[-1]
        q, k, v = self.project(x).view(1, x.shape[1], 3, HEADS, WIDTH).permute(2, 0, 3, 1, 4)
        self.keys[:, :, past:end] = k
        self.values[:, :, past:end] = v
        attended = torch.nn.functional.scaled_dot_product_attention(
            q, self.keys[:, :, :end], self.values[:, :, :end], mask
        )
        return self.out(attended.transpose(1, 2).reshape(1, x.shape[1], 8))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    torch.manual_seed(4)
    net = Cached().eval().requires_grad_(False)
    traced = torch.jit.trace(net, (torch.zeros(1, 2, 8), torch.zeros(1, 1, 2, 4)))
    steps, end = ct.RangeDim(1, LENGTH, default=1), ct.RangeDim(1, LENGTH, default=1)
    shape = (1, HEADS, LENGTH, WIDTH)
    model = ct.convert(
        traced,
        inputs=[ct.TensorType("x", (1, steps, 8)), ct.TensorType("mask", (1, 1, steps, end))],
        states=[ct.StateType(ct.TensorType(shape=shape, dtype=np.float16), name=n) for n in ("keys", "values")],
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    )
    path = tmp_path_factory.mktemp("decoder") / "m.mlpackage"
    model.save(str(path))
    net.keys.zero_()
    net.values.zero_()
    return net, path


def causal(count, end):
    return torch.full((1, 1, count, end), -1e4).triu(end - count + 1)


@pytest.mark.parametrize(("precision", "tolerance"), [("program", 4e-3), ("float32", 1e-3)])
def test_a_decoder_keeps_its_keys(decoder, rng, precision, tolerance):
    """A prompt of three, then one token after the other, as torch does, with another text in between."""
    net, path = decoder
    session = PortableSession(path, precision=precision)
    texts = [torch.from_numpy(rng.standard_normal((1, LENGTH, 8)).astype(np.float32)) for _ in range(2)]
    states = [session.make_state() for _ in texts]
    spans = [(0, 3), (3, 4), (4, 5), (5, 8)]
    found: list[list] = [[], []]
    for start, end in spans:
        for number, text in enumerate(texts):
            inputs = {"x": text[:, start:end], "mask": causal(end - start, end)}
            found[number].append(next(iter(session.predict(inputs, states[number]).values())))
    for number, text in enumerate(texts):
        net.keys.zero_()
        net.values.zero_()
        for (start, end), result in zip(spans, found[number], strict=True):
            expected = net(text[:, start:end], causal(end - start, end))
            np.testing.assert_allclose(result, expected, atol=tolerance)
        for name, kept in (("keys", net.keys), ("values", net.values)):
            np.testing.assert_allclose(states[number].cells[name].tensor, kept, atol=tolerance)


def test_states_share_no_memory(decoder):
    session = PortableSession(decoder[1])
    states = [session.make_state() for _ in range(2)]
    for state in states:
        session.predict({"x": torch.ones(1, 1, 8), "mask": torch.zeros(1, 1, 1, 1)}, state)
    tensors = [cell.tensor for state in states for cell in state.cells.values()]
    assert len({t.untyped_storage().data_ptr() for t in tensors}) == 4
    assert all(t.untyped_storage().nbytes() == t.numel() * t.element_size() for t in tensors)


def test_reads_are_snapshots_and_order_counts(tmp_path):
    def build(x, s):
        before = Builder.read_state(input=s)
        written = Builder.coreml_update_state(state=s, value=Builder.add(x=before, y=x))
        again = Builder.coreml_update_state(state=s, value=Builder.mul(x=written, y=np.float16(10)))
        return Builder.identity(x=before), Builder.identity(x=written), Builder.identity(x=again)

    x = np.ones(2, np.float16)
    session = PortableSession(stateful(tmp_path / "m.mlpackage", build, {"s": (2,)}, x=x))
    state = session.make_state()
    assert [v[0] for v in session.predict({"x": x}, state).values()] == [0, 1, 10]
    assert [v[0] for v in session.predict({"x": x}, state).values()] == [10, 11, 110]


@pytest.mark.parametrize("precision", ["program", "float32"])
def test_a_state_is_no_alias(tmp_path, precision):
    """Two states get one tensor, an input as it came; a third a part of it, a fourth a constant of the model."""

    def build(x, a, b, c, d):
        for state, value in ((a, x), (b, x), (c, Builder.slice_by_index(x=x, begin=[0], end=[1]))):
            Builder.coreml_update_state(state=state, value=value)
        Builder.coreml_update_state(state=d, value=np.full(3, 7, np.float16))
        return Builder.identity(x=x)

    x = np.array([1, 2, 3], np.float16)
    path = stateful(tmp_path / "m.mlpackage", build, {"a": (3,), "b": (3,), "c": (1,), "d": (3,)}, x=x)
    session = PortableSession(path, precision=precision)
    states = [session.make_state() for _ in range(2)]
    for state in states:
        session.predict({"x": x}, state)
    for cell in states[0].cells.values():
        cell.tensor.numpy()[:] = 0  # as a careless user might
    assert x.tolist() == [1, 2, 3]
    assert [cell.tensor.tolist() for cell in states[1].cells.values()] == [[1, 2, 3], [1, 2, 3], [1], [7, 7, 7]]
    session.predict({"x": x}, states[0])
    assert states[0].cells["d"].tensor.tolist() == [7, 7, 7]


def test_states_in_loops(tmp_path):
    def build(x, s):
        def body(i):
            sum_ = Builder.add(x=Builder.read_state(input=s), y=x)
            Builder.coreml_update_state(state=s, value=sum_)
            return Builder.add(x=i, y=np.int32(1))

        Builder.while_loop(_cond=lambda i: Builder.less(x=i, y=np.int32(3)), _body=body, loop_vars=(np.int32(0),))
        return Builder.read_state(input=s)

    x = np.array([1, 2], np.float16)
    session = PortableSession(stateful(tmp_path / "m.mlpackage", build, {"s": (2,)}, x=x))
    state = session.make_state()
    for turn in (3, 6):
        (result,) = session.predict({"x": x}, state).values()
        assert result.tolist() == [turn, 2 * turn]


@pytest.fixture(scope="module")
def three_functions(tmp_path_factory):
    """Two functions on one large weight, of which one has compressed it, and a third on a weight of its own."""
    folder = tmp_path_factory.mktemp("functions")
    rng = np.random.default_rng(8)
    weight = (rng.integers(-9, 9, (32, 64)) / 8).astype(np.float32)
    quantized = rng.integers(-128, 128, (32, 64)).astype(np.int8)
    scale = rng.uniform(0.01, 0.1, (32, 1)).astype(np.float32)

    def packed():
        return Builder.constexpr_blockwise_shift_scale(data=quantized, scale=scale)

    builds = {
        "first": lambda x: Builder.add(x=Builder.linear(x=x, weight=weight), y=Builder.linear(x=x, weight=packed())),
        "second": lambda x: Builder.sub(x=Builder.linear(x=x, weight=weight), y=Builder.linear(x=x, weight=packed())),
        "third": lambda x: Builder.linear(x=x, weight=weight * 2),
    }
    description = ct.utils.MultiFunctionDescriptor()
    for name, build in builds.items():
        example = {"x": np.zeros((3, 64), np.float32)}
        path = save_program(folder / f"{name}.mlpackage", build, example, ct.target.iOS18)
        description.add_function(str(path), src_function_name="main", target_function_name=name)
    description.default_function_name = "second"
    ct.utils.save_multifunction(description, str(folder / "all.mlpackage"))
    return folder / "all.mlpackage", weight, quantized * scale


def test_functions_of_one_package(three_functions, rng):
    path, weight, other = three_functions
    x = rng.standard_normal((3, 64)).astype(np.float32)
    session = PortableSession(path)
    assert session.function_name == "second"
    assert session.functions == ("first", "second", "third")
    expected = {
        "first": x @ weight.T + x @ other.T,
        "second": x @ weight.T - x @ other.T,
        "third": x @ weight.T * 2,
    }
    for name in session.functions:
        for loaded in (session.function(name), PortableSession(path, name)):
            assert loaded.function_name == name
            (result,) = loaded.predict({"x": x}).values()
            np.testing.assert_allclose(result, expected[name], rtol=1e-4, atol=1e-4)
    with pytest.raises(PackageError, match="no function 'fourth'; it has: first, second, third"):
        session.function("fourth")


def test_functions_share_their_weights(three_functions, monkeypatch):
    packed = []
    pack = kernels._packed

    def counting(matrix, bias):
        packed.append(tuple(matrix.shape))
        return pack(matrix, bias)

    monkeypatch.setattr(kernels, "_packed", counting)
    monkeypatch.setattr(kernels, "_HAS_ONEDNN", True)
    session = PortableSession(three_functions[0])
    assert len(packed) == 2
    session.function("first")
    assert len(packed) == 2
    session.function("third")
    assert len(packed) == 3


def test_functions_over_a_state_share_a_weight_that_is_packed_in_fp16(tmp_path, monkeypatch, rng):
    """One of a token and one of a block of them; a third without states takes its own form for so many rows."""
    packed = {"_packed_half": [], "_packed": []}

    def count(name):
        pack = getattr(kernels, name)

        def counting(matrix, bias):
            packed[name].append(tuple(matrix.shape))
            return pack(matrix, bias)

        monkeypatch.setattr(kernels, name, counting)

    for name in packed:
        count(name)
    if not kernels._HAS_FBGEMM:
        pytest.skip("this build of torch has no FBGEMM")
    weight = rng.standard_normal((32, 64)).astype(np.float16)

    def build(x, s):
        return Builder.add(x=Builder.linear(x=x, weight=weight), y=Builder.read_state(input=s))

    description = ct.utils.MultiFunctionDescriptor()
    rows = {"infer": 1, "prefill": 64, "alone": 64}
    for name, count in rows.items():
        x, path = np.zeros((count, 64), np.float16), tmp_path / f"{name}.mlpackage"
        if name == "alone":
            save_program(path, lambda x: Builder.linear(x=x, weight=weight), {"x": x}, ct.target.iOS18)
        else:
            stateful(path, build, {"s": (1, 32)}, x=x)
        description.add_function(str(path), src_function_name="main", target_function_name=name)
    description.default_function_name = "infer"
    ct.utils.save_multifunction(description, str(tmp_path / "all.mlpackage"))
    session = PortableSession(tmp_path / "all.mlpackage")
    prefill = session.function("prefill")
    assert packed == {"_packed_half": [(32, 64)], "_packed": []}
    session.function("alone")
    assert len(packed["_packed_half"]) == 1
    for function, count in ((session, 1), (prefill, 64)):
        x = rng.standard_normal((count, 64)).astype(np.float16)
        (result,) = function.predict({"x": x}, function.make_state()).values()
        np.testing.assert_allclose(result, x.astype(np.float64) @ weight.T.astype(np.float64), rtol=2e-3, atol=2e-3)
