"""Streams of T5 beyond float16: made smaller by a power of two, exactly; what is not T5's is refused."""

import pytest
import torch
from encoder_decoders import make_encoder_decoder, source_rows
from tiny_models import psnr

from optimum_ane import ANEModelForSeq2SeqLM, export
from optimum_ane.errors import UnsupportedModelError
from optimum_ane.exporters.t5_scale import choose_power, scale_streams
from optimum_ane.package.manifest import Manifest
from optimum_ane.validation.activations import recorded_activations

FORM = {"sequence_length": 13, "context_length": 20, "quiet": True}


def make(name, amplified, layers=2):
    """A T5 that adds much to its streams."""
    model = make_encoder_decoder(name, num_layers=layers, num_decoder_layers=layers)
    for path, parameter in model.named_parameters():
        if path.endswith((".o.weight", ".wo.weight")):
            parameter.mul_(amplified)
    return model


@pytest.mark.parametrize("name", ["t5", "t5:gated", "umt5"])
def test_a_power_of_two_changes_no_bit_of_the_answer(name):
    model = make(name, 50.0)
    ids, mask = source_rows(model)
    inputs = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": ids}
    before = {path: value.clone() for path, value in model.state_dict().items()}
    with recorded_activations(model) as peaks:
        plain = model(**inputs).logits
    with scale_streams(model, 2.0**-6), recorded_activations(model) as smaller:
        assert torch.equal(model(**inputs).logits, plain)
        if model.config.tie_word_embeddings:
            assert model.lm_head.weight is model.shared.weight
    assert smaller["decoder.block.1"] == peaks["decoder.block.1"] / 64
    assert all(torch.equal(value, before[path]) for path, value in model.state_dict().items())
    assert torch.equal(model(**inputs).logits, plain)


def test_a_stream_beyond_float16_becomes_a_package(tmp_path):
    model = make("t5", 20_000.0, layers=1)
    result = export(model, tmp_path / "out", **FORM)
    power = Manifest.read(result.path).conversion.residual_scale
    assert power < 1 / 4
    assert float(power).hex().startswith("0x1.0000000000000p-")
    ids, mask = source_rows(model)
    begun = ids[:, :6].clamp(min=3)
    ours = ANEModelForSeq2SeqLM.from_pretrained(result.path)(ids, mask, begun).logits
    assert psnr(model(ids, attention_mask=mask, decoder_input_ids=begun).logits, ours) > 50


def test_what_is_no_stream_is_refused_with_module_and_number(tmp_path):
    model = make_encoder_decoder("bart")
    model.model.decoder.layers[1].fc1.weight.mul_(1e5)
    with pytest.raises(UnsupportedModelError, match=r"reach [\d,]+ in model.decoder.layers.1.fc1, float16 ends"):
        export(model, tmp_path / "out", **FORM)


def test_powers():
    assert choose_power("t5", {"encoder.block.0": 16_384.0, "lm_head": 60_000.0}) == 1
    assert choose_power("t5", {"encoder.block.0": 16_385.0}) == 1 / 2
    assert choose_power("mt5", {"decoder.block.3.layer.2.DenseReluDense.wo": 1e6}) == 2.0**-6
    assert choose_power("bart", {"model.encoder.layers.0": 50_000.0}) == 1
    with pytest.raises(UnsupportedModelError, match=r"reach 70,000 in decoder.block.0.layer.0.SelfAttention.q, "):
        choose_power("t5", {"decoder.block.0.layer.0.SelfAttention.q": 70_000.0})
