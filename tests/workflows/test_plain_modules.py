"""Modules outside of transformers, from example inputs to a package that is called by names."""

import pytest
import torch
from tiny_models import psnr
from torch import nn

import optimum_ane
from optimum_ane import ANEModelForCustomTasks, ANEModelForSequenceClassification
from optimum_ane.analysis.inspection import inspect
from optimum_ane.compression.recipes import get_recipe
from optimum_ane.errors import CompressionError, InputError, PackageError, UnsupportedModelError, ValidationError
from optimum_ane.exporters.variations import vary
from optimum_ane.hub.card import make_card
from optimum_ane.hub.card_package import read_card_package
from optimum_ane.workflows import graph
from optimum_ane.workflows.compress import compress_package


class Denoiser(nn.Module):
    """An image, a step and classes; gives two tensors of a mapping, and one that is asked for by an argument."""

    def __init__(self):
        super().__init__()
        self.into = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.table = nn.Embedding(10, 8)
        self.out = nn.Conv2d(8, 3, 1)

    def forward(self, image, step, label, with_sum=False):
        hidden = torch.relu(self.norm(self.into(image))) + self.table(label)[:, :, None, None] * step
        answer = {"noise": self.out(hidden), "level": hidden.mean((2, 3))}
        return answer | {"sum": hidden.sum((1, 2, 3))} if with_sum else answer


class FreezesTheStep(Denoiser):
    def forward(self, image, step, label):
        return super().forward(image, float(step), label)["noise"]


class Masked(nn.Module):
    """Averages what a mask lets through; the mask of the example inputs is all ones."""

    def __init__(self, freezes=False):
        super().__init__()
        self.linear, self.freezes = nn.Linear(6, 4), freezes

    def forward(self, x, mask):
        if self.freezes and torch.jit.is_tracing() | torch.compiler.is_compiling():
            mask = torch.ones(mask.shape)
        weight = mask / mask.sum(1, keepdim=True)
        return (self.linear(x) * weight[:, :, None]).sum(1)


def make(module_class, **arguments):
    torch.manual_seed(0)
    return module_class(**arguments).eval()


INPUTS = {"image": torch.randn(1, 3, 8, 8), "step": torch.tensor([0.5]), "label": torch.tensor([3])}
MASKED = {"x": torch.randn(1, 5, 6), "mask": torch.ones(1, 5, dtype=torch.long)}


def export(module, output, **options):
    return optimum_ane.export(module, output, quiet=True, **options)


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory):
    module = make(Denoiser).train()
    output = tmp_path_factory.mktemp("plain") / "denoiser"
    inputs = INPUTS | {"with_sum": True}
    return module, export(module, output, example_inputs=inputs, outputs=["noise", "sum"])


def test_the_package_is_called_by_names_and_answers_by_names(denoiser):
    _, result = denoiser
    model = ANEModelForCustomTasks.from_pretrained(result.path)
    inputs = {"image": torch.randn(1, 3, 8, 8), "step": torch.tensor([0.25]), "label": torch.tensor([1])}
    answer, expected = model(**inputs), make(Denoiser)(**inputs, with_sum=True)
    assert list(answer) == ["noise", "sum"]
    for name in answer:
        assert answer[name].shape == expected[name].shape
        assert psnr(expected[name], answer[name]) > 50
    assert torch.equal(answer.noise, answer["noise"])


def test_the_module_itself_stays_as_it_was(denoiser):
    module, _ = denoiser
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_the_package_says_what_it_is(denoiser):
    _, result = denoiser
    model = ANEModelForCustomTasks.from_pretrained(result.path)
    manifest = model.manifest
    assert (manifest.method, manifest.form.task, manifest.model_type) == ("graph", "custom", "Denoiser")
    assert manifest.form.sequence_length == ()
    assert model.inputs == {"image": (1, 3, 8, 8), "step": (1,), "label": (1,)}
    assert [attempt.error for attempt in result.report.attempts] == [None]
    assert inspect(result.path).summary()["flops_share_on_ane"] > 0.9
    assert "'with_sum': True" in result.report.command


def test_wrong_inputs_of_a_call_are_refused(denoiser):
    model = ANEModelForCustomTasks.from_pretrained(denoiser[1].path)
    with pytest.raises(InputError, match="takes image, step, label"):
        model(image=INPUTS["image"])
    with pytest.raises(InputError, match=r"image has shape \(2, 3, 8, 8\)"):
        model(**INPUTS | {"image": torch.zeros(2, 3, 8, 8)})
    with pytest.raises(InputError, match=r"label holds torch\.float32"):
        model(**INPUTS | {"label": torch.tensor([1.0])})


