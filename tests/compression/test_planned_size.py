"""The bytes that a recipe is planned to take, against those that it takes."""

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil import types

from optimum_ane.analysis.operations import read_program
from optimum_ane.compression.compress import compress_mlpackage
from optimum_ane.compression.planned_size import planned_weight
from optimum_ane.compression.recipes import get_recipe

WEIGHTS = {"table": (120, 64), "wide": (96, 64, 1, 1), "odd": (72, 96, 1, 1), "small": (32, 64, 1, 1)}
"""120 rows and 72 outputs do not divide into groups of 16; 32 × 64 elements are too few to compress."""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    values = {
        name: np.random.default_rng(0).standard_normal(shape).astype(np.float16) for name, shape in WEIGHTS.items()
    }

    @mb.program(input_specs=[mb.TensorSpec(shape=(4,), dtype=types.int32)], opset_version=ct.target.iOS18)
    def program(ids):
        rows = mb.gather(x=mb.const(val=values["table"], name="table"), indices=ids, axis=0)
        x = mb.reshape(x=mb.transpose(x=rows, perm=[1, 0]), shape=[1, 64, 1, 4])
        first = mb.conv(x=x, weight=mb.const(val=values["wide"], name="wide"))
        second = mb.conv(x=first, weight=mb.const(val=values["odd"], name="odd"))
        return second, mb.conv(x=x, weight=mb.const(val=values["small"], name="small"))

    model = ct.convert(
        program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS18, skip_model_load=True,
        pass_pipeline=ct.PassPipeline.EMPTY, compute_precision=ct.precision.FLOAT32,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("planned") / "model.mlpackage"
    model.save(str(path))
    return path


RECIPES = ["int8", "int4-block32", "palette6", "palette4-g16", "sparse50", "sparse50-int8", "palette6-int8"]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_takes_what_was_planned(name, package, tmp_path):
    recipe = get_recipe(name)
    compress_mlpackage(package, tmp_path / "compressed.mlpackage", recipe)
    program = read_program(tmp_path / "compressed.mlpackage")
    taken = sum(tensor.stored_bytes for tensor in program.weights)
    planned = {
        weight: planned_weight(recipe, weight, shape, ("gather",) if weight == "table" else ("conv",))
        for weight, shape in WEIGHTS.items()
    }
    assert planned["small"].bytes == 2 * 32 * 64
    assert sum(weight.bytes for weight in planned.values()) == pytest.approx(taken, rel=0.001)
