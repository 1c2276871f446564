"""Activations of 8 bits: ranges, what is quantized, what stays, and what the package then answers."""

import coremltools as ct
import numpy as np
import pytest
import torch
from tiny_models import make_original, make_tokenizer

from optimum_ane import export
from optimum_ane.compression import activations
from optimum_ane.compression.activations import quantize_activations
from optimum_ane.compression.calibration_data import calibration_of_random_tokens
from optimum_ane.errors import CompressionError
from optimum_ane.package.layout import MLPACKAGE
from optimum_ane.package.manifest import Manifest
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.workflows.compress import Original, compress_package
from optimum_ane.workflows.recipe_preparation import Calibrating, prepare_recipe


def exported(directory, target):
    export(
        make_original("distilbert", "text-classification", has_fresh_norms=True), directory,
        task="text-classification", sequence_length=16, tokenizer=make_tokenizer(), validate=False,
        minimum_deployment_target=target, quiet=True,
    )  # fmt: skip
    return directory


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("activations") / "package", "iOS17")


@pytest.fixture(scope="module")
def calibration(package):
    return calibration_of_random_tokens(package, rows=4)


def operations(mlpackage):
    function = ct.models.MLModel(str(mlpackage), skip_model_load=True).get_spec().mlProgram.functions["main"]
    return list(function.block_specializations[function.opset].operations)


def test_chosen_convolutions_take_and_give_8_bits_and_the_others_do_not(package, calibration, tmp_path, monkeypatch):
    monkeypatch.setattr(activations, "LEAST_SNR", 39.0)
    done = quantize_activations(package / MLPACKAGE, tmp_path / "made.mlpackage", calibration)
    assert done.quantized
    assert done.kept
    assert all(ratio < 39 for ratio in done.kept.values())
    made = operations(tmp_path / "made.mlpackage")
    makers = {output.name: operation for operation in made for output in operation.outputs}
    readers = {}
    for operation in made:
        for argument in operation.inputs.values():
            for binding in argument.arguments:
                readers.setdefault(binding.name, []).append(operation)
    taken = set()
    for operation in made:
        if operation.type == "conv":
            source = makers[operation.inputs["x"].arguments[0].name]
            if source.type == "dequantize":
                taken.add(operation.outputs[0].name)
                (reader,) = readers[operation.outputs[0].name]
                # An activation is taken as one with its convolution.
                given = reader.outputs[0].name if reader.type == "relu" else operation.outputs[0].name
                assert [after.type for after in readers[given]] == ["quantize"]
    assert len(taken) == len(done.quantized)
    assert len([operation for operation in made if operation.type == "conv"]) == len(taken) + len(done.kept)


def test_a_range_holds_all_rows_and_not_the_last_alone(package, calibration, tmp_path):
    """coremltools' own calibration keeps the range of the last sample; ours of one order is that of the other."""
    reversed_ = type(calibration)(calibration.batches[::-1], calibration.name, "")
    answers = []
    for name, rows in (("one", calibration), ("two", reversed_)):
        quantize_activations(package / MLPACKAGE, tmp_path / f"{name}.mlpackage", rows)
        session = PortableSession(tmp_path / f"{name}.mlpackage")
        answers.append([session.predict(batch)["logits"] for batch in calibration.batches])
    np.testing.assert_array_equal(*answers)


def test_a_range_is_cut_where_that_leaves_less_error():
    """Against a search by hand over the same ranges: one outlier of 100 among numbers of about 1."""
    from types import SimpleNamespace

    value = torch.cat([torch.linspace(-1, 1, 4000), torch.tensor([100.0])])
    ranges = activations._Ranges({"x"})
    step = SimpleNamespace(node=SimpleNamespace(name="x"))
    ranges.look(step, value)
    ranges.compare(step, value)
    errors = {}
    for ratio in np.linspace(0.3, 1.0, 29):
        scale = 100 * ratio / 127
        errors[ratio] = float(((np.clip(np.rint(value / scale), -128, 127) * scale - value) ** 2).sum())
    best = min(errors, key=errors.get)
    assert ranges.bounds()["x"] == pytest.approx(100 * best)
    assert ranges.snr("x") == pytest.approx(10 * np.log10(float((value**2).sum()) / errors[best]), abs=1e-3)


def test_the_whole_package_says_what_it_is(package, tmp_path):
    prepared = prepare_recipe(package, "int8-activations", tmp_path / "out", Calibrating(samples=4), quiet=True)
    result = compress_package(
        package, prepared.recipe, tmp_path / "out", original=Original(wanted="no"),
        calibration=prepared.calibration, psnr_threshold=0.0, quiet=True,
    )  # fmt: skip
    assert Manifest.read(tmp_path / "out").compression == "int8-activations"
    assert result.report.compression["activations"]["quantized"]
    types = {operation.type for operation in operations(tmp_path / "out" / MLPACKAGE)}
    assert {"quantize", "dequantize"} <= types
    assert any(name.startswith("constexpr_") for name in types)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_an_older_target_is_refused_with_the_one_that_can(tmp_path):
    directory = exported(tmp_path / "old", "iOS16")
    with pytest.raises(CompressionError, match="minimum_deployment_target iOS17"):
        quantize_activations(
            directory / MLPACKAGE, tmp_path / "made.mlpackage", calibration_of_random_tokens(directory, rows=1)
        )


def test_a_package_whose_values_fit_nowhere_is_refused(package, calibration, tmp_path, monkeypatch):
    monkeypatch.setattr(activations, "LEAST_SNR", 500.0)
    with pytest.raises(CompressionError, match="no convolution"):
        quantize_activations(package / MLPACKAGE, tmp_path / "made.mlpackage", calibration)
