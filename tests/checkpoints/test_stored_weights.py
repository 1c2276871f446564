"""Weights read one by one from safetensors files: the same as transformers loads, whatever the file calls them."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import ARCHITECTURES, AUTO_CLASSES, TASKS, make_original, save_checkpoint

from optimum_ane.checkpoints.checkpoint import open_checkpoint
from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.checkpoints.original import make_empty_model
from optimum_ane.checkpoints.safetensors_files import SafetensorsFiles
from optimum_ane.checkpoints.weight_names import match_names
from optimum_ane.checkpoints.weights import ModelWeights, StoredWeights
from optimum_ane.errors import CheckpointError

PRETRAINING = {
    "albert": "AlbertForPreTraining",
    "bert": "BertForPreTraining",
    "electra": "ElectraForPreTraining",
}
"""Classes with heads of no task of ours."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Directories of tiny checkpoints by architecture and the task or class that they were saved from."""
    made = {}

    def make(name, origin):
        if (name, origin) not in made:
            directory = tmp_path_factory.mktemp("saved")
            if origin in TASKS:
                make_original(name, origin).save_pretrained(directory)
            else:
                config = make_original(name, "feature-extraction").config
                torch.manual_seed(1)
                getattr(transformers, origin)(config).save_pretrained(directory)
            made[name, origin] = directory
        return made[name, origin]

    return make


def read(directory, task):
    """Weights by our reader, and the names of those that the files lack; nothing is refused."""
    config = transformers.AutoConfig.from_pretrained(directory)
    files = SafetensorsFiles(sorted(directory.glob("*.safetensors")))
    names = match_names(make_empty_model(task, config, HubOptions()), files)
    return StoredWeights(files, names), set(names.missing), names


def loaded(directory, task):
    """The same by transformers."""
    model_class = getattr(transformers, AUTO_CLASSES[task])
    model, info = model_class.from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
    return model.state_dict(), info


def assert_same(weights, expected, missing=frozenset()):
    assert weights.keys() | missing == expected.keys()
    assert not weights.keys() & missing
    assert len(weights) > 10
    for name in weights:
        assert torch.equal(weights[name], expected[name]), name
        assert weights[name].dtype == expected[name].dtype == torch.float32
        assert weights.shape(name) == tuple(expected[name].shape)


def origins(name):
    """What a checkpoint of each task may have been saved from: itself, the base model, other heads."""
    for index, task in enumerate(TASKS):
        others = (TASKS[(index + 1) % len(TASKS)], PRETRAINING.get(name))
        if (name, task) == ("modernbert", "multiple-choice"):
            others = ()  # the heads of both tasks bear one name and differ in size: transformers refuses as well
        yield from ((task, origin) for origin in {task, "feature-extraction", *filter(None, others)})


@pytest.mark.parametrize(
    ("name", "task", "origin"), sorted((name, *pair) for name in ARCHITECTURES for pair in origins(name))
)
def test_every_architecture_and_task_reads_what_transformers_loads(saved, name, task, origin):
    directory = saved(name, origin)
    weights, missing, names = read(directory, task)
    expected, info = loaded(directory, task)
    assert missing == set(info["missing_keys"])
    # transformers hides some; what it shows must be among ours.
    assert set(info["unexpected_keys"]) <= names.surplus.keys()
    assert_same(weights, expected, missing)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("is_tied", [True, False])
def test_tied_and_untied_word_embeddings(name, is_tied, tmp_path):
    make_original(name, "fill-mask", tie_word_embeddings=is_tied).save_pretrained(tmp_path)
    weights, missing, _ = read(tmp_path, "fill-mask")
    expected, _ = loaded(tmp_path, "fill-mask")
    assert not missing
    assert_same(weights, expected)


def test_tied_weights_share_memory_until_they_are_let_go(saved):
    weights, _, _ = read(saved("bert", "fill-mask"), "fill-mask")
    words, decoder = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
    assert weights[words].data_ptr() == weights[decoder].data_ptr()
    weights.close()
    assert torch.equal(weights[words], weights[decoder])


@pytest.mark.parametrize("kept", ["bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"])
def test_of_tied_weights_the_file_may_hold_either(saved, kept, tmp_path):
    shutil.copytree(saved("bert", "fill-mask"), tmp_path / "copy")
    path = tmp_path / "copy" / "model.safetensors"
    stored = load_file(path)
    words = stored.pop("bert.embeddings.word_embeddings.weight")
    stored.pop("cls.predictions.decoder.weight", None)
    save_file(stored | {kept: words}, path, {"format": "pt"})
    weights, missing, _ = read(tmp_path / "copy", "fill-mask")
    assert not missing
    assert_same(weights, loaded(tmp_path / "copy", "fill-mask")[0])
    assert torch.equal(weights["cls.predictions.decoder.weight"], words)


