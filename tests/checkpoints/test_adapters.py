"""PEFT adapters: merged into their base, whole, or refused."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import make_inputs, make_original, make_tokenizer, psnr
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from optimum_ane import export
from optimum_ane.checkpoints import adapter as adapters
from optimum_ane.checkpoints.checkpoint import checkpoint_of_model, open_checkpoint
from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.errors import CheckpointError, UnsupportedModelError

peft = pytest.importorskip("peft", reason="merging adapters needs the extra `peft`")

QUERY = "bert.encoder.layer.1.attention.self.query.weight"
RANK, ALPHA = 4, 12


def make_adapter(directory, base, method=peft.LoraConfig, num_labels=3, **settings):
    """Trains nothing: a base without a head, and an adapter whose every number is random."""
    if not base.exists():
        make_original("bert", "multiple-choice").save_pretrained(base)  # its pooler comes along
        make_tokenizer().save_pretrained(base)
        path = base / "model.safetensors"
        stored = {name: value for name, value in load_file(path).items() if "classifier" not in name}
        save_file(stored, path, {"format": "pt"})
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=num_labels)
    usual = {"task_type": "SEQ_CLS", "target_modules": ["query", "value"]}
    if method is peft.LoraConfig:
        usual |= {"r": RANK, "lora_alpha": ALPHA}
    wrapped = peft.get_peft_model(model, method(**(usual | settings)))
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    wrapped.save_pretrained(directory)
    return wrapped.eval()


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """Base, adapter, and the model with the adapter beside its weights as peft runs it."""
    folder = tmp_path_factory.mktemp("lora")
    wrapped = make_adapter(folder / "adapter", folder / "base")
    return folder / "base", folder / "adapter", wrapped


def outputs(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


def inputs_for(base):
    return make_inputs(AutoModelForSequenceClassification.from_pretrained(base))


def test_the_merged_weights_are_those_computed_by_hand(lora):
    base, adapter, _ = lora
    checkpoint = open_checkpoint(str(base), adapter=str(adapter))
    stored, low = load_file(base / "model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    prefix = f"base_model.model.{QUERY.removesuffix('.weight')}"
    delta = ALPHA / RANK * low[f"{prefix}.lora_B.weight"] @ low[f"{prefix}.lora_A.weight"]
    assert delta.abs().max() > 0.01
    torch.testing.assert_close(checkpoint.weights[QUERY], stored[QUERY] + delta, rtol=1e-6, atol=1e-6)
    key = QUERY.replace("query", "key")
    assert torch.equal(checkpoint.weights[key], stored[key])
    # The head was trained with the adapter, and is in its file whole.
    assert torch.equal(checkpoint.weights["classifier.weight"], low["base_model.model.classifier.weight"])
    assert not any("lora" in name or "base_layer" in name for name in checkpoint.weights)


@pytest.mark.filterwarnings("ignore:Careful, disabling adapter layers")
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("LoraConfig", {}),
        ("LoraConfig", {"use_rslora": True}),
        ("LoraConfig", {"use_dora": True}),
        ("LoraConfig", {"target_modules": ["query", "dense"], "rank_pattern": {"query": 2}, "bias": "lora_only"}),
        ("LoraConfig", {"modules_to_save": ["classifier", "word_embeddings"]}),
        ("LoHaConfig", {"r": 4}),
        ("IA3Config", {"feedforward_modules": []}),
    ],
)
def test_the_original_answers_as_the_adapter_beside_its_base(method, settings, tmp_path):
    wrapped = make_adapter(tmp_path / "adapter", tmp_path / "base", getattr(peft, method), **settings)
    inputs = inputs_for(tmp_path / "base")
    original = open_checkpoint(str(tmp_path / "base"), adapter=str(tmp_path / "adapter")).original()
    expected = outputs(wrapped, inputs)
    assert expected.shape == (4, 3)
    assert psnr(expected, outputs(original, inputs)) > 110
    with wrapped.disable_adapter():
        assert psnr(expected, outputs(wrapped, inputs)) < 60  # it matters
    assert original.dtype == torch.float32
    assert not original.training


def test_the_number_of_labels_is_that_of_the_head_in_the_adapter(lora):
    base, adapter, _ = lora
    assert json.loads((base / "config.json").read_text()).get("num_labels", 2) == 2
    checkpoint = open_checkpoint(str(base), adapter=str(adapter))
    assert checkpoint.task == "text-classification"
    assert checkpoint.config.num_labels == 3
    assert checkpoint.config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert checkpoint.source.model == str(base)
    assert checkpoint.source.adapter == str(adapter)


def test_an_adapter_given_as_the_model_stands_for_its_base_and_says_so(lora):
    base, adapter, wrapped = lora
    checkpoint = open_checkpoint(str(adapter))
    assert checkpoint.source.model == str(base)
    assert checkpoint.source.adapter == str(adapter)
    assert checkpoint.notes == [f"the adapter {adapter} (LORA) is merged into the weights of {base}"]
    inputs = inputs_for(base)
    assert psnr(outputs(wrapped, inputs), outputs(checkpoint.original(), inputs)) > 110


def test_it_exports(lora, tmp_path):
    base, adapter, _ = lora
    original = open_checkpoint(str(base), adapter=str(adapter)).original()
    result = export(original, tmp_path / "out", sequence_length=16, quiet=True)
    assert result.report.module_psnr["logits"] > 90
    package = export(adapter, tmp_path / "direct", sequence_length=16, quiet=True)
    assert package.report.package_psnr["logits"] > 50
    assert AutoTokenizer.from_pretrained(tmp_path / "direct").model_max_length == 16


def test_the_original_is_loaded_and_merged_anew_once_it_was_released(lora):
    base, adapter, _ = lora
    checkpoint = open_checkpoint(str(base), adapter=str(adapter))
    first = checkpoint.original()
    assert checkpoint.original() is first
    before = first.state_dict()[QUERY].clone()
    checkpoint.release_original()
    assert checkpoint.original() is not first
    assert torch.equal(checkpoint.original().state_dict()[QUERY], before)


def test_the_tokenizer_is_the_adapters_own_where_it_has_one(lora, tmp_path):
    base, adapter, _ = lora
    assert open_checkpoint(str(adapter)).tokenizer.model_max_length > 10_000
    for path in adapter.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    make_tokenizer(model_max_length=33).save_pretrained(tmp_path)
    assert open_checkpoint(str(base), adapter=str(tmp_path)).tokenizer.model_max_length == 33


@pytest.fixture
def copy(lora, tmp_path):
    """A copy of the adapter, to be spoiled."""
    _, adapter, _ = lora
    (tmp_path / "copy").mkdir()
    for path in adapter.iterdir():
        (tmp_path / "copy" / path.name).write_bytes(path.read_bytes())
    return tmp_path / "copy"


def change_config(directory, **entries):
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def change_weights(directory, change):
    path = directory / "adapter_model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, {"format": "pt"})


def refused(kind, base, adapter, **options):
    with pytest.raises(kind) as caught:
        open_checkpoint(str(base), adapter=str(adapter), **options).original()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700  # the paths of tests are long
    return message


def test_what_is_no_adapter(lora):
    base, _, _ = lora
    assert "holds no adapter_config.json" in refused(CheckpointError, base, base)
    assert "there is no directory /nowhere" in refused(CheckpointError, base, "/nowhere")


def test_a_base_that_is_not_here(copy):
    for place in ("/nowhere/at/all", "./base", "../../no-such", None):
        change_config(copy, base_model_name_or_path=place)
        with pytest.raises(CheckpointError, match="give its base with model and the adapter with adapter"):
            open_checkpoint(str(copy))


@pytest.mark.parametrize("entries", [{"r": 10**8}, {"rank_pattern": {"query": 10**8}}])
def test_a_rank_that_no_tensor_has(lora, copy, entries):
    base, _, _ = lora
    change_config(copy, **entries)
    assert "is 100000000, and no tensor of its weights is longer than" in refused(CheckpointError, base, copy)


@pytest.mark.parametrize("name", ["bert-tiny", "some-one/bert-tiny"])
def test_bases_and_adapters_on_the_hub(lora, copy, tmp_path, name):
    """In a cache as the Hub's client leaves it; each has revisions of its own."""
    base, _, wrapped = lora
    change_config(copy, base_model_name_or_path=name, revision=None)
    make_tokenizer(model_max_length=33).save_pretrained(copy)
    places = ((base, name, "b" * 40, "main"), (copy, "else/adapter", "a" * 40, "v2"))
    for source, repository, commit, branch in places:
        cache = tmp_path / "cache" / f"models--{repository.replace('/', '--')}"
        shutil.copytree(source, cache / "snapshots" / commit)
        (cache / "refs").mkdir()
        (cache / "refs" / branch).write_text(commit)
    checkpoint = open_checkpoint("else/adapter", hub=HubOptions("v2", cache_dir=str(tmp_path / "cache")))
    assert checkpoint.source.model == name
    assert checkpoint.source.revision == "b" * 40
    assert checkpoint.tokenizer.model_max_length == 33
    inputs = inputs_for(base)
    assert psnr(outputs(wrapped, inputs), outputs(checkpoint.original(), inputs)) > 110


