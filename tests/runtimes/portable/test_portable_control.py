"""Control flow: loops and branches, nested, with values of their surroundings, with states and weights inside."""

from __future__ import annotations

import weakref

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder
from coremltools.proto import Model_pb2
from portable_programs import save_module, save_program

from optimum_ane.errors import ExecutionError, PackageError, UnsupportedOperationError
from optimum_ane.runtimes.portable import PortableSession

MODEL = "Data/com.apple.CoreML/model.mlmodel"
INT = np.int32


def counted(turns, body, *carried):
    """Builds a loop of so many turns; `body` takes the turn's number and the values carried."""
    return Builder.while_loop(
        _cond=lambda i, *values: Builder.less(x=i, y=turns),
        _body=lambda i, *values: (Builder.add(x=i, y=INT(1)), *body(i, *values)),
        loop_vars=(INT(0), *carried),
    )


@pytest.mark.parametrize("turns", [0, 1, 7])
def test_loop_hands_values_on(run, rng, turns):
    x = rng.standard_normal((2, 3)).astype(np.float32)
    count, total, product = run(
        lambda a, n: counted(
            Builder.squeeze(x=n),
            lambda i, s, p: (Builder.add(x=s, y=a), Builder.mul(x=p, y=s)),
            a,
            Builder.square(x=a),
        ),
        x,
        np.array([turns], INT),
    )
    s, p = x, x * x
    for _ in range(turns):
        s, p = s + x, p * s
    assert count == turns
    np.testing.assert_allclose(total, s, rtol=1e-6)
    np.testing.assert_allclose(product, p, rtol=1e-5)


def test_values_carried_may_change_places(run):
    """Fibonacci: each value becomes the other, so that a value replaced too early shows."""
    first, second = run(
        lambda a, b: counted(INT(10), lambda i, x, y: (y, Builder.add(x=x, y=y)), a, b)[1:],
        np.array([0], INT),
        np.array([1], INT),
    )
    assert (first, second) == (55, 89)


@pytest.mark.parametrize("value", [-2.0, 3.0])
def test_branch_takes_one_way(run, rng, value):
    x = rng.standard_normal((4,)).astype(np.float32)
    sign = np.array([value], np.float32)

    def build(a, b):
        shared = Builder.exp(x=a)
        return Builder.cond(
            pred=Builder.squeeze(x=Builder.greater(x=b, y=np.float32(0))),
            _true_fn=lambda: (Builder.add(x=shared, y=a), a),
            _false_fn=lambda: (Builder.mul(x=shared, y=b), shared),
        )

    one, two = run(build, x, sign)
    shared = np.exp(x)
    np.testing.assert_allclose(one, shared + x if value > 0 else shared * value, rtol=1e-6)
    np.testing.assert_allclose(two, x if value > 0 else shared, rtol=1e-6)


def test_blocks_in_blocks(run, rng):
    """Collatz steps: a branch in a loop in a loop, using values of all levels."""
    starts = np.array([7, 1, 12], INT)

    def step(n):
        even = Builder.equal(x=Builder.mod(x=n, y=INT(2)), y=INT(0))
        return Builder.cond(
            pred=even,
            _true_fn=lambda: Builder.floor_div(x=n, y=INT(2)),
            _false_fn=lambda: Builder.add(x=Builder.mul(x=n, y=INT(3)), y=INT(1)),
        )

    def build(a):
        def length(i, counts):
            start = Builder.gather(x=a, indices=i, axis=0)
            _, turns = Builder.while_loop(
                _cond=lambda n, c: Builder.not_equal(x=n, y=INT(1)),
                _body=lambda n, c: (step(n), Builder.add(x=c, y=INT(1))),
                loop_vars=(start, INT(0)),
            )
            one = Builder.expand_dims(
                x=Builder.equal(x=Builder.range_1d(start=INT(0), end=INT(3), step=INT(1)), y=i), axes=[0]
            )
            hit = Builder.cast(x=Builder.squeeze(x=one, axes=[0]), dtype="int32")
            return (Builder.add(x=counts, y=Builder.mul(x=hit, y=turns)),)

        return counted(INT(3), length, np.zeros(3, INT))[1]

    assert run(build, starts)[0].tolist() == [16, 0, 9]


def test_halves_round_inside_blocks(run):
    """Adding 0.5 to 2048 in fp16 gives 2048 each time; unrounded, it moves on."""
    x = np.array([2048], np.float16)

    def build(a):
        return counted(INT(8), lambda i, s: (Builder.add(x=s, y=np.float16(0.5)),), a)[1]

    assert run(build, x)[0] == 2048
    assert run(build, x, precision="float32")[0] == 2052


def test_weights_inside_blocks(run, rng):
    weight, x = rng.standard_normal((3, 3)).astype(np.float32), rng.standard_normal((2, 3)).astype(np.float32)
    quantized = rng.integers(-5, 5, (3, 3)).astype(np.int8)

    def build(a):
        outer = Builder.constexpr_blockwise_shift_scale(data=quantized, scale=np.full((1, 1), 0.5, np.float32))

        def body(i, s):
            inner = Builder.constexpr_blockwise_shift_scale(data=quantized, scale=np.full((1, 1), 0.25, np.float32))
            s = Builder.linear(x=s, weight=weight)
            return (Builder.add(x=Builder.matmul(x=s, y=outer), y=Builder.matmul(x=a, y=inner)),)

        return counted(INT(3), body, a)[1]

    expected = x
    for _ in range(3):
        expected = expected @ weight.T @ (quantized * 0.5) + x @ (quantized * 0.25)
    np.testing.assert_allclose(run(build, x, target=ct.target.iOS18)[0], expected, rtol=1e-4, atol=1e-4)


