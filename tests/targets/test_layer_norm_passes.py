"""Our graph passes on programs of a few operations: what they rewrite, and what they leave alone."""

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

import optimum_ane.targets.coreml.passes  # noqa: F401 - registers them
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.targets.coreml.passes.carry_layer_norm_rounding import carry_rounding, replace_constant

SHAPE = (1, 4, 1, 3)
WEIGHT = np.array([0.5, -2.0, 0.0, 1.7], np.float32).reshape(1, 4, 1, 1)
BIAS = np.array([0.1, 0.0, -3.0, 2.0], np.float32).reshape(1, 4, 1, 1)


def build(body, *more_inputs):
    specs = [mb.TensorSpec(shape=shape, dtype=types.fp32) for shape in (SHAPE, *more_inputs)]
    return mb.program(input_specs=specs, opset_version=ct.target.iOS16)(body)


def apply(program, *names):
    for name in names:
        PASS_REGISTRY[f"optimum_ane::{name}"](program)
    program.validate()
    return program


def carry(program):
    """Carries the rounding of norms in float32, without the cast that the pass makes of it."""
    for operation, scale in carry_rounding(program.functions["main"]).items():
        with program.functions["main"]:
            replace_constant(operation, "weight", scale(operation.weight.val))
    program.validate()
    return program


def operations(program):
    return [op.op_type for op in program.functions["main"].operations if op.op_type != "const"]


def answers(program, tmp_path, precision=ct.precision.FLOAT32):
    """Runs a program as it is, without any of coremltools' own passes."""
    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS16,
        compute_precision=precision,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.mlpackage"
    model.save(str(path))
    session = PortableSession(path)
    generator = np.random.default_rng(0)
    inputs = {name: generator.normal(size=spec.shape).astype(np.float32) for name, spec in session.inputs.items()}
    return [*session.predict(inputs).values()]


def norm(x, axes=(1,), **affine):
    return mb.layer_norm(x=x, axes=list(axes), epsilon=1e-5, **affine)


def test_the_affine_part_goes_into_the_norm(tmp_path):
    def body(x):
        return mb.add(x=mb.mul(x=norm(x), y=WEIGHT), y=BIAS, name="out")

    program = build(body)
    assert operations(program) == ["layer_norm", "mul", "add"]
    before = answers(build(body), tmp_path)
    apply(program, "fold_layer_norm_affine")
    assert operations(program) == ["layer_norm"]
    (folded,) = program.functions["main"].find_ops(op_type="layer_norm")
    assert folded.gamma.val.tolist() == WEIGHT.flatten().tolist()
    assert folded.beta.val.tolist() == BIAS.flatten().tolist()
    assert folded.epsilon.val == np.float32(1e-5)
    assert [output.name for output in program.functions["main"].outputs] == ["out"]
    np.testing.assert_allclose(answers(program, tmp_path)[0], before[0], rtol=1e-5, atol=1e-5)


def test_the_constant_may_stand_on_either_side(tmp_path):
    program = build(lambda x: mb.add(x=BIAS, y=mb.mul(x=WEIGHT, y=norm(x))))
    assert operations(apply(program, "fold_layer_norm_affine")) == ["layer_norm"]


def test_norms_that_follow_each_other_are_all_folded(tmp_path):
    def body(x):
        for _ in range(3):
            x = mb.add(x=mb.mul(x=norm(x), y=WEIGHT), y=BIAS)
        return x

    before = answers(build(body), tmp_path)
    program = apply(build(body), "fold_layer_norm_affine")
    assert operations(program) == ["layer_norm"] * 3
    np.testing.assert_allclose(answers(program, tmp_path)[0], before[0], rtol=1e-5, atol=1e-5)


def second_user_of_the_norm(x):
    normal = norm(x)
    return mb.add(x=mb.mul(x=normal, y=WEIGHT), y=BIAS), mb.relu(x=normal)


def norm_is_an_output(x):
    normal = norm(x)
    return mb.add(x=mb.mul(x=normal, y=WEIGHT), y=BIAS), normal


