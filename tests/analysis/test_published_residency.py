"""The prediction against what was published of real programs."""

import math

import coremltools as ct
import numpy as np
import pytest
import torch
from analysis_programs import program_of
from coremltools.converters.mil import Builder as mb  # noqa: N813
from tiny_models import make_inputs, make_original
from torch import nn

from optimum_ane.analysis.inspection import inspect
from optimum_ane.analysis.partition import find_offenders, partition
from optimum_ane.analysis.residency import place
from optimum_ane.package.form import ExportForm
from optimum_ane.targets.coreml.stock import convert_stock

LAYERS = 6
SETTINGS = {"num_hidden_layers": LAYERS}


@pytest.fixture(scope="module")
def export(tiny_package):
    """Our export of a DistilBERT of six layers."""
    return inspect(tiny_package("distilbert", "text-classification", SETTINGS))


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """The same model traced as it is."""
    original = make_original("distilbert", "text-classification", **SETTINGS)
    path = tmp_path_factory.mktemp("stock") / "a.mlpackage"
    form, inputs = ExportForm("text-classification"), make_inputs(original, rows=1, length=16)
    convert_stock(original, form, inputs).save(str(path))
    return inspect(path)


def off(inspection):
    return [(o.placement.operation.type, o.position) for o in inspection.offenders]


def test_of_our_distilbert_only_the_lookup_and_the_masks_cast_are_off_the_engine(export):
    """ml-ane-transformers: 602 of 606 operations on the engine."""
    assert sorted(off(export)) == [
        ("cast", "start"),
        ("expand_dims", "start"),
        ("expand_dims", "start"),
        ("gather", "start"),
    ]
    assert export.shares["conditional"].operations == 0
    assert export.flops_share("ane") == 1
    assert [region.device for region in export.regions] == ["cpu", "ane"]
    # What is off the engine is the look-up, and what reads the integers of the mask on the way to its cast.
    for offender in export.offenders:
        operation = offender.placement.operation
        assert operation.type == "gather" or any(t.dtype == "int32" for t in operation.operands)


def test_a_stock_conversion_is_clearly_worse(export, stock):
    """Published of the stock layout: 228 of 266 operations on the engine."""
    assert len(off(stock)) > len(off(export))
    assert export.shares["ane"].operations / len(export.placements) > 0.97
    assert stock.shares["ane"].operations / len(stock.placements) < 0.6
    assert stock.flops_share("ane") < 0.1
    rules = {group.rule.id: len(group.operations) for group in stock.groups()}
    # Six linear layers in each layer and two in the head; a norm over (B, S, C); heads in a batch.
    assert rules["linear"] == 6 * LAYERS + 2
    assert rules["layer-norm-of-other-rank"] == 2 * LAYERS + 1
    assert rules["matmul-of-heads"] == 2 * LAYERS


class StockLayer(nn.Module):
    """A layer of DistilBERT as transformers wrote it when the figures were published: the mask by masked_fill."""

    def __init__(self, width=48, heads=3, length=16):
        super().__init__()
        self.width, self.heads, self.length = width, heads, length
        self.projections = nn.ModuleList(nn.Linear(width, width) for _ in range(4))
        self.inner, self.outer = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, x, mask):
        depth = self.width // self.heads
        query, key, value = (
            projection(x).view(1, -1, self.heads, depth).transpose(1, 2) for projection in self.projections[:3]
        )
        scores = torch.matmul(query / math.sqrt(depth), key.transpose(2, 3))
        hidden = (mask == 0).view(1, 1, 1, self.length).expand_as(scores)
        weights = nn.functional.softmax(scores.masked_fill(hidden, -math.inf), dim=-1)
        context = torch.matmul(weights, value).transpose(1, 2).contiguous().view(1, -1, self.width)
        x = self.norms[0](self.projections[3](context) + x)
        return self.norms[1](self.outer(nn.functional.gelu(self.inner(x))) + x)


class StockEncoder(nn.Module):
    """A DistilBERT of that time without its head."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(100, 48)
        self.layers = nn.ModuleList(StockLayer() for _ in range(LAYERS))

    def forward(self, ids, mask):
        x = self.table(ids)
        for layer in self.layers:
            x = layer(x, mask)
        return x


def test_a_mask_by_choice_cuts_the_program_in_every_layer(tmp_path):
    """The stock layout of the time: each masked_fill takes the scores off the engine and back."""
    torch.manual_seed(0)
    ids = torch.ones(1, 16, dtype=torch.int64)
    traced = torch.jit.trace(StockEncoder().eval(), (ids, ids))
    inputs = [ct.TensorType(name, (1, 16), dtype=np.int32) for name in ("ids", "mask")]
    model = ct.convert(traced, inputs=inputs, minimum_deployment_target=ct.target.iOS16, skip_model_load=True)
    model.save(str(tmp_path / "a.mlpackage"))
    inspection = inspect(tmp_path / "a.mlpackage")
    assert off(inspection).count(("select", "middle")) == LAYERS
    assert inspection.crossings == 2 * LAYERS + 1
    assert inspection.worst.placement.rule.id == "mask-by-choice"


def test_topk_and_what_reads_its_indices_fall_off():
    """RF-DETR: of the head that picks the best boxes, the choice and what follows its indices ran on the CPU."""

    def build(x):
        scores = mb.reduce_max(x=mb.sigmoid(x=x), axes=[1])
        best, places = mb.topk(x=scores, k=5, axis=1)
        kept = mb.add(x=best, y=np.float16(1))
        rows = mb.floor_div(x=places, y=np.int32(8))
        boxes = mb.gather_along_axis(x=mb.relu(x=scores), indices=rows, axis=1)
        return kept, mb.relu(x=boxes)

    placements = place(program_of(build, x="fp16 1 4 64"))
    verdicts = {p.operation.type: p.verdict for p in placements}
    fallen = {name for name, verdict in verdicts.items() if verdict == "fallback"}
    assert fallen == {"topk", "floor_div", "gather_along_axis"}
    assert verdicts["sigmoid"] == verdicts["add"] == "ane"
    reasons = {p.operation.type: p.rule.id for p in placements}
    assert (reasons["topk"], reasons["floor_div"]) == ("topk", "integers")
    offenders = find_offenders(placements, partition(placements))
    assert {offender.position for offender in offenders} == {"middle"}
