"""One interface, three engines: functions and states behave alike on all of them."""

import coremltools as ct
import numpy as np
import pytest
import torch
from torch import nn

from optimum_ane.errors import InputError, PackageError
from optimum_ane.runtimes import TensorSpec
from optimum_ane.runtimes.coreml import CoreMLSession
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.runtimes.pytorch import TorchFunction, TorchSession

WIDTH = 3


class Sum(nn.Module):
    """Adds what it is given to a state, and gives the new state times a factor."""

    def __init__(self, factor):
        super().__init__()
        self.register_buffer("total", torch.zeros(1, WIDTH))
        self.factor = factor

    def forward(self, x):
        self.total.add_(x.sum(0, keepdim=True))
        return self.total * self.factor


class Count(nn.Module):
    """Has another state."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1, 1))

    def forward(self, x):
        self.count.add_(1.0)
        return self.count * 1.0


FACTORS = {"once": (1.0, 1), "twice": (2.0, 2)}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A package of two functions over one state, of one and of two rows."""
    folder = tmp_path_factory.mktemp("stateful")
    descriptor = ct.utils.MultiFunctionDescriptor()
    for name, (factor, rows) in FACTORS.items():
        traced = torch.jit.trace(Sum(factor).eval(), torch.zeros(rows, WIDTH))
        state = ct.StateType(wrapped_type=ct.TensorType(shape=(1, WIDTH), dtype=np.float16), name="total")
        ct.convert(
            traced,
            inputs=[ct.TensorType(name="x", shape=(rows, WIDTH))],
            outputs=[ct.TensorType(name="y")],
            states=[state],
            minimum_deployment_target=ct.target.iOS18,
            skip_model_load=True,
        ).save(str(folder / f"{name}.mlpackage"))
        descriptor.add_function(str(folder / f"{name}.mlpackage"), "main", name)
    descriptor.default_function_name = "once"
    ct.utils.save_multifunction(descriptor, str(folder / "model.mlpackage"))
    return folder / "model.mlpackage"


class Engine:
    """What `coremltools.models.MLModel` is on macOS 15, on the portable runtime."""

    def __init__(self, path, compute_units, function_name):
        self.path, self.session = path, PortableSession(path, function_name)

    def get_spec(self):
        return ct.utils.load_spec(self.path)

    def make_state(self):
        state = self.session.make_state()
        state.read_state, state.write_state = state.read, state.write
        return state

    def predict(self, inputs, state=None):
        return self.session.predict(inputs, state)


def torch_session():
    return TorchSession(
        {
            name: TorchFunction(
                Sum(factor),
                (TensorSpec("x", (rows, WIDTH), "float32"),),
                ("y",),
                (TensorSpec("total", (1, WIDTH), "float16"),),
            )
            for name, (factor, rows) in FACTORS.items()
        }
    )


@pytest.fixture(params=["torch", "portable", "coreml"])
def session(request, package):
    if request.param == "torch":
        return torch_session()
    return PortableSession(package) if request.param == "portable" else CoreMLSession(package, load=Engine)


def row(*numbers):
    return {"x": np.array([numbers], np.float32)}


def test_functions_are_named_and_the_default_one_is_open(session):
    assert session.functions == ("once", "twice")
    assert session.function_name == "once"
    assert session.inputs["x"].shape == (1, WIDTH)
    other = session.function("twice")
    assert (other.function_name, other.inputs["x"].shape) == ("twice", (2, WIDTH))
    assert other.runtime == session.runtime
    assert list(session.states) == list(other.states) == ["total"]


def test_a_function_that_there_is_not_is_refused_with_those_that_there_are(session):
    with pytest.raises(PackageError, match=r"'thrice'.*once, twice"):
        session.function("thrice")


def test_a_state_keeps_what_predictions_leave_and_goes_from_function_to_function(session):
    state = session.make_state()
    assert session.predict(row(1, 2, 3), state)["y"].tolist() == [[1, 2, 3]]
    both = {"x": np.array([[1, 0, 0], [1, 0, 1]], np.float32)}
    assert session.function("twice").predict(both, state)["y"].tolist() == [[6, 4, 8]]
    assert session.predict(row(0, 0, 0), state)["y"].tolist() == [[3, 2, 4]]


