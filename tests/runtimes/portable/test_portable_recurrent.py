"""Recurrent cells against torch's, and against the formulas of MIL's documentation for what torch has not."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder
from portable_attacks import edit, find, refused
from portable_programs import close, save_module, save_program

from optimum_ane.errors import ExecutionError, PackageError
from optimum_ane.runtimes.portable import PortableSession, limits
from optimum_ane.runtimes.portable.registry import OPERATIONS

INPUTS, UNITS = 4, 3
TORCH = {"rnn": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}
# Where MIL's gates stand among torch's: torch has i, f, z, o and r, z, o.
ORDER = {"rnn": [0], "gru": [0, 2, 1], "lstm": [0, 1, 3, 2]}


def _t(array):
    return torch.from_numpy(np.asarray(array))


def _sorted_gates(op, tensor):
    parts = tensor.detach().chunk(len(ORDER[op]))
    return torch.cat([parts[i] for i in ORDER[op]]).numpy()


def _states(op, rng, batch, directions=1):
    names = ["initial_h", "initial_c"] if op == "lstm" else ["initial_h"]
    return {name: rng.standard_normal((batch, directions * UNITS)).astype(np.float32) for name in names}


def _run(run, op, x, states, *, target=ct.target.iOS17, precision="program", **options):
    """Runs a cell on a sequence and initial states."""

    def build(*values):
        return getattr(Builder, op)(x=values[0], **dict(zip(states, values[1:], strict=True)), **options)

    names = ", ".join(f"in{i}" for i in range(1 + len(states)))
    scope = {"build": build}
    exec(f"def program({names}): return build({names})", scope)
    return run(scope["program"], x, *states.values(), target=target, precision=precision)


@pytest.mark.parametrize("op", TORCH)
@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(("steps", "batch", "bias"), [(5, 2, True), (1, 1, True), (6, 3, False)])
def test_one_direction_is_torchs(run, rng, op, direction, keep, steps, batch, bias):
    torch.manual_seed(steps)
    module = TORCH[op](INPUTS, UNITS, bias=bias)
    x, states = rng.standard_normal((steps, batch, INPUTS)).astype(np.float32), _states(op, rng, batch)
    options = {"direction": direction, "output_sequence": keep}
    weights = {f"weight_{kind}": _sorted_gates(op, getattr(module, f"weight_{kind}_l0")) for kind in ("ih", "hh")}
    if bias:
        first, second = (_sorted_gates(op, getattr(module, f"bias_{kind}_l0")) for kind in ("ih", "hh"))
        if op == "gru":
            weights |= {"input_bias": first, "bias": second}
        else:
            weights["bias"] = first + second
    if op == "gru":
        weights["reset_after"] = True  # torch has only this one
    target = ct.target.iOS18 if op == "gru" else ct.target.iOS15
    results = _run(run, op, x, states, target=target, **weights, **options)

    given = _t(x).flip(0) if direction == "reverse" else _t(x)
    starts = tuple(_t(state)[None] for state in states.values())
    with torch.no_grad():
        sequence, ends = module(given, starts if op == "lstm" else starts[0])
    # In reverse the steps come in the order in which they were taken, as in coremltools' tests.
    expected = [sequence if keep else sequence[-1:], *(end[0] for end in (ends if op == "lstm" else (ends,)))]
    for result, value in zip(results, expected, strict=True):
        close(result, value.numpy(), 1e-5)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("steps", [1, 6])
def test_both_directions_are_torchs(run, rng, keep, bias, steps):
    torch.manual_seed(1)
    module = torch.nn.LSTM(INPUTS, UNITS, bias=bias, bidirectional=True)
    x, states = rng.standard_normal((steps, 2, INPUTS)).astype(np.float32), _states("lstm", rng, 2, 2)
    weights = {}
    for ours, theirs in (("", ""), ("_back", "_reverse")):
        for kind in ("ih", "hh"):
            weights[f"weight_{kind}{ours}"] = _sorted_gates("lstm", getattr(module, f"weight_{kind}_l0{theirs}"))
        if bias:
            both = [_sorted_gates("lstm", getattr(module, f"bias_{kind}_l0{theirs}")) for kind in ("ih", "hh")]
            weights[f"bias{ours}"] = both[0] + both[1]
    results = _run(run, "lstm", x, states, direction="bidirectional", output_sequence=keep, **weights)
    starts = tuple(_t(state).reshape(2, 2, UNITS).transpose(0, 1).contiguous() for state in states.values())
    with torch.no_grad():
        sequence, ends = module(_t(x), starts)
    ends = [end.transpose(0, 1).reshape(2, 2 * UNITS) for end in ends]
    for result, value in zip(results, [sequence if keep else ends[0][None], *ends], strict=True):
        close(result, value.numpy(), 1e-5)


ACTIVATIONS = {
    "hard_sigmoid": lambda x: np.minimum(np.maximum(0.2 * x + 0.5, 0), 1),
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "scaled_tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "sigmoid_hard": lambda x: np.minimum(np.maximum(0.2 * x + 0.5, 0), 1),
    "tanh": np.tanh,
}
LSTM_ACTIVATIONS = sorted(ACTIVATIONS.keys() - {"sigmoid_hard"})


def _weights(rng, gates, *names, back=False):
    shapes = {"weight_ih": (gates * UNITS, INPUTS), "weight_hh": (gates * UNITS, UNITS), "peephole": (3 * UNITS,)}
    made = {name: rng.standard_normal(shapes.get(name, (gates * UNITS,))).astype(np.float32) for name in names}
    if back:
        made |= {f"{name}_back": rng.standard_normal(value.shape).astype(np.float32) for name, value in made.items()}
    return made


def _gates(vector, count):
    return np.split(np.asarray(vector, np.float64), count)


def rnn_formula(x, h, weights, activation):
    bias = weights.get("bias", np.zeros(UNITS))
    steps = []
    for step in x.astype(np.float64):
        h = ACTIVATIONS[activation](step @ weights["weight_ih"].T.astype(float) + h @ weights["weight_hh"].T + bias)
        steps.append(h)
    return np.stack(steps), h


def gru_formula(x, h, weights, inner, outer, reset_after):
    zeros = np.zeros(3 * UNITS)
    w_r, w_o, w_z = _gates(weights["weight_ih"], 3)
    v_r, v_o, v_z = _gates(weights["weight_hh"], 3)
    b_r, b_o, b_z = _gates(weights.get("bias", zeros), 3)
    a_r, a_o, a_z = _gates(weights.get("input_bias", zeros), 3)
    steps = []
    for step in x.astype(np.float64):
        r = ACTIVATIONS[inner](step @ w_r.T + a_r + h @ v_r.T + b_r)
        z = ACTIVATIONS[inner](step @ w_z.T + a_z + h @ v_z.T + b_z)
        from_state = r * (h @ v_o.T + b_o) if reset_after else (r * h) @ v_o.T + b_o
        o = ACTIVATIONS[outer](step @ w_o.T + a_o + from_state)
        h = (1 - z) * o + z * h
        steps.append(h)
    return np.stack(steps), h


def lstm_formula(x, h, c, weights, gate, cell, outer, clip, suffix=""):
    w_i, w_f, w_o, w_z = _gates(weights["weight_ih" + suffix], 4)
    v_i, v_f, v_o, v_z = _gates(weights["weight_hh" + suffix], 4)
    b_i, b_f, b_o, b_z = _gates(weights.get("bias" + suffix, np.zeros(4 * UNITS)), 4)
    p_i, p_f, p_o = _gates(weights.get("peephole" + suffix, np.zeros(3 * UNITS)), 3)
    steps = []
    for step in x.astype(np.float64):
        i = ACTIVATIONS[gate](step @ w_i.T + h @ v_i.T + b_i + c * p_i)
        f = ACTIVATIONS[gate](step @ w_f.T + h @ v_f.T + b_f + c * p_f)
        z = ACTIVATIONS[cell](step @ w_z.T + h @ v_z.T + b_z)
        c = np.clip(f * c + i * z, -clip, clip)
        o = ACTIVATIONS[gate](step @ w_o.T + h @ v_o.T + b_o + c * p_o)
        h = o * ACTIVATIONS[outer](c)
        steps.append(h)
    return np.stack(steps), h, c


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "sigmoid_hard", "scaled_tanh", "linear"])
@pytest.mark.parametrize("bias", [True, False])
def test_rnn_activations(run, rng, activation, bias):
    x, states = rng.standard_normal((3, 2, INPUTS)).astype(np.float32), _states("rnn", rng, 2)
    weights = _weights(rng, 1, "weight_ih", "weight_hh", *(["bias"] if bias else []))
    results = _run(run, "rnn", x, states, activation=activation, output_sequence=True, **weights)
    for result, value in zip(results, rnn_formula(x, states["initial_h"], weights, activation), strict=True):
        close(result, value, 1e-5)


@pytest.mark.parametrize("reset_after", [None, False, True])
@pytest.mark.parametrize(("inner", "outer"), [("sigmoid", "tanh"), ("tanh", "sigmoid"), ("hard_sigmoid", "relu")])
@pytest.mark.parametrize("biases", [[], ["bias"], ["input_bias"], ["bias", "input_bias"]])
def test_gru_gates(run, rng, reset_after, inner, outer, biases):
    x, states = rng.standard_normal((3, 2, INPUTS)).astype(np.float32), _states("gru", rng, 2)
    weights = _weights(rng, 3, "weight_ih", "weight_hh", *biases)
    options = {"recurrent_activation": inner, "activation": outer, "output_sequence": True}
    if reset_after is not None:
        options["reset_after"] = reset_after
    results = _run(run, "gru", x, states, target=ct.target.iOS18, **options, **weights)
    expected = gru_formula(x, states["initial_h"], weights, inner, outer, bool(reset_after))
    for result, value in zip(results, expected, strict=True):
        close(result, value, 1e-5)


@pytest.mark.parametrize("target", [ct.target.iOS15, ct.target.iOS17])
def test_gru_of_earlier_operation_sets_resets_before(run, rng, target):
    x, states = rng.standard_normal((3, 2, INPUTS)).astype(np.float32), _states("gru", rng, 2)
    weights = _weights(rng, 3, "weight_ih", "weight_hh", "bias")
    results = _run(run, "gru", x, states, target=target, **weights)
    expected = gru_formula(x, states["initial_h"], weights, "sigmoid", "tanh", False)
    close(results[0], expected[0][-1:], 1e-5)
    close(results[1], expected[1], 1e-5)


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("activation", LSTM_ACTIVATIONS)
def test_lstm_activations(run, rng, position, activation):
    names = ["sigmoid", "tanh", "tanh"]
    names[position] = activation
    x, states = rng.standard_normal((3, 2, INPUTS)).astype(np.float32), _states("lstm", rng, 2)
    weights = _weights(rng, 4, "weight_ih", "weight_hh", "bias")
    options = dict(zip(("recurrent_activation", "cell_activation", "activation"), names, strict=True))
    results = _run(run, "lstm", x, states, output_sequence=True, **options, **weights)
    for result, value in zip(results, lstm_formula(x, *states.values(), weights, *names, np.inf), strict=True):
        close(result, value, 1e-4)


@pytest.mark.parametrize("clip", [None, 50.0, 0.2])
@pytest.mark.parametrize("peephole", [True, False])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("target", [ct.target.iOS15, ct.target.iOS17])
def test_lstm_clip_and_peephole(run, rng, clip, peephole, direction, target):
    both = direction == "bidirectional"
    names = ["weight_ih", "weight_hh", "bias", *(["peephole"] if peephole else [])]
    x, states = rng.standard_normal((5, 2, INPUTS)).astype(np.float32), _states("lstm", rng, 2, 1 + both)
    weights = _weights(rng, 4, *names, back=both)
    options = {} if clip is None else {"clip": np.float32(clip)}
    results = _run(
        run, "lstm", x, states, target=target, direction=direction, output_sequence=True, **options, **weights
    )
    functions = ("sigmoid", "tanh", "tanh")
    bound = np.inf if clip is None else clip
    first = [state[:, :UNITS] for state in states.values()]
    expected = lstm_formula(x, *first, weights, *functions, bound)
    if both:
        second = [state[:, UNITS:] for state in states.values()]
        back = lstm_formula(x[::-1], *second, weights, *functions, bound, suffix="_back")
        back = (back[0][::-1], *back[1:])
        expected = [np.concatenate(pair, -1) for pair in zip(expected, back, strict=True)]
    for result, value in zip(results, expected, strict=True):
        close(result, value, 1e-5)


@pytest.mark.parametrize("op", TORCH)
def test_half_precision_is_rounded_once(run, rng, op):
    """Inside of the cell nothing is rounded: the result is that of float64, rounded to fp16, but for a last bit."""
    x, states = rng.standard_normal((40, 2, INPUTS)).astype(np.float16), _states(op, rng, 2)
    states = {name: state.astype(np.float16) for name, state in states.items()}
    gates = len(ORDER[op])
    weights = {k: v.astype(np.float16) for k, v in _weights(rng, gates, "weight_ih", "weight_hh", "bias").items()}
    results = _run(run, op, x, states, output_sequence=True, **weights)
    assert all(result.dtype == np.float16 for result in results)
    start = [state.astype(np.float64) for state in states.values()]
    expected = {
        "rnn": lambda: rnn_formula(x, *start, weights, "tanh"),
        "gru": lambda: gru_formula(x, *start, weights, "sigmoid", "tanh", False),
        "lstm": lambda: lstm_formula(x, *start, weights, "sigmoid", "tanh", "tanh", np.inf),
    }[op]()
    for result, value in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, value, rtol=2**-11 * 1.05, atol=3e-7)


@pytest.mark.parametrize(
    ("op", "bidirectional"),
    [("rnn", False), ("gru", False), ("gru", True), ("lstm", False), ("lstm", True)],  # it refuses the sixth
)
@pytest.mark.filterwarnings("ignore")
def test_what_coremltools_converts_of_torch(tmp_path, op, bidirectional):
    """Two layers, batch first, as torch has them."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(2)
            self.cells = TORCH[op](INPUTS, UNITS, num_layers=2, batch_first=True, bidirectional=bidirectional)

        def forward(self, x):
            return self.cells(x)[0]

    module, x = Model().eval(), torch.randn(2, 6, INPUTS)
    options = {"compute_precision": ct.precision.FLOAT32, "outputs": [ct.TensorType("y")]}
    path = save_module(tmp_path / "m.mlpackage", module, {"x": x}, **options)
    with torch.no_grad():
        expected = module(x)
    close(PortableSession(path).predict({"x": x})["y"], expected.numpy(), 1e-5)


