"""Inputs that a model cannot mean are refused with row and column; what people call on a model works."""

import warnings

import numpy as np
import pytest
import torch
from tiny_models import make_inputs, make_original

from optimum_ane.errors import InputError, OutputError, RuntimeUnavailableError, UnsupportedModelError
from optimum_ane.modeling import model_class_of


@pytest.fixture(scope="module")
def package(tiny_package):
    return tiny_package("bert", "text-classification")


@pytest.fixture
def model(package):
    return model_class_of("text-classification").from_pretrained(package)


def inputs_with(name, value, row=1, column=3):
    ids = torch.full((2, 8), 7)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    inputs[name] = inputs[name].to(torch.as_tensor(value).dtype)
    inputs[name][row, column] = value
    return inputs


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        # As int32, which a program takes, these two are 37 and a row counted from the end.
        ("input_ids", 2**32 + 37, "holds 4294967333 in row 1, column 3, and the model has 100 words"),
        ("input_ids", -1, "holds -1 in row 1, column 3, and the model has 100 words"),
        ("input_ids", 100, "holds 100 in row 1, column 3"),
        ("token_type_ids", 2, "holds 2 in row 1, column 3, and the model has 2 token types"),
        ("attention_mask", 2, "holds 2 in row 1, column 3; it must be 1 for a token and 0"),
        ("attention_mask", 0.9, "holds 0.8999.* in row 1, column 3"),
        ("attention_mask", float("nan"), "holds nan in row 1, column 3"),
    ],
)
def test_values_that_mean_nothing_are_refused_with_their_place(model, name, value, message):
    with pytest.raises(InputError, match=f"{name} {message}"):
        model(**inputs_with(name, value))


def test_rows_without_a_token_are_refused(model):
    inputs = inputs_with("attention_mask", 1)
    inputs["attention_mask"][1] = 0
    with pytest.raises(InputError, match="row 1 has no token"):
        model(**inputs)
    with pytest.raises(InputError, match=r"shape \(2, 0\): its rows are empty"):
        model(input_ids=torch.zeros(2, 0, dtype=torch.long))


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.uint8, torch.int64])
def test_a_mask_may_be_of_any_type(model, dtype):
    inputs = inputs_with("attention_mask", 0, column=7)
    expected = model(**inputs).logits
    assert torch.equal(model(**inputs | {"attention_mask": inputs["attention_mask"].to(dtype)}).logits, expected)


def test_what_people_call_on_a_model_gives_the_model(model):
    inputs = make_inputs(make_original("bert", "text-classification"), length=8)
    expected = model(**inputs)
    same = model.cpu().half().float().eval().train(False).to("cpu").to(torch.float16).to(dtype=torch.float32)
    assert same is model
    (logits,) = model(**inputs, return_dict=False)
    assert torch.equal(logits, expected.logits)
    with pytest.raises(UnsupportedModelError, match="cannot be trained"):
        model.train()


def test_another_device_is_warned_of(model):
    for call in (
        lambda: model.to("cuda"),
        lambda: model.to(device=torch.device("mps")),
        model.cuda,
        lambda: model.to(0),
    ):
        with pytest.warns(UserWarning, match=r"ANEModelForSequenceClassification is not moved to"):
            assert call() is model
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.to("cpu", torch.float32, non_blocking=True)


def test_a_model_says_what_it_is(model):
    text = repr(model)
    assert text.startswith("ANEModelForSequenceClassification(bert, ")
    assert "16 tokens × 1 rows, float16, runtime portable" in text


def test_compute_units_are_checked_on_every_system(package):
    with pytest.raises(RuntimeUnavailableError, match="'xyz' are not one of cpu_and_ne, all"):
        model_class_of("text-classification").from_pretrained(package, compute_units="xyz")


def test_the_program_inside_stands_for_its_package(package):
    by_program = model_class_of("text-classification").from_pretrained(package / "model.mlpackage")
    assert by_program(input_ids=np.full((1, 4), 9)).logits.shape == (1, 2)


def test_a_saved_package_is_replaced_where_that_is_asked_for(model, tmp_path):
    model.save_pretrained(tmp_path / "copy")
    with pytest.raises(OutputError, match="is not empty; choose another output or pass overwrite=True"):
        model.save_pretrained(tmp_path / "copy")
    model.save_pretrained(tmp_path / "copy", overwrite=True)
    assert (tmp_path / "copy" / "ane_config.json").is_file()
