"""Constants of stock modules in float16: which are clamped, which are kept, and what a program answers then."""

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY
from torch import nn

from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.targets.coreml import passes
from optimum_ane.targets.coreml.build import ConvertibleFunction, build_program
from optimum_ane.targets.coreml.conversion import Conversion
from optimum_ane.targets.coreml.metadata import Metadata

LEAST = np.float32(-3.4028235e38)


def after_the_pass(body):
    """The operations of a program of one input (2, 3), and what each reads of constants."""
    program = mb.program(input_specs=[mb.TensorSpec(shape=(2, 3))])(body)
    PASS_REGISTRY["optimum_ane::clamp_for_float16"](program)
    operations = [each for each in program.functions["main"].operations if each.op_type != "const"]
    return [
        (each.op_type, {k: v.val for k, v in each.inputs.items() if getattr(v, "val", None) is not None})
        for each in operations
    ]


@pytest.mark.parametrize("value", [LEAST, -np.inf, np.float32(-1e9), np.float32(-1e5)])
def test_a_mask_becomes_a_number_of_float16(value):
    mask = np.array([[0, value, 0]], np.float32)
    ((_, added), (_, _)) = after_the_pass(lambda x: mb.softmax(x=mb.add(x=x, y=mask), axis=-1))
    np.testing.assert_array_equal(added["y"], [[0, -3e4, 0]])


def test_a_selected_number_and_a_large_factor_are_clamped():
    def body(x):
        chosen = mb.select(cond=np.array([[True, False, True]] * 2), a=x, b=np.full((2, 3), LEAST))
        return mb.add(x=mb.mul(x=x, y=LEAST), y=chosen)

    (_, select), (_, factor), _ = after_the_pass(body)
    assert (select["b"] == -3e4).all()
    assert factor["y"] == -3e4


def test_a_factor_of_flags_that_are_turned_round_is_clamped():
    (_, _), (_, factor) = after_the_pass(lambda x: mb.mul(x=np.float32(1e6), y=mb.sub(x=np.float32(1), y=x)))
    assert factor["x"] == 3e4


def test_bounds_are_the_largest_numbers_of_float16():
    ((_, bounds),) = after_the_pass(lambda x: mb.clip(x=x, alpha=LEAST, beta=np.float32(1e10)))
    assert (bounds["alpha"], bounds["beta"]) == (-65504, 65504)


def test_a_number_that_divides_multiplies_or_pads_keeps_its_value():
    def body(x):
        x = mb.real_div(x=x, y=np.float32(1e10))
        x = mb.mul(x=x, y=np.float32(1e6))
        return mb.pad(x=x, pad=[0, 0, 1, 1], mode="constant", constant_val=np.float32(-np.inf))

    divided, factor, padded = (constants for _, constants in after_the_pass(body))
    assert (divided["y"], factor["y"]) == (np.float32(1e10), np.float32(1e6))
    assert padded["constant_val"] == np.float32(-np.inf)


def test_one_constant_is_clamped_for_those_that_choose_and_for_no_others():
    def body(x):
        least = mb.const(val=np.full((2, 3), LEAST))
        return mb.concat(values=[mb.real_div(x=x, y=least), mb.add(x=x, y=least)], axis=0)

    (_, divided), (_, added), _ = after_the_pass(body)
    assert (divided["y"] == LEAST).all()
    assert (added["y"] == -3e4).all()


def test_a_comparison_decides_as_before():
    def body(x):
        masked = mb.select(cond=np.array([[True, False, True]] * 2), a=x, b=np.full((2, 3), LEAST))
        return (
            mb.equal(x=masked, y=LEAST), mb.less(x=masked, y=np.float32(-1e30)), mb.less(x=x, y=np.float32(-3e38)),
        )  # fmt: skip

    _, (_, same), (_, less), (_, of_an_input) = after_the_pass(body)
    assert (same["y"], less["y"], of_an_input["y"]) == (-3e4, np.float32(-2.9e4), np.float32(-3e38))


def test_epsilons_are_raised_where_they_keep_from_zero():
    def body(x):
        norm = mb.layer_norm(x=x, axes=[1], epsilon=np.float32(1e-12))
        root = mb.rsqrt(x=mb.add(x=x, y=np.float32(1e-12)))
        length = mb.maximum(x=mb.reduce_l2_norm(x=x, axes=[1], keep_dims=True), y=np.float32(1e-12))
        moved = mb.add(x=mb.add(x=x, y=np.float32(1e-12)), y=np.float32(-1e-12))
        kept = mb.rsqrt(x=mb.add(x=moved, y=np.float32(1e-5)))
        return norm, root, mb.real_div(x=x, y=length), kept

    found = after_the_pass(body)
    assert [constants["epsilon"] for name, constants in found if name == "layer_norm"] == [np.float32(1e-7)]
    added = [float(constants["y"]) for name, constants in found if name == "add"]
    assert added == pytest.approx([1e-7, 1e-12, -1e-12, 1e-5])
    assert [float(constants["y"]) for name, constants in found if name == "maximum"] == pytest.approx([1e-7])


class Masked(nn.Module):
    """Adds two masks of float32's least number, and norms what may be all the same."""

    def forward(self, x, mask):
        least = torch.finfo(torch.float32).min
        scores = x.masked_fill(mask[:, None] == 0, least) + (1 - mask[:, :, None].float()) * least
        normal = x / (x.var(-1, keepdim=True, unbiased=False) + 1e-12).sqrt()
        return scores.softmax(-1), normal


def build(precision, path):
    inputs = {
        "x": torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(0)),
        "mask": torch.tensor([[1, 1, 1, 0]]),
    }
    function = ConvertibleFunction("main", lambda: Masked().eval(), inputs, ("scores", "normal"))
    options = {
        "minimum_deployment_target": "iOS17",
        "class_labels": None,
        "metadata": Metadata("A.", "b", "mit", "1", {}),
    }
    build_program([function], path, precision=precision, conversion=Conversion(is_stock=True), **options)
    given = {"x": inputs["x"].numpy(), "mask": inputs["mask"].int().numpy()}
    expected = {name: value.numpy() for name, value in zip(("scores", "normal"), Masked()(**inputs), strict=True)}
    return PortableSession(path).predict(given), expected


def test_a_program_of_float16_has_no_nan_and_one_of_float32_is_as_it_was(tmp_path, monkeypatch):
    answer, expected = build("float16", tmp_path / "half.mlpackage")
    np.testing.assert_allclose(answer["scores"], expected["scores"], atol=2e-3)
    np.testing.assert_allclose(answer["normal"], expected["normal"], atol=2e-2)
    exact, expected = build("float32", tmp_path / "full.mlpackage")
    np.testing.assert_allclose(exact["scores"], expected["scores"], atol=1e-6)
    monkeypatch.setattr(passes.clamp_for_float16, "apply", lambda self, program: None)
    broken, _ = build("float16", tmp_path / "broken.mlpackage")
    assert np.isnan(broken["scores"].astype(np.float32)).any()
