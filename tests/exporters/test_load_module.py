"""Weights into a module that was built without memory: all of them, each once, and none left over."""

import pytest
import torch
from tiny_models import ARCHITECTURES, TASKS, make_original
from torch import nn

import optimum_ane.models  # noqa: F401 - registers the architectures
from optimum_ane.errors import CheckpointError
from optimum_ane.exporters.config import get_ane_config_class
from optimum_ane.exporters.load_module import build_module, load_module
from optimum_ane.nn import Projection


class Counted(dict):
    """Weights that record what is asked for."""

    def __init__(self, values):
        super().__init__(values)
        self.asked = []

    def __getitem__(self, name):
        self.asked.append(name)
        return super().__getitem__(name).clone()


def config_of(original, task):
    return get_ane_config_class(original.config.model_type, task)(original.config, task)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_weight_is_asked_for_once_and_becomes_the_parameter(name, task):
    original = make_original(name, task)
    weights = Counted(original.state_dict())
    loaded = build_module(config_of(original, task), "model", weights)
    assert sorted(weights.asked) == sorted(weights)
    assert not any(tensor.is_meta for tensor in (*loaded.module.parameters(), *loaded.module.buffers()))
    assert not any(parameter.requires_grad for parameter in loaded.module.parameters())
    parameters = dict(loaded.module.named_parameters())
    kept = weights.keys() - set(loaded.left_out)
    # Packed projections become several parameters under other names; every number has its place all the same.
    assert sum(value.numel() for value in parameters.values()) == sum(
        dict.__getitem__(weights, key).numel() for key in kept
    )
    same = parameters.keys() & kept
    assert len(same) >= 10
    for key in same:
        # Queries take the scale of the scores into themselves.
        if not any(part in key for part in ("query", "q_lin", ".q.")):
            assert torch.equal(parameters[key].flatten(), dict.__getitem__(weights, key).flatten()), key


def test_what_is_left_out_is_listed():
    original = make_original("bert", "feature-extraction")
    loaded = build_module(config_of(original, "feature-extraction"), "model", original.state_dict())
    assert loaded.left_out == ("pooler.dense.bias", "pooler.dense.weight")


def test_a_missing_pooler_is_no_fault_where_it_is_not_used():
    original = make_original("bert", "feature-extraction")
    weights = {name: value for name, value in original.state_dict().items() if "pooler" not in name}
    assert build_module(config_of(original, "feature-extraction"), "model", weights).left_out == ()


@pytest.mark.parametrize(
    "surplus", ["encoder.layer.2.output.dense.weight", "encoder.scale", "unknown.weight", "unknown"]
)
def test_a_weight_too_many_is_named(surplus):
    original = make_original("bert", "feature-extraction")
    with pytest.raises(CheckpointError, match=rf"BertModel has no place for 1 of them, {surplus} first"):
        build_module(
            config_of(original, "feature-extraction"), "model", original.state_dict() | {surplus: torch.zeros(1)}
        )


def test_missing_weights_are_counted_and_the_first_is_named():
    original = make_original("bert", "text-classification")
    weights = original.state_dict()
    del weights["bert.encoder.layer.1.output.dense.weight"], weights["classifier.bias"]
    with pytest.raises(
        CheckpointError, match=r"2 that .* are missing, bert\.encoder\.layer\.1\.output\.dense\.weight"
    ):
        build_module(config_of(original, "text-classification"), "model", weights)


def test_a_weight_of_another_shape_is_named_with_both_shapes():
    original = make_original("bert", "text-classification")
    weights = original.state_dict() | {"bert.encoder.layer.1.output.LayerNorm.weight": torch.zeros(47)}
    with pytest.raises(CheckpointError) as caught:
        build_module(config_of(original, "text-classification"), "model", weights)
    message = str(caught.value)
    assert "bert.encoder.layer.1.output.LayerNorm.weight" in message
    assert "47" in message
    assert "48" in message
    assert "\n" not in message


class Packed(nn.Module):
    """Unpacks one weight for two children, of which one has a scale."""

    def __init__(self):
        super().__init__()
        self.query = Projection(4, 4, bias=False, scale=0.5)
        self.key = Projection(4, 4, bias=False)
        self.register_load_state_dict_pre_hook(self.unpack)

    @staticmethod
    def unpack(module, state_dict, prefix, *_):
        packed = state_dict.pop(f"{prefix}Wqk.weight", None)
        if packed is not None:
            state_dict[f"{prefix}query.weight"], state_dict[f"{prefix}key.weight"] = packed.chunk(2)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = Packed()
        self.scale = nn.Parameter(torch.ones(1))


def test_a_submodule_unpacks_weights_for_its_children():
    with torch.device("meta"):
        module = Model()
    packed = torch.arange(32.0).reshape(8, 4)
    used = load_module(module, {"layer.Wqk.weight": packed, "scale": torch.zeros(1), "other": torch.zeros(1)})
    assert used == {"layer.Wqk.weight", "scale"}
    assert torch.equal(module.layer.query.weight[:, :, 0, 0], packed[:4] * 0.5)
    assert torch.equal(module.layer.key.weight[:, :, 0, 0], packed[4:])


class WithBuffer(nn.Module):
    def __init__(self, device):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("frequencies", torch.arange(3.0, device=device), persistent=False)


def test_a_buffer_without_a_value_is_refused_by_name():
    weights = {"linear.weight": torch.zeros(2, 2), "linear.bias": torch.zeros(2)}
    with torch.device("meta"):
        empty, made = WithBuffer(None), WithBuffer("cpu")
    with pytest.raises(CheckpointError, match="the buffer frequencies of WithBuffer has no value"):
        load_module(empty, weights)
    assert load_module(made, weights) == weights.keys()
    assert made.frequencies.tolist() == [0, 1, 2]


def test_one_submodule_at_a_time_is_read():
    """The weights of a layer are let go before those of the next are read, but for what the module keeps."""
    layers, width = 8, 256

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(Projection(width, width, bias=False, scale=2.0) for _ in range(layers))

    alive = []

    class Weights(dict):
        def __getitem__(self, name):
            tensor = torch.ones(width, width)
            alive.append(torch.utils.weak.WeakTensorKeyDictionary({tensor: name}))
            peak.append(sum(len(entry) for entry in alive))
            return tensor

    peak = []
    with torch.device("meta"):
        module = Scaled()
    load_module(module, Weights({f"layers.{index}.weight": None for index in range(layers)}))
    assert len(peak) == layers
    assert max(peak) <= 2
