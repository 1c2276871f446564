"""What an export by graph must not let pass: constants that a capture froze, random draws, ways that fail."""

import math
from types import SimpleNamespace

import pytest
import torch
from test_graph_export import SETTINGS, export_stock, make_stock
from transformers import AutoConfig, RoFormerForSequenceClassification

from optimum_ane.errors import UnsupportedModelError, ValidationError
from optimum_ane.package.report import ExportReport
from optimum_ane.targets.coreml import build
from optimum_ane.validation.padding import likeness_without_padding
from optimum_ane.validation.unread_inputs import find_unread_inputs
from optimum_ane.workflows import graph

CONFIG = AutoConfig.for_model("roformer", vocab_size=100, pad_token_id=1, **SETTINGS["roformer"])


def is_captured():
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


class FreezesTheMask(RoFormerForSequenceClassification):
    """Attends to everything where it is captured, as a module does that keeps a mask from before."""

    def forward(self, input_ids=None, attention_mask=None, **others):
        if is_captured():
            attention_mask = torch.ones(input_ids.shape, dtype=torch.long)
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **others)


class FreezesTheLength(RoFormerForSequenceClassification):
    """Adds the number of tokens: a number of Python, which a capture takes for a constant."""

    def forward(self, input_ids=None, attention_mask=None, **others):
        answer = super().forward(input_ids=input_ids, attention_mask=attention_mask, **others)
        if is_captured():
            counts = torch.full((input_ids.shape[0],), 8.0)
        else:
            counts = attention_mask.sum(1).float()
        answer["logits"] = answer.logits + counts[:, None]
        return answer


class Draws(RoFormerForSequenceClassification):
    def forward(self, input_ids=None, attention_mask=None, **others):
        answer = super().forward(input_ids=input_ids, attention_mask=attention_mask, **others)
        answer["logits"] = answer.logits + 1e-3 * torch.randn_like(answer.logits)
        return answer


class CannotBeCaptured(RoFormerForSequenceClassification):
    def forward(self, input_ids=None, attention_mask=None, **others):
        if is_captured():
            self.roformer.encoder.layer[1].attention.self.query(torch.zeros(1, 7))
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **others)


def export_classifier(model, output):
    return export_stock(model, output, sequence_length=8, task="text-classification")


def make(model_class, seed=0):
    torch.manual_seed(seed)
    model = model_class(CONFIG).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    return model


def test_a_mask_that_the_capture_froze_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "GRAPH_CONVERSIONS", graph.GRAPH_CONVERSIONS[:2])
    with pytest.raises(ValidationError, match="does not read attention_mask, and the original's answer depends on it"):
        export_classifier(make(FreezesTheMask), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_length_that_the_capture_froze_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "GRAPH_CONVERSIONS", graph.GRAPH_CONVERSIONS[:1])
    with pytest.raises(ValidationError, match=r"PSNR of logits is \d+\.\d dB, 50\.0 are asked for"):
        export_classifier(make(FreezesTheLength), tmp_path / "out")


def test_a_random_draw_is_an_error(tmp_path):
    with pytest.raises(ValidationError, match="draws random numbers: asked the same twice"):
        export_classifier(make(Draws), tmp_path / "out")


def test_what_cannot_be_captured_is_refused_with_the_error_and_the_module(tmp_path):
    with pytest.raises(UnsupportedModelError) as caught:
        export_classifier(make(CannotBeCaptured), tmp_path / "out")
    assert "mat1 and mat2 shapes" in str(caught.value)
    assert "in the module roformer.encoder.layer.1.attention.self.query" in str(caught.value)


def test_what_cannot_be_run_is_refused_with_the_module(tmp_path):
    model = make(RoFormerForSequenceClassification)
    model.roformer.encoder.layer[0].intermediate.dense = torch.nn.Linear(7, 96)
    with pytest.raises(UnsupportedModelError, match=r"cannot be run on .* in the module roformer\.encoder"):
        export_classifier(model, tmp_path / "out")


def test_the_next_way_is_tried_and_every_attempt_is_in_the_report(tmp_path, monkeypatch):
    original = build.capture
    ways = (graph.GRAPH_CONVERSIONS[0], graph.GRAPH_CONVERSIONS[2])

    def fails_once(module, inputs, *, conversion, **others):
        if conversion == ways[0]:
            raise UnsupportedModelError("the first way is closed")
        return original(module, inputs, conversion=conversion, **others)

    monkeypatch.setattr(build, "capture", fails_once)
    monkeypatch.setattr(graph, "GRAPH_CONVERSIONS", ways)
    result = export_stock(make_stock("roformer", "text-classification"), tmp_path / "out", sequence_length=8)
    first, taken = result.report.attempts
    assert (first.error, first.psnr) == ("the first way is closed", {})
    assert (taken.capture, taken.engine_layout, taken.error) == (ways[1].capture, False, None)
    assert taken.psnr == result.report.package_psnr


def test_an_input_that_nothing_depends_on_may_stay_unread(tmp_path):
    """The unread input is found, and the original asked whether it matters: here it does not."""

    class Deaf(RoFormerForSequenceClassification):
        def forward(self, input_ids=None, attention_mask=None, token_type_ids=None, **others):
            return super().forward(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), **others)

    result = export_classifier(make(Deaf), tmp_path / "out")
    assert find_unread_inputs(result.path / "model.mlpackage") == ("attention_mask",)


def test_a_low_share_on_the_engine_is_a_warning_with_operations_and_modules(tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "GRAPH_CONVERSIONS", [c for c in graph.GRAPH_CONVERSIONS if not c.engine_layout])
    result = export_stock(make_stock("roformer", "text-classification"), tmp_path / "out", sequence_length=8)
    (warning,) = result.report.warnings
    assert "of the arithmetic is predicted to run on the Neural Engine" in warning
    assert "linear (" in warning
    assert "encoder_layer_" in warning


def test_padding_that_an_original_does_not_mask_is_seen():
    def masked(input_ids, attention_mask):
        return {"logits": (input_ids * attention_mask.float()).sum(1, keepdim=True)}

    def unmasked(input_ids, attention_mask):
        return {"logits": input_ids.float().sum(1, keepdim=True)}

    batch = {"input_ids": torch.tensor([[3, 4, 5], [6, 7, 9]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
    fields = [SimpleNamespace(name="logits", per="row")]
    ratios = []
    for answer in (masked, unmasked):
        reference = SimpleNamespace(fields={"logits": [answer(**batch)["logits"]]})
        ratios.append(likeness_without_padding(answer, reference, [batch], fields))
    assert ratios[0] == math.inf
    assert ratios[1] < 20


def test_the_report_of_an_attempt_is_plain_json():
    report = ExportReport(machine="m", versions={}, attempts=(graph.Attempt("trace", True, {"logits": math.inf}),))
    assert report.to_dict()["attempts"] == [
        {"capture": "trace", "engine_layout": True, "psnr": {"logits": "inf"}, "error": None, "module": None}
    ]
