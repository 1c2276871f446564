"""Programs that take Core ML's images and normalise them: against the original on the processor's own values."""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tiny_models import psnr
from transformers import (
    BitImageProcessor,
    EfficientNetImageProcessor,
    MobileViTImageProcessor,
    ResNetConfig,
    SuperPointImageProcessor,
    ViTConfig,
    ViTImageProcessor,
)

from optimum_ane import ANEModelForImageClassification, export
from optimum_ane.errors import InputError, PackageError, ShapeError, UnsupportedModelError
from optimum_ane.exporters.image_normalization import ask_normalization
from optimum_ane.hub.card_package import read_card_package
from optimum_ane.hub.swift import swift_snippet
from optimum_ane.package.manifest import Manifest
from optimum_ane.package.normalization import Normalization
from optimum_ane.runtimes.portable import PortableSession

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
RESNET = ResNetConfig(embedding_size=16, hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 1, 1], layer_type="basic")
PADDED = ViTImageProcessor(size={"height": 40, "width": 72}, image_mean=MEAN, image_std=STD)
VIT = ViTConfig(
    hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=16, patch_size=8
)
CASES = {
    "unequal std, padded, not square": (RESNET, PADDED, "RGB"),
    "blue first, without a mean": (
        VIT,
        MobileViTImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        "BGR",
    ),
    "grey": (
        ViTConfig(**{**VIT.to_dict(), "num_channels": 1, "image_size": (16, 24)}),
        ViTImageProcessor(size={"height": 16, "width": 24}, image_mean=[0.3], image_std=[0.2]),
        "GRAYSCALE",
    ),
}


def make_model(config, seed=0):
    torch.manual_seed(seed)
    model = transformers.AutoModelForImageClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.requires_grad_(False)


