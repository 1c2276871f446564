import json

import pytest
import torch
from tiny_models import make_original

from optimum_ane import export
from optimum_ane.errors import CheckpointError, ValidationError
from optimum_ane.exporters.config import get_ane_config_class
from optimum_ane.exporters.load_module import build_module
from optimum_ane.package.form import ExportSpec
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.targets.coreml import conversion
from optimum_ane.validation import parity
from optimum_ane.validation.layers import find_fault, measure_layers
from optimum_ane.workflows import export as road

# Each use of a layer counts: three passes over groups of two.
USES = {"albert": 6}
# One of each structure that holds layers: CamemBERT and XLM-RoBERTa have RoBERTa's, and DeBERTa's variants differ
# inside a layer.
STRUCTURES = ["albert", "bert", "deberta-v2", "deberta-v2:convolution", "distilbert", "electra", "mpnet", "roberta"]


def names(count):
    return ["embeddings", *(f"layer.{index}" for index in range(count))]


def measured(original, folder, task="text-classification", damage=lambda module: None, batch_size=1, **options):
    """Converts a module that `damage` has changed, and compares its package's layers with the original's."""
    spec = ExportSpec(task, sequence_length=16, batch_size=batch_size, **options)
    config = get_ane_config_class(original.config.model_type, task)(original.config, task)
    module = build_module(config, original.state_dict()).module
    damage(module)
    conversion.prepare(module, spec)
    inputs = config.make_inputs(parity.number_of_rows(spec), spec.sequence_length)
    example = {name: value[:batch_size] for name, value in inputs.items()}
    traced = conversion.trace(module, example, spec)
    package = conversion.convert(traced, example, conversion.output_names(config, spec), spec, ["a", "b"])
    package.save(str(folder / "model.mlpackage"))
    return measure_layers(PortableSession(folder / "model.mlpackage"), original, inputs, spec)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The ratios of a sound BERT, and the session that they were measured with."""
    folder = tmp_path_factory.mktemp("sound")
    ratios = measured(make_original("bert", "text-classification"), folder)
    return ratios, PortableSession(folder / "model.mlpackage")


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_layer_of_every_architecture_is_measured_and_sound(name, tmp_path):
    ratios = measured(make_original(name, "text-classification"), tmp_path)
    assert list(ratios) == names(USES.get(name, 2))
    assert min(ratios.values()) >= 50
    # Measured against the original and not with itself: float16 rounds.
    assert max(ratios.values()) < 100


@pytest.mark.parametrize("task", ["feature-extraction", "fill-mask", "multiple-choice"])
def test_every_head_leaves_the_layers_to_be_found(task, tmp_path):
    ratios = measured(make_original("bert", task), tmp_path, task)
    assert list(ratios) == names(2)
    assert min(ratios.values()) >= 50


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "float32"},
        {"minimum_deployment_target": "iOS18"},
        {"class_labels": True},
        {"batch_size": 3},
        {"task": "feature-extraction", "pooling": "mean", "normalize": True},
    ],
)
def test_every_form_of_a_package_leaves_the_layers_to_be_found(options, tmp_path):
    ratios = measured(make_original("distilbert", options.get("task", "text-classification")), tmp_path, **options)
    assert list(ratios) == names(2)
    assert min(ratios.values()) >= (100 if "precision" in options else 50)


@pytest.mark.parametrize("bad", [0, 2])
def test_a_damaged_layer_and_those_after_it_drop_and_no_other(bad, tmp_path):
    def damage(module):
        weight = module.bert.encoder.layer[bad].intermediate.dense.weight
        module.bert.encoder.layer[bad].intermediate.dense.weight = torch.nn.Parameter(weight.flip(0), False)

    original = make_original("bert", "text-classification", num_hidden_layers=4)
    ratios = measured(original, tmp_path, damage=damage)
    sound, wrong = names(4)[: bad + 1], names(4)[bad + 1 :]
    assert min(ratios[name] for name in sound) >= 60
    assert max(ratios[name] for name in wrong) < 40
    assert find_fault(ratios, 50).startswith(f"first bad layer: layer.{bad}, ")


def test_damaged_embeddings_are_told_from_damaged_layers(tmp_path):
    def damage(module):
        table = module.distilbert.embeddings.position_embeddings
        table.weight = torch.nn.Parameter(table.weight.flip(0), False)

    ratios = measured(make_original("distilbert", "text-classification"), tmp_path, damage=damage)
    assert max(ratios.values()) < 40
    assert find_fault(ratios, 50).startswith("first bad layer: embeddings, ")


def test_shared_layers_are_told_apart_by_their_use(tmp_path):
    """The second group of ALBERT's is used from the third of six layers on."""

    def damage(module):
        layer = module.albert.encoder.albert_layer_groups[1].albert_layers[1]
        layer.ffn.weight = torch.nn.Parameter(layer.ffn.weight.flip(0), False)

    original = make_original("albert", "text-classification")
    # int(index / 1.5) of the passes 0, 1, 2: groups 0, 0, 1, each of two layers.
    ratios = measured(original, tmp_path, damage=damage)
    bad = [name for name, ratio in ratios.items() if ratio < 40]
    assert bad == ["layer.5"]


