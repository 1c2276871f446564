"""Pairs of encoders, of texts and of images: two programs, one model class."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import psnr
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
    ViTImageProcessor,
    pipeline,
)

from optimum_ane import ANEModelForZeroShotImageClassification, export
from optimum_ane.compression.calibration_data import calibration_of_dataset
from optimum_ane.errors import InputError, PackageError, ShapeError, UnsupportedModelError
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.hub.card_package import read_card_package
from optimum_ane.hub.python import python_snippet
from optimum_ane.hub.swift import swift_snippet
from optimum_ane.package.manifest import Manifest
from optimum_ane.workflows.benchmark_preparation import BenchmarkedPackage, make_inputs
from optimum_ane.workflows.evaluate import evaluate_package

WORDS = ["[pad]", "[unk]", "[start]", "[end]", "this", "is", "a", "photo", "of", "cat", "dog", "bird", "."]
SIZE = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96}
TEXTS = SIZE | {"vocab_size": len(WORDS), "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
IMAGES = SIZE | {"image_size": 32, "patch_size": 8}
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))


def make_images(processor):
    pixels = np.random.default_rng(1).integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)
    return processor([Image.fromarray(image) for image in pixels], return_tensors="pt")["pixel_values"]


def make_model(model_class, config):
    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.requires_grad_(False)


def make_tokenizer(model_input_names):
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[unk]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[start] $A [end]", special_tokens=[("[start]", 2), ("[end]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[pad]",
        unk_token="[unk]",
        bos_token="[start]",
        eos_token="[end]",
        model_input_names=model_input_names,
    )


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A model in memory, and its package; texts have 24 positions."""
    original = make_model(
        CLIPModel,
        CLIPConfig(text_config=TEXTS | {"max_position_embeddings": 24}, vision_config=IMAGES, projection_dim=40),
    )
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    result = export(
        original,
        tmp_path_factory.mktemp("clip") / "out",
        task="zero-shot-image-classification",
        tokenizer=make_tokenizer(["input_ids", "attention_mask"]),
        processor=processor,
        quiet=True,
    )
    return original, result, processor


def test_texts_and_images_of_any_number_are_compared_as_by_the_original(clip):
    original, result, processor = clip
    model = ANEModelForZeroShotImageClassification.from_pretrained(result.path)
    texts = make_tokenizer(["input_ids", "attention_mask"])(
        ["a photo of a cat", "bird", "is this a dog . this is a cat ."], padding=True, return_tensors="pt"
    )
    images = make_images(processor)
    answer, expected = model(pixel_values=images, **texts), original(pixel_values=images, **texts)
    assert answer.logits_per_image.shape == (2, 3)
    assert torch.equal(answer.logits_per_text, answer.logits_per_image.t())
    for name in ("logits_per_image", "text_embeds", "image_embeds"):
        assert psnr(expected[name], answer[name]) > 55, name
    assert torch.allclose(answer.text_embeds.norm(dim=-1), torch.ones(3), atol=2e-3)
    alone = model(input_ids=texts["input_ids"], attention_mask=texts["attention_mask"])
    assert torch.equal(alone.text_embeds, answer.text_embeds)
    assert "image_embeds" not in alone
    assert torch.equal(model(pixel_values=images).image_embeds, answer.image_embeds)
    with pytest.raises(InputError, match="neither input_ids nor pixel_values"):
        model()