def test_an_initial_state_of_more_rows_is_cut(run, rng):
    """As coremltools' converter of packed sequences makes it; MIL's type inference does not compare them."""
    x, states = rng.standard_normal((3, 2, INPUTS)).astype(np.float32), _states("rnn", rng, 5)
    weights = _weights(rng, 1, "weight_ih", "weight_hh")
    results = _run(run, "rnn", x, states, **weights)
    close(results[1], rnn_formula(x, states["initial_h"][:2], weights, "tanh")[1], 1e-5)


def _saved(path, op, rng, **options):
    x, states = np.zeros((3, 2, INPUTS), np.float32), {k: v * 0 for k, v in _states(op, rng, 2).items()}
    gates = len(ORDER[op])
    weights = _weights(rng, gates, "weight_ih", "weight_hh", "bias")

    def build(x):
        return getattr(Builder, op)(x=x, **states, **weights, **options)

    return save_program(path, build, {"x": x})


BROKEN = {
    "weight_ih": [4 * UNITS, INPUTS + 1],
    "weight_hh": [4 * UNITS, 1],
    "bias": [1],
    "initial_h": [1, UNITS],
    "initial_c": [2, 1],
}


@pytest.mark.parametrize("parameter", BROKEN)
def test_shapes_that_do_not_fit_are_refused(tmp_path, rng, parameter):
    """torch would broadcast some of them."""
    path = _saved(tmp_path / "m.mlpackage", "lstm", rng)

    def change(spec, block):
        argument = find(block, "lstm").inputs[parameter].arguments[0]
        argument.ClearField("name")
        tensor = argument.value.type.tensorType
        tensor.dataType, tensor.rank = 11, len(BROKEN[parameter])
        for extent in BROKEN[parameter]:
            tensor.dimensions.add().constant.size = extent
        argument.value.immediateValue.tensor.floats.values[:] = [0.5] * int(np.prod(BROKEN[parameter]))

    edit(path, change)
    refused(path, "lstm at .*shape", (PackageError, ExecutionError), (3, 2, INPUTS))