def second_user_of_the_product(x):
    product = mb.mul(x=norm(x), y=WEIGHT)
    return mb.add(x=product, y=BIAS), mb.relu(x=product)


def product_is_an_output(x):
    product = mb.mul(x=norm(x), y=WEIGHT)
    return mb.add(x=product, y=BIAS), product


def norm_times_itself(x):
    normal = norm(x)
    return mb.add(x=mb.mul(x=normal, y=normal), y=BIAS)


def product_plus_itself(x):
    product = mb.mul(x=norm(x), y=WEIGHT)
    return mb.add(x=product, y=product)


def subtraction(x):
    return mb.sub(x=mb.mul(x=norm(x), y=WEIGHT), y=BIAS)


def weight_of_one_number(x):
    return mb.add(x=mb.mul(x=norm(x), y=np.float32(2)), y=BIAS)


def weight_along_the_sequence(x):
    return mb.add(x=mb.mul(x=norm(x), y=np.ones((1, 1, 1, 3), np.float32) * 2), y=BIAS)


def bias_along_the_sequence(x):
    return mb.add(x=mb.mul(x=norm(x), y=WEIGHT), y=np.ones((1, 4, 1, 3), np.float32))


def norm_over_the_sequence(x):
    return mb.add(x=mb.mul(x=norm(x, axes=(3,)), y=WEIGHT), y=BIAS)


def norm_over_two_axes(x):
    return mb.add(x=mb.mul(x=norm(x, axes=(1, 2)), y=WEIGHT), y=BIAS)


def norm_that_has_a_weight(x):
    return mb.add(x=mb.mul(x=norm(x, gamma=np.ones(4, np.float32) * 3), y=WEIGHT), y=BIAS)


def product_alone(x):
    return mb.mul(x=norm(x), y=WEIGHT)


def sum_alone(x):
    return mb.add(x=norm(x), y=BIAS)


@pytest.mark.parametrize(
    "body",
    [
        second_user_of_the_norm,
        norm_is_an_output,
        second_user_of_the_product,
        product_is_an_output,
        norm_times_itself,
        product_plus_itself,
        subtraction,
        weight_of_one_number,
        weight_along_the_sequence,
        bias_along_the_sequence,
        norm_over_the_sequence,
        norm_over_two_axes,
        norm_that_has_a_weight,
        product_alone,
        sum_alone,
    ],
)
def test_what_cannot_be_folded_stays_as_it_is(body):
    program = build(body)
    before = operations(program)
    assert operations(apply(program, "fold_layer_norm_affine")) == before


@pytest.mark.parametrize("place", ["weight", "bias"])
def test_a_weight_or_bias_that_is_no_constant_stays_outside(place):
    def body(x, vector):
        weight, bias = (vector, BIAS) if place == "weight" else (WEIGHT, vector)
        return mb.add(x=mb.mul(x=norm(x), y=weight), y=bias)

    program = build(body, (1, 4, 1, 1))
    assert operations(apply(program, "fold_layer_norm_affine")) == ["layer_norm", "mul", "add"]


GENERATOR = np.random.default_rng(1)
GAMMA = GENERATOR.normal(size=4).astype(np.float32)
BETA = GENERATOR.normal(size=4).astype(np.float32)
FIRST, SECOND = (GENERATOR.normal(size=(4, 4, 1, 1)).astype(np.float32) for _ in range(2))


def post_norm_layers(x):
    """norm → conv → + norm → norm → conv, as every encoder has it."""
    x = norm(x, gamma=GAMMA.copy(), beta=BETA.copy())
    inner = mb.relu(x=mb.conv(x=x, weight=FIRST.copy(), bias=BETA.copy()))
    inner = mb.conv(x=inner, weight=SECOND.copy(), bias=GAMMA.copy())
    x = norm(mb.add(x=inner, y=x), gamma=GAMMA[::-1].copy(), beta=BETA[::-1].copy())
    return mb.conv(x=x, weight=SECOND[::-1].copy())


