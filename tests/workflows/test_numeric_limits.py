"""What float16 cannot hold, and what float32 cannot tell: found, named, and not blamed on the export."""

import json

import numpy as np
import pytest
import torch
from tiny_models import answer, make_inputs, make_original, make_tokenizer, psnr

from optimum_ane import convert_to_ane, export
from optimum_ane.errors import CheckpointError, UnsupportedModelError, ValidationError
from optimum_ane.nn import LayerStack
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.targets.coreml.build import ConvertibleFunction, build_program
from optimum_ane.targets.coreml.metadata import Metadata
from optimum_ane.workflows import stages


def run(original, tmp_path, **options):
    return export(original, tmp_path / "out", quiet=True, **({"sequence_length": 16} | options))


def test_a_word_beyond_float16_is_refused_by_its_token(tmp_path):
    """A norm follows, so that the original answers soundly, and any text with the word would be answered with NaN."""
    original = make_original("bert", "text-classification")
    original.bert.embeddings.word_embeddings.weight[9] *= 2e6
    (logits,) = answer(original, make_inputs(original))
    assert logits.isfinite().all()
    with pytest.raises(
        CheckpointError, match=r"word_embeddings\.weight, row 9 \(the token 'is'\) holds -?\d"
    ) as caught:
        run(original, tmp_path, tokenizer=make_tokenizer())
    assert "float16 ends at 65,504" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    report = run(original, tmp_path, tokenizer=make_tokenizer(), precision="float32").report
    assert report.package_psnr["logits"] > 90


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_weight_that_is_no_number_is_refused_in_either_precision(tmp_path, value):
    original = make_original("distilbert", "text-classification")
    original.distilbert.transformer.layer[1].ffn.lin1.weight[3, 5] = value
    with pytest.raises(CheckpointError, match=r"layer\.1\.ffn\.lin1\.weight, row 3 holds (nan|-inf): the checkpoint"):
        run(original, tmp_path, precision="float32", validate=False)


def test_a_constant_beyond_float16_is_refused_at_the_conversion(tmp_path):
    """One that no parameter holds: it is made while the module is traced."""

    class Large(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.output = torch.nn.Identity(), torch.nn.Identity()

        def layer_stack(self):
            return LayerStack((self.layer,), self.output)

        def forward(self, x):
            return self.output(self.layer(x) + torch.tensor([70000.0, 1.0]))

    function = ConvertibleFunction("main", Large, {"x": torch.zeros(1, 2)}, ["y"])
    arguments = {"minimum_deployment_target": "iOS16", "class_labels": None, "metadata": Metadata("", "", "", "", {})}
    with pytest.raises(UnsupportedModelError, match=r"of add .* holds 70000, and float16 ends at 65,504"):
        build_program([function], tmp_path / "half.mlpackage", precision="float16", **arguments)
    build_program([function], tmp_path / "full.mlpackage", precision="float32", **arguments)
    (answered,) = PortableSession(tmp_path / "full.mlpackage").predict({"x": np.zeros((1, 2), np.float32)}).values()
    np.testing.assert_array_equal(answered, [[70000.0, 1.0]])


def test_an_activation_that_overflows_is_named_with_its_value(tmp_path):
    original = make_original("bert", "text-classification")
    layer = original.bert.encoder.layer[1]
    layer.intermediate.dense.weight *= 1e5
    layer.output.dense.weight /= 1e5
    inner = []
    handle = layer.intermediate.dense.register_forward_hook(lambda *args: inner.append(args[2].abs().max().item()))
    answer(original, make_inputs(original, length=16))
    handle.remove()
    assert inner[0] > 65504
    with pytest.raises(
        ValidationError, match=r"float16 overflows in \S+ \(conv\): its largest value is [1-9]\d\d,\d{3}"
    ) as caught:
        run(original, tmp_path)
    message = str(caught.value)
    assert "first bad layer: layer.1" in message
    assert "export with precision float32 for CPU and GPU" in message


def test_an_original_that_amplifies_the_last_bit_is_no_wrong_module(tmp_path):
    """Norms over values far from 0 leave few digits: the original is measured against itself in float64."""

    def make():
        model = make_original("bert", "text-classification")
        for layer in model.bert.encoder.layer:
            layer.attention.output.dense.bias += 1000
            layer.output.dense.bias += 1000
        return model

    inputs = make_inputs(make(), rows=16, length=16)
    (single,), (double,) = answer(make(), inputs), answer(make().double(), inputs)
    assert psnr(double, single) < 96
    assert psnr(single, convert_to_ane(make())(**inputs)) < 90  # refused, were it compared with that alone
    report = run(make(), tmp_path, precision="float32", psnr_threshold=60.0).report
    assert 70 < report.module_psnr["logits"] < 90
    stored = json.loads((tmp_path / "out" / "export_report.json").read_text())
    assert stored["original_psnr"]["logits"] == report.original_psnr["logits"] < 100


def test_an_error_of_logic_is_not_taken_for_rounding(tmp_path, monkeypatch):
    build = stages.build_module

    def wrong(*arguments):
        loaded = build(*arguments)
        head = loaded.module.classifier
        head.bias = torch.nn.Parameter(head.bias + 3e-5, requires_grad=False)
        return loaded

    monkeypatch.setattr(stages, "build_module", wrong)
    with pytest.raises(ValidationError, match=r"PSNR of logits is 8\d\.\d dB.*an error of logic"):
        run(make_original("bert", "text-classification"), tmp_path)


def test_a_sound_network_that_float16_serves_badly_is_told_from_a_wrong_export(tmp_path):
    original = make_original("bert", "text-classification")
    for layer in original.bert.encoder.layer:
        layer.attention.self.query.weight *= 30
        layer.attention.self.key.weight *= 10
    with pytest.raises(ValidationError, match=r"PyTorch's own float16 gives (\d\d\.\d) dB for logits") as caught:
        run(original, tmp_path, psnr_threshold=70.0)
    assert "set psnr_threshold to accept it" in str(caught.value)