def test_a_tensor_that_the_base_has_no_place_for(lora, copy):
    name = "base_model.model.bert.encoder.layer.7.attention.self.query.lora_A.weight"
    change_weights(copy, lambda weights: weights.update({name: torch.zeros(4, 48)}))
    message = refused(CheckpointError, lora[0], copy)
    assert "layer.7" in message
    assert "does not fit its base" in message


def test_a_tensor_that_is_missing(lora, copy):
    change_weights(copy, lambda weights: weights.pop(f"base_model.model.{QUERY[:-7]}.lora_A.weight"))
    assert "layer.1.attention.self.query.lora_A" in refused(CheckpointError, lora[0], copy)


def test_a_head_that_is_in_neither(lora, copy):
    change_weights(copy, lambda weights: weights.pop("base_model.model.classifier.weight"))
    assert "classifier.weight" in refused(CheckpointError, lora[0], copy)


def test_a_tensor_of_another_shape(lora, copy):
    name = f"base_model.model.{QUERY[:-7]}.lora_A.weight"
    change_weights(copy, lambda weights: weights.update({name: torch.zeros(4, 47)}))
    assert "does not fit its base" in refused(CheckpointError, lora[0], copy)


def test_another_base(lora, tmp_path):
    make_original("distilbert", "text-classification").save_pretrained(tmp_path / "other")
    assert "does not fit its base DistilBert" in refused(CheckpointError, tmp_path / "other", lora[1])


