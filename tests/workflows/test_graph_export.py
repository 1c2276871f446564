"""Models without a hand-written module, from the checkpoint to an answer."""

import json

import pytest
import torch
import transformers
from optimum.exporters.tasks import TasksManager
from tiny_models import AUTO_CLASSES, make_inputs, make_original, make_tokenizer, psnr
from transformers import AutoConfig, pipeline

from optimum_ane import ANEModelForFeatureExtraction, ANEModelForSequenceClassification, export
from optimum_ane.analysis.operations import read_program
from optimum_ane.compression.recipes import get_recipe
from optimum_ane.errors import CheckpointError, ShapeError, UnsupportedModelError
from optimum_ane.exporters.config import get_ane_config_class
from optimum_ane.exporters.stock_text import StockTextANEConfig
from optimum_ane.models.distilbert import DistilBertANEConfig
from optimum_ane.package.manifest import Manifest
from optimum_ane.workflows.compress import compress_package

_BERTS = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96}
SETTINGS = {
    "roformer": _BERTS | {"max_position_embeddings": 40},
    "gpt2": {"n_embd": 48, "n_layer": 2, "n_head": 3, "n_positions": 40, "bos_token_id": 0, "eos_token_id": 2},
}


def make_stock(model_type, task, seed=0):
    """A tiny model whose parameters are all random, those of the norms included."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, vocab_size=100, pad_token_id=1, **SETTINGS[model_type])
    model = getattr(transformers, AUTO_CLASSES[task]).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.requires_grad_(False)


WITH_TOKEN_TYPES = ["input_ids", "token_type_ids", "attention_mask"]


def export_stock(model, output, **options):
    options = {"sequence_length": 24, "tokenizer": make_tokenizer()} | options
    return export(model, output, quiet=True, **options)


@pytest.fixture(scope="module")
def roformer(tmp_path_factory):
    original = make_stock("roformer", "text-classification")
    output = tmp_path_factory.mktemp("graph") / "roformer"
    return original, export_stock(original, output, tokenizer=make_tokenizer(model_input_names=WITH_TOKEN_TYPES))


def test_a_model_without_a_module_of_ours_answers_as_the_original(roformer):
    original, result = roformer
    model = ANEModelForSequenceClassification.from_pretrained(result.path)
    inputs = make_inputs(original, rows=5, length=19, seed=7)
    assert "token_type_ids" in inputs
    assert psnr(original(**inputs).logits, model(**inputs).logits) > 50


def test_token_types_are_left_out_where_the_tokenizer_gives_none(tmp_path):
    original = make_stock("roformer", "token-classification")
    export_stock(original, tmp_path / "out", validate=False)
    (function,) = Manifest.read(tmp_path / "out").functions
    assert [entry.name for entry in function.inputs] == ["input_ids", "attention_mask"]


def test_the_package_says_how_it_was_made(roformer):
    _, result = roformer
    manifest = Manifest.read(result.path)
    assert (manifest.method, manifest.form.method) == ("graph", "auto")
    report = json.loads((result.path / "export_report.json").read_text())
    taken = report["attempts"][-1]
    assert (taken["error"], taken["psnr"]) == (None, report["package_psnr"])
    for page in ("README.md", "export_report.html"):
        assert "captured by torch.jit.trace, rewritten into the engine" in (result.path / page).read_text()
    assert (manifest.conversion.capture, manifest.conversion.engine_layout) == (
        taken["capture"],
        taken["engine_layout"],
    )


def test_each_layer_is_compared(roformer):
    _, result = roformer
    assert list(result.report.layers) == ["embeddings", "layer.0", "layer.1"]
    assert min(result.report.layers.values()) > 50


def test_operations_are_named_by_the_modules_of_the_original(roformer):
    _, result = roformer
    names = {operation.name for operation in read_program(result.path / "model.mlpackage").operations}
    assert {"roformer_encoder_layer_1_intermediate_dense", "classifier_dense"} <= names


def test_pipelines_take_it(roformer):
    original, result = roformer
    tokenizer = make_tokenizer(model_input_names=WITH_TOKEN_TYPES)
    ours = pipeline(
        "text-classification",
        model=ANEModelForSequenceClassification.from_pretrained(result.path),
        tokenizer=tokenizer,
    )
    theirs = pipeline("text-classification", model=original, tokenizer=tokenizer)
    text = "the film was not dull"
    assert ours(text)[0]["label"] == theirs(text)[0]["label"]
    assert ours(text)[0]["score"] == pytest.approx(theirs(text)[0]["score"], abs=0.01)


def test_a_decoder_gives_hidden_states_at_several_lengths(tmp_path):
    original = make_stock("gpt2", "feature-extraction")
    result = export_stock(original, tmp_path / "out", sequence_length=(8, 24))
    model = ANEModelForFeatureExtraction.from_pretrained(result.path)
    inputs = make_inputs(original, rows=3, length=21, seed=3)
    mask = inputs["attention_mask"].bool()
    ours = model(**inputs).last_hidden_state
    assert psnr(original(**inputs).last_hidden_state[mask], ours[mask]) > 50
    assert len(result.report.layers) == 3


def test_what_is_written_by_hand_goes_by_graph_where_it_is_asked_for(tmp_path):
    original = make_original("distilbert", "text-classification")
    result = export_stock(original, tmp_path / "out", method="graph", class_labels=True)
    assert Manifest.read(result.path).method == "graph"
    assert min(result.report.package_psnr.values()) > 50
    model = ANEModelForSequenceClassification.from_pretrained(result.path)
    inputs = make_inputs(original, rows=3, length=11)
    assert psnr(original(**inputs).logits, model(**inputs).logits) > 50


def test_the_method_decides_which_configuration_it_is():
    assert get_ane_config_class("distilbert", "fill-mask", "auto") is DistilBertANEConfig
    assert get_ane_config_class("distilbert", "fill-mask", "graph") is StockTextANEConfig
    assert get_ane_config_class("roformer", "fill-mask", "auto") is StockTextANEConfig
    with pytest.raises(UnsupportedModelError, match=r"known: albert, bert, .*; method graph exports it"):
        get_ane_config_class("roformer", "fill-mask", "handwritten")


def test_the_tasks_manager_knows_architectures_that_go_by_graph():
    tasks = TasksManager.get_supported_tasks_for_model_type("roformer", "ane", library_name="transformers")
    assert {"feature-extraction", "fill-mask", "text-classification"} <= tasks.keys()
    config = AutoConfig.for_model("roformer")
    assert isinstance(tasks["fill-mask"](config), StockTextANEConfig)
    bert = TasksManager.get_supported_tasks_for_model_type("distilbert", "ane", library_name="transformers")
    assert isinstance(bert["fill-mask"](AutoConfig.for_model("distilbert")), DistilBertANEConfig)


def test_more_tokens_than_positions_are_refused(tmp_path):
    original = make_stock("gpt2", "feature-extraction")
    with pytest.raises(ShapeError, match=r"64 .* 40 positions"):
        export_stock(original, tmp_path / "out", sequence_length=64)


def test_a_checkpoint_with_the_head_of_another_task(tmp_path):
    make_stock("roformer", "fill-mask").save_pretrained(tmp_path / "checkpoint")
    result = export(
        tmp_path / "checkpoint",
        tmp_path / "out",
        task="feature-extraction",
        sequence_length=8,
        quiet=True,
        validate=False,
    )
    assert "cls.predictions.bias" in result.report.left_out
    config = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    (tmp_path / "checkpoint" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with pytest.raises(CheckpointError, match=r"no place for \d+ of them, roformer\.encoder\.layer\.1\."):
        export(tmp_path / "checkpoint", tmp_path / "other", task="feature-extraction", sequence_length=8, quiet=True)


def test_a_package_by_graph_is_compressed_and_compared_with_the_original(tmp_path):
    make_stock("roformer", "text-classification").save_pretrained(tmp_path / "checkpoint")
    make_tokenizer().save_pretrained(tmp_path / "checkpoint")
    package = export(tmp_path / "checkpoint", tmp_path / "out", sequence_length=8, quiet=True).path
    result = compress_package(package, get_recipe("int8"), tmp_path / "small", quiet=True)
    assert result.missing_original is None
    assert min(result.report.package_psnr.values()) > 30
    assert list(result.report.layers) == ["embeddings", "layer.0", "layer.1"]
    manifest = Manifest.read(result.path)
    assert (manifest.method, manifest.compression) == ("graph", "int8")
    assert manifest.conversion == Manifest.read(package).conversion


def test_rows_for_encoders_with_decoders_end_once():
    """BART's classifiers take the state at the end of sequence, and want as many of them in each row."""
    config = AutoConfig.for_model("bart", vocab_size=20, eos_token_id=2, pad_token_id=1)
    inputs = StockTextANEConfig(config, "text-classification").make_inputs(16, 24)
    ends, mask = inputs["input_ids"] == 2, inputs["attention_mask"].bool()
    assert ends.sum(1).tolist() == [1] * 16
    assert (ends.float().argmax(1) == mask.sum(1) - 1).all()
    assert ((inputs["input_ids"] == 1) == ~mask).all()
