"""Recurrent cells over a sequence. Everything inside runs in float32; an fp16 result is rounded once, at the end.

The documentation of MIL leaves some things open. They are as in the references of coremltools' own tests
(`iOS14/test_recurrent.py`, `iOS18/test_recurrent.py`), which Core ML passes:

    direction="reverse"  takes the last step of the sequence first, and returns the steps in the order in which they
                         were taken; only "bidirectional" returns both halves in the order of the input
    clip                 bounds the memory, before the output gate sees it and before the next step
    peephole             the input and the forget gate see the memory before the step, the output gate after it
    reset_after          without it the reset gate scales the state before its product with the weight
    activations          have their default parameters: `scaled_tanh` is tanh, `hard_sigmoid` is 0.2 · x + 0.5 in
                         [0, 1], `linear` gives its argument

An initial state of more rows than the batch, as coremltools' converter of packed sequences makes it, is cut to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from optimum_ane.runtimes.portable.registry import op

_Activation = Callable[[Tensor], Tensor]
_Cell = Callable[..., tuple[Tensor, ...]]


def _hard_sigmoid(x: Tensor) -> Tensor:
    return torch.clamp(0.2 * x + 0.5, 0, 1)


_ACTIVATIONS: dict[str, _Activation] = {
    "hard_sigmoid": _hard_sigmoid,
    "linear": lambda x: x,
    "relu": torch.relu,
    "scaled_tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "sigmoid_hard": _hard_sigmoid,
    "tanh": torch.tanh,
}


def _activation(name: str) -> _Activation:
    """Returns an activation; coremltools compares the names without case."""
    if name.lower() not in _ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}")
    return _ACTIVATIONS[name.lower()]


@op("rnn")
def rnn(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    activation: str = "tanh",
) -> tuple[Tensor, ...]:
    """Returns h = activation(weight_ih · x + weight_hh · h + bias) of every step, and of the last.

    Args:
        x: (steps, batch, inputs).
        initial_h: (batch, units).
        weight_ih: (units, inputs).
        weight_hh: (units, units).
        bias: (units,).
        direction: `forward` or `reverse`; see the module.
        output_sequence: Whether the first result holds every step, or the last alone.
        activation: Its name.

    Returns:
        (steps or 1, batch, units) and (batch, units).
    """
    act = _activation(activation)
    _check_weights(x, weight_ih, weight_hh, 1, bias)

    def cell(given: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        return (act(given + F.linear(h, weight_hh)),)

    states = [_initial(initial_h, x, weight_hh)]
    return _taken(F.linear(x, weight_ih, bias), states, cell, _is_reverse(direction), output_sequence)


@op("gru")
def gru(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
    reset_after: bool = False,
    input_bias: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Runs a gated recurrent unit: h = (1 − z) · o + z · h, with the gates r, o and z in this order in the weights.

    Args:
        x: (steps, batch, inputs).
        initial_h: (batch, units).
        weight_ih: (3 · units, inputs).
        weight_hh: (3 · units, units).
        bias: (3 · units,), added to the products with the state.
        direction: `forward` or `reverse`; see the module.
        output_sequence: As in `rnn`.
        recurrent_activation: That of the gates r and z.
        activation: That of o.
        reset_after: Whether r scales the product of the state with its weight, bias included, or the state.
        input_bias: (3 · units,), added to the products with x.

    Returns:
        As `rnn`.
    """
    gate, act = _activation(recurrent_activation), _activation(activation)
    _check_weights(x, weight_ih, weight_hh, 3, bias, input_bias)
    units = weight_hh.shape[1]
    weight_r, weight_o, weight_z = weight_hh.split(units)
    bias_r, bias_o, bias_z = (None, None, None) if bias is None else bias.split(units)

    def cell(given: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        x_r, x_o, x_z = given.split(units, -1)
        r = gate(x_r + F.linear(h, weight_r, bias_r))
        z = gate(x_z + F.linear(h, weight_z, bias_z))
        from_state = r * F.linear(h, weight_o, bias_o) if reset_after else F.linear(r * h, weight_o, bias_o)
        o = act(x_o + from_state)
        return ((1 - z) * o + z * h,)

    states = [_initial(initial_h, x, weight_hh)]
    return _taken(F.linear(x, weight_ih, input_bias), states, cell, _is_reverse(direction), output_sequence)


@op("lstm")
def lstm(
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    peephole_back: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: float | None = None,
) -> tuple[Tensor, ...]:
    """Runs a long short-term memory: c = f · c + i · z, h = o · activation(c), the weights in the order i, f, o, z.

    Args:
        x: (steps, batch, inputs).
        initial_h: (batch, directions · units); with two directions the forward one's comes first.
        initial_c: As `initial_h`.
        weight_ih: (4 · units, inputs).
        weight_hh: (4 · units, units).
        bias: (4 · units,).
        peephole: (3 · units,), what i, f and o see of the memory.
        weight_ih_back: That of the backward direction; like the next three, for `bidirectional` only.
        weight_hh_back: Likewise.
        bias_back: Likewise.
        peephole_back: Likewise.
        direction: `forward`, `reverse` or `bidirectional`; see the module.
        output_sequence: As in `rnn`.
        recurrent_activation: That of i, f and o.
        cell_activation: That of z.
        activation: That of the memory on its way out.
        clip: What the memory is bounded to, on both sides of 0.

    Returns:
        (steps or 1, batch, directions · units), and (batch, directions · units) of h and of c.
    """
    names = (recurrent_activation, cell_activation, activation)
    acts = tuple(_activation(name) for name in names)
    forth = (weight_ih, weight_hh, bias, peephole)
    if direction != "bidirectional":
        start = (initial_h, initial_c)
        return _lstm(x, start, forth, acts, clip, _is_reverse(direction), output_sequence)
    if weight_ih_back is None or weight_hh_back is None:
        raise ValueError("a bidirectional lstm without weights of the backward direction")
    back = (weight_ih_back, weight_hh_back, bias_back, peephole_back)
    units = weight_hh.shape[1]
    ends = [(state[:, :units], state[:, units:]) for state in (initial_h, initial_c)]
    first = _lstm(x, [end[0] for end in ends], forth, acts, clip, False, output_sequence)
    second = _lstm(x, [end[1] for end in ends], back, acts, clip, True, output_sequence)
    second = (second[0].flip(0), *second[1:])
    return tuple(torch.cat(pair, -1) for pair in zip(first, second, strict=True))


def _lstm(
    x: Tensor,
    start: Sequence[Tensor],
    weights: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    activations: tuple[_Activation, ...],
    clip: float | None,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, ...]:
    """Runs one direction; see `lstm`."""
    weight_ih, weight_hh, bias, peephole = weights
    gate, inner, outer = activations
    _check_weights(x, weight_ih, weight_hh, 4, bias)
    units = weight_hh.shape[1]
    if peephole is not None and peephole.shape != (3 * units,):
        raise ValueError(f"a peephole of shape {tuple(peephole.shape)} for {units} units")
    see_i, see_f, see_o = (0.0, 0.0, 0.0) if peephole is None else peephole.split(units)

    def cell(given: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        i, f, o, z = (given + F.linear(h, weight_hh)).split(units, -1)
        if peephole is not None:
            i, f = i + c * see_i, f + c * see_f
        c = gate(f) * c + gate(i) * inner(z)
        if clip is not None:
            c = c.clamp(-clip, clip)
        if peephole is not None:
            o = o + c * see_o
        return gate(o) * outer(c), c

    states = [_initial(state, x, weight_hh) for state in start]
    return _taken(F.linear(x, weight_ih, bias), states, cell, reverse, keep)


def _taken(given: Tensor, states: list[Tensor], cell: _Cell, reverse: bool, keep: bool) -> tuple[Tensor, ...]:
    """Takes all steps.

    Args:
        given: What each step is given, (steps, …).
        states: The states before the first step; the first of them is the output.
        cell: Takes what a step is given and the states, and returns the states after it.
        reverse: Whether the last step is taken first.
        keep: Whether the output of every step is returned, or that of the last alone.

    Returns:
        The outputs in the order in which they were computed, and the states after the last step.
    """
    outputs = []
    after = tuple(states)
    for step in (given.flip(0) if reverse else given).unbind():
        after = cell(step, *after)
        if keep:
            outputs.append(after[0])
    last = after[0][None]
    sequence = torch.stack(outputs) if outputs else last[:0] if keep else last
    return sequence, *after


def _is_reverse(direction: str) -> bool:
    if direction not in ("forward", "reverse"):
        raise ValueError(f"unknown direction {direction!r}")
    return direction == "reverse"


def _initial(state: Tensor, x: Tensor, weight_hh: Tensor) -> Tensor:
    """Returns an initial state of the batch's rows."""
    batch, units = x.shape[1], weight_hh.shape[1]
    if state.ndim != 2 or state.shape[0] < batch or state.shape[1] != units:
        raise ValueError(f"an initial state of shape {tuple(state.shape)} for a batch of {batch} and {units} units")
    return state[:batch]


def _check_weights(x: Tensor, weight_ih: Tensor, weight_hh: Tensor, gates: int, *biases: Tensor | None) -> None:
    """Refuses weights that do not fit together, before torch broadcasts them to something else."""
    if x.ndim != 3 or weight_ih.ndim != 2 or weight_hh.ndim != 2:
        raise ValueError(f"x of rank {x.ndim}, weights of ranks {weight_ih.ndim} and {weight_hh.ndim}")
    units = weight_hh.shape[1]
    rows = gates * units
    if weight_hh.shape[0] != rows or weight_ih.shape != (rows, x.shape[2]):
        raise ValueError(
            f"weights of shapes {tuple(weight_ih.shape)} and {tuple(weight_hh.shape)} for {x.shape[2]} inputs and "
            f"{gates} gates"
        )
    for bias in biases:
        if bias is not None and bias.shape != (rows,):
            raise ValueError(f"a bias of shape {tuple(bias.shape)} for {rows} rows")
