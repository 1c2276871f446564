"""Layer by layer: whole exports tell where a package, or a module, leaves the original."""

import json

import pytest
import torch
from tiny_models import make_original

from optimum_ane import export
from optimum_ane.errors import ValidationError
from optimum_ane.workflows import stages

# Each use of a layer counts: three passes over groups of two.
USES = {"albert": 6}
# Each way in which a model holds its layers: those of ELECTRA, RoBERTa and kin are held as BERT's are.
STRUCTURES = ["albert", "bert", "deberta-v2:convolution", "mpnet"]
LIMITS = r"PSNR of logits is .* asked for \(first bad layer: {}, .* dB\)"


def names(count):
    return ["embeddings", *(f"layer.{index}" for index in range(count))]


@pytest.fixture
def exported(tmp_path):
    """Exports a model, and gives the ratios of its layers."""

    def run(original, **options):
        return export(original, tmp_path / "out", quiet=True, **({"sequence_length": 16} | options)).report.layers

    return run


@pytest.fixture
def damaged(monkeypatch):
    """Changes the module, after it was compared with the original or before."""

    def with_change(change, before_comparison=False):
        name = "build_module" if before_comparison else "build_program"
        right = getattr(stages, name)
        if before_comparison:

            def load(*arguments):
                loaded = right(*arguments)
                change(loaded.module)
                return loaded

            monkeypatch.setattr(stages, name, load)
            return

        def build(functions, *arguments, **options):
            from dataclasses import replace
            from functools import partial

            def make_module(function):
                module = function.make_module()
                change(module)
                return module

            functions = [replace(each, make_module=partial(make_module, each)) for each in functions]
            return right(functions, *arguments, **options)

        monkeypatch.setattr(stages, name, build)

    return with_change


def flipped(module):
    """Turns a weight upside down, not in place: the original shares the memory."""
    module.weight = torch.nn.Parameter(module.weight.flip(0), requires_grad=False)


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_layer_of_every_architecture_is_measured_and_sound(name, exported):
    ratios = exported(make_original(name, "text-classification"))
    assert list(ratios) == names(USES.get(name, 2))
    assert min(ratios.values()) >= 50
    # Measured against the original and not with itself: float16 rounds.
    assert max(ratios.values()) < 100


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "float32", "minimum_deployment_target": "iOS18", "batch_size": 3},
        {"class_labels": True},
        {"task": "feature-extraction", "pooling": "mean", "normalize": True},
        {"task": "fill-mask", "sequence_length": (8, 16)},
    ],
)
def test_every_form_of_a_package_leaves_the_layers_to_be_found(options, exported):
    ratios = exported(make_original("distilbert", options.get("task", "text-classification")), **options)
    assert list(ratios) == names(2)
    assert min(ratios.values()) >= (100 if "precision" in options else 50)


@pytest.mark.parametrize("bad", [0, 2])
def test_a_damaged_layer_of_the_package_is_named(bad, tmp_path, exported, damaged):
    damaged(lambda module: flipped(module.bert.encoder.layer[bad].intermediate.dense))
    with pytest.raises(ValidationError, match=LIMITS.format(rf"layer\.{bad}")):
        exported(make_original("bert", "text-classification", num_hidden_layers=4))
    assert not (tmp_path / "out").exists()


def test_a_damaged_layer_of_the_module_is_named_before_it_is_converted(exported, damaged):
    damaged(lambda module: flipped(module.bert.encoder.layer[1].output.dense), before_comparison=True)
    with pytest.raises(ValidationError, match="Neural Engine module .*" + LIMITS.format(r"layer\.1")):
        exported(make_original("bert", "text-classification", num_hidden_layers=3))


def test_damaged_embeddings_are_told_from_damaged_layers(exported, damaged):
    damaged(lambda module: flipped(module.distilbert.embeddings.position_embeddings))
    with pytest.raises(ValidationError, match=LIMITS.format("embeddings")):
        exported(make_original("distilbert", "text-classification"))


def test_shared_layers_are_told_apart_by_their_use(exported, damaged):
    """The second group of ALBERT's is used from the third of six layers on."""
    damaged(lambda module: flipped(module.albert.encoder.albert_layer_groups[1].albert_layers[1].ffn))
    # int(index / 1.5) of the passes 0, 1, 2: groups 0, 0, 1, each of two layers.
    with pytest.raises(ValidationError, match=LIMITS.format(r"layer\.5")):
        exported(make_original("albert", "text-classification"))


def test_a_module_that_declares_no_layers_is_an_error(exported, damaged, monkeypatch):
    def forget(module):
        module.layer_stack = lambda: (_ for _ in ()).throw(NotImplementedError)

    damaged(forget)
    with pytest.raises(NotImplementedError):
        exported(make_original("bert", "text-classification"))


def test_the_report_of_an_export_holds_the_layers(tmp_path, exported):
    exported(make_original("distilbert", "text-classification"))
    report = json.loads((tmp_path / "out" / "export_report.json").read_text())
    assert list(report["layers"]) == names(2)
    assert min(report["layers"].values()) >= 50