def make_pictures(rows, size, layout="RGB", seed=0):
    """Noise, and at the end a picture of one colour, whose border shows what padding stands for."""
    height, width = size
    shape = (rows, height, width) if layout == "GRAYSCALE" else (rows, height, width, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    pixels[-1] = 255 if layout == "GRAYSCALE" else (255, 0, 128)
    return [Image.fromarray(each) for each in pixels]


def values_of(processor, pictures):
    return processor(pictures, return_tensors="pt")["pixel_values"]


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    config, processor, layout = CASES[request.param]
    original = make_model(config)
    folder = tmp_path_factory.mktemp("inputs")
    paths = {
        precision: export(original, folder / precision, precision=precision, quiet=True, processor=processor).path
        for precision in ("float16", "float32")
    }
    return original, processor, layout, paths


@pytest.mark.parametrize(("precision", "ratio"), [("float32", 110), ("float16", 55)])
def test_pictures_in_give_what_the_original_gives_for_the_processors_values(case, precision, ratio):
    original, processor, layout, paths = case
    manifest = Manifest.read(paths[precision])
    pictures = make_pictures(5, manifest.form.image_size, layout)
    values = values_of(processor, pictures)
    expected = original(values).logits
    session = PortableSession(paths[precision] / "model.mlpackage")
    assert session.inputs["pixel_values"].image == layout == manifest.image.normalization.layout
    direct = np.concatenate([session.predict({"pixel_values": picture})["logits"] for picture in pictures])
    for row in range(len(pictures)):  # each: the last shows the border
        assert psnr(expected[row], torch.from_numpy(direct[row])) > ratio
    driven = ANEModelForImageClassification.from_pretrained(paths[precision])(values).logits
    np.testing.assert_array_equal(driven.numpy(), direct.astype(np.float32))


def test_nothing_but_two_exact_operations_is_added(case):
    """The image in steps of 1/256, and the distance from the number that becomes 0; the rest is in the weights."""
    _, _, layout, paths = case
    session = PortableSession(paths["float16"] / "model.mlpackage")
    operations = [step.node.op for step in session._program.steps[:4]]
    assert operations[:3] == (["cast", "mul", "conv"] if layout == "BGR" else ["cast", "mul", "sub"])


def test_two_operations_lose_nothing_in_float16(case):
    _, _, layout, paths = case
    session = PortableSession(paths["float16"] / "model.mlpackage")
    channels = session.inputs["pixel_values"].shape[1]
    every = np.resize(np.arange(256), session.inputs["pixel_values"].shape).astype(np.float32)
    names = [step.node.outputs[0].name for step in session._program.steps[1:3]]
    found = session.predict({"pixel_values": every}, intermediates=names)
    steps = found[names[0]].astype(np.float64)
    np.testing.assert_array_equal(steps, every / 256)
    if layout != "BGR":
        taken = steps - found[names[1]].astype(np.float64)
        assert all(len(np.unique(taken[:, channel])) == 1 for channel in range(channels))


def test_a_batch_of_core_mls_images_is_refused_and_the_default_is_tensors(tmp_path):
    with pytest.raises(ShapeError, match=r"an image of Core ML's is one, batch size 2 .* image_input tensor"):
        export(make_model(VIT), tmp_path / "out", image_input="image", batch_size=2, quiet=True)
    processor = ViTImageProcessor(size={"height": 16, "width": 16})
    path = export(
        make_model(VIT), tmp_path / "out", processor=processor, batch_size=2, quiet=True, validate=False
    ).path
    assert Manifest.read(path).form.image_input == "tensor"
    assert PortableSession(path / "model.mlpackage").inputs["pixel_values"].image == ""
    assert "MLShapedArray<Float>" in swift_snippet(read_card_package("", path))


def test_without_a_processor_images_are_refused_with_the_remedy(tmp_path):
    with pytest.raises(UnsupportedModelError, match=r"there is no image processor.*image_input tensor"):
        export(make_model(VIT), tmp_path / "out", image_input="image", quiet=True)


def test_values_that_no_image_gives_are_refused(case):
    _, processor, layout, paths = case
    model = ANEModelForImageClassification.from_pretrained(paths["float16"])
    values = values_of(processor, make_pictures(3, model.image_size, layout))
    wrong = values.clone()
    wrong[1, 0, 2, 3] = values.max() * 3
    with pytest.raises(InputError, match=r"pixel_values, row 1: .* 0 to 255.*image_input tensor"):
        model(wrong)


def test_a_manifest_of_other_inputs_than_the_programs_is_refused(case):
    import dataclasses

    _, _, _, paths = case
    model = ANEModelForImageClassification.from_pretrained(paths["float16"])
    image = dataclasses.replace(model.manifest.image, normalization=None)
    with pytest.raises(PackageError, match=r"takes tensors, and it takes"):
        type(model)(model.sessions, model.config, dataclasses.replace(model.manifest, image=image))


class TestNormalization:
    def test_values_between_two_steps_are_rounded_to_the_nearer(self):
        normalization = Normalization("RGB", (0.5, 1.0, 2.0), (1.0, 0.0, -1.0))
        pixels = np.array([[[[0.0, 17.0]], [[254.0, 255.0]], [[3.0, 4.0]]]])
        values = normalization.apply(pixels)
        np.testing.assert_array_equal(normalization.invert(values, "v"), pixels)
        between = normalization.apply(pixels + 0.4)
        np.testing.assert_array_equal(normalization.invert(between, "v"), pixels)
        with pytest.raises(InputError, match=r"v, row 0: .* from 0.60 to 255.60"):
            normalization.invert(normalization.apply(pixels + 0.6), "v")

    @pytest.mark.parametrize(
        ("layout", "scale", "bias"),
        [("RGBA", (1.0,), (0.0,)), ("RGB", (1.0,), (0.0,)), ("GRAYSCALE", (0.0,), (0.0,)), ("BGR", (1.0,) * 3, ())],
    )
    def test_what_is_no_function_of_an_image_is_damage(self, layout, scale, bias):
        with pytest.raises(PackageError):
            Normalization(layout, scale, bias)


class TestProcessors:
    def test_the_entries_of_a_processor_are_what_it_does(self):
        found = ask_normalization(PADDED, (40, 72), 3)
        assert found.layout == "RGB"
        np.testing.assert_allclose(found.scale, [1 / 255 / std for std in STD], rtol=1e-6)
        np.testing.assert_allclose(found.bias, [-mean / std for mean, std in zip(MEAN, STD, strict=True)], rtol=1e-6)

    @pytest.mark.parametrize(
        ("processor", "scale", "bias"),
        [
            (ViTImageProcessor(do_rescale=False, do_normalize=False), 1, 0),
            (ViTImageProcessor(do_rescale=False, image_mean=[100] * 3, image_std=[50] * 3), 1 / 50, -2),
            (ViTImageProcessor(rescale_factor=1 / 127.5, do_normalize=False), 1 / 127.5, 0),
            (
                EfficientNetImageProcessor(
                    rescale_factor=1 / 127.5, rescale_offset=True, do_normalize=False, include_top=False
                ),
                1 / 127.5,
                -1,
            ),
            # It normalises once more, by the deviation alone.
            (
                EfficientNetImageProcessor(rescale_factor=1 / 255, do_normalize=False, image_std=[0.5] * 3),
                1 / 127.5,
                0,
            ),
            (BitImageProcessor(image_mean=[0.5] * 3, image_std=[0.25] * 3), 4 / 255, -2),
        ],
        ids=["as it is", "of 0 to 255", "rescaled", "with an offset", "twice", "cropped"],
    )
    def test_whatever_scales_and_shifts_can_be_baked(self, processor, scale, bias):
        found = ask_normalization(processor, (30, 20), 3)
        np.testing.assert_allclose(found.scale, [scale] * 3, rtol=1e-6)
        np.testing.assert_allclose(found.bias, [bias] * 3, atol=1e-6)

    def test_what_mixes_channels_is_refused(self):
        with pytest.raises(UnsupportedModelError, match="does more to the numbers of an image than scale and shift"):
            ask_normalization(SuperPointImageProcessor(do_grayscale=True), (30, 20), 3)

    def test_what_forgets_an_image_is_refused(self):
        class Nothing:
            def __call__(self, image, return_tensors):
                return {"pixel_values": np.zeros((1, 3, 20, 30), np.float32)}

        with pytest.raises(UnsupportedModelError, match="the same values for a black image and for a white one"):
            ask_normalization(Nothing(), (20, 30), 3)

    def test_what_looks_at_neighbours_is_refused(self):
        class Blurred:
            def __call__(self, image, return_tensors):
                values = np.asarray(image, np.float32).transpose(2, 0, 1)[None]
                return {"pixel_values": (values + np.roll(values, 1, -1)) / 2}

        with pytest.raises(UnsupportedModelError, match="more to the numbers"):
            ask_normalization(Blurred(), (20, 30), 3)