def test_tied_weights_of_which_the_file_holds_two_that_differ(saved, tmp_path):
    """transformers does not tie them then."""
    shutil.copytree(saved("bert", "fill-mask"), tmp_path / "copy")
    path = tmp_path / "copy" / "model.safetensors"
    stored = load_file(path)
    other = torch.randn_like(stored["bert.embeddings.word_embeddings.weight"])
    save_file(stored | {"cls.predictions.decoder.weight": other}, path, {"format": "pt"})
    weights, _, _ = read(tmp_path / "copy", "fill-mask")
    assert torch.equal(weights["cls.predictions.decoder.weight"], other)
    assert_same(weights, loaded(tmp_path / "copy", "fill-mask")[0])


def rewrite(directory, change):
    path = directory / "model.safetensors"
    save_file({change(name): value for name, value in load_file(path).items()}, path, {"format": "pt"})


@pytest.mark.parametrize("task", ["text-classification", "feature-extraction"])
def test_gamma_and_beta_of_old_files(task, tmp_path):
    save_checkpoint(tmp_path, "bert", task)
    before = load_file(tmp_path / "model.safetensors")
    rewrite(tmp_path, lambda name: name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"))
    assert any("gamma" in name for name in load_file(tmp_path / "model.safetensors"))
    checkpoint = open_checkpoint(str(tmp_path))
    assert_same(checkpoint.weights, loaded(tmp_path, task)[0])
    assert all(torch.equal(checkpoint.weights[name], value) for name, value in before.items())


def test_one_name_twice_is_refused(tmp_path):
    save_checkpoint(tmp_path, "bert", "text-classification")
    stored = load_file(tmp_path / "model.safetensors")
    norm = "bert.embeddings.LayerNorm."
    save_file(stored | {f"{norm}gamma": stored[f"{norm}weight"].clone()}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"{norm}gamma and {norm}weight are both the weight"):
        _ = open_checkpoint(str(tmp_path)).weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shard", [None, "20KB"])
def test_one_file_and_several_of_every_type(dtype, shard, tmp_path):
    original = save_checkpoint(tmp_path, "bert", "fill-mask").to(dtype)
    (tmp_path / "model.safetensors").unlink()
    original.save_pretrained(tmp_path, max_shard_size=shard or "1GB")
    assert (len(list(tmp_path.glob("*.safetensors"))) > 3) == (shard is not None)
    weights = open_checkpoint(str(tmp_path)).weights
    assert isinstance(weights, StoredWeights)
    assert {weights.dtype(name) for name in weights} == {dtype}
    assert_same(weights, loaded(tmp_path, "fill-mask")[0])


def test_float32_is_not_copied_and_outlives_its_file(saved):
    weights, _, _ = read(saved("distilbert", "text-classification"), "text-classification")
    first, second = weights["classifier.weight"], weights["classifier.weight"]
    assert first.data_ptr() == second.data_ptr()
    value = first.clone()
    weights.close()
    del weights, second
    assert torch.equal(first, value)


def test_headers_are_enough_for_names_shapes_and_types(saved, monkeypatch):
    monkeypatch.setattr(SafetensorsFiles, "read", None)
    weights = open_checkpoint(str(saved("bert", "text-classification"))).weights
    assert weights.shape("classifier.weight") == (2, 48)
    assert weights.dtype("classifier.weight") == torch.float32


def test_a_pickled_checkpoint_is_loaded_by_transformers(saved, tmp_path):
    directory = saved("bert", "text-classification")
    shutil.copytree(directory, tmp_path / "copy")
    stored = load_file(tmp_path / "copy" / "model.safetensors")
    (tmp_path / "copy" / "model.safetensors").unlink()
    torch.save(stored | {"cls.predictions.bias": torch.zeros(100)}, tmp_path / "copy" / "pytorch_model.bin")
    checkpoint = open_checkpoint(str(tmp_path / "copy"))
    assert isinstance(checkpoint.weights, ModelWeights)
    assert_same(checkpoint.weights, loaded(directory, "text-classification")[0])
    assert checkpoint.left_out == ("cls.predictions.bias",)
    # The model that was loaded for them is the original; it is not loaded twice.
    name = "bert.encoder.layer.1.output.dense.weight"
    assert checkpoint.weights[name].data_ptr() == checkpoint.original().state_dict()[name].data_ptr()


def test_a_conversion_that_is_more_than_a_renaming_is_left_to_transformers(tmp_path):
    """Dinov2's SwiGLU weights are split in two."""
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14, use_swiglu_ffn=True
    )
    torch.manual_seed(0)
    transformers.Dinov2Model(config).save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert any("weights_in" in name for name in stored)
    checkpoint = open_checkpoint(str(tmp_path), task="feature-extraction")
    assert isinstance(checkpoint.weights, ModelWeights)
    assert_same(checkpoint.weights, loaded(tmp_path, "feature-extraction")[0])