def test_damaged_files(lora, copy):
    path = copy / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:500])
    assert "truncated or corrupt" in refused(CheckpointError, lora[0], copy)
    (copy / "adapter_config.json").write_text("[")
    assert "adapter_config.json is no JSON" in refused(CheckpointError, lora[0], copy)


def test_pickled_adapters_are_refused(lora, copy):
    torch.save(load_file(copy / "adapter_model.safetensors"), copy / "adapter_model.bin")
    (copy / "adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors" in refused(UnsupportedModelError, lora[0], copy)


@pytest.mark.parametrize("method", ["PREFIX_TUNING", "P_TUNING", "PROMPT_TUNING"])
def test_methods_that_change_no_weights(lora, copy, method):
    change_config(copy, peft_type=method)
    assert method in refused(UnsupportedModelError, lora[0], copy)


def test_a_method_that_there_is_not(lora, copy):
    change_config(copy, peft_type="HAL")
    assert "HAL" in refused(CheckpointError, lora[0], copy)


def test_an_adapter_that_would_import_a_module_of_its_choice(lora, copy):
    change_config(copy, megatron_config={"a": 1}, megatron_core="antigravity")
    assert "Megatron" in refused(UnsupportedModelError, lora[0], copy)


def test_whole_weights_beside_an_adapter_are_ambiguous(copy):
    save_file({"a": torch.zeros(1)}, copy / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"an adapter .* and whole weights"):
        open_checkpoint(str(copy))


def test_a_quantised_base_is_refused(lora, tmp_path):
    base, adapter, _ = lora
    for path in base.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text()) | {"quantization_config": {"load_in_4bit": True}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "bitsandbytes" in refused(UnsupportedModelError, tmp_path, adapter)


def test_without_peft_it_says_what_to_install(lora, monkeypatch):
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    assert "pip install optimum-ane[peft]" in refused(CheckpointError, lora[0], lora[1])


def test_a_model_in_memory_with_adapters_is_refused(lora):
    base, adapter, _ = lora
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    model.load_adapter(str(adapter))
    with pytest.raises(UnsupportedModelError, match="merge_and_unload"):
        checkpoint_of_model(model)


def test_the_tasks_of_peft(lora, copy):
    for name, task in (("TOKEN_CLS", "token-classification"), ("QUESTION_ANS", "question-answering")):
        change_config(copy, task_type=name)
        assert open_checkpoint(str(lora[0]), adapter=str(copy)).task == task
    change_config(
        copy, task_type=None, auto_mapping={"base_model_class": "BertModel", "parent_library": "transformers"}
    )
    assert open_checkpoint(str(lora[0]), adapter=str(copy)).task == "feature-extraction"
    change_config(copy, task_type=None, auto_mapping=None)
    assert open_checkpoint(str(lora[0]), adapter=str(copy)).task == "multiple-choice"  # the base's own


def test_merging_leaves_no_number_that_is_none(lora, copy):
    name = f"base_model.model.{QUERY[:-7]}.lora_A.weight"
    change_weights(copy, lambda weights: weights.update({name: torch.full((4, 48), math.nan)}))
    assert "cannot be merged" in refused(UnsupportedModelError, lora[0], copy)