def test_it_is_scored_on_a_folder_for_each_class(clip, tmp_path):
    """Beside the original's own logits, whose largest is the answer."""
    original, result, processor = clip
    classes, random, right, count = ("bird", "cat", "dog"), np.random.default_rng(2), 0, 0
    original.save_pretrained(tmp_path / "original")
    texts = make_tokenizer(["input_ids", "attention_mask"])(
        [f"a photo of a {name} ." for name in classes], padding=True, return_tensors="pt"
    )
    for label, name in enumerate(classes):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(6):
            image = Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8))
            image.save(tmp_path / "photos" / name / f"{index}.png")
            pixels = processor(image, return_tensors="pt")["pixel_values"]
            right += int(original(pixel_values=pixels, **texts).logits_per_image.argmax()) == label
            count += 1
    report = evaluate_package(result.path, DatasetSpec(str(tmp_path / "photos")), reference=str(tmp_path / "original"))
    assert 0 < report.original.right == right < count == report.rows
    assert report.agreement >= 1 - 1 / count
    assert report.psnr > 50
    with pytest.raises(UnsupportedModelError, match="which no dataset calibrates in this version"):
        calibration_of_dataset(result.path, DatasetSpec(str(tmp_path / "photos")))


def test_the_pipeline_names_the_same_label(clip, caplog):
    original, result, processor = clip
    model = ANEModelForZeroShotImageClassification.from_pretrained(result.path)
    answers = [
        pipeline(
            "zero-shot-image-classification",
            model=each,
            tokenizer=make_tokenizer(["input_ids", "attention_mask"]),
            image_processor=processor,
        )(PHOTO, candidate_labels=["cat", "dog", "bird"])
        for each in (model, original)
    ]
    assert [each["label"] for each in answers[0]] == [each["label"] for each in answers[1]]
    assert answers[0][0]["score"] == pytest.approx(answers[1][0]["score"], abs=0.01)
    assert "is not supported" not in caplog.text


def test_the_package_says_what_it_takes_and_computes_with(clip):
    original, result, _ = clip
    manifest = Manifest.read(result.path)
    assert manifest.modality == "image-text"
    assert manifest.form.sequence_length == (24,)
    assert manifest.constants["logit_scale"] == pytest.approx(float(original.logit_scale.exp()))
    outputs = {each.name: each.dtype for function in manifest.functions for each in function.outputs}
    assert outputs == {"text_embeds": "float32", "image_embeds": "float32"}
    card = (result.path / "README.md").read_text()
    assert "texts of 24 tokens and images of 32 × 32 pixels" in card
    assert result.report.warnings == ()


def test_a_package_that_lacks_what_it_needs_is_refused(clip):
    model = ANEModelForZeroShotImageClassification.from_pretrained(clip[1].path)
    with pytest.raises(PackageError, match="has no constant logit_bias"):
        type(model)(model.sessions, model.config, replace(model.manifest, constants={"logit_scale": 1.0}))
    with pytest.raises(PackageError, match="lacks the program text; it has image"):
        type(model)({"image": model.sessions["image"]}, model.config, model.manifest)


def test_snippets_call_both_programs(clip):
    package = read_card_package("", clip[1].path)
    swift = swift_snippet(package)
    assert '"text.mlpackage", from: folder' in swift
    assert "pixelsWide: 32, pixelsHigh: 32" in swift
    assert "VNImageCropAndScaleOption." in swift
    python = python_snippet(package, None)
    assert "import AutoImageProcessor, AutoTokenizer, pipeline" in python
    compile(python, "card", "exec")


def test_benchmarks_time_a_text_with_an_image(clip):
    path = clip[1].path
    opened = BenchmarkedPackage(path, Manifest.read(path), None)
    (form,) = opened.forms([], [])
    inputs = make_inputs(opened, form, seed=1)
    assert {name: tuple(value.shape) for name, value in inputs.items()} == {
        "input_ids": (1, 24),
        "attention_mask": (1, 24),
        "pixel_values": (1, 3, 32, 32),
    }
    answer = ANEModelForZeroShotImageClassification.from_pretrained(path)(**inputs)
    assert answer.logits_per_image.shape == (1, 1)


