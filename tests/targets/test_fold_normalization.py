"""The pass that takes an image's normalisation into the convolutions that read it: where it may, and where not."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import psnr
from torch import nn

from optimum_ane.nn.pixel_normalization import PixelNormalization
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.targets.coreml.passes import graph_pass_pipeline
from optimum_ane.targets.coreml.quiet import quiet

SHAPE = (1, 3, 11, 14)
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


class Normalized(nn.Module):
    """A first layer behind the normalisation of ImageNet."""

    def __init__(self, layer, std=STD):
        super().__init__()
        self.normalization = PixelNormalization((1 / 255 / std).tolist(), (-MEAN / std).tolist())
        self.layer = layer

    def forward(self, pixels):
        return self.layer(self.normalization(pixels))


class Padded(nn.Module):
    def __init__(self, value=0.0, mode="constant"):
        super().__init__()
        self.conv, self.value, self.mode = nn.Conv2d(3, 8, 3, 2), value, mode

    def forward(self, x):
        pads = (1, 2, 0, 1)
        return self.conv(nn.functional.pad(x, pads, mode=self.mode, value=self.value or None))


class Two(nn.Module):
    """Two convolutions of one image, as stems with several resolutions have."""

    def __init__(self, with_mean=False):
        super().__init__()
        self.first, self.second, self.with_mean = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1), with_mean

    def forward(self, x):
        both = self.first(x) + self.second(x)
        return both + x.mean() if self.with_mean else both


class Masked(nn.Module):
    """What lies beyond an image set to zero, as of letterboxed ones."""

    def __init__(self, squares=False):
        super().__init__()
        self.conv, self.squares = nn.Conv2d(3, 8, 3, 2, padding=1), squares
        mask = torch.ones(1, 1, *SHAPE[2:])
        mask[..., 8:, :] = mask[..., 9:] = 0
        self.register_buffer("mask", mask)

    def forward(self, x):
        return self.conv(x * (x if self.squares else self.mask))


class Patches(nn.Module):
    """Patches by moves and a linear layer, of which none is a convolution of the image."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3 * 7 * 11, 8)

    def forward(self, x):
        cut = x.reshape(1, 3, 11, 2, 7).permute(0, 3, 1, 2, 4)
        return self.linear(cut.reshape(1, 2, -1))


FOLDED = {
    "with a bias": lambda: nn.Conv2d(3, 8, 3),
    "without a bias": lambda: nn.Conv2d(3, 8, (3, 2), bias=False),
    "padded": lambda: nn.Conv2d(3, 8, (7, 5), stride=(2, 3), padding=(3, 2), bias=False),
    "of groups": lambda: nn.Conv2d(3, 6, 3, padding=1, groups=3),
    "dilated": lambda: nn.Conv2d(3, 4, 3, padding=2, dilation=2),
    "padded before": Padded,
    "masked": Masked,
    "read by two": Two,
    "batch norm behind": lambda: nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)),
}
KEPT = {
    "padded with another number": lambda: Padded(0.5),
    "padded by reflection": lambda: Padded(mode="reflect"),
    "read by something else": lambda: Two(with_mean=True),
    "times itself": lambda: Masked(squares=True),
    "no convolution": Patches,
}


def make(layer, path, precision, std=STD):
    torch.manual_seed(0)
    module = Normalized(layer(), std).eval()
    pipeline = graph_pass_pipeline(precision, is_classifier=False)
    with torch.no_grad(), quiet():
        model = ct.convert(
            torch.jit.trace(module, torch.zeros(SHAPE)),
            inputs=[ct.ImageType("image", SHAPE, color_layout=ct.colorlayout.RGB)],
            outputs=[ct.TensorType("y", dtype=np.float32)],
            minimum_deployment_target=ct.target.iOS16,
            compute_precision=getattr(ct.precision, precision.upper()),
            pass_pipeline=pipeline,
            skip_model_load=True,
        )
        model.save(str(path))
    return module, PortableSession(path)


