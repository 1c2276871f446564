"""Every encoder declares its layers, and what is found there is what transformers calls hidden states."""

import pytest
import torch
from tiny_models import ARCHITECTURES, TASKS, make_inputs, make_original, psnr
from torch import nn

from optimum_ane import convert_to_ane
from optimum_ane.errors import UnsupportedModelError
from optimum_ane.models.text import TextEncoder
from optimum_ane.nn import LayerStack, at_length, from_bc1s
from optimum_ane.targets.coreml.hidden_states import named_hidden_states

THRESHOLD = 100.0
pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")


def hidden_states(module, inputs):
    """(B, S, C) each, from the places that the module declares."""
    stack = module.layer_stack()
    states, handles = [], []
    for layer in stack.layers:
        handles.append(layer.register_forward_pre_hook(lambda _, arguments: states.append(arguments[0])))
    handles.append(stack.output.register_forward_hook(lambda _, arguments, result: states.append(result)))
    module(**inputs)
    for handle in handles:
        handle.remove()
    return [from_bc1s(state) for state in states]


def states_of_original(original, inputs):
    if type(original).__name__.endswith("ForMultipleChoice"):
        inputs = {name: value[:, None] for name, value in inputs.items()}
    return original(**inputs, output_hidden_states=True).hidden_states


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("task", TASKS)
def test_the_declared_hidden_states_are_those_of_the_original(name, task):
    original = make_original(name, task)
    inputs = make_inputs(original)
    theirs, ours = states_of_original(original, inputs), hidden_states(convert_to_ane(original), inputs)
    assert len(ours) == len(theirs) > 2
    tokens = inputs["attention_mask"].bool()
    for index, (expected, state) in enumerate(zip(theirs, ours, strict=True)):
        assert psnr(expected[tokens], state[tokens]) >= THRESHOLD, index
        if index:  # a state that is the one before it was not read where it changes
            assert psnr(theirs[index - 1][tokens], state[tokens]) < 40, index


@pytest.mark.parametrize("layers", [1, 5])
@pytest.mark.parametrize("name", ["albert", "bert", "deberta-v2:convolution", "distilbert", "modernbert", "mpnet"])
def test_one_layer_and_many(name, layers):
    settings = {"num_hidden_layers": layers} | ({"num_hidden_groups": 1} if name == "albert" else {})
    original = make_original(name, "feature-extraction", **settings)
    inputs = make_inputs(original)
    ours = hidden_states(convert_to_ane(original), inputs)
    assert len(ours) == (2 * layers if name == "albert" else layers) + 1
    tokens = inputs["attention_mask"].bool()
    for expected, state in zip(states_of_original(original, inputs), ours, strict=True):
        assert psnr(expected[tokens], state[tokens]) >= THRESHOLD


def trace(module, inputs):
    with torch.no_grad(), named_hidden_states(module):
        return torch.jit.trace(module, tuple(inputs.values()), check_trace=False)


@pytest.mark.parametrize(("name", "count"), [("albert", 7), ("bert", 3), ("distilbert", 3), ("modernbert", 3)])
def test_a_trace_names_them_in_order(name, count):
    original = make_original(name, "text-classification")
    traced = trace(at_length(convert_to_ane(original), 8), make_inputs(original, rows=1, length=8))
    names = [value.debugName() for node in traced.inlined_graph.nodes() for value in node.outputs()]
    assert [name for name in names if name.startswith("hidden_state_")] == [f"hidden_state_{i}" for i in range(count)]


def test_the_hooks_are_gone_after_a_trace():
    original = make_original("bert", "text-classification")
    module = convert_to_ane(original)
    trace(module, make_inputs(original, rows=1, length=8))
    assert not any(child._forward_pre_hooks or child._forward_hooks for child in module.modules())


def test_a_module_that_declares_no_layers_is_refused():
    with pytest.raises(UnsupportedModelError, match=r"^Linear declares no layers: it needs a layer_stack\(\)"):
        trace(nn.Linear(2, 2), {"x": torch.ones(1, 2)})


def test_an_encoder_has_to_declare_its_own():
    with pytest.raises(NotImplementedError), named_hidden_states(TextEncoder()):
        pass


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no layers", "declares 0 layers and the trace passed through 0 of them, and 1 times through their output"),
        ("a layer too many", "declares 3 layers and the trace passed through 2 of them, and 1 times"),
        ("an output that is not called", "declares 2 layers and the trace passed through 2 of them, and 0 times"),
    ],
)
def test_a_declaration_that_is_not_what_the_module_does_is_refused(fault, message, monkeypatch):
    original = make_original("bert", "feature-extraction")
    module = convert_to_ane(original)
    layers, output = tuple(module.encoder.layer), module.encoder
    stacks = {
        "no layers": LayerStack((), output),
        "a layer too many": LayerStack((*layers, nn.Identity()), output),
        "an output that is not called": LayerStack(layers, nn.Identity()),
    }
    monkeypatch.setattr(type(module), "layer_stack", lambda self: stacks[fault])
    with pytest.raises(UnsupportedModelError, match=message):
        trace(module, make_inputs(original, rows=1, length=8))