@pytest.mark.parametrize("op", TORCH)
@pytest.mark.parametrize("parameter", ["direction", "activation"])
def test_names_that_are_unknown_are_refused(tmp_path, rng, op, parameter):
    path = _saved(tmp_path / "m.mlpackage", op, rng, **{parameter: "reverse" if parameter == "direction" else "relu"})

    def change(spec, block):
        name = find(block, op).inputs[parameter].arguments[0].name
        const = next(o for o in block.operations if o.type == "const" and o.outputs[0].name == name)
        const.attributes["val"].immediateValue.tensor.strings.values[0] = "sideways"

    edit(path, change)
    refused(path, f"{op} at .*unknown {parameter} 'sideways'", ExecutionError, (3, 2, INPUTS))


@pytest.mark.parametrize("op", TORCH)
def test_a_sequence_of_too_many_steps_is_refused_before_it_begins(tmp_path, rng, monkeypatch, op):
    path = _saved(tmp_path / "m.mlpackage", op, rng)
    PortableSession(path).predict({"x": np.zeros((3, 2, INPUTS), np.float32)})
    monkeypatch.setattr(limits, "MAX_TURNS", 2)
    refused(
        path, f"{op} at .*a sequence of 3 steps; at most 2 are taken", (PackageError, ExecutionError), (3, 2, INPUTS)
    )


