"""Images as apps pass them against what the image processor makes of them: every normalisation, every first layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    BaseImageProcessor,
    BitImageProcessor,
    EfficientNetImageProcessor,
    MobileNetV2Config,
    MobileViTImageProcessor,
    PretrainedConfig,
    PreTrainedModel,
    ResNetConfig,
    SegformerConfig,
    ViTConfig,
    ViTImageProcessor,
)

from optimum_ane import ANEModelForImageClassification, export
from optimum_ane.package.manifest import Manifest
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.validation.psnr import psnr
from verification.row import Row, shared

LEAST = {"float32": 90.0, "float16": 60.0}
_SIZE = {"height": 64, "width": 96}
_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
_EQUAL = ViTImageProcessor(size=_SIZE)
_UNEQUAL = ViTImageProcessor(size=_SIZE, image_mean=_MEAN, image_std=_STD)
_CROPPED = BitImageProcessor(size={"shortest_edge": 110}, crop_size=_SIZE)
_BLUE_FIRST = MobileViTImageProcessor(size={"shortest_edge": 96}, crop_size=_SIZE)
_GREY = ViTImageProcessor(size=_SIZE, image_mean=[0.1307], image_std=[0.3081])
_OFFSET = EfficientNetImageProcessor(
    size=_SIZE, rescale_factor=1 / 127.5, rescale_offset=True, include_top=False, do_normalize=False
)
_PLAIN = ViTImageProcessor(size=_SIZE, do_rescale=False, do_normalize=False)
_ROWS = 8


def _vit(channels: int = 3) -> PretrainedConfig:
    return ViTConfig(
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=3,
        intermediate_size=192,
        image_size=(64, 96),
        patch_size=16,
        num_channels=channels,
        num_labels=10,
    )


def _resnet(channels: int = 3) -> PretrainedConfig:
    return ResNetConfig(
        embedding_size=32,
        hidden_sizes=[32, 48, 64, 96],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        num_channels=channels,
        num_labels=10,
    )


@dataclass(frozen=True)
class _Case:
    """One normalisation before one kind of first layer."""

    name: str
    layout: str
    config: PretrainedConfig
    processor: BaseImageProcessor


_CASES = (
    _Case("equal std, patches", "RGB", _vit(), _EQUAL),
    _Case("unequal std, patches", "RGB", _vit(), _UNEQUAL),
    _Case("unequal std, padded strided convolution", "RGB", _resnet(), _UNEQUAL),
    _Case("unequal std, padding before the convolution", "RGB", MobileNetV2Config(num_labels=10), _CROPPED),
    _Case("unequal std, overlapping patches", "RGB", SegformerConfig(num_labels=10, depths=[1, 1, 1, 1]), _UNEQUAL),
    _Case("blue first, patches", "BGR", _vit(), _BLUE_FIRST),
    _Case("blue first, padded strided convolution", "BGR", _resnet(), _BLUE_FIRST),
    _Case("grey, patches", "GRAYSCALE", _vit(1), _GREY),
    _Case("grey, padded strided convolution", "GRAYSCALE", _resnet(1), _GREY),
    _Case("rescaled to −1 to 1 with an offset", "RGB", _resnet(), _OFFSET),
    _Case("of 0 to 255, neither rescaled nor normalised", "RGB", _resnet(), _PLAIN),
)


def measure(folder: Path) -> Iterator[Row]:
    """Logits of the package for PIL's images, and of the original for the processor's values of them."""
    for number, case in enumerate(_CASES):
        original = _random(case.config)
        yield from _rows(case, original, folder / str(number))
    checkpoint = shared("models/vit-digits")
    digits = AutoModelForImageClassification.from_pretrained(checkpoint, dtype=torch.float32).eval()
    processor = AutoImageProcessor.from_pretrained(checkpoint)
    yield from _rows(_Case("vit-digits", "RGB", digits.config, processor), digits, folder / "digits")


def _random(config: PretrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForImageClassification.from_config(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter += 0.05 * torch.randn_like(parameter)
    return model


def _rows(case: _Case, original: PreTrainedModel, folder: Path) -> Iterator[Row]:
    packages = {
        precision: export(
            original,
            folder / precision,
            processor=case.processor,
            precision=precision,
            image_input="image",
            psnr_threshold=LEAST[precision],
            quiet=True,
        ).path
        for precision in LEAST
    }
    size = Manifest.read(packages["float32"]).form.image_size
    assert size is not None
    pictures = _pictures((size[0], size[-1]), case.layout)
    values = case.processor(pictures, return_tensors="pt", do_resize=False, do_center_crop=False)[
        "pixel_values"
    ].float()
    with torch.no_grad():
        expected = original(values).logits
    for precision, path in packages.items():
        session = PortableSession(path / "model.mlpackage")
        assert session.inputs["pixel_values"].image == case.layout
        answers = [session.predict({"pixel_values": picture})["logits"] for picture in pictures]
        direct = torch.from_numpy(np.concatenate(answers).astype(np.float32))
        driven = ANEModelForImageClassification.from_pretrained(path)(values).logits
        ratio = psnr(expected.numpy(), direct.numpy())
        is_same = torch.equal(direct, driven)
        driver = "the same" if is_same else "another"
        mode = "a float32 package" if precision == "float32" else "a float16 package, rounded as the program says"
        yield Row(
            f"PIL images against the processor's own values, {case.name}: {mode}",
            f"≥ {LEAST[precision]:.0f} dB, the driver the same",
            f"{ratio:.1f} dB (worst row {_worst(expected, direct):.1f}), the driver {driver}",
            ratio >= LEAST[precision] and is_same,
        )


def _worst(expected: Tensor, answers: Tensor) -> float:
    return min(psnr(theirs.numpy(), ours.numpy()) for theirs, ours in zip(expected, answers, strict=True))


def _pictures(size: tuple[int, int], layout: str) -> list[Image.Image]:
    """Noise of every level, two of one colour, whose border shows what padding stands for, and a ramp."""
    generator = np.random.default_rng(0)
    channels = 1 if layout == "GRAYSCALE" else 3
    pixels = generator.integers(0, 256, (_ROWS, *size, channels)).astype(np.uint8)
    pixels[1], pixels[2] = 255, (255, 0, 128)[:channels]
    pixels[3] = np.linspace(0, 255, size[1]).round().astype(np.uint8)[None, :, None]
    return [Image.fromarray(each[..., 0] if channels == 1 else each) for each in pixels]
