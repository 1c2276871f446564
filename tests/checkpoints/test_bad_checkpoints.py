"""Checkpoints that cannot be exported: one line that says what, where and what to do, before any output."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import save_checkpoint
from transformers import DecisionTransformerConfig, GPT2Config

from optimum_ane import export
from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.errors import ANEError, CheckpointError, ShapeError, UnsupportedModelError
from optimum_ane.exporters.config import supported_tasks


@pytest.fixture
def checkpoint(tmp_path):
    """A sound one, to be spoiled."""
    directory = tmp_path / "checkpoint"
    save_checkpoint(directory, "bert", "text-classification")
    return directory


@pytest.fixture
def refused(tmp_path):
    """Tries to export; returns the error's message."""

    def attempt(model, kind, **options):
        with pytest.raises(kind) as caught:
            export(model, tmp_path / "out", quiet=True, **({"sequence_length": 16} | options))
        assert not (tmp_path / "out").exists()
        assert not [path for path in tmp_path.iterdir() if path.name.endswith(".partial")]
        message = " ".join(str(caught.value).split())
        assert len(message) < 600, message
        return message

    return attempt


def change_config(checkpoint, **entries):
    path = checkpoint / "config.json"
    config = json.loads(path.read_text()) | entries
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def change_weights(checkpoint, change):
    weights = load_file(checkpoint / "model.safetensors")
    change(weights)
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "nowhere/", "a/b/c"])
def test_a_missing_directory(refused, name):
    assert f"there is no directory {name}" in refused(name, CheckpointError)


@pytest.mark.parametrize("name", ["nowhere", "some-one/no-such-model"])
def test_a_hub_id_that_cannot_be_reached(refused, name):
    message = refused(name, CheckpointError)
    assert name in message
    assert "check the id, the token and the network, or give a directory" in message


def test_an_empty_directory(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no config.json" in refused(tmp_path / "empty", CheckpointError)


def test_a_file_in_place_of_a_directory(refused, checkpoint):
    message = refused(checkpoint / "config.json", ANEError)
    assert "config.json" in message


@pytest.mark.parametrize("content", ["{", "", "[]", "null", "[" * 10_000, "\0" * 64, '"bert"'])
def test_a_config_that_is_no_json_object(refused, checkpoint, content):
    (checkpoint / "config.json").write_text(content)
    message = refused(checkpoint, ANEError)
    assert str(checkpoint) in message
    assert "config" in message.lower()


def test_a_config_without_an_architecture(refused, checkpoint):
    change_config(checkpoint, model_type=None)
    message = refused(checkpoint, UnsupportedModelError)
    assert str(checkpoint) in message
    assert ", ".join(supported_tasks()) in message


def test_an_architecture_that_transformers_does_not_know(refused, checkpoint):
    change_config(checkpoint, model_type="hal-9000")
    message = refused(checkpoint, UnsupportedModelError)
    assert "hal-9000" in message
    assert ", ".join(supported_tasks()) in message


def test_an_architecture_that_is_not_written_by_hand(refused, tmp_path):
    GPT2Config(architectures=["GPT2ForSequenceClassification"]).save_pretrained(tmp_path / "gpt2")
    message = refused(tmp_path / "gpt2", UnsupportedModelError, method="handwritten")
    assert "'gpt2'" in message
    assert f"{', '.join(supported_tasks())}; method graph" in message


def test_an_architecture_that_has_no_task_of_ours(refused, tmp_path):
    DecisionTransformerConfig(architectures=["DecisionTransformerModel"]).save_pretrained(tmp_path / "games")
    message = refused(tmp_path / "games", UnsupportedModelError)
    assert "'decision_transformer'" in message
    assert ", ".join(supported_tasks()) in message


@pytest.mark.parametrize("architectures", [None, [], ["NoSuchClass"]])
def test_a_config_that_does_not_tell_the_task(refused, checkpoint, architectures):
    change_config(checkpoint, architectures=architectures)
    assert "give task" in refused(checkpoint, UnsupportedModelError)


def test_a_task_that_there_is_not(refused, checkpoint):
    message = refused(checkpoint, UnsupportedModelError, task="image-classification")
    assert "'image-classification'" in message
    assert ", ".join(sorted([*supported_tasks()["bert"], "text-generation"])) in message


def test_a_task_that_the_checkpoint_was_not_trained_for(refused, checkpoint):
    message = refused(checkpoint, CheckpointError, task="question-answering")
    assert "qa_outputs" in message
    assert "task" in message


def test_missing_weights(refused, checkpoint):
    (checkpoint / "model.safetensors").unlink()
    message = refused(checkpoint, CheckpointError)
    assert "model.safetensors" in message
    assert str(checkpoint) in message


@pytest.mark.parametrize("kept", [0, 4, 100, 5000, -1])
def test_truncated_weights(refused, checkpoint, kept):
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert "truncated or corrupt" in refused(checkpoint, CheckpointError)


@pytest.mark.parametrize(
    "content", [b"\0" * 1000, b"\xff" * 1000, b"version https://git-lfs.github.com/spec/v1\noid x\n"]
)
def test_weights_that_are_garbage(refused, checkpoint, content):
    """The last is what a clone without git-lfs holds."""
    (checkpoint / "model.safetensors").write_bytes(content)
    assert "truncated or corrupt" in refused(checkpoint, CheckpointError)


def test_a_pickle_that_is_garbage(refused, checkpoint):
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(b"\0" * 1000)
    assert str(checkpoint) in refused(checkpoint, CheckpointError)


@pytest.mark.parametrize(
    ("entries", "word"),
    [
        ({"num_hidden_layers": 1}, "encoder.layer.1"),
        ({"num_hidden_layers": 3}, "encoder.layer.2"),
        ({"hidden_size": 24}, "48"),
        ({"intermediate_size": 64}, "96"),
        ({"vocab_size": 50}, "100"),
        ({"max_position_embeddings": 20}, "40"),
        ({"type_vocab_size": 3}, "token_type_embeddings"),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, "classifier"),
    ],
)
def test_a_config_that_contradicts_the_weights(refused, checkpoint, entries, word):
    change_config(checkpoint, **entries)
    message = refused(checkpoint, CheckpointError)
    assert word in message
    assert "config" in message
    assert str(checkpoint) in message


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("distilbert", {"n_layers": 1}),
        ("albert", {"num_hidden_groups": 1}),
        ("deberta-v2", {"num_hidden_layers": 1}),
        ("mpnet", {"num_hidden_layers": 1}),
    ],
)
def test_fewer_layers_than_the_weights_have(refused, tmp_path, name, entries):
    save_checkpoint(tmp_path / "source", name, "text-classification")
    change_config(tmp_path / "source", **entries)
    assert "contradicts the weights" in refused(tmp_path / "source", CheckpointError)


