"""The inputs that parity is measured on, and what counts as parity."""

import pytest
import torch
from tiny_models import ARCHITECTURES, make_config, make_inputs, make_original

from optimum_ane import convert_to_ane
from optimum_ane.errors import ValidationError
from optimum_ane.exporters.config import get_ane_config_class
from optimum_ane.package.form import ExportSpec
from optimum_ane.targets.coreml import conversion
from optimum_ane.validation import parity


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("padding_id", [0, 1, 99])
def test_inputs_hold_every_length_and_the_padding_id_for_padding_only(name, padding_id):
    config = make_config(name, pad_token_id=padding_id)
    padding_id = 1 if name == "mpnet" else padding_id
    inputs = get_ane_config_class(config.model_type, "fill-mask")(config, "fill-mask").make_inputs(50, 30)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    assert torch.equal(ids != padding_id, mask.bool())
    assert set(ids.flatten().tolist()) == set(range(100))
    assert set(mask.sum(1).tolist()) == set(range(1, 31))
    if "token_type_ids" in inputs:
        assert set(inputs["token_type_ids"][mask.bool()].tolist()) == {0, 1}
        assert not inputs["token_type_ids"][~mask.bool()].any()


def test_inputs_are_the_same_for_the_same_seed_and_others_for_another():
    config = make_config("bert")
    ane_config = get_ane_config_class("bert", "fill-mask")(config, "fill-mask")
    first, same, other = (ane_config.make_inputs(2, 9, seed)["input_ids"] for seed in (3, 3, 4))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("precision", "smallest"), [("float16", 1e-8), ("float32", 1e-12)])
def test_epsilons_are_raised_on_the_way_to_float16_only(precision, smallest):
    original = make_original("bert", "text-classification", layer_norm_eps=1e-12)
    module = convert_to_ane(original)
    inputs = {name: value[:1] for name, value in make_inputs(original).items()}
    conversion.trace(module, inputs, ExportSpec("text-classification", 37, precision=precision))
    epsilons = {child.eps for child in module.modules() if hasattr(child, "eps")}
    assert min(epsilons) >= smallest
    assert (min(epsilons) == 1e-12) == (precision == "float32")


@pytest.mark.parametrize("ratio", [49.9, float("-inf"), float("nan")])
def test_what_is_below_the_threshold_or_no_number_fails(ratio):
    parity.check({"logits": 50.0, "other": float("inf")}, 50.0, "package")
    with pytest.raises(ValidationError, match=r"PSNR of other is .* dB, 50\.0 are asked for"):
        parity.check({"logits": 60.0, "other": ratio}, 50.0, "package")


def test_padding_has_no_part_in_the_measure():
    reference = {"last_hidden_state": torch.randn(2, 4, 3), "logits": torch.randn(2, 5)}
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    ours = {name: value.clone() for name, value in reference.items()}
    ours["last_hidden_state"][0, 2:] += 100
    assert parity.measure(reference, ours, mask) == {"last_hidden_state": float("inf"), "logits": float("inf")}
    ours["last_hidden_state"][0, 1, 0] += 0.1
    assert parity.measure(reference, ours, mask)["last_hidden_state"] < 60


def test_other_shapes_are_no_parity():
    with pytest.raises(ValidationError, match=r"logits has shape \(2, 4\), the original's \(2, 5\)"):
        parity.measure({"logits": torch.zeros(2, 5)}, {"logits": torch.zeros(2, 4)}, torch.ones(2, 3))
