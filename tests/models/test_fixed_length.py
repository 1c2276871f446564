"""A view of a module for one length: the same parameters, and nothing of its own length, epsilons or pooling leaks."""

import pytest
import torch
from tiny_models import ARCHITECTURES, answer, least_psnr, make_inputs, make_original
from torch import Tensor

from optimum_ane import convert_to_ane
from optimum_ane.nn import LayerNorm, SentencePooling, at_length, raise_epsilons_for_float16

THRESHOLD = 100.0


def pointers(module):
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return {name: (id(tensor), tensor.untyped_storage().data_ptr()) for name, tensor in tensors}


def settings_of(module):
    """Everything in a module tree that is no parameter, by where it stands."""
    return {
        (name, key): repr(value) if isinstance(value, Tensor) else value
        for name, child in module.named_modules()
        for key, value in vars(child).items()
        if not key.startswith("_")
    }


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("task", ["feature-extraction", "fill-mask", "token-classification"])
def test_a_view_shares_every_parameter_and_answers_as_the_original(name, task):
    original = make_original(name, task)
    module = convert_to_ane(original)
    for length in (1, 9, 38):
        view = at_length(module, length)
        assert pointers(view) == pointers(module)
        inputs = make_inputs(original, length=length)
        assert least_psnr(answer(original, inputs), view(**inputs), inputs["attention_mask"]) >= THRESHOLD


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_module_is_as_it_was_after_its_views(name):
    original = make_original(name, "feature-extraction", **({} if name == "distilbert" else {"layer_norm_eps": 1e-12}))
    module = convert_to_ane(original)
    before, inputs = settings_of(module), make_inputs(original, length=12)
    outputs = module(**inputs)
    for length in (12, 20):
        view = at_length(module, length)
        raise_epsilons_for_float16(view)
        view.sentence_pooling = SentencePooling("mean", True)
        assert view(**make_inputs(original, length=length)).shape == (4, 48)
        assert settings_of(view) != before
    assert settings_of(module) == before
    assert {child.eps for child in module.modules() if isinstance(child, LayerNorm)} == {1e-12}
    assert torch.equal(module(**inputs), outputs)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name.startswith("deberta-v2")])
def test_views_of_two_lengths_leave_each_other_alone(name):
    original = make_original(name, "token-classification")
    module = convert_to_ane(original)
    views = {length: at_length(module, length) for length in (8, 38)}
    for length in (38, 8, 38):
        inputs = make_inputs(original, length=length)
        assert least_psnr(answer(original, inputs), views[length](**inputs), inputs["attention_mask"]) >= THRESHOLD
    if name != "deberta-v2:absolute":  # it has no tables, and takes any length
        with pytest.raises(ValueError, match="15 distances are not those of 9 positions"):
            views[8](**make_inputs(original, length=9))


def test_a_view_of_a_view_is_one_more():
    module = convert_to_ane(make_original("deberta-v2", "feature-extraction"))
    first = at_length(module, 8)
    second = at_length(first, 12)
    assert pointers(second) == pointers(module)
    assert [each.encoder.layer[0].attention.self.tables[0].shape[-1] for each in (first, second)] == [15, 23]


def test_hooks_of_loading_belong_to_the_copy():
    """A view loads as its module does: what is folded in at load is folded in once."""
    original = make_original("modernbert", "feature-extraction")
    view = at_length(convert_to_ane(original), 8)
    view.load_state_dict(original.state_dict(), strict=True, assign=True)
    inputs = make_inputs(original, length=8)
    assert least_psnr(answer(original, inputs), view(**inputs), inputs["attention_mask"]) >= THRESHOLD
