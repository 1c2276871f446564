"""coremltools' own MLModel, predicting off macOS."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder
from coremltools.models import model as coremltools_model
from portable_programs import save_module, save_program

from optimum_ane.runtimes.portable import PortableSession, disable_predict, enable_predict

pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="Core ML itself predicts there")


class Affine(torch.nn.Module):
    def __init__(self, factor: float = 2.0) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) * self.factor


class Counter(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(1, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total.add_(x)
        return self.total * 1.0


@pytest.fixture(autouse=True)
def coremltools_is_restored() -> Iterator[None]:
    before = (coremltools_model._MLModelProxy, vars(coremltools_model.MLModel)["make_state"])
    yield
    disable_predict()
    assert (coremltools_model._MLModelProxy, vars(coremltools_model.MLModel)["make_state"]) == before


@pytest.fixture(scope="module")
def affine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("affine") / "affine.mlpackage"
    return save_module(path, Affine(), {"x": torch.rand(1, 4)}, outputs=[ct.TensorType("y", dtype=np.float16)])


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("counter") / "counter.mlpackage"
    return save_module(
        path,
        Counter(),
        {"x": torch.rand(1, 2)},
        inputs=[ct.TensorType("x", (1, 2), dtype=np.float16)],
        outputs=[ct.TensorType("y", dtype=np.float16)],
        states=[ct.StateType(ct.TensorType(shape=(1, 2), dtype=np.float16), "total")],
        minimum_deployment_target=ct.target.iOS18,
    )


def test_off_until_enabled_and_off_again(affine: Path) -> None:
    data = {"x": np.ones((1, 4), np.float32)}
    with pytest.raises(Exception, match="macOS"):
        ct.models.MLModel(str(affine)).predict(data)
    enable_predict()
    model = ct.models.MLModel(str(affine))
    assert model.predict(data)["y"].shape == (1, 3)
    disable_predict()
    with pytest.raises(Exception, match="macOS"):
        ct.models.MLModel(str(affine)).predict(data)
    assert model.predict(data)["y"].shape == (1, 3), "a model that was loaded stays loaded"
    disable_predict()


def test_blocks_nest_and_survive_errors(affine: Path) -> None:
    def precision() -> Any:
        return getattr(coremltools_model._MLModelProxy, "precision", None)

    with enable_predict():
        with contextlib.suppress(KeyError), enable_predict(precision="float32"):
            assert precision() == "float32"
            raise KeyError
        assert precision() == "program"
    assert precision() is None
    with pytest.raises(ValueError, match="'float64'"):
        enable_predict(precision="float64")  # type: ignore[arg-type]


def test_does_nothing_on_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    before = coremltools_model._MLModelProxy
    with enable_predict():
        assert coremltools_model._MLModelProxy is before


def test_answers_as_the_session_does_and_fp16_as_float32(affine: Path) -> None:
    x = np.random.default_rng(0).normal(size=(1, 4)).astype(np.float32)
    expected = PortableSession(affine).predict({"x": x})["y"]
    assert expected.dtype == np.float16
    with enable_predict():
        model = ct.models.MLModel(str(affine), compute_units=ct.ComputeUnit.CPU_AND_NE)
    for given in (x, torch.from_numpy(x), x.tolist(), x.astype(np.float64), x.astype(np.float32)):
        answer = model.predict({"x": given})["y"]
        assert answer.dtype == np.float32
        np.testing.assert_array_equal(answer, expected)
    batch = model.predict([{"x": x}, {"x": 0 * x}])
    np.testing.assert_array_equal(batch[0]["y"], expected)
    assert len(batch) == 2
    assert model.load_duration_in_nano_seconds > 0
    assert model.last_predict_duration_in_nano_seconds > 0
    with enable_predict(precision="float32"):
        unrounded = ct.models.MLModel(str(affine)).predict({"x": x})["y"]
    np.testing.assert_array_equal(
        unrounded, PortableSession(affine, precision="float32").predict({"x": x})["y"].astype(np.float32)
    )


def test_just_converted() -> None:
    torch.manual_seed(1)
    module = Affine().eval()
    x = torch.rand(2, 4)
    with enable_predict():
        model = ct.convert(
            torch.jit.trace(module, x),
            inputs=[ct.TensorType("x", (2, 4))],
            outputs=[ct.TensorType("y")],
            compute_precision=ct.precision.FLOAT32,
            minimum_deployment_target=ct.target.iOS16,
            skip_model_load=False,
        )
    np.testing.assert_allclose(model.predict({"x": x})["y"], module(x).detach().numpy(), rtol=1e-6, atol=1e-6)
    with enable_predict():
        again = ct.models.MLModel(model.get_spec(), weights_dir=model.weights_dir)
    np.testing.assert_array_equal(again.predict({"x": x})["y"], model.predict({"x": x})["y"])


def test_functions_by_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    description = ct.utils.MultiFunctionDescriptor()
    for name, factor in (("double", 2.0), ("thrice", 3.0)):
        path = save_module(
            tmp_path / f"{name}.mlpackage", Affine(factor), {"x": torch.rand(1, 4)},
            outputs=[ct.TensorType("y")], minimum_deployment_target=ct.target.iOS18,
        )  # fmt: skip
        description.add_function(str(path), "main", name)
    description.default_function_name = "double"
    path = tmp_path / "both.mlpackage"
    ct.utils.save_multifunction(description, str(path))
    x = torch.rand(1, 4)
    with enable_predict():
        default = ct.models.MLModel(str(path)).predict({"x": x})["y"]
        thrice = ct.models.MLModel(str(path), function_name="thrice").predict({"x": x})["y"]
        with pytest.warns(RuntimeWarning, match="no function 'other'"), pytest.raises(ValueError, match="other"):
            ct.models.MLModel(str(path), function_name="other")
    np.testing.assert_array_equal(default, PortableSession(path, "double").predict({"x": x})["y"])
    np.testing.assert_array_equal(thrice, PortableSession(path, "thrice").predict({"x": x})["y"])
    assert not np.array_equal(default, thrice)


def test_states(counter: Path, affine: Path) -> None:
    with enable_predict():
        model = ct.models.MLModel(str(counter))
        first, second = model.make_state(), model.make_state()
        for _ in range(3):
            answer = model.predict({"x": np.array([[1, 2]], np.float16)}, first)["y"]
        np.testing.assert_array_equal(answer, [[3, 6]])
        np.testing.assert_array_equal(first.read_state("total"), [[3, 6]])
        np.testing.assert_array_equal(second.read_state("total"), [[0, 0]])
        assert first.read_state("total").dtype == np.float32
        first.read_state("total")[:] = 9
        second.write_state("total", np.array([[10.0, 2049.0]]))
        np.testing.assert_array_equal(second.read_state("total"), [[10, 2048]])  # rounded to fp16
        model.predict({"x": np.ones((1, 2), np.float32)}, second)
        np.testing.assert_array_equal(second.read_state("total"), [[11, 2048]])
        np.testing.assert_array_equal(first.read_state("total"), [[3, 6]])
        with pytest.raises(RuntimeError, match="no state 'sum'; the states are: total"):
            first.read_state("sum")
        with pytest.raises(RuntimeError, match=r"\(1, 2\) and was given \(2,\)"):
            first.write_state("total", np.zeros(2))
        with pytest.raises(RuntimeError, match="make_state"):
            model.predict({"x": np.ones((1, 2), np.float32)})
        with pytest.raises(RuntimeError, match="has no states"):
            ct.models.MLModel(str(affine)).make_state()
        with pytest.raises(Exception, match=r"macOS 15\+"):
            ct.models.MLModel(str(affine), skip_model_load=True).make_state()
    with pytest.raises(Exception, match=r"macOS 15\+"):
        ct.models.MLModel(str(counter)).make_state()


def test_numbers_are_converted_as_core_ml_does_but_not_changed(tmp_path: Path) -> None:
    inputs = {"ids": np.zeros((1, 2), np.int32), "scale": np.zeros((1,), np.float32)}
    path = save_program(
        tmp_path / "kinds.mlpackage",
        lambda ids, scale: Builder.mul(x=Builder.cast(x=ids, dtype="fp32"), y=scale, name="y"),
        inputs,
    )
    with enable_predict():
        model = ct.models.MLModel(str(path))
    for ids in ([[3, 4]], np.array([[3, 4]]), np.array([[3, 4]], np.float32), np.array([[3, 4]], np.uint8)):
        for scale in (2, 2.0, np.array([2]), np.array([2.0])):
            np.testing.assert_array_equal(model.predict({"ids": ids, "scale": scale})["y"], [[6, 8]])
    for ids in ([[0.5, 1.0]], [[np.nan, 1.0]]):
        with pytest.raises(RuntimeError, match="'ids' takes int32 and got fractions"):
            model.predict({"ids": np.array(ids), "scale": 1.0})
    with pytest.raises(RuntimeError, match="values from"):
        model.predict({"ids": np.array([[1e30, 1.0]]), "scale": 1.0})
    with pytest.raises(RuntimeError, match=r"takes shape \(1, 2\) and got \(2, 2\)"):
        model.predict({"ids": np.zeros((2, 2)), "scale": 1.0})
    with pytest.raises(RuntimeError, match="lacks input 'scale'"):
        model.predict({"ids": np.zeros((1, 2))})
    with pytest.raises(KeyError, match="other"):
        model.predict({"other": np.zeros((1, 2))})


def test_classifier(tmp_path: Path) -> None:
    path = save_module(
        tmp_path / "classes.mlpackage", torch.nn.Softmax(-1), {"x": torch.rand(1, 3)},
        classifier_config=ct.ClassifierConfig(["a", "b", "c"]),
    )  # fmt: skip
    with enable_predict():
        answer = ct.models.MLModel(str(path)).predict({"x": np.array([[0, 3, 1]], np.float32)})
    assert answer["classLabel"] == "b"
    (probabilities,) = (value for value in answer.values() if isinstance(value, dict))
    assert set(probabilities) == {"a", "b", "c"}
    assert all(type(value) is float for value in probabilities.values())


def test_what_cannot_run_can_still_be_looked_into(tmp_path: Path) -> None:
    builder = ct.models.neural_network.NeuralNetworkBuilder(
        [("x", ct.models.datatypes.Array(3))], [("y", ct.models.datatypes.Array(3))]
    )
    builder.add_activation("relu", "RELU", "x", "y")
    path = tmp_path / "network.mlmodel"
    ct.models.utils.save_spec(builder.spec, str(path))
    with enable_predict():
        with pytest.warns(RuntimeWarning, match="predict"):
            model = ct.models.MLModel(str(path))
        assert model.get_spec().WhichOneof("Type") == "neuralNetwork"
        with pytest.raises(RuntimeError, match="mlpackage"):
            model.predict({"x": np.zeros(3)})
