"""GGUF files, read through transformers."""

import pytest
import torch

from optimum_ane import export
from optimum_ane.checkpoints import gguf
from optimum_ane.checkpoints.checkpoint import open_checkpoint
from optimum_ane.errors import CheckpointError, UnsupportedModelError

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def directory(shared):
    pytest.importorskip("gguf", reason="reading GGUF files needs the extra `gguf`")
    pytest.importorskip("accelerate", reason="reading GGUF files needs the extra `gguf`")
    if not (shared / "models/smollm2-135m-instruct" / FILE).is_file():
        pytest.skip(f"needs {FILE} in {shared / 'models/smollm2-135m-instruct'}")
    return shared / "models/smollm2-135m-instruct"


@pytest.fixture(scope="module")
def checkpoint(directory):
    return open_checkpoint(str(directory), gguf_file=FILE)


def test_configuration_task_and_source(checkpoint, directory):
    assert checkpoint.config.model_type == "llama"
    assert checkpoint.config.num_hidden_layers == 30
    assert checkpoint.task == "text-generation"
    assert checkpoint.source.model == str(directory)
    assert checkpoint.source.gguf_file == FILE


def test_the_original_is_plain_float32_and_answers(checkpoint, capfd):
    original = checkpoint.original()
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert type(original).__name__ == "LlamaForCausalLM"
    assert {parameter.dtype for parameter in original.parameters()} == {torch.float32}
    assert not original.training
    ids = checkpoint.tokenizer("The capital of France is", return_tensors="pt")
    answer = original.generate(**ids, max_new_tokens=2, do_sample=False)
    assert "Paris" in checkpoint.tokenizer.decode(answer[0])


def test_the_weights_are_the_originals(checkpoint):
    name = "model.layers.7.mlp.up_proj.weight"
    assert torch.equal(checkpoint.weights[name], checkpoint.original().state_dict()[name])
    assert checkpoint.weights.shape(name) == (1536, 576)
    assert checkpoint.left_out == ()


def test_a_decoder_is_written_by_no_hand(checkpoint, tmp_path):
    with pytest.raises(UnsupportedModelError, match="llama"):
        export(checkpoint.original(), tmp_path / "out", method="handwritten", quiet=True)


def test_a_file_that_is_not_there(directory):
    with pytest.raises(CheckpointError, match=rf"holds no other\.gguf; GGUF files that are there: {FILE}"):
        open_checkpoint(str(directory), gguf_file="other.gguf")


def test_the_file_itself_in_place_of_its_directory(directory):
    with pytest.raises(CheckpointError, match=f"is a file; give the directory .*gguf_file {FILE}"):
        open_checkpoint(str(directory / FILE))


@pytest.mark.parametrize("content", [b"", b"GGUF", b"\0" * 1000, b"GGUF\x03\0\0\0" + b"\xff" * 200])
def test_a_damaged_file_is_one_line(tmp_path, content):
    pytest.importorskip("gguf", reason="reading GGUF files needs the extra `gguf`")
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(str(tmp_path), gguf_file="model.gguf")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "model.gguf") in str(caught.value)
    assert "download it again" in str(caught.value)


def test_an_architecture_that_transformers_reads_from_no_gguf_file(tmp_path):
    """BERT is one: llama.cpp has embedders, transformers reads decoders and T5."""
    gguf_writer = pytest.importorskip("gguf", reason="reading GGUF files needs the extra `gguf`").GGUFWriter
    writer = gguf_writer(tmp_path / "model.gguf", "bert")
    writer.add_block_count(2)
    writer.add_tensor("token_embd.weight", torch.zeros(4, 4).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedModelError, match="bert"):
        open_checkpoint(str(tmp_path), gguf_file="model.gguf")


def test_without_the_packages_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    with pytest.raises(
        CheckpointError, match=r"gguf and accelerate; install it with `pip install optimum-ane\[gguf\]`"
    ):
        open_checkpoint(str(tmp_path), gguf_file="model.gguf")


def test_an_adapter_is_not_merged_into_one(tmp_path):
    with pytest.raises(CheckpointError, match="not merged into a GGUF file"):
        open_checkpoint(str(tmp_path), gguf_file="model.gguf", adapter="some/adapter")
