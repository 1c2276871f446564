"""Residual streams beyond float16: made smaller by a factor in the weights, or refused."""

import json

import pytest
import torch
from tiny_models import psnr
from transformers import AutoConfig, AutoModelForCausalLM

from optimum_ane import ANEModelForCausalLM, export
from optimum_ane.errors import UnsupportedModelError
from optimum_ane.exporters.residual_scale import RESIDUAL_RECIPES, choose_scale, scale_residual
from optimum_ane.package.manifest import Manifest

SIZES = {
    "vocab_size": 100, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 3,
    "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 2,
}  # fmt: skip
FORM = {"task": "text-generation", "context_length": 32, "prefill_length": 8, "quiet": True}


def make(model_type, amplified=1.0):
    """A model whose layers add much to the residual stream."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **SIZES)).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.copy_(torch.randn(parameter.shape) * 1.2 * parameter[0].numel() ** -0.5)
        elif "post_" in name and model_type != "gemma":
            parameter.copy_(amplified * (1 + 0.1 * torch.randn(parameter.shape)))
        if name.endswith(("o_proj.weight", "down_proj.weight")) and model_type in ("gemma", "llama"):
            parameter.mul_(amplified)
    return model


@pytest.mark.parametrize("model_type", RESIDUAL_RECIPES)
def test_the_scaled_model_answers_as_before_and_its_stream_is_smaller(model_type):
    model = make(model_type, 100.0)
    ids = torch.randint(3, 100, (1, 12), generator=torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = model(ids, output_hidden_states=True)
    with scale_residual(model, model_type, 0.25):
        scaled = model(ids, output_hidden_states=True)
        assert psnr(plain.logits, scaled.logits) > 100
        for one, other in zip(plain.hidden_states[:-1], scaled.hidden_states[:-1], strict=True):
            assert psnr(0.25 * one, other) > 100
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(ids).logits, plain.logits)


@pytest.mark.parametrize("chunks", [1, 2])
def test_a_stream_beyond_float16_becomes_a_package(tmp_path, chunks):
    model = make("gemma3_text", 30_000.0)
    result = export(model, tmp_path / "out", chunks=chunks, **FORM)
    report = json.loads((result.path / "export_report.json").read_text())
    assert max(report["residual_peaks"]) > 65_504
    scale = Manifest.read(result.path).conversion.residual_scale
    assert scale == pytest.approx(50_000 / max(report["residual_peaks"]))
    ids = torch.randint(3, 100, (1, 20), generator=torch.Generator().manual_seed(1))
    assert psnr(model(ids).logits, ANEModelForCausalLM.from_pretrained(result.path)(ids).logits) > 50
    assert "residuals × " in (result.path / "README.md").read_text()


def test_a_family_without_a_recipe_is_refused_with_layer_and_number(tmp_path):
    with pytest.raises(
        UnsupportedModelError, match=r"reaches [\d,]+ behind layer \d, float16 ends at 65,504, and llama"
    ):
        export(make("llama", 60_000.0), tmp_path / "out", **FORM)
    assert choose_scale("llama", (10.0, 60_000.0)) == 1
    assert choose_scale("gemma2", (10.0, 100_000.0)) == 0.5
    assert choose_scale("gemma2", ()) == 1
