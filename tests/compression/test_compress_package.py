"""`compress_package` and `export(compress=…)`: a whole package that says nothing of another one."""

import json
import shutil
from hashlib import sha256

import numpy as np
import pytest
from tiny_models import make_original, make_tokenizer, save_checkpoint

from optimum_ane import export
from optimum_ane.compression import get_recipe
from optimum_ane.errors import (
    CheckpointError,
    CompressionError,
    DatasetError,
    OutputError,
    PackageError,
    ValidationError,
)
from optimum_ane.evaluation.accuracy import AccuracyLimits
from optimum_ane.package.card_marker import is_generated
from optimum_ane.package.files import verify_files
from optimum_ane.package.manifest import Manifest
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.workflows.compress import Original, compress_package

ROWS = "the film is good\t1\na dull plot\t0\na bad story\t0\nfine and moving\t1\n"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("source") / "tiny"
    save_checkpoint(directory, "distilbert", "text-classification")
    return directory


@pytest.fixture(scope="module")
def package(checkpoint, tmp_path_factory):
    """An export with everything that a compression would make untrue: accuracy, layers, residency."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "dev.tsv").write_text(ROWS)
    export(
        checkpoint,
        folder / "out",
        sequence_length=16,
        minimum_deployment_target="iOS18",
        eval_dataset=str(folder / "dev.tsv"),
        max_accuracy_drop=100,
        psnr_threshold=20,
        quiet=True,
    )
    return folder / "out"


@pytest.fixture
def dataset(tmp_path):
    from optimum_ane.evaluation.datasets import DatasetSpec

    (tmp_path / "dev.tsv").write_text(ROWS)
    return DatasetSpec(str(tmp_path / "dev.tsv"))


def report_of(directory):
    return json.loads((directory / "export_report.json").read_text())


def snapshot(directory):
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_whole_new_package_comes_out_and_the_old_one_is_as_it_was(package, tmp_path):
    before = snapshot(package)
    result = compress_package(package, get_recipe("int8"), tmp_path / "small", quiet=True)
    assert snapshot(package) == before
    old, new = Manifest.read(package), Manifest.read(tmp_path / "small")
    assert (old.compression, new.compression) == (None, "int8")
    verify_files(tmp_path / "small", new)
    assert set(new.files) == set(old.files)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        assert new.files[name] == old.files[name]
    assert new.source == old.source
    text = (tmp_path / "small" / "README.md").read_text()
    assert is_generated(text)
    assert "int8" in text
    report = report_of(tmp_path / "small")
    assert report["sizes"]["weights"] < 0.7 * report_of(package)["sizes"]["weights"]
    assert report["operations"] == report_of(package)["operations"]
    assert report["compression"]["recipe"]["name"] == "int8"
    assert report["compression"]["weights"]
    assert result.missing_original is None


def test_the_numbers_of_the_report_are_those_of_the_new_package(package, checkpoint, tmp_path):
    compress_package(package, get_recipe("int8"), tmp_path / "small", quiet=True)
    report, before = report_of(tmp_path / "small"), report_of(package)
    assert before["accuracy"] is not None
    assert report["accuracy"] is None
    assert report["layers"].keys() == before["layers"].keys()
    assert all(report["layers"][name] < before["layers"][name] for name in before["layers"])
    assert report["residency"] is not None
    assert report["psnr_threshold"] == get_recipe("int8").psnr
    assert 20 < report["package_psnr"]["logits"] < before["package_psnr"]["logits"]
    close = report["compression"]["psnr_to_uncompressed"]["logits"]
    assert close == pytest.approx(report["package_psnr"]["logits"], abs=3)


def test_accuracy_is_measured_anew_where_a_dataset_is_given(package, dataset, tmp_path):
    result = compress_package(
        package, get_recipe("int8"), tmp_path / "small", dataset=dataset, limits=AccuracyLimits(100), quiet=True
    )
    accuracy = report_of(tmp_path / "small")["accuracy"]
    assert accuracy["rows"] == 4
    assert accuracy["dataset"] == "dev.tsv"
    assert result.accuracy.original is not None


def test_without_the_original_the_package_before_is_the_measure(package, dataset, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(package, moved)
    config = json.loads((moved / "ane_config.json").read_text())
    config["source"]["model"] = str(tmp_path / "nowhere")
    (moved / "ane_config.json").write_text(json.dumps(config))
    result = compress_package(moved, get_recipe("int8"), tmp_path / "small", dataset=dataset, quiet=True)
    assert "nowhere" in result.missing_original
    report = report_of(tmp_path / "small")
    assert report["package_psnr"] == {}
    assert report["compression"]["psnr_to_uncompressed"]["logits"] > 20
    assert report["accuracy"]["original"] is None
    with pytest.raises(CheckpointError, match=r"max_accuracy_drop.*need the original's score"):
        compress_package(
            moved, get_recipe("int8"), tmp_path / "b", dataset=dataset, limits=AccuracyLimits(1), quiet=True
        )
    original = Original(str(tmp_path / "nowhere"), "yes")
    with pytest.raises(CheckpointError, match="nowhere"):
        compress_package(moved, get_recipe("int8"), tmp_path / "b", original=original, quiet=True)
    assert not (tmp_path / "b").exists()


def test_a_package_whose_answers_are_too_far_off_is_not_written(package, tmp_path):
    with pytest.raises(ValidationError, match=r"compressed with palette2 .* 60\.0 are asked for"):
        compress_package(package, get_recipe("palette2"), tmp_path / "out", psnr_threshold=60, quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_is_refused_before_any_work(package, dataset, tiny_package, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    recipe = get_recipe("int8")
    with pytest.raises(OutputError, match="not empty"):
        compress_package(package, recipe, tmp_path / "full", quiet=True)
    with pytest.raises(OutputError, match="or lies in it, which is read meanwhile"):
        compress_package(package, recipe, package, overwrite=True, quiet=True)
    with pytest.raises(PackageError, match=r"holds no ane_config\.json"):
        compress_package(tmp_path / "full", recipe, tmp_path / "out", quiet=True)
    other = tiny_package("distilbert", "fill-mask")
    with pytest.raises(DatasetError, match="no header that is recognised; name the text column"):
        compress_package(other, recipe, tmp_path / "out", dataset=dataset, quiet=True)
    with pytest.raises(CompressionError, match="needs iOS18"):
        compress_package(other, get_recipe("palette4-g16"), tmp_path / "out", quiet=True)
    damaged = tmp_path / "damaged"
    shutil.copytree(package, damaged)
    (damaged / "config.json").write_text("{}")
    with pytest.raises(PackageError, match="does not match its SHA-256"):
        compress_package(damaged, recipe, tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_names_in_the_list_of_files_lead_nowhere_else(package, tmp_path):
    hostile = tmp_path / "a" / "hostile"
    shutil.copytree(package, hostile)
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    config = json.loads((hostile / "ane_config.json").read_text())
    config["files"]["../../secret.txt"] = sha256(b"secret").hexdigest()
    (hostile / "ane_config.json").write_text(json.dumps(config))
    output = tmp_path / "b" / "c" / "out"
    try:
        compress_package(hostile, get_recipe("int8"), output, original=Original(wanted="no"), quiet=True)
    except PackageError:
        pass
    else:
        assert "../../secret.txt" not in Manifest.read(output).files
    assert not (tmp_path / "b" / "secret.txt").exists()


def test_an_export_compresses_on_the_way(checkpoint, tmp_path):
    options = {"sequence_length": 16, "minimum_deployment_target": "iOS18", "quiet": True}
    result = export(checkpoint, tmp_path / "out", compress="palette4-g16", psnr_threshold=5, **options)
    assert Manifest.read(tmp_path / "out").compression == "palette4-g16"
    report = report_of(tmp_path / "out")
    assert report["compression"]["ratio_to_float16"] < 0.6
    assert not any(kind.startswith("constexpr") for kind in report["operations"])
    assert "compress (palette4-g16)" in result.report.seconds
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert not [path for path in (tmp_path / "out").iterdir() if path.is_dir() and path.name != "model.mlpackage"]


def test_an_export_and_a_later_compression_give_the_same_answers(checkpoint, package, tmp_path):
    export(
        checkpoint,
        tmp_path / "a",
        compress="int8",
        sequence_length=16,
        minimum_deployment_target="macOS15",
        quiet=True,
    )
    compress_package(package, get_recipe("int8"), tmp_path / "b", quiet=True)
    random = np.random.default_rng(0)
    inputs = {
        "input_ids": random.integers(5, 100, (1, 16)).astype(np.int32),
        "attention_mask": np.ones((1, 16), np.int32),
    }
    first, second = (PortableSession(tmp_path / name / "model.mlpackage").predict(inputs) for name in "ab")
    np.testing.assert_array_equal(first["logits"], second["logits"])


def test_the_gate_of_an_export_is_the_recipes(checkpoint, tmp_path):
    recipe = tmp_path / "strict.yaml"
    recipe.write_text("psnr: 70\nsteps: [{kind: quantize, global: {dtype: int8, granularity: per_tensor}}]\n")
    with pytest.raises(ValidationError, match=r"70\.0 are asked for"):
        export(checkpoint, tmp_path / "out", compress=recipe, sequence_length=16, quiet=True)
    assert not (tmp_path / "out").exists()


def test_an_export_that_cannot_carry_the_recipe_is_refused_before_the_checkpoint_is_loaded(tmp_path):
    original = make_original("distilbert", "text-classification")
    options = {"sequence_length": 16, "tokenizer": make_tokenizer(), "quiet": True}
    with pytest.raises(CompressionError, match="the export is for iOS16; export with minimum_deployment_target iOS18"):
        export(original, tmp_path / "out", compress="palette4-g16", **options)
    with pytest.raises(CompressionError, match="did you mean 'int8'"):
        export(original, tmp_path / "out", compress="int", **options)
    assert list(tmp_path.iterdir()) == []