@pytest.mark.parametrize("op", TORCH)
def test_the_work_of_a_sequence_is_counted(tmp_path, rng, monkeypatch, op):
    monkeypatch.setattr(limits, "MAX_WORK", 2**22)  # two steps of three
    path = _saved(tmp_path / "m.mlpackage", op, rng)
    refused(path, f"{op} at .*more than 4194304 elementary steps", ExecutionError, (3, 2, INPUTS))


@pytest.mark.usefixtures("capped")
@pytest.mark.parametrize(("steps", "batch"), [(2**19, 2**20), (1, 2**30)])
def test_gates_that_do_not_fit_in_memory_are_refused(tmp_path, rng, steps, batch):
    shape = (steps, batch, 1)
    weights = {"weight_ih": np.ones((UNITS, 1), np.float32), "weight_hh": np.ones((UNITS, UNITS), np.float32)}

    def build(x):
        large = Builder.fill(shape=[1, 1, 1], value=0.5)
        start = Builder.fill(shape=[1, UNITS], value=0.5)
        return Builder.add(x=Builder.rnn(x=large, initial_h=start, **weights)[1], y=x)

    path = save_program(tmp_path / "m.mlpackage", build, {"x": np.zeros((1, UNITS), np.float32)})

    def change(spec, block):
        rnn = find(block, "rnn")
        fill = next(
            o for o in block.operations if o.outputs and o.outputs[0].name == rnn.inputs["x"].arguments[0].name
        )
        for dimension, extent in zip(fill.outputs[0].type.tensorType.dimensions, shape, strict=True):
            dimension.constant.size = extent

    edit(path, change)
    says = "rnn at .*(at most 2147483648 elements|does not fit in memory)"
    refused(path, says, PackageError, (1, UNITS))


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("op", TORCH)
def test_a_sequence_without_steps_leaves_the_states_as_they_are(rng, op, keep):
    states = [_t(state) for state in _states(op, rng, 2).values()]
    weights = [_t(value) for value in _weights(rng, len(ORDER[op]), "weight_ih", "weight_hh").values()]
    sequence, *after = OPERATIONS[op].function(torch.zeros(0, 2, INPUTS), *states, *weights, output_sequence=keep)
    assert sequence.shape == (0 if keep else 1, 2, UNITS)
    for state, end in zip(states, after, strict=True):
        assert torch.equal(state, end)
