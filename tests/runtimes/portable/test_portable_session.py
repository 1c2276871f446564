"""What a session takes and gives: inputs, classifiers, states, flexible shapes, threads."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder
from portable_programs import save_module, save_program

from optimum_ane.errors import ExecutionError, InputError, PackageError
from optimum_ane.runtimes.portable import PortableSession


class TwoInputs(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(10, 4)

    def forward(self, ids, scale):
        return self.table(ids) * scale


EXAMPLES = {"ids": torch.zeros(1, 3, dtype=torch.int32), "scale": torch.ones(1)}


@pytest.fixture
def session(tmp_path):
    return PortableSession(save_module(tmp_path / "m.mlpackage", TwoInputs(), EXAMPLES))


def test_declares_inputs_and_outputs(session):
    assert session.runtime == "portable"
    assert [(s.name, s.shape, s.dtype) for s in session.inputs.values()] == [
        ("ids", (1, 3), "int32"),
        ("scale", (1,), "float32"),
    ]
    (output,) = session.outputs.values()
    assert output.shape == (1, 3, 4)
    assert output.dtype == "float16"


@pytest.mark.parametrize(
    "ids",
    [np.array([[1, 2, 3]], np.int64), np.array([[1, 2, 3]], np.int32), torch.tensor([[1, 2, 3]]), [[1, 2, 3]]],
)
@pytest.mark.parametrize("scale", [np.array([2.0]), torch.tensor([2.0]), [2], 2, 2.0, np.array([2], np.float16)])
def test_takes_arrays_tensors_and_numbers(session, ids, scale):
    (result,) = session.predict({"ids": ids, "scale": scale}).values()
    (expected,) = session.predict({"ids": torch.tensor([[1, 2, 3]]), "scale": torch.tensor([2.0])}).values()
    np.testing.assert_array_equal(result, expected)
    assert result.dtype == np.float16


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scale": None}, "lacks input 'scale'"),
        ({"other": [1]}, "no input 'other'; its inputs are: ids, scale"),
        ({"ids": np.zeros((1, 4), np.int32)}, r"'ids' takes shape \(1, 3\) and got \(1, 4\)"),
        ({"ids": np.zeros((3,), np.int32)}, r"takes shape \(1, 3\) and got \(3,\)"),
        ({"ids": np.zeros((1, 3), np.float32)}, "'ids' takes int32 and got float32"),
        ({"ids": np.full((1, 3), 2**40)}, "takes int32 and got values from 1099511627776"),
        ({"scale": np.ones(1, np.int32)}, "'scale' takes float32 and got int32"),
        ({"scale": "text"}, "'scale' takes float32 and got"),
        ({"scale": [[1], [2, 3]]}, "'scale' is not an array"),
    ],
)
def test_refuses_inputs_that_do_not_fit(session, change, says):
    inputs = {"ids": [[1, 2, 3]], "scale": [1.0], **change}
    with pytest.raises(InputError, match=says):
        session.predict({name: value for name, value in inputs.items() if value is not None})


def test_index_outside_the_table_names_the_operation(session):
    with pytest.raises(ExecutionError, match=r"m\.mlpackage: gather at "):
        session.predict({"ids": [[1, 2, 10]], "scale": [1.0]})


def test_read_only_arrays_are_taken_without_a_warning(session, recwarn):
    ids = np.broadcast_to(np.int32(1), (1, 3))
    session.predict({"ids": ids, "scale": np.frombuffer(np.float32(1).tobytes(), np.float32)})
    assert not [w for w in recwarn if "writable" in str(w.message)]


def test_result_is_not_the_callers_array(run):
    x = np.ones((2, 3), np.float32)
    (result,) = run(lambda a: Builder.identity(x=a), x)
    result[:] = 7
    assert (x == 1).all()


def test_scalar_output_has_one_axis(run):
    (result,) = run(lambda a: Builder.reduce_sum(x=a, keep_dims=False), np.ones((2, 3), np.float32))
    assert result.shape == (1,)
    assert result[0] == 6


@pytest.mark.parametrize("labels", [["no", "yes", "perhaps"], [10, 20, 30]])
def test_classifier(tmp_path, labels):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Softmax(-1))
    x = torch.randn(1, 4)
    path = save_module(tmp_path / "m.mlpackage", net, {"x": x}, classifier_config=ct.ClassifierConfig(labels))
    session = PortableSession(path)
    result = session.predict({"x": x})
    assert [spec.dtype for spec in session.outputs.values()] == [
        "string" if isinstance(labels[0], str) else "int64",
        "dictionary",
    ]
    label, probabilities = result.values()
    with torch.no_grad():
        expected = net(x)[0]
    assert label == labels[int(expected.argmax())]
    assert type(label) is type(labels[0])
    assert list(probabilities) == labels
    np.testing.assert_allclose(list(probabilities.values()), expected, atol=2e-3)


def test_flexible_shapes(tmp_path):
    net = torch.nn.Linear(4, 2)
    shapes = {
        "enumerated": ct.EnumeratedShapes([(1, 4), (3, 4)]),
        "range": ct.Shape((ct.RangeDim(1, 3, default=1), 4)),
    }
    for name, shape in shapes.items():
        path = save_module(
            tmp_path / f"{name}.mlpackage",
            net,
            {"x": torch.zeros(1, 4)},
            inputs=[ct.TensorType("x", shape, dtype=np.float32)],
        )
        session = PortableSession(path)
        (result,) = session.predict({"x": np.ones((3, 4), np.float32)}).values()
        assert result.shape == (3, 2)
        expected = r"one of \(1, 4\), \(3, 4\)" if name == "enumerated" else r"\(1..3, 4\)"
        with pytest.raises(InputError, match=rf"takes shape {expected} and got \(4, 4\)"):
            session.predict({"x": np.ones((4, 4), np.float32)})


def test_states_are_kept_apart(tmp_path):
    class Sum(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("total", torch.zeros(3))

        def forward(self, x):
            self.total.add_(x)
            return self.total * 2

    path = save_module(
        tmp_path / "m.mlpackage",
        Sum(),
        {"x": torch.zeros(3)},
        minimum_deployment_target=ct.target.iOS18,
        states=[ct.StateType(ct.TensorType(shape=(3,), dtype=np.float16), name="total")],
    )
    session = PortableSession(path)
    one, two = session.make_state(), session.make_state()
    x = np.array([1, 2, 3], np.float32)
    (first,) = session.predict({"x": x}, one).values()
    (second,) = session.predict({"x": x}, one).values()
    (other,) = session.predict({"x": x}, two).values()
    assert first.tolist() == other.tolist() == [2, 4, 6]
    assert second.tolist() == [4, 8, 12]
    with pytest.raises(InputError, match=r"has states \(total\)"):
        session.predict({"x": x})


def test_functions_by_name(tmp_path):
    paths = {}
    for name, factor in (("double", 2), ("triple", 3)):

        def build(a, factor=factor):
            return Builder.mul(x=a, y=np.float32(factor))

        example = {"x": np.zeros((2, 2), np.float32)}
        paths[name] = save_program(tmp_path / f"{name}.mlpackage", build, example, ct.target.iOS18)
    description = ct.utils.MultiFunctionDescriptor()
    for name, path in paths.items():
        description.add_function(str(path), src_function_name="main", target_function_name=name)
    description.default_function_name = "triple"
    ct.utils.save_multifunction(description, str(tmp_path / "both.mlpackage"))
    x = np.ones((2, 2), np.float32)
    for name, expected in ((None, 3), ("double", 2), ("triple", 3)):
        (result,) = PortableSession(tmp_path / "both.mlpackage", name).predict({"x": x}).values()
        assert (result == expected).all()
    with pytest.raises(PackageError, match="no function 'single'; it has: double, triple"):
        PortableSession(tmp_path / "both.mlpackage", "single")


def test_threads_share_a_session(tmp_path, single_thread):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.GELU(), torch.nn.Linear(64, 8), torch.nn.Softmax(-1))
    session = PortableSession(save_module(tmp_path / "m.mlpackage", net, {"x": torch.zeros(4, 64)}))
    inputs = [{"x": torch.randn(4, 64)} for _ in range(64)]
    alone = [next(iter(session.predict(i).values())) for i in inputs]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda i: next(iter(session.predict(i).values())), inputs))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


def test_observer_sees_every_operation(tmp_path):
    path = save_module(tmp_path / "m.mlpackage", torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU()), {
        "x": torch.zeros(1, 4)
    })  # fmt: skip
    seen = []
    PortableSession(path).predict({"x": torch.ones(1, 4)}, observer=lambda step, _: seen.append(step.node.op))
    assert [op for op in seen if op != "cast"] == ["linear", "relu"]


def test_precision_has_two_values(tmp_path):
    with pytest.raises(ValueError, match="'program' or 'float32'"):
        PortableSession(tmp_path, precision="half")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux does")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs a second core to take")
def test_a_new_thread_keeps_to_the_number_of_threads(tmp_path, single_thread):
    """oneDNN starts a team of threads of its own in a thread where torch has not told it how many."""
    layer, options = torch.nn.Linear(512, 512), {"compute_precision": ct.precision.FLOAT32}
    session = PortableSession(save_module(tmp_path / "m.mlpackage", layer, {"x": torch.rand(256, 512)}, **options))
    x = np.zeros((256, 512), np.float32)
    before = threading.Barrier(2)

    def predict():
        before.wait()
        return session.predict({"x": x}), len(os.listdir("/proc/self/task"))

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(predict)
        count = len(os.listdir("/proc/self/task"))
        before.wait()
        assert future.result()[1] <= count


def test_an_output_that_is_returned_twice_is_one(tmp_path):
    def build(a):
        twice = Builder.add(x=a, y=np.float32(1), name="twice")
        return twice, Builder.mul(x=a, y=np.float32(3), name="once"), twice

    x = np.ones((2, 3), np.float32)
    path = save_program(tmp_path / "m.mlpackage", build, {"x": x})
    names = [
        output.name for output in ct.models.MLModel(str(path), skip_model_load=True).get_spec().description.output
    ]
    assert len(names) == 3
    assert len(set(names)) == 2
    result = PortableSession(path).predict({"x": x})
    assert result.keys() == set(names)
    np.testing.assert_array_equal(result[names[0]], np.full((2, 3), 2))
    np.testing.assert_array_equal(result[names[1]], np.full((2, 3), 3))