@pytest.mark.parametrize(
    ("entries", "numbers"), [({"num_attention_heads": 5}, ("5", "48")), ({"num_attention_heads": 0}, ("0", "48"))]
)
def test_heads_that_do_not_divide_the_width(refused, checkpoint, entries, numbers):
    change_config(checkpoint, **entries)
    message = refused(checkpoint, ShapeError)
    assert all(number in message for number in numbers)


def test_an_activation_that_there_is_not(refused, checkpoint):
    change_config(checkpoint, hidden_act="mish")
    message = refused(checkpoint, UnsupportedModelError)
    assert "'mish'" in message
    assert "gelu" in message


def test_a_length_above_the_position_table(refused, checkpoint):
    message = refused(checkpoint, ShapeError, sequence_length=41)
    assert "41" in message
    assert "sequence_length 40" in message


def test_a_weight_that_is_missing(refused, checkpoint):
    change_weights(checkpoint, lambda weights: weights.pop("bert.encoder.layer.1.output.dense.weight"))
    message = refused(checkpoint, CheckpointError)
    assert "bert.encoder.layer.1.output.dense.weight" in message


def test_a_weight_of_another_shape(refused, checkpoint):
    def change(weights):
        weights["classifier.weight"] = torch.zeros(2, 47)

    change_weights(checkpoint, change)
    message = refused(checkpoint, CheckpointError)
    assert "classifier.weight" in message
    assert "47" in message
    assert "48" in message


def test_a_weight_of_no_layer_is_no_fault(checkpoint, tmp_path):
    """Checkpoints carry buffers of old transformers, and heads of their pre-training."""

    def change(weights):
        weights["bert.embeddings.position_ids"] = torch.arange(40)[None]
        weights["cls.predictions.bias"] = torch.zeros(100)

    change_weights(checkpoint, change)
    export(checkpoint, tmp_path / "out", sequence_length=16, quiet=True)


def test_weights_without_a_pooler_do_for_hidden_states(checkpoint, tmp_path):
    def change(weights):
        for name in list(weights):
            if "pooler" in name or "classifier" in name:
                weights.pop(name)

    change_weights(checkpoint, change)
    result = export(checkpoint, tmp_path / "out", task="feature-extraction", sequence_length=16, quiet=True)
    assert result.report.package_psnr["last_hidden_state"] >= 50


def test_a_damaged_tokenizer(refused, checkpoint):
    (checkpoint / "tokenizer.json").write_text("{")
    message = refused(checkpoint, CheckpointError)
    assert "tokenizer" in message


def test_a_checkpoint_without_a_tokenizer_is_exported_all_the_same(checkpoint, tmp_path):
    for path in checkpoint.glob("tokenizer*"):
        path.unlink()
    export(checkpoint, tmp_path / "out", sequence_length=16, validate=False, quiet=True)
    assert not list((tmp_path / "out").glob("tokenizer*"))


def test_a_checkpoint_in_several_files_and_half_precision(tmp_path):
    original = save_checkpoint(tmp_path / "source", "bert", "text-classification")
    original.half().save_pretrained(tmp_path / "source", max_shard_size="50KB")
    (tmp_path / "source" / "model.safetensors").unlink(missing_ok=True)
    assert len(list((tmp_path / "source").glob("*.safetensors"))) > 1
    result = export(tmp_path / "source", tmp_path / "out", sequence_length=16, quiet=True)
    assert result.report.package_psnr["logits"] >= 50
    next(iter((tmp_path / "source").glob("*.safetensors"))).unlink()
    with pytest.raises(CheckpointError, match=r"\.safetensors"):
        export(tmp_path / "source", tmp_path / "again", sequence_length=16, quiet=True)


def test_the_token_is_never_printed():
    options = HubOptions(token="hf_secret")
    assert "hf_secret" not in repr(options) + str(options)


def test_the_source_is_only_read(checkpoint, tmp_path):
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    export(checkpoint, tmp_path / "out", sequence_length=16, validate=False, quiet=True)
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before


def test_transformers_own_settings_are_put_back(checkpoint, tmp_path):
    import transformers

    before = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(CheckpointError):
        export(checkpoint, tmp_path / "out", sequence_length=16, quiet=True)
    assert (transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()) == before
