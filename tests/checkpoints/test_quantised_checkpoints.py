"""Quantised checkpoints, and models of timm: refused by name before anything of them is loaded."""

import json

import pytest
import transformers
from tiny_models import make_original, save_checkpoint

from optimum_ane import export
from optimum_ane.checkpoints import configuration
from optimum_ane.checkpoints.checkpoint import checkpoint_of_model, open_checkpoint
from optimum_ane.errors import UnsupportedModelError

METHODS = {
    "gptq, 4 bits": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False},
    "awq, 4 bits": {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True},
    "bitsandbytes, 4bit": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "bitsandbytes, 8bit": {"load_in_8bit": True},
    "fp8, e4m3": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
    "compressed-tensors, pack-quantized": {"quant_method": "compressed-tensors", "format": "pack-quantized"},
    "quanto": {"quant_method": "quanto", "weights": "int8"},
    "torchao": {"quant_method": "torchao", "quant_type": {"default": {}}},
    "mxfp4": {"quant_method": "mxfp4"},
    "hal-9000": {"quant_method": "hal-9000"},
    "method not named": {"bnb": True},
}


@pytest.fixture
def checkpoint(tmp_path):
    save_checkpoint(tmp_path / "source", "bert", "text-classification")
    return tmp_path / "source"


def declare(checkpoint, **entries):
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_refused_by_name_before_weights_are_looked_at(checkpoint, tmp_path, name):
    declare(checkpoint, quantization_config=METHODS[name])
    (checkpoint / "model.safetensors").unlink()  # to look for it would be another error
    with pytest.raises(UnsupportedModelError) as caught:
        export(checkpoint, tmp_path / "out", sequence_length=16, quiet=True)
    message = str(caught.value)
    assert str(checkpoint) in message
    assert f"quantised ({name})" in message
    assert "model.dequantize()" in message
    assert "\n" not in message
    assert len(message) < 500
    assert not (tmp_path / "out").exists()


def test_the_old_name_of_compressed_tensors(checkpoint):
    declare(checkpoint, compression_config={"quant_method": "compressed-tensors"})
    with pytest.raises(UnsupportedModelError, match="compressed-tensors"):
        open_checkpoint(str(checkpoint))


def test_a_part_that_is_quantised(tmp_path):
    config = transformers.CLIPConfig(architectures=["CLIPModel"])
    config.text_config.quantization_config = {"quant_method": "gptq", "bits": 8}
    config.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="gptq, 8 bits"):
        open_checkpoint(str(tmp_path), task="zero-shot-image-classification")


def test_the_card_names_the_original(checkpoint):
    declare(checkpoint, quantization_config=METHODS["gptq, 4 bits"])
    (checkpoint / "README.md").write_text("---\nbase_model:\n- some-one/whole\n---\n")
    with pytest.raises(UnsupportedModelError, match="give the original that it was made from, some-one/whole"):
        open_checkpoint(str(checkpoint))
    (checkpoint / "README.md").write_text("---\nbase_model: '\x1b[31m evil\n\n'\n---\n")
    with pytest.raises(UnsupportedModelError, match="give the original without it"):
        open_checkpoint(str(checkpoint))


def test_an_empty_entry_is_none(checkpoint):
    declare(checkpoint, quantization_config={})
    assert len(open_checkpoint(str(checkpoint)).weights) > 10


def test_a_model_in_memory_that_is_quantised():
    original = make_original("bert", "text-classification")
    original.is_quantized = True
    with pytest.raises(UnsupportedModelError, match=r"model\.dequantize\(\)"):
        checkpoint_of_model(original)


def test_a_model_of_timm_is_refused_where_timm_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(configuration, "is_timm_available", lambda: False)
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "timm_wrapper", "architecture": "resnet18", "num_classes": 10})
    )
    with pytest.raises(UnsupportedModelError, match="timm is not installed; pip install timm"):
        open_checkpoint(str(tmp_path), task="image-classification")
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "resnet18", "num_classes": 10, "pretrained_cfg": {}})
    )
    with pytest.raises(UnsupportedModelError, match="timm is not installed; pip install timm"):
        open_checkpoint(str(tmp_path), task="image-classification")
