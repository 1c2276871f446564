"""Palettes where the engine takes none: patches and convolutions of each channel by itself stay as they are."""

import pytest
import torch
from torch import nn

from optimum_ane.analysis.inspection import inspect
from optimum_ane.compression.compress import compress_mlpackage
from optimum_ane.compression.recipes import get_recipe
from optimum_ane.targets.coreml.build import ConvertibleFunction, build_program
from optimum_ane.targets.coreml.conversion import GRAPH_CONVERSIONS
from optimum_ane.targets.coreml.metadata import Metadata

METADATA = Metadata("net", "a network of images with random weights", "apache-2.0", "0", {})


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 256, 4, stride=4)
        self.depthwise = nn.Conv2d(256, 256, 3, groups=256, padding=1)
        self.pointwise = nn.Conv2d(256, 64, 1)
        self.strided = nn.Conv2d(64, 32, 3, stride=2)

    def forward(self, x):
        return self.strided(self.pointwise(self.depthwise(self.patches(x).relu()).relu()).relu())


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    path = tmp_path_factory.mktemp("net") / "a.mlpackage"
    function = ConvertibleFunction("main", lambda: Net().eval(), {"x": torch.randn(1, 3, 21, 27)}, ("y",))
    build_program(
        [function], path, precision="float16", minimum_deployment_target="iOS18", class_labels=None,
        metadata=METADATA, conversion=GRAPH_CONVERSIONS[0],
    )  # fmt: skip
    return path


@pytest.mark.parametrize("recipe", ["palette6", "palette4-g16", "int8"])
def test_palettes_are_left_out_where_they_keep_a_convolution_off_the_engine(recipe, package, tmp_path):
    coverage = compress_mlpackage(package, tmp_path / "out.mlpackage", get_recipe(recipe))
    kernels = {each.name.split("_")[0]: each for each in coverage.weights if len(each.shape) == 4}
    if recipe == "palette6":  # of one step
        assert "strides up to 2" in kernels["patches"].skipped
        assert "is 4" in kernels["patches"].skipped
        assert "each channel by itself" in kernels["depthwise"].skipped
    else:  # the int8 of the other, or of what a palette cannot take, has no such limits
        assert kernels["patches"].form == kernels["depthwise"].form == "int8 per channel"
    others = {kernels[name].form for name in ("pointwise", "strided")}
    assert all(form.startswith("int8" if recipe == "int8" else "palette") for form in others)
    # Their values have the axes of images, compressed or not.
    placed = inspect(tmp_path / "out.mlpackage").placements
    assert max(len(value.shape) for each in placed for value in each.operation.outputs) == 4