def test_a_traced_module(tmp_path):
    class Newton(torch.nn.Module):
        def forward(self, x):
            return iterate(x)

    @torch.jit.script
    def iterate(x):
        guess = torch.ones_like(x)
        turns = 0
        while bool((guess * guess - x).abs().max() > 1e-4) and turns < 50:
            guess = (guess + x / guess) / 2
            turns += 1
        if bool(x.sum() > 10):
            guess = guess * 2
        else:
            guess = -guess
        return guess

    for number, x in enumerate((torch.tensor([2.0, 9.0, 30.0]), torch.tensor([0.5, 1.0, 2.0]))):
        path = save_module(
            tmp_path / f"{number}.mlpackage", Newton(), {"x": x}, compute_precision=ct.precision.FLOAT32
        )
        (result,) = PortableSession(path).predict({"x": x}).values()
        np.testing.assert_allclose(result, Newton()(x), rtol=1e-5)


@pytest.fixture
def looped(tmp_path):
    return save_program(
        tmp_path / "loop.mlpackage",
        lambda x: counted(INT(3), lambda i, s: (Builder.mul(x=Builder.exp(x=s), y=x),), x)[1],
        {"x": np.zeros(2, np.float32)},
    )


def test_observer_sees_what_runs_inside(looped):
    seen = []
    PortableSession(looped).predict({"x": np.zeros(2)}, observer=lambda step, _: seen.append(step.node.op))
    assert seen.count("exp") == 3
    assert seen.count("less") == 4
    assert seen[-1] == "while_loop"


def test_no_value_outlives_its_use(looped):
    """A loop frees what a turn no longer needs, so that its memory does not grow with the turns."""
    alive = []

    def observe(step, value):
        if step.node.op == "exp":
            assert sum(reference() is not None for reference in alive) <= 1
            alive.append(weakref.ref(value))

    PortableSession(looped).predict({"x": np.zeros(2)}, observer=observe)
    assert len(alive) == 3


def test_an_error_inside_names_the_operation_once(tmp_path):
    path = save_program(
        tmp_path / "m.mlpackage",
        lambda x: counted(INT(5), lambda i, s: (Builder.gather(x=x, indices=s, axis=0, name="pick"),), INT(0))[1],
        {"x": np.zeros(2, np.int32)},
    )
    with pytest.raises(ExecutionError) as caught:
        PortableSession(path).predict({"x": np.array([9, 9], INT)})
    assert str(caught.value).count("m.mlpackage") == 1
    assert "gather at " in str(caught.value)


def _loop(block):
    return next(o for o in block.operations if o.type == "while_loop")


def _edit(package, change):
    spec = Model_pb2.Model()
    spec.ParseFromString((package / MODEL).read_bytes())
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    change(_loop(block))
    (package / MODEL).write_bytes(spec.SerializeToString())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda o: o.blocks.pop(), "while_loop at .* has 1 blocks"),
        (lambda o: o.inputs.pop("loop_vars"), "while_loop at .* has 2 blocks and parameters"),
        (lambda o: o.blocks[1].outputs.pop(), "a block of 2 inputs and 1 outputs stands where one of 2 and 2"),
        (lambda o: o.blocks[0].inputs.pop(), "which nothing before it defines|a block of 1 inputs"),
        (lambda o: o.inputs["loop_vars"].arguments.pop(), "a block of 2 inputs"),
        (lambda o: o.outputs.pop(), "a block of 2 inputs and 2 outputs|returns"),
        (lambda o: o.blocks[0].outputs.extend(o.blocks[0].outputs), "stands where one of 2 and 1"),
        (lambda o: o.blocks[1].outputs.append("nowhere"), "'nowhere'"),
    ],
)
def test_blocks_that_do_not_fit(looped, change, says):
    _edit(looped, change)
    with pytest.raises(PackageError, match=says):
        PortableSession(looped)


def test_unsupported_operations_inside_blocks_are_named(looped):
    def change(loop):
        next(o for o in loop.blocks[1].operations if o.type == "exp").type = "quantum_exp"

    _edit(looped, change)
    with pytest.raises(UnsupportedOperationError, match="quantum_exp"):
        PortableSession(looped)


def test_values_from_two_levels_up(run):
    """The innermost block uses a value that its own surroundings do not mention."""
    x = np.array([2, 3], np.float32)

    def build(a):
        square = Builder.square(x=a)

        def body(i, s):
            first = Builder.equal(x=i, y=INT(0))
            return (Builder.cond(pred=first, _true_fn=lambda: Builder.add(x=s, y=square), _false_fn=lambda: s),)

        return counted(INT(3), body, a)[1]

    assert run(build, x)[0].tolist() == [6, 12]


@pytest.mark.parametrize("value", [1.0, -1.0])
def test_branch_that_only_hands_on(run, value):
    x, y, sign = (np.array(a, np.float32) for a in ([1, 2], [3, 4], [value]))

    def build(a, b, c):
        pred = Builder.squeeze(x=Builder.greater(x=c, y=np.float32(0)))
        doubled = Builder.add(x=b, y=b)
        return Builder.cond(pred=pred, _true_fn=lambda: a, _false_fn=lambda: doubled)

    assert run(build, x, y, sign)[0].tolist() == ([1, 2] if value > 0 else [6, 8])