def test_texts_without_a_mask_have_the_full_length(tmp_path):
    """SigLIP was trained on texts that are padded to 64 tokens, without a mask: padding is a part of the text."""
    original = make_model(
        SiglipModel,
        SiglipConfig(text_config=TEXTS | {"max_position_embeddings": 16, "projection_size": 48}, vision_config=IMAGES),
    )
    tokenizer, processor = make_tokenizer(["input_ids"]), ViTImageProcessor(size={"height": 32, "width": 32})
    result = export(
        original,
        tmp_path / "out",
        task="zero-shot-image-classification",
        tokenizer=tokenizer,
        processor=processor,
        quiet=True,
    )
    model = ANEModelForZeroShotImageClassification.from_pretrained(result.path)
    assert [each.name for each in model.manifest.program("text").functions[0].inputs] == ["input_ids"]
    texts = tokenizer(["a photo of a cat", "dog"], padding="max_length", max_length=16, return_tensors="pt")
    images = make_images(processor)
    answer, expected = model(pixel_values=images, **texts), original(pixel_values=images, **texts)
    assert psnr(expected.text_embeds, answer.text_embeds) > 55
    assert torch.allclose(expected.logits_per_image, answer.logits_per_image, atol=2e-3)
    assert abs(float(original.logit_bias)) > 0.01
    with pytest.raises(InputError, match=r"has 7 tokens a row, .* padded to 16"):
        model(**tokenizer(["a photo of a cat"], return_tensors="pt"))


@pytest.fixture(scope="module")
def siglip2():
    """A model of native resolution, whose own processor makes patches."""
    images = {name: value for name, value in IMAGES.items() if name != "image_size"} | {"num_patches": 16}
    texts = TEXTS | {"max_position_embeddings": 16, "projection_size": 48}
    model = make_model(Siglip2Model, Siglip2Config(text_config=texts, vision_config=images))
    return model, Siglip2ImageProcessor(patch_size=8, max_num_patches=24)


def test_images_that_come_as_patches_go_in_whole_at_one_size(siglip2, tmp_path):
    """The original is asked with the patches that its own processor makes of an image of the exported size."""
    original, processor = siglip2
    tokenizer = make_tokenizer(["input_ids"])
    result = export(
        original,
        tmp_path / "out",
        task="zero-shot-image-classification",
        tokenizer=tokenizer,
        processor=processor,
        image_size=(32, 48),
        quiet=True,
    )
    assert result.report.residency["flops_share_on_ane"] > 0.9
    model = ANEModelForZeroShotImageClassification.from_pretrained(result.path)
    texts = tokenizer(["a photo of a cat", "dog"], padding="max_length", max_length=16, return_tensors="pt")
    image = PHOTO.resize((48, 32))
    patches = processor(image, return_tensors="pt")
    assert patches["spatial_shapes"].tolist() == [[4, 6]]
    whole = AutoImageProcessor.from_pretrained(result.path)(image, return_tensors="pt")
    assert whole["pixel_values"].shape == (1, 3, 32, 48)
    answer, expected = model(**texts, **whole), original(**texts, **patches)
    assert psnr(expected.image_embeds, answer.image_embeds) > 55
    assert torch.allclose(expected.logits_per_image, answer.logits_per_image, atol=2e-3)


def test_images_of_no_whole_number_of_patches_are_refused(siglip2, tmp_path):
    with pytest.raises(ShapeError, match=r"32 × 44 pixels are no whole number of patches of 8"):
        export(siglip2[0], tmp_path / "out", task="zero-shot-image-classification", image_size=(32, 44), quiet=True)


def test_texts_beyond_the_positions_are_refused(clip, tmp_path):
    with pytest.raises(ShapeError, match=r"sequence length 64 is above the 24 positions"):
        export(
            clip[0], tmp_path / "out", task="zero-shot-image-classification", sequence_length=64, image_size=32,
            quiet=True,
        )  # fmt: skip


def test_feature_extraction_of_a_pair_is_refused_with_what_there_is(clip, tmp_path):
    with pytest.raises(UnsupportedModelError, match=r"'feature-extraction' is not supported .*zero-shot-image"):
        export(clip[0], tmp_path / "out", task="feature-extraction", quiet=True)
