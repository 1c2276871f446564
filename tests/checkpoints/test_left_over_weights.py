"""Tensors that nothing uses: an error, unless they are known to be of no use to the task."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import make_config, make_original, save_checkpoint

from optimum_ane.checkpoints.checkpoint import open_checkpoint
from optimum_ane.errors import CheckpointError
from optimum_ane.exporters.unused_weights import UNUSED_WEIGHTS, check_unused


@pytest.fixture
def checkpoint(tmp_path):
    save_checkpoint(tmp_path / "bert", "bert", "text-classification")
    return tmp_path / "bert"


def add(directory, *names, pickled=False):
    path = directory / "model.safetensors"
    stored = load_file(path) | {name: torch.zeros(3) for name in names}
    if pickled:
        path.unlink()
        torch.save(stored, directory / "pytorch_model.bin")
    else:
        save_file(stored, path, {"format": "pt"})


@pytest.mark.parametrize("is_pickled", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "bert.encoder.layer.2.attention.self.query.weight",  # a layer beyond the configuration's
        "bert.encoder.layer.1.attention.self.rotary.weight",  # inside the trunk
        "bert.adapter.weight",
        "bert.encoder.LayerNorm.weight",
        "bert.pooler.extra.weight",  # below a module that the class has
        "classifier.dense.weight",
        "custom_head.weight",
        "loss_weights",
        "xcls.predictions.bias",
        "cls.something.weight",
    ],
)
def test_a_tensor_that_has_no_place_is_an_error_that_names_it(checkpoint, name, is_pickled):
    add(checkpoint, name, pickled=is_pickled)
    with pytest.raises(CheckpointError) as caught:
        _ = open_checkpoint(str(checkpoint)).weights
    message = str(caught.value)
    assert name in message
    assert str(checkpoint) in message
    assert "no place for 1 of them" in message
    assert "\n" not in message
    with pytest.raises(CheckpointError, match="no place for 1 of them"):
        open_checkpoint(str(checkpoint)).original()


def test_several_are_counted_and_the_first_is_named(checkpoint):
    add(checkpoint, "z.weight", "b.weight", "cls.predictions.bias")
    with pytest.raises(CheckpointError, match=r"no place for 2 of them, b\.weight first"):
        _ = open_checkpoint(str(checkpoint)).weights


@pytest.mark.parametrize("is_pickled", [False, True])
def test_heads_of_other_tasks_and_old_buffers_are_left_out_and_listed(checkpoint, is_pickled):
    names = (
        "bert.embeddings.position_ids",
        "cls.predictions.bias",
        "cls.seq_relationship.weight",
        "qa_outputs.weight",
    )
    add(checkpoint, *names, pickled=is_pickled)
    left_out = open_checkpoint(str(checkpoint)).left_out
    # transformers reports no position_ids.
    assert left_out == (names[1:] if is_pickled else names)


@pytest.mark.parametrize(
    ("name", "origin", "task", "expected"),
    [
        ("bert", "text-classification", "feature-extraction", {"classifier"}),
        ("bert", "text-classification", "token-classification", {"bert.pooler"}),
        ("bert", "BertForPreTraining", "feature-extraction", {"cls.predictions", "cls.seq_relationship"}),
        ("bert", "BertForPreTraining", "fill-mask", {"cls.seq_relationship", "bert.pooler"}),
        ("roberta", "fill-mask", "feature-extraction", {"lm_head"}),
        ("roberta", "multiple-choice", "feature-extraction", {"classifier"}),
        ("albert", "AlbertForPreTraining", "feature-extraction", {"predictions", "sop_classifier"}),
        ("distilbert", "fill-mask", "feature-extraction", {"vocab_transform", "vocab_layer_norm", "vocab_projector"}),
        ("distilbert", "text-classification", "feature-extraction", {"pre_classifier", "classifier"}),
        ("electra", "ElectraForPreTraining", "feature-extraction", {"discriminator_predictions"}),
        ("electra", "fill-mask", "feature-extraction", {"generator_predictions", "generator_lm_head"}),
        ("electra", "multiple-choice", "feature-extraction", {"sequence_summary", "classifier"}),
        ("deberta-v2", "text-classification", "feature-extraction", {"pooler", "classifier"}),
        ("deberta-v2:keys", "fill-mask", "feature-extraction", {"lm_predictions.lm_head"}),
        ("mpnet", "multiple-choice", "feature-extraction", {"classifier"}),
    ],
)
def test_each_architecture_leaves_out_the_heads_that_it_was_saved_with(name, origin, task, expected, tmp_path):
    if origin.startswith(tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")):
        getattr(transformers, origin)(make_config(name)).save_pretrained(tmp_path)
    else:
        make_original(name, origin).save_pretrained(tmp_path)
    left_out = open_checkpoint(str(tmp_path), task=task).left_out
    assert all(any(entry.startswith(f"{path}.") for path in expected) for entry in left_out), left_out
    # The projection onto the vocabulary may be tied, and then it is the word embeddings in the file.
    seen = {path for path in expected if any(entry.startswith(f"{path}.") for entry in left_out)}
    assert expected - seen <= {"vocab_projector", "generator_lm_head"}


def test_an_architecture_adds_to_the_list(tmp_path):
    """DeBERTa-v3 was pre-trained with positions that its configuration switches off."""
    save_checkpoint(tmp_path, "deberta-v2", "text-classification")
    add(tmp_path, "deberta.embeddings.position_embeddings.weight")
    assert open_checkpoint(str(tmp_path)).left_out == ("deberta.embeddings.position_embeddings.weight",)
    save_checkpoint(tmp_path / "mpnet", "mpnet", "text-classification")
    add(tmp_path / "mpnet", "mpnet.embeddings.position_embeddings.extra")
    with pytest.raises(CheckpointError, match="position_embeddings"):
        _ = open_checkpoint(str(tmp_path / "mpnet")).weights


def test_weights_that_the_class_of_a_task_lacks_are_missing(checkpoint):
    """DeBERTa's pooler is part of its classifier, not the pooler that nothing reads."""
    save_checkpoint(checkpoint / "deberta", "deberta-v2", "text-classification")
    path = checkpoint / "deberta" / "model.safetensors"
    stored = load_file(path)
    save_file({name: value for name, value in stored.items() if "pooler" not in name}, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"2 weights .* missing, pooler\.dense\.bias first"):
        _ = open_checkpoint(str(checkpoint / "deberta")).weights
    with pytest.raises(CheckpointError, match="missing"):
        open_checkpoint(str(checkpoint / "deberta")).original()


@pytest.mark.parametrize(
    ("entries", "word"),
    [({"num_hidden_layers": 1}, "encoder.layer.1"), ({"num_hidden_layers": 3}, "encoder.layer.2")],
)
def test_a_pickled_checkpoint_is_held_to_the_same(checkpoint, entries, word):
    add(checkpoint, pickled=True)
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    with pytest.raises(CheckpointError, match=word):
        _ = open_checkpoint(str(checkpoint)).weights


def test_every_entry_of_the_list_says_why_and_matches_whole_paths_only():
    for pattern, reason in UNUSED_WEIGHTS.items():
        assert len(reason) > 10, pattern
    for path in ("encoder.layer.2.weight", "bert.encoder.pooler2.weight", "my_classifier.weight", "a.b.classifier.x"):
        with pytest.raises(CheckpointError):
            check_unused([path], set(), {}, "Model")
    assert check_unused(["b.x", "a.position_ids"], {"b"}, {r"b\.x": "of no use here"}, "Model") == (
        "a.position_ids",
        "b.x",
    )
    with pytest.raises(CheckpointError):
        check_unused(["b.x"], {"b", "b.x"}, {r"b\.x": "of no use here"}, "Model")
