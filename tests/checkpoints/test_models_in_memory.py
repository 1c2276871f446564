"""Models that are given in memory: looked at as they are, and copied only where they have to be changed."""

import coremltools as ct
import pytest
import torch
from tiny_models import make_inputs, make_original, make_tokenizer
from transformers import BertModel

from optimum_ane import convert_to_ane, export
from optimum_ane.checkpoints.checkpoint import checkpoint_of_model, open_checkpoint
from optimum_ane.errors import CheckpointError, ShapeError, UnsupportedModelError
from optimum_ane.exporters.config import get_ane_config_class
from optimum_ane.exporters.load_module import build_module
from optimum_ane.package.form import ExportForm

KEY = "bert.encoder.layer.0.intermediate.dense.weight"


def test_float32_in_evaluation_mode_is_neither_copied_nor_changed():
    model = make_original("bert", "text-classification")
    checkpoint = checkpoint_of_model(model, tokenizer=make_tokenizer())
    assert checkpoint.original() is model
    assert checkpoint.weights[KEY].data_ptr() == model.state_dict()[KEY].data_ptr()
    assert checkpoint.task == "text-classification"
    assert checkpoint.config is model.config
    assert checkpoint.tokenizer.mask_token == "<mask>"
    assert checkpoint.left_out == ()
    config = get_ane_config_class("bert", checkpoint.task)(checkpoint.config, checkpoint.task)
    module = build_module(config, "model", checkpoint.weights).module
    assert module.state_dict()[KEY].data_ptr() == model.state_dict()[KEY].data_ptr()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_widened_one_by_one_and_the_model_stays(dtype):
    model = make_original("bert", "text-classification").to(dtype)
    checkpoint = checkpoint_of_model(model)
    assert checkpoint.weights.dtype(KEY) == dtype
    assert checkpoint.weights[KEY].dtype == torch.float32
    assert torch.equal(checkpoint.weights[KEY], model.state_dict()[KEY].float())
    original = checkpoint.original()
    assert original is not model
    assert original is checkpoint.original()
    assert {value.dtype for value in original.state_dict().values()} == {torch.float32}
    assert {value.dtype for value in model.state_dict().values()} == {dtype}


def test_one_half_parameter_among_float32_is_seen():
    model = make_original("bert", "text-classification")
    model.classifier.half()
    assert model.dtype == torch.float32
    original = checkpoint_of_model(model).original()
    assert original.classifier.weight.dtype == torch.float32
    assert model.classifier.weight.dtype == torch.float16


def test_a_model_in_training_mode_stays_in_it():
    model = make_original("bert", "text-classification").train()
    original = checkpoint_of_model(model).original()
    assert not original.training
    assert model.training


def test_what_was_released_is_made_again():
    model = make_original("bert", "text-classification").half()
    checkpoint = checkpoint_of_model(model)
    first = checkpoint.original()
    checkpoint.release_original()
    assert checkpoint.original() is not first
    assert torch.equal(checkpoint.original().state_dict()[KEY], first.state_dict()[KEY])


def test_the_originals_of_files_are_loaded_when_asked_for_and_let_go(tmp_path, monkeypatch):
    make_original("bert", "text-classification").half().save_pretrained(tmp_path)
    checkpoint = open_checkpoint(str(tmp_path))
    loads = []
    load = checkpoint._load
    monkeypatch.setattr(checkpoint, "_load", lambda: loads.append(1) or load())
    assert len(checkpoint.weights) > 10
    assert loads == []
    original = checkpoint.original()
    assert original is checkpoint.original()
    assert loads == [1]
    assert original.dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in original.parameters())
    checkpoint.release_original()
    assert torch.equal(checkpoint.original().state_dict()[KEY], original.state_dict()[KEY])
    assert loads == [1, 1]