def convert_with_coremltools_own_scale(layer, path):
    """The layer behind the scale and the bias of `coremltools.ImageType`, which knows one scale for all channels."""
    torch.manual_seed(0)
    module = layer().eval()
    with torch.no_grad(), quiet():
        model = ct.convert(
            torch.jit.trace(module, torch.zeros(SHAPE)),
            inputs=[ct.ImageType("image", SHAPE, scale=1 / 255 / 0.25, bias=(-MEAN / 0.25).tolist())],
            outputs=[ct.TensorType("y", dtype=np.float32)],
            minimum_deployment_target=ct.target.iOS16,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        )
        model.save(str(path))
    return PortableSession(path)


def pictures():
    """Noise, and one colour, whose border shows what padding stands for."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, SHAPE[2], SHAPE[3], 3)).astype(np.uint8)
    pixels[1], pixels[2] = (255, 0, 128), 0
    return [Image.fromarray(each) for each in pixels]


def compare(module, session, ratio):
    for picture in pictures():
        values = torch.from_numpy(np.asarray(picture).transpose(2, 0, 1)[None].astype(np.float32))
        with torch.no_grad():
            expected = module(values)
        assert psnr(expected, torch.from_numpy(session.predict({"image": picture})["y"])) > ratio


def operations(session):
    return [step.node.op for step in session._program.steps]


@pytest.mark.parametrize("layer", FOLDED)
def test_convolutions_take_the_scale(tmp_path, layer):
    module, session = make(FOLDED[layer], tmp_path / "32.mlpackage", "float32")
    assert operations(session)[:2] == ["mul", "sub"]
    left = {"batch_norm", "real_div"} if layer == "masked" else {"batch_norm", "real_div", "mul"}
    assert not left & set(operations(session)[2:])
    compare(module, session, 120)
    module, session = make(FOLDED[layer], tmp_path / "16.mlpackage", "float16")
    assert operations(session)[:3] == ["cast", "mul", "sub"]
    compare(module, session, 62)


@pytest.mark.parametrize("layer", KEPT)
def test_what_else_reads_the_image_gets_it_normalised(tmp_path, layer):
    module, session = make(KEPT[layer], tmp_path / "32.mlpackage", "float32")
    compare(module, session, 100)
    module, session = make(KEPT[layer], tmp_path / "16.mlpackage", "float16")
    compare(module, session, 55)


def test_weights_stay_where_float16_has_all_its_digits(tmp_path):
    """Times 1 / (255 · std) they would be below 6.1e-5, and zero on the engine."""
    _, session = make(lambda: nn.Conv2d(3, 8, 3), tmp_path / "m.mlpackage", "float16")
    (weight,) = [step.node.inputs["weight"] for step in session._program.steps if step.node.op == "conv"]
    assert weight.name == "layer_weight_to_fp16"
    before = make(lambda: nn.Conv2d(3, 8, 3), tmp_path / "n.mlpackage", "float32")[0].layer.weight.detach().numpy()
    np.testing.assert_allclose(weight.array(), before * (256 / 255 / STD).reshape(1, 3, 1, 1), rtol=1e-3)


def test_what_rounding_the_mean_colour_leaves_is_in_the_bias(tmp_path):
    """Of a picture of about that colour little else is left, of which rounded weights change next to nothing."""
    module, session = make(lambda: nn.Conv2d(3, 8, 3, bias=False), tmp_path / "m.mlpackage", "float16")
    exact = PortableSession(session.path, precision="float32")
    picture = Image.new("RGB", (SHAPE[3], SHAPE[2]), tuple(np.rint(255 * MEAN).astype(int).tolist()))
    values = torch.from_numpy(np.asarray(picture).transpose(2, 0, 1)[None].astype(np.float32))
    with torch.no_grad():
        expected = module(values).numpy()
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(exact.predict({"image": picture})["y"], expected, atol=5e-6)


def test_of_one_std_it_is_what_coremltools_does(tmp_path):
    theirs = convert_with_coremltools_own_scale(FOLDED["padded"], tmp_path / "theirs.mlpackage")
    _, ours = make(FOLDED["padded"], tmp_path / "ours.mlpackage", "float32", np.full(3, 0.25))
    for picture in pictures():
        one, other = (torch.from_numpy(each.predict({"image": picture})["y"]) for each in (theirs, ours))
        assert psnr(one, other) > 110