def test_weights_that_a_class_computes_are_left_to_transformers(tmp_path):
    """Marian's files hold no positions."""
    sizes = {
        f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads", "ffn_dim")
    }
    config = transformers.MarianConfig(
        d_model=16, vocab_size=32, pad_token_id=0, decoder_start_token_id=0, eos_token_id=1, **sizes
    )
    torch.manual_seed(0)
    transformers.MarianMTModel(config).save_pretrained(tmp_path)
    assert not any("embed_positions" in name for name in load_file(tmp_path / "model.safetensors"))
    weights = open_checkpoint(str(tmp_path), task="text2text-generation").weights
    assert isinstance(weights, ModelWeights)
    assert weights["model.encoder.embed_positions.weight"].abs().max() > 0


def test_renamings_of_transformers_5_are_followed(tmp_path):
    """ViT's modules have other names in transformers 5 than in its files."""
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, image_size=16, patch_size=8
    )
    torch.manual_seed(0)
    transformers.ViTModel(config).save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    weights = open_checkpoint(str(tmp_path), task="feature-extraction").weights
    assert isinstance(weights, StoredWeights)
    assert weights.keys() != stored.keys()
    assert_same(weights, loaded(tmp_path, "feature-extraction")[0])


@pytest.mark.parametrize("place", ["../model.safetensors", "/etc/passwd", "a\\..\\b.safetensors"])
def test_an_index_that_leads_out_of_the_checkpoint_is_refused(place, tmp_path):
    directory = tmp_path / "checkpoint"
    save_checkpoint(directory, "bert", "text-classification")
    (directory / "model.safetensors").rename(tmp_path / "model.safetensors")
    (directory / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {"classifier.bias": place}})
    )
    with pytest.raises(CheckpointError, match="leads out of the checkpoint"):
        _ = open_checkpoint(str(directory)).weights


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "[" * 9999])
def test_an_index_that_is_damaged_is_refused(content, tmp_path):
    save_checkpoint(tmp_path, "bert", "text-classification")
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"index\.json.* download the checkpoint again"):
        _ = open_checkpoint(str(tmp_path)).weights


def test_a_tensor_in_two_files_is_refused(tmp_path):
    save_checkpoint(tmp_path, "bert", "text-classification")
    stored = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    save_file(stored, tmp_path / "a.safetensors")
    save_file({"classifier.bias": torch.ones(2)}, tmp_path / "b.safetensors")
    index = {
        "metadata": {},
        "weight_map": dict.fromkeys(stored, "a.safetensors") | {"classifier.bias": "b.safetensors"},
    }
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"both hold classifier\.bias"):
        _ = open_checkpoint(str(tmp_path)).weights


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.uint8])
def test_weights_of_a_type_that_only_quantised_ones_have_are_refused(dtype, tmp_path):
    save_checkpoint(tmp_path, "bert", "text-classification")
    stored = load_file(tmp_path / "model.safetensors")
    name = "bert.encoder.layer.0.output.dense.weight"
    save_file(stored | {name: stored[name].to(dtype)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"{name}.*quantised"):
        _ = open_checkpoint(str(tmp_path)).weights


def test_all_files_of_a_hub_checkpoint_are_of_one_commit(tmp_path):
    """A cache as the Hub's client leaves it; the branch moves on after the configuration was read."""
    cache = tmp_path / "models--some--one"
    for commit, seed in (("a" * 40, 0), ("b" * 40, 1)):
        make_original("bert", "text-classification", seed=seed).save_pretrained(cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("a" * 40)
    checkpoint = open_checkpoint("some/one", hub=HubOptions(cache_dir=str(tmp_path)))
    (cache / "refs" / "main").write_text("b" * 40)
    assert checkpoint.source.revision == "a" * 40
    expected = load_file(cache / "snapshots" / ("a" * 40) / "model.safetensors")["classifier.weight"]
    assert torch.equal(checkpoint.weights["classifier.weight"], expected)
    assert torch.equal(checkpoint.original().classifier.weight, expected)