def test_weights_of_norms_become_float16_numbers_and_the_answer_stays(tmp_path):
    before = answers(build(post_norm_layers), tmp_path)
    program = carry(build(post_norm_layers))
    norms = program.functions["main"].find_ops(op_type="layer_norm")
    assert len(norms) == 2
    for operation in norms:
        weight = operation.gamma.val
        np.testing.assert_allclose(weight.astype(np.float16).astype(np.float32), weight, rtol=1e-6)
    assert operations(program) == operations(build(post_norm_layers))
    # The norm of the sum is taken over channels that are scaled by up to 2⁻¹¹ each: no more than that may show.
    difference = np.abs(answers(program, tmp_path)[0] - before[0]).max() / np.abs(before[0]).max()
    assert difference < 2**-11


def test_the_next_norm_takes_the_scale_of_the_sum_back(tmp_path):
    """Where the mean over the channels is small beside their spread, what is left is an error of second order."""
    width = 256
    generator = np.random.default_rng(2)
    gammas = generator.uniform(0.5, 1.5, size=(2, width)).astype(np.float32)
    betas = generator.normal(size=(2, width)).astype(np.float32)
    weight = generator.normal(size=(width, width, 1, 1)).astype(np.float32) / 16

    def body(x):
        x = norm(x, gamma=gammas[0].copy(), beta=betas[0].copy())
        x = mb.add(x=mb.conv(x=x, weight=weight.copy()), y=x)
        return norm(x, gamma=gammas[1].copy(), beta=betas[1].copy())

    def wide():
        specs = [mb.TensorSpec(shape=(1, width, 1, 3), dtype=types.fp32)]
        return mb.program(input_specs=specs, opset_version=ct.target.iOS16)(body)

    (before,) = answers(wide(), tmp_path)
    (after,) = answers(carry(wide()), tmp_path)
    # The last norm keeps its weight; the rounding of the first one's, not carried, would show as 1.5e-4.
    assert np.sqrt(np.mean((after - before) ** 2)) < 5e-5


def test_the_first_norm_carries_exactly(tmp_path):
    def body(x):
        return mb.conv(x=norm(x, gamma=GAMMA.copy(), beta=BETA.copy()), weight=FIRST.copy())

    before = answers(build(body), tmp_path)
    after = answers(carry(build(body)), tmp_path)
    np.testing.assert_allclose(after[0], before[0], rtol=1e-5, atol=1e-6)


def norm_is_read_by_something_else(x):
    x = norm(x, gamma=GAMMA.copy(), beta=BETA.copy())
    return mb.conv(x=x, weight=FIRST.copy()), mb.relu(x=x)


def norm_is_an_output_too(x):
    x = norm(x, gamma=GAMMA.copy(), beta=BETA.copy())
    return mb.conv(x=x, weight=FIRST.copy()), x


def the_sum_is_an_output(x):
    x = norm(x, gamma=GAMMA.copy(), beta=BETA.copy())
    total = mb.add(x=mb.conv(x=x, weight=FIRST.copy()), y=x)
    return norm(total, gamma=GAMMA.copy(), beta=BETA.copy()), total


def the_convolution_is_an_output(x):
    x = norm(x, gamma=GAMMA.copy(), beta=BETA.copy())
    inner = mb.conv(x=x, weight=FIRST.copy())
    return norm(mb.add(x=inner, y=x), gamma=GAMMA.copy(), beta=BETA.copy()), inner


def grouped_convolution(x):
    x = norm(x, gamma=GAMMA.copy(), beta=BETA.copy())
    return mb.conv(x=x, weight=FIRST[:, :2].copy(), groups=2)