def test_a_task_that_its_class_does_not_tell():
    model = make_original("bert", "feature-extraction")
    assert checkpoint_of_model(model).task == "feature-extraction"
    assert checkpoint_of_model(make_original("bert", "fill-mask"), "masked-lm").task == "fill-mask"

    class Custom(type(model)):
        pass

    with pytest.raises(UnsupportedModelError, match="no task is known for Custom"):
        checkpoint_of_model(Custom(model.config))


def test_a_module_shares_the_original_where_it_is_loaded_and_keeps_what_it_took(tmp_path):
    make_original("bert", "text-classification").half().save_pretrained(tmp_path)
    checkpoint = open_checkpoint(str(tmp_path))
    read = checkpoint.weights[KEY]
    original = checkpoint.original()
    shared = checkpoint.weights[KEY]
    assert shared.data_ptr() == original.state_dict()[KEY].data_ptr() != read.data_ptr()
    assert torch.equal(shared, read)
    config = get_ane_config_class("bert", checkpoint.task)(checkpoint.config, checkpoint.task)
    module = build_module(config, "model", checkpoint.weights).module
    del original, shared
    checkpoint.release_original()
    assert torch.equal(module.state_dict()[KEY][:, :, 0, 0], read)
    assert checkpoint.weights[KEY].data_ptr() != module.state_dict()[KEY].data_ptr()


@pytest.mark.parametrize(
    "wrap", [torch.compile, torch.nn.DataParallel, lambda model: torch.compile(torch.nn.DataParallel(model))]
)
def test_a_wrapped_model_is_taken_out_of_its_wrapper(wrap):
    model = make_original("bert", "text-classification")
    assert checkpoint_of_model(wrap(model)).original() is model
    assert convert_to_ane(wrap(model)).bert is not None


@pytest.mark.parametrize("model", [torch.nn.Linear(2, 2), torch.nn.DataParallel(torch.nn.Linear(2, 2)), object()])
def test_what_is_no_transformers_model_is_refused_by_its_class(model):
    with pytest.raises(UnsupportedModelError, match=r"\w+\.\w+ is no transformers model; give a PreTrainedModel"):
        checkpoint_of_model(model)


def test_an_encoder_without_its_pooler():
    config = make_original("bert", "feature-extraction").config
    model = BertModel(config, add_pooling_layer=False).eval()
    inputs = make_inputs(model)
    expected = model(**inputs).last_hidden_state[inputs["attention_mask"].bool()]
    actual = convert_to_ane(model)(**inputs)[inputs["attention_mask"].bool()]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert checkpoint_of_model(model).task == "feature-extraction"


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path):
    model = make_original("bert", "text-classification", vocab_size=20)
    with pytest.raises(CheckpointError, match=r"gives 20 for '\w+', and the vocabulary of config\.json has 20 words"):
        export(model, tmp_path / "out", tokenizer=make_tokenizer(), sequence_length=8, quiet=True)


def test_a_tokenizer_may_be_its_directory_and_a_missing_one_is_told(tmp_path, capsys):
    make_tokenizer().save_pretrained(tmp_path / "tokenizer")
    model = make_original("bert", "text-classification", num_hidden_layers=1)
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        export(model, tmp_path / "out", tokenizer=tmp_path)
    export(model, tmp_path / "out", tokenizer=str(tmp_path / "tokenizer"), sequence_length=8, validate=False)
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    assert "no tokenizer" not in capsys.readouterr().err
    export(model, tmp_path / "without", sequence_length=8, validate=False)
    assert "no tokenizer was found" in capsys.readouterr().err


def test_coremltools_own_target_and_other_names_of_tasks(tmp_path):
    form = ExportForm("sentiment-analysis", minimum_deployment_target=ct.target.iOS17)
    assert (form.task, form.minimum_deployment_target) == ("text-classification", "iOS17")
    assert ExportForm("ner").task == "token-classification"
    with pytest.raises(ShapeError, match="sequence length is '16'; it must be a whole number"):
        ExportForm("ner", sequence_length="16")