def test_two_states_share_nothing(session):
    first, second = session.make_state(), session.make_state()
    session.predict(row(1, 1, 1), first)
    assert session.predict(row(0, 0, 5), second)["y"].tolist() == [[0, 0, 5]]


def test_a_state_is_read_written_and_copied(session):
    state = session.make_state()
    session.predict(row(1, 2, 3), state)
    assert state.names == ("total",)
    before = state.read("total")
    copied = state.copy()
    state.write("total", np.array([[7, 8, 9]], np.float32))
    assert before.tolist() == copied.read("total").tolist() == [[1, 2, 3]]
    assert session.predict(row(1, 1, 1), state)["y"].tolist() == [[8, 9, 10]]
    assert session.predict(row(1, 1, 1), copied)["y"].tolist() == [[2, 3, 4]]


def test_what_is_read_is_no_window_into_the_state(session):
    state = session.make_state()
    session.predict(row(1, 2, 3), state)
    state.read("total")[:] = 99
    assert state.read("total").tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("value", [np.zeros((2, WIDTH)), np.zeros(WIDTH), np.array([["a", "b", "c"]])])
def test_a_value_that_does_not_fit_is_refused(session, value):
    with pytest.raises(InputError, match="state 'total' is float"):
        session.make_state().write("total", value)


def test_a_prediction_without_its_state_is_refused(session):
    with pytest.raises(InputError, match="state"):
        session.predict(row(1, 2, 3))


def test_a_state_for_a_function_without_any_is_refused():
    plain = TorchSession({"main": TorchFunction(nn.Linear(3, 1), (TensorSpec("x", (1, 3), "float32"),), ("y",))})
    with pytest.raises(InputError, match="no states"):
        plain.predict(row(1, 2, 3), torch_session().make_state())


def test_the_modules_own_buffers_stay_as_they_were():
    module = Sum(1.0)
    functions = {
        "main": TorchFunction(
            module, (TensorSpec("x", (1, WIDTH), "float32"),), ("y",), (TensorSpec("total", (1, WIDTH), "float32"),)
        )
    }
    session = TorchSession(functions)
    session.predict(row(1, 2, 3), session.make_state())
    assert module.total.tolist() == [[0, 0, 0]]


def test_a_state_of_another_program_is_refused(package, tmp_path):
    traced = torch.jit.trace(Count().eval(), torch.zeros(1, WIDTH))
    ct.convert(
        traced,
        inputs=[ct.TensorType(name="x", shape=(1, WIDTH))],
        states=[ct.StateType(wrapped_type=ct.TensorType(shape=(1, 1), dtype=np.float16), name="count")],
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    ).save(str(tmp_path / "model.mlpackage"))
    other = PortableSession(tmp_path / "model.mlpackage")
    with pytest.raises(InputError, match="has states"):
        PortableSession(package).predict(row(1, 2, 3), other.make_state())


class TestIntermediates:
    def test_core_ml_gives_none(self, package):
        session = CoreMLSession(package, load=Engine)
        state = session.make_state()
        with pytest.raises(InputError, match="no values in between"):
            session.predict(row(1, 2, 3), state, intermediates=["*"])

    def test_the_portable_runtime_gives_those_that_match_beside_the_outputs(self, package):
        session = PortableSession(package)
        values = session.predict(row(1, 2, 3), session.make_state(), intermediates=["*"])
        assert values["y"].tolist() == [[1, 2, 3]]
        assert len(values) > 1

    def test_a_name_that_there_is_not_is_refused(self, package):
        session = PortableSession(package)
        with pytest.raises(InputError, match="no value of the program that ran is named 'nothing'"):
            session.predict(row(1, 2, 3), session.make_state(), intermediates=["nothing"])


def test_what_keeps_states_between_rows_runs_as_declared_on_every_engine(session):
    assert session.with_rows(4) is session
    twice = session.function("twice")
    assert twice.with_rows(1) is twice