@pytest.mark.parametrize(
    "body",
    [
        norm_is_read_by_something_else,
        norm_is_an_output_too,
        the_sum_is_an_output,
        the_convolution_is_an_output,
        grouped_convolution,
    ],
)
def test_a_norm_with_other_users_keeps_its_weight(body, tmp_path):
    before = answers(build(body), tmp_path)
    program = carry(build(body))
    first = program.functions["main"].find_ops(op_type="layer_norm")[0]
    assert first.gamma.val.tolist() == GAMMA.tolist()
    for ours, theirs in zip(answers(program, tmp_path), before, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "values", [[0.0, 0.0, 0.0, 0.0], [1e-9, 1.0, 1.0, 1.0], [1e6, 1.0, 1.0, 1.0], [-0.0, 1, 2, 3]]
)
def test_weights_that_float16_cannot_hold_are_left_alone(values, tmp_path):
    def body(x):
        gamma = np.array(values, np.float32)
        return mb.conv(x=norm(x, gamma=gamma, beta=BETA.copy()), weight=FIRST.copy())

    before = answers(build(body), tmp_path)
    after = answers(carry(build(body)), tmp_path)
    assert np.isfinite(after[0]).all()
    np.testing.assert_allclose(after[0], before[0], rtol=1e-5, atol=1e-5)


def float16_operands(program):
    """What each norm and convolution reads of constants after the cast."""
    operations = [op for op in program.functions["main"].operations if op.op_type in ("conv", "layer_norm")]
    names = ("gamma", "beta", "weight", "bias")
    operands = [(op.op_type, name, getattr(op, name)) for op in operations for name in names if hasattr(op, name)]
    return [(op_type, name, operand.val) for op_type, name, operand in operands if operand is not None]


def test_scaling_at_the_cast_is_scaling_before_it():
    together = apply(build(post_norm_layers), "carry_layer_norm_rounding")
    apart = carry(build(post_norm_layers))
    PASS_REGISTRY["common::add_fp16_cast"](apart)
    ours, theirs = float16_operands(together), float16_operands(apart)
    assert len(ours) == 2 * 2 + 3 + 2  # of two norms, three convolutions, two of which have a bias
    for (op_type, name, value), (their_type, their_name, their_value) in zip(ours, theirs, strict=True):
        assert (op_type, name, value.dtype) == (their_type, their_name, np.float16)
        np.testing.assert_array_equal(value, their_value)
    assert not np.array_equal(ours[2][2], FIRST.astype(np.float16))


def test_a_bias_that_two_convolutions_share_is_scaled_for_one():
    """coremltools makes one constant of equal ones: zeros, for the most part."""

    def body(x):
        x = norm(x, gamma=GAMMA.copy(), beta=BETA.copy())
        shared = mb.const(val=BETA.copy())
        inner = mb.relu(x=mb.conv(x=x, weight=FIRST.copy(), bias=shared))
        total = mb.add(x=mb.conv(x=inner, weight=SECOND.copy(), bias=shared), y=x)
        return norm(total, gamma=GAMMA.copy(), beta=BETA.copy())

    first, second = carry(build(body)).functions["main"].find_ops(op_type="conv")
    assert first.bias.val.tolist() == BETA.tolist()
    scale = GAMMA.astype(np.float16).astype(np.float64) / GAMMA
    assert second.bias.val.tolist() == (BETA * scale).astype(np.float32).tolist() != BETA.tolist()


def shared_weight(x):
    weight = mb.const(val=FIRST.copy())
    x = mb.conv(x=norm(x, gamma=GAMMA.copy(), beta=BETA.copy()), weight=weight)
    return mb.conv(x=x, weight=weight)


def weight_at_the_end_of_the_range(x):
    weight = FIRST.copy()
    weight[0, 0] = 65504
    return mb.conv(x=norm(x, gamma=GAMMA.copy(), beta=BETA.copy()), weight=weight)


def weights_that_float16_holds(x):
    gamma = GAMMA.astype(np.float16).astype(np.float32)
    return mb.conv(x=norm(x, gamma=gamma, beta=BETA.copy()), weight=FIRST.copy())


@pytest.mark.parametrize("body", [shared_weight, weight_at_the_end_of_the_range, weights_that_float16_holds])
def test_a_convolution_that_takes_no_scale_and_its_norm_stay(body):
    assert carry_rounding(build(body).functions["main"]) == {}
    (operation,) = carry(build(body)).functions["main"].find_ops(op_type="layer_norm")
    assert not operation.gamma.name.endswith("carried")