def test_what_stands_at_padding_does_not_count(sound):
    ratios, session = sound
    original = make_original("bert", "text-classification")
    spec = ExportSpec("text-classification", sequence_length=16)
    config = get_ane_config_class("bert", spec.task)(original.config, spec.task)
    inputs = config.make_inputs(parity.number_of_rows(spec), 16)

    def with_noise_at_padding(**arguments):
        answer = original(**arguments)
        is_token = arguments["attention_mask"][:, :, None].bool()
        answer.hidden_states = tuple(torch.where(is_token, state, 1e3) for state in answer.hidden_states)
        return answer

    assert measure_layers(session, with_noise_at_padding, inputs, spec) == ratios


def test_the_fault_is_the_first_layer_below_the_limit_or_the_worst_one():
    ratios = {"embeddings": 70.0, "layer.0": 21.04, "layer.1": 12.0}
    assert find_fault(ratios, 50) == "first bad layer: layer.0, 21.0 dB"
    assert find_fault(ratios, 10) == "no layer is bad, the worst is layer.1 with 12.0 dB"
    assert find_fault({"embeddings": float("nan")}, 10) == "first bad layer: embeddings, nan dB"
    assert find_fault({}, 50) == ""


def test_an_original_without_as_many_hidden_states_is_not_measured(sound):
    longer = make_original("bert", "text-classification", num_hidden_layers=3)
    spec = ExportSpec("text-classification", sequence_length=16)
    inputs = get_ane_config_class("bert", spec.task)(longer.config, spec.task).make_inputs(4, 16)
    assert measure_layers(sound[1], longer, inputs, spec) == {}


def test_hidden_states_that_are_not_those_of_this_original_are_named(sound):
    session = sound[1]
    spec = ExportSpec("text-classification", sequence_length=16)
    wider = make_original("bert", "text-classification", hidden_size=60)
    inputs = get_ane_config_class("bert", spec.task)(wider.config, spec.task).make_inputs(4, 16)
    with pytest.raises(ValidationError, match=r"embeddings has shape \(4, 16, 48\), the original's \(4, 16, 60\)"):
        measure_layers(session, wider, inputs, spec)
    endless = make_original("bert", "text-classification")
    endless.bert.encoder.layer[1].output.LayerNorm.bias.fill_(float("inf"))
    with pytest.raises(CheckpointError, match=r"the original's own layer\.1 holds NaN or infinity"):
        measure_layers(session, endless, inputs, spec)


def test_the_report_of_an_export_holds_the_layers(tmp_path):
    export(make_original("distilbert", "text-classification"), tmp_path / "out", sequence_length=16, quiet=True)
    report = json.loads((tmp_path / "out" / "export_report.json").read_text())
    assert list(report["layers"]) == names(2)
    assert min(report["layers"].values()) >= 50


def test_an_export_that_is_refused_names_the_first_bad_layer(tmp_path, monkeypatch):
    convert = road.conversion.convert

    def convert_wrongly(traced, *rest):
        for name, parameter in traced.named_parameters():
            if "layer.1.intermediate" in name and name.endswith("weight"):
                parameter.data = parameter.flip(0)  # not in place: the original shares the memory
        return convert(traced, *rest)

    monkeypatch.setattr(road.conversion, "convert", convert_wrongly)
    original = make_original("bert", "text-classification", num_hidden_layers=3)
    with pytest.raises(ValidationError, match=r"PSNR of logits is .* asked for \(first bad layer: layer\.1, .* dB\)"):
        export(original, tmp_path / "out", sequence_length=16, quiet=True)
    assert not (tmp_path / "out").exists()