def test_the_class_of_a_task_does_not_load_it(denoiser):
    with pytest.raises(PackageError, match=r"is for custom, .* load it with ANEModelForCustomTasks"):
        ANEModelForSequenceClassification.from_pretrained(denoiser[1].path)


def test_what_needs_more_than_the_package_says_so(denoiser, tmp_path):
    with pytest.raises(CompressionError, match="compress it when it is made"):
        compress_package(denoiser[1].path, get_recipe("int8"), tmp_path / "out", quiet=True)
    with pytest.raises(PackageError, match="no card can be written"):
        make_card([read_card_package("denoiser", denoiser[1].path)], repo_id="me/denoiser")


def test_weights_are_compressed_when_it_is_made(tmp_path):
    result = export(make(Masked), tmp_path / "out", example_inputs=MASKED, compress="int8")
    assert ANEModelForCustomTasks.from_pretrained(result.path).manifest.compression == "int8"
    assert result.report.package_psnr["output"] >= get_recipe("int8").psnr


def test_outputs_of_a_tuple_are_numbered_or_named(tmp_path):
    module = make(nn.Sequential)
    module.forward = lambda x: (x + 1, x * 2)
    export(module, tmp_path / "numbered", example_inputs={"x": torch.randn(1, 4)}, validate=False)
    assert list(ANEModelForCustomTasks.from_pretrained(tmp_path / "numbered")(x=torch.ones(1, 4))) == [
        "output_0",
        "output_1",
    ]


def test_a_number_that_the_capture_froze_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "GRAPH_CONVERSIONS", graph.GRAPH_CONVERSIONS[:1])
    with pytest.raises(ValidationError, match="does not read step"):
        export(make(FreezesTheStep), tmp_path / "out", example_inputs=INPUTS)
    assert not (tmp_path / "out").exists()


def test_a_mask_of_ones_is_varied(tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "GRAPH_CONVERSIONS", graph.GRAPH_CONVERSIONS[:1])
    result = export(make(Masked), tmp_path / "sound", example_inputs=MASKED)
    assert result.report.package_psnr["output"] > 50
    with pytest.raises(ValidationError, match="mask"):
        export(make(Masked, freezes=True), tmp_path / "frozen", example_inputs=MASKED)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ({"image": INPUTS["image"]}, {}, "cannot be run on image .*missing"),
        (INPUTS | {"step": torch.tensor(0.5)}, {}, r"step has the shape \(\)"),
        ({"with_sum": True}, {}, "no tensor is among the example inputs"),
        (INPUTS, {"outputs": ["no"]}, "0 of the 1 outputs were found"),
        (INPUTS, {"outputs": ["image"]}, "'image' cannot be the name"),
        (INPUTS, {"sequence_length": 32}, "sequence_length: options of checkpoints"),
        (INPUTS, {"method": "handwritten"}, "goes by its graph"),
        (INPUTS, {"tokenizer": "gpt2"}, "tokenizer: arguments of checkpoints"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, inputs, options, message):
    with pytest.raises((InputError, UnsupportedModelError), match=message):
        export(make(Denoiser), tmp_path / "out", example_inputs=inputs, **options)
    assert not (tmp_path / "out").exists()


def test_a_directory_with_example_inputs_is_refused(tmp_path):
    with pytest.raises(UnsupportedModelError, match="a module in memory"):
        export("somewhere", tmp_path / "out", example_inputs=INPUTS)


def test_variations_keep_to_the_range_and_differ():
    floats = torch.tensor([[-1.0, 0.0, 3.0, 0.5]])
    varied = vary(floats, 1)
    assert not torch.equal(varied, floats)
    assert varied.min() >= -1
    assert varied.max() <= 3
    whole = torch.arange(12).reshape(3, 4)
    assert not torch.equal(vary(whole, 1), whole)
    assert sorted(vary(whole, 1).flatten().tolist()) == list(range(12))
    masks = {tuple(vary(torch.ones(1, 9, dtype=torch.long), seed).flatten().tolist()) for seed in range(1, 6)}
    assert len(masks) > 2
    assert all(mask[0] == 1 and list(mask) == sorted(mask, reverse=True) for mask in masks)
    assert 0 < vary(torch.tensor([0.5]), 1).item() < 0.5
