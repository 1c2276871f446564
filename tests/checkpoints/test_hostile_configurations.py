"""Entries of `config.json` and of the index that transformers would answer with a traceback, or with all memory."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import save_checkpoint
from transformers import AutoConfig

from optimum_ane import export
from optimum_ane.checkpoints.declared_size import check_declared_layers
from optimum_ane.errors import CheckpointError, UnsupportedModelError

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sound") / "checkpoint"
    save_checkpoint(directory, "bert", "text-classification")
    return directory


@pytest.fixture
def checkpoint(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "checkpoint")


def refused(checkpoint, kind=CheckpointError):
    """The error's message, which is one line that can be printed and ends in what to do."""
    with pytest.raises(kind) as caught:
        export(checkpoint, checkpoint.parent / "out", sequence_length=16, quiet=True)
    message = str(caught.value)
    assert message.encode().decode() == message
    assert len(message.splitlines()) == 1
    assert ";" in message
    assert not (checkpoint.parent / "out").exists()
    return message


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("hidden_size", "x", "Field 'hidden_size' expected int, got str"),
        ("hidden_size", 1.5, "Field 'hidden_size' expected int, got float"),
        ("hidden_size", 0, "hidden_size in config.json is 0; it lies between 1 and"),
        ("hidden_act", 5, "Field 'hidden_act' expected str"),
        ("hidden_act", "nope", "transformers makes no model of config.json ('nope')"),
        ("hidden_dropout_prob", 7, "dropout probability has to be between 0 and 1, but got 7"),
        ("layer_norm_eps", "a", "Field 'layer_norm_eps' expected float"),
        ("vocab_size", 10**15, "vocab_size in config.json is 1000000000000000; it lies between"),
        ("num_hidden_layers", 10**9, "num_hidden_layers in config.json is 1000000000; it is 10,000 or less"),
        ("num_labels", 10**12, "num_labels in config.json is 1000000000000; it is a whole number up to 100,000"),
        ("num_labels", "x", "num_labels in config.json is 'x'"),
        ("id2label", {"0": "a", "2": "b"}, "id2label in config.json has 2 labels and none for 1"),
        ("id2label", {"1": "a", "2": "b"}, "id2label in config.json has 2 labels and none for 0"),
        ("id2label", {"-1": "a", "0": "b"}, "id2label in config.json has 2 labels and none for 1"),
        ("id2label", {"x": "a"}, "id2label in config.json has 1 labels and none for 0"),
        ("id2label", ["a", "b"], "id2label in config.json is ['a', 'b']"),
        ("id2label", {"0": "a", "1": "\ud800"}, "id2label in config.json holds half a surrogate pair"),
        ("finetuning_task", "\udfff", "finetuning_task in config.json holds half a surrogate pair"),
        ("pad_token_id", -1, "pad_token_id in config.json is -1 and the vocabulary has 100 words"),
        ("pad_token_id", 100, "pad_token_id in config.json is 100 and the vocabulary has 100 words"),
        ("pad_token_id", "x", "Field 'pad_token_id' with value 'x'"),
        ("architectures", 5, "architectures in config.json is 5; it is a list of names of classes"),
        ("architectures", [5], "architectures in config.json is [5]"),
        ("architectures", {"a": 1}, "architectures in config.json is {'a': 1}"),
        ("output_hidden_states", "x", "output_hidden_states in config.json is 'x'; it is true or false"),
        ("chunk_size_feed_forward", "x", "chunk_size_feed_forward in config.json is 'x'"),
        ("attn_implementation", "nope", 'Specified `attn_implementation="nope"` is not supported'),
    ],
)
def test_an_entry_that_is_none(checkpoint, name, value, says):
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    message = refused(checkpoint)
    assert message.startswith(f"{checkpoint}: ")
    assert says in message


@pytest.mark.parametrize("name", ["__path__", "logging", "pipeline", "AutoConfig"])
def test_an_architecture_that_is_no_model_class(checkpoint, name):
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": [name]}))
    assert "names no known class" in refused(checkpoint, UnsupportedModelError)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is no JSON"),
        (b"{", "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"[]", "holds no JSON object"),
        (b"null", "holds no JSON object"),
        (b'{"metadata": {}, "weight_map": 5}', "does not say which file holds which weight"),
        (b'{"metadata": {}, "weight_map": {}}', "does not say which file holds which weight"),
        (b'{"metadata": {}, "weight_map": {"a": 5}}', "does not say which file holds which weight"),
        (b'{"metadata": 5, "weight_map": {"a": "b"}}', "has no object named metadata"),
        (b'{"weight_map": {"a": "b"}}', "has no object named metadata"),
        (b'{"metadata": {}, "weight_map": {"a": "../b"}}', "'../b' leads out of the checkpoint"),
        (b'{"metadata": {}, "weight_map": {"a": "\\ud800"}}', "are missing, '\\ud800' first"),
    ],
)
def test_an_index_that_is_none(checkpoint, content, says):
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / INDEX).write_bytes(content)
    message = refused(checkpoint)
    assert says in message
    assert str(checkpoint) in message


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("vocab_size", 60_000_000, "describes a model of 2,880,"),
        ("intermediate_size", 50_000_000, "intermediate.dense.weight alone has the shape (50000000, 48)"),
        ("max_position_embeddings", 900_000_000, "position_embeddings.weight alone has the shape (900000000, 48)"),
        ("num_hidden_layers", 9_999, "num_hidden_layers in config.json is 9999, and the"),
    ],
)
@pytest.mark.parametrize("kind", ["safetensors", "pickled"])
def test_a_small_file_is_no_large_model(checkpoint, name, value, says, kind):
    """Each of these took gigabytes, or minutes, before the weights were looked at."""
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    if kind == "pickled":
        weights = load_file(checkpoint / "model.safetensors")
        (checkpoint / "model.safetensors").unlink()
        torch.save(weights, checkpoint / "pytorch_model.bin")
    message = refused(checkpoint)
    assert says in message
    assert "the configuration is of another model, or hostile" in message


@pytest.mark.parametrize("part", [{"num_hidden_layers": 10**7}, {"num_labels": 10**7}, {"a": {"n_layers": 10**7}}])
def test_parts_are_looked_at_before_they_are_made(checkpoint, part):
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"decoder": part}))
    assert "in config.json is 10000000; it is" in refused(checkpoint)


def test_layers_of_parts_are_counted_too():
    config = AutoConfig.for_model("swin", depths=[2, 2, 10**9])
    with pytest.raises(CheckpointError, match=r"model: depths in config\.json is \[2, 2, 1000000000\], and"):
        check_declared_layers("model", config, 84_000)
    check_declared_layers("model", AutoConfig.for_model("swin", depths=[2, 2, 6]), 84_000)
    with pytest.raises(CheckpointError, match="depths in config"):
        check_declared_layers("model", AutoConfig.for_model("swin", depths=[10**6, -(10**6)]), 84_000)
    inside = AutoConfig.for_model("clip", vision_config={"num_hidden_layers": 10**6})
    with pytest.raises(CheckpointError, match=r"num_hidden_layers in config\.json is 1000000"):
        check_declared_layers("model", inside, 84_000)
