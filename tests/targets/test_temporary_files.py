"""coremltools' temporary files: in a folder of ours, gone with it, and nowhere else."""

import tempfile
import threading
from pathlib import Path

import coremltools as ct
import pytest
from coremltools.converters.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil import types

from optimum_ane.compression.compress import compress_mlpackage
from optimum_ane.compression.recipes import get_recipe
from optimum_ane.targets.coreml.temporary_files import temporary_files_in, temporary_folder


@pytest.fixture
def systems(tmp_path, monkeypatch):
    """The system's folder for temporary files, empty."""
    folder = tmp_path / "systems"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def convert():
    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 8), dtype=types.fp16)], opset_version=ct.target.iOS17)
    def program(x):
        return mb.relu(x=x)

    return ct.convert(
        program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS17, skip_model_load=True,
        pass_pipeline=ct.PassPipeline.EMPTY, compute_precision=ct.precision.FLOAT32,
    )  # fmt: skip


def test_a_conversion_leaves_all_in_the_folder(systems, tmp_path):
    folder = tmp_path / "ours"
    folder.mkdir()
    with temporary_files_in(folder):
        model = convert()
        assert Path(model.package_path).parent == folder
        loaded = ct.models.MLModel(model.get_spec(), weights_dir=model.weights_dir, skip_model_load=True)
        assert Path(loaded.package_path).parent == folder
    assert list(systems.iterdir()) == []
    assert temporary_folder() is None
    assert Path(convert().package_path).parent == systems


def test_the_folder_is_that_of_the_thread(systems, tmp_path):
    found = []
    with temporary_files_in(tmp_path):
        thread = threading.Thread(target=lambda: found.append(Path(convert().package_path).parent))
        thread.start()
        thread.join()
    assert found == [systems]


def test_an_export_and_a_compression_leave_nothing(systems, tmp_path, tiny_package):
    package = tiny_package("bert", "text-classification", {"hidden_size": 24, "num_attention_heads": 2})
    target = tmp_path / "out" / "model.mlpackage"
    target.parent.mkdir()
    compress_mlpackage(package / "model.mlpackage", target, get_recipe("int8"))
    # PyTorch has one folder for what it compiles, whoever uses it.
    assert [path.name for path in systems.iterdir() if not path.name.startswith("torchinductor_")] == []
    assert [path.name for path in target.parent.iterdir()] == ["model.mlpackage"]
    assert sorted(path.name for path in package.parent.iterdir()) == ["package"]
