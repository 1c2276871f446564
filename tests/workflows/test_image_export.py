"""Images, from a model of any architecture to an answer."""

import json

import numpy as np
import pytest
import torch
import transformers
from optimum.exporters.tasks import TasksManager
from PIL import Image
from tiny_models import psnr
from transformers import (
    AutoConfig,
    BitImageProcessor,
    ConvNextConfig,
    ConvNextImageProcessor,
    DetrImageProcessor,
    ViTConfig,
    ViTImageProcessor,
    pipeline,
)

from optimum_ane import (
    ANEModelForFeatureExtraction,
    ANEModelForImageClassification,
    ANEModelForImageFeatureExtraction,
    export,
)
from optimum_ane.compression.accuracy_scorer import AccuracyScorer
from optimum_ane.compression.calibration_data import calibration_of_dataset
from optimum_ane.errors import CheckpointError, InputError, PackageError, UnsupportedModelError
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.evaluator import get_evaluator_class
from optimum_ane.exporters.stock_image import StockImageANEConfig
from optimum_ane.hub.card_package import read_card_package
from optimum_ane.hub.swift import swift_snippet
from optimum_ane.package.form import ExportForm
from optimum_ane.package.manifest import Manifest
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.targets.coreml.stock import convert_stock
from optimum_ane.workflows.benchmark_preparation import BenchmarkedPackage, make_inputs, shape_of
from optimum_ane.workflows.evaluate import evaluate_package

LABELS = {0: "cat", 1: "dog", 2: "bird"}
VIT = ViTConfig(
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=96,
    image_size=24,
    patch_size=8,
    id2label=LABELS,
)
CONVNEXT = ConvNextConfig(hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 2, 1], image_size=64, patch_size=4)


def make_model(auto_class, config, seed=0):
    torch.manual_seed(seed)
    model = getattr(transformers, auto_class).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.requires_grad_(False)


def make_images(rows, height, width, seed=3):
    """Images of eight bits as a processor gives them whose means and deviations are 0.5."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (rows, 3, height, width), generator=generator) / 127.5 - 1


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A classifier that was saved with its processor, and its package."""
    folder = tmp_path_factory.mktemp("images")
    original = make_model("AutoModelForImageClassification", VIT)
    original.save_pretrained(folder / "checkpoint")
    ViTImageProcessor(size={"height": 24, "width": 24}).save_pretrained(folder / "checkpoint")
    return original, export(folder / "checkpoint", folder / "out", quiet=True)


def test_a_classifier_answers_as_the_original(vit):
    original, result = vit
    model = ANEModelForImageClassification.from_pretrained(result.path)
    images = make_images(5, 24, 24)
    assert psnr(original(images).logits, model(images).logits) > 50
    assert list(result.report.layers) == ["embeddings", "layer.0", "layer.1"]
    assert "24 × 24 pixels" in repr(model)
    assert result.report.residency["flops_share_on_ane"] > 0.99


def test_pipelines_take_it_with_the_processor_of_the_package(vit):
    original, result = vit
    processor = ViTImageProcessor.from_pretrained(result.path)
    ours = pipeline(
        "image-classification",
        model=ANEModelForImageClassification.from_pretrained(result.path),
        image_processor=processor,
    )
    theirs = pipeline("image-classification", model=original, image_processor=processor)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 31, 3), dtype=np.uint8)
    answer, expected = ours(Image.fromarray(pixels)), theirs(Image.fromarray(pixels))
    assert [each["label"] for each in answer] == [each["label"] for each in expected]
    assert answer[0]["score"] == pytest.approx(expected[0]["score"], abs=0.01)


def test_the_package_says_what_images_it_takes(vit):
    _, result = vit
    manifest = Manifest.read(result.path)
    assert (manifest.modality, manifest.text, manifest.form.image_size) == ("image", None, (24, 24))
    image = manifest.image
    assert (image.height, image.width, image.channels, image.mean) == (24, 24, 3, (0.5, 0.5, 0.5))
    assert image.rescale_factor == pytest.approx(1 / 255)
    assert manifest.labels == ("cat", "dog", "bird")
    card = (result.path / "README.md").read_text()
    assert "images of 24 × 24 pixels" in card
    assert "tokens" not in card
    assert "tokenizer" not in card
    swift = swift_snippet(read_card_package("", result.path))
    assert "VNCoreMLRequest(model: model)" in swift
    assert 'let labels = ["cat", "dog", "bird"]' in swift


def test_other_images_are_refused(vit):
    model = ANEModelForImageClassification.from_pretrained(vit[1].path)
    with pytest.raises(InputError, match=r"\(1, 3, 32, 24\), and this package takes images of 24 × 24 pixels"):
        model(make_images(1, 32, 24))
    with pytest.raises(InputError, match=r"\(2, 1, 24, 24\)"):
        model(make_images(2, 24, 24)[:, :1])
    with pytest.raises(InputError, match=r"torch.uint8; expected floating point"):
        model(torch.zeros(1, 3, 24, 24, dtype=torch.uint8))
    with pytest.raises(InputError, match=r"NaN or infinity in row 1"):
        model(make_images(2, 24, 24) / torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1))


def test_benchmarks_time_images(vit):
    path = vit[1].path
    opened = BenchmarkedPackage(path, Manifest.read(path), None)
    (form,) = opened.forms([], [])
    assert shape_of(form) == "1 × 24 × 24"
    inputs = make_inputs(opened, form, seed=1)
    assert {name: (tuple(value.shape), value.dtype) for name, value in inputs.items()} == {
        "pixel_values": ((1, 3, 24, 24), torch.float32)
    }
    with pytest.raises(InputError, match=r"are no texts; leave out sequence_length"):
        opened.forms([], [64])


def test_the_stock_layout_of_an_image_model_answers_too(vit):
    original, result = vit
    stock = convert_stock(original, Manifest.read(result.path).form, {"pixel_values": make_images(1, 24, 24)})
    (name,) = [value.name for value in stock.get_spec().description.input]
    assert name == "pixel_values"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder for each class, of images that are not square; none is of birds."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(5)
    for index in range(24):
        path = folder / ("Cat" if index % 3 else "dog") / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (30 + index, 40, 3), dtype=np.uint8)).save(path)
    return folder


def test_a_package_is_scored_on_a_folder_of_images(vit, photos):
    original, result = vit
    report = evaluate_package(result.path, DatasetSpec(str(photos)))
    assert (report.rows, report.unit, report.label_mapping) == (24, "images", "by name")
    assert report.psnr > 45
    assert report.agreement >= 23 / 24
    # Beside the original by another way: each image through transformers' own pipeline.
    classify = pipeline(
        "image-classification", model=original, image_processor=ViTImageProcessor.from_pretrained(result.path)
    )
    paths = sorted(photos.glob("*/*.png"))
    right = [classify(str(path))[0]["label"] == path.parent.name.lower() for path in paths]
    assert 0 < sum(right) < 24
    assert report.original.right == sum(right)
    assert report.to_dict()["sequence_length"] is None


def test_an_export_scores_images_and_its_card_says_so(vit, photos, tmp_path):
    original, result = vit
    processor = ViTImageProcessor.from_pretrained(result.path)
    made = export(original, tmp_path / "out", processor=processor, eval_dataset=str(photos), max_accuracy_drop=20,
                  image_input="tensor", quiet=True)  # fmt: skip
    report = evaluate_package(made.path, DatasetSpec(str(photos)), reference=str(result.path.parent / "checkpoint"))
    assert (made.accuracy.original.metrics, made.accuracy.psnr) == (report.original.metrics, report.psnr)
    card = (made.path / "README.md").read_text()
    assert "24 rows, original → package" in card
    assert "of the images" in card
    assert "rows cut at" not in card


def test_an_export_without_a_processor_makes_nothing_of_images(photos, tmp_path):
    with pytest.raises(CheckpointError, match="has no image processor, which the dataset needs"):
        export(make_model("AutoModelForImageClassification", VIT), tmp_path / "out", eval_dataset=str(photos),
               quiet=True)  # fmt: skip


def test_calibration_takes_images_as_the_program_takes_them(vit, photos):
    calibration = calibration_of_dataset(vit[1].path, DatasetSpec(str(photos)), rows=5)
    assert len(calibration.batches) == 5
    for batch in calibration.batches:
        pixels = batch["pixel_values"]
        assert (pixels.shape, pixels.dtype) == ((1, 3, 24, 24), np.float32)
        assert (pixels == pixels.round()).all()
        assert 0 <= pixels.min() < 100 < 150 < pixels.max() <= 255


def test_variants_are_scored_on_images(vit, photos):
    scorer = AccuracyScorer(vit[1].path, DatasetSpec(str(photos)))
    report = scorer.report(PortableSession(vit[1].path / "model.mlpackage"))
    assert report.psnr == evaluate_package(vit[1].path, DatasetSpec(str(photos))).psnr


def test_hidden_states_of_images_are_not_scored(photos):
    with pytest.raises(UnsupportedModelError, match="datasets of images for feature-extraction are not read"):
        get_evaluator_class("feature-extraction", "image")


def test_feature_extraction_gives_a_map_at_a_size_that_is_asked_for(tmp_path):
    original = make_model("AutoModel", CONVNEXT)
    result = export(
        original, tmp_path / "out", quiet=True, image_size=(64, 96), batch_size=2, task="feature-extraction"
    )
    model = ANEModelForImageFeatureExtraction.from_pretrained(result.path)
    images = make_images(3, 64, 96)
    answer = model(images, return_dict=False)
    assert answer[0].shape == (3, 48, 2, 3)
    assert psnr(original(images).last_hidden_state, answer[0]) > 50
    with pytest.raises(PackageError, match=r"feature-extraction of image, .* ANEModelForImageFeatureExtraction"):
        ANEModelForFeatureExtraction.from_pretrained(result.path)
    report = json.loads((result.path / "export_report.json").read_text())
    assert "image_size=(64, 96)" in report["command"]


@pytest.mark.parametrize(
    ("processor", "size"),
    [
        (ViTImageProcessor(size={"height": 24, "width": 40}), (24, 40)),
        (BitImageProcessor(size={"shortest_edge": 60}, crop_size={"height": 48, "width": 32}), (48, 32)),
        (ConvNextImageProcessor(size={"shortest_edge": 96}, crop_pct=0.875), (96, 96)),
        (BitImageProcessor(size={"shortest_edge": 60}, do_center_crop=False), (64, 64)),
        (None, (64, 64)),
    ],
    ids=["fixed", "cropped", "resized beyond and cropped", "as the image", "none"],
)
def test_the_size_is_what_the_processor_makes_of_images(processor, size):
    """Where it depends on the image, the configuration decides."""
    config = StockImageANEConfig(CONVNEXT, "image-classification")
    assert config.complete(ExportForm(task="image-classification"), processor).image_size == size


def test_a_detector_whose_images_keep_their_proportions_takes_a_square():
    config = StockImageANEConfig(AutoConfig.for_model("detr", use_timm_backbone=False), "object-detection")
    processor = DetrImageProcessor(size={"shortest_edge": 96, "longest_edge": 200})
    assert config.complete(ExportForm(task="object-detection"), processor).image_size == (96, 96)


def test_a_size_that_nothing_says():
    config = AutoConfig.for_model("resnet")
    with pytest.raises(UnsupportedModelError, match=r"neither an image processor nor .* resnet .*give image_size"):
        StockImageANEConfig(config, "image-classification").complete(ExportForm(task="image-classification"), None)


def test_options_of_texts_are_refused(tmp_path):
    with pytest.raises(UnsupportedModelError, match=r"sequence_length is for rows of tokens, .* takes images"):
        export(
            make_model("AutoModel", VIT), tmp_path / "out", quiet=True, sequence_length=32, task="feature-extraction"
        )


def test_the_tasks_manager_knows_models_of_images():
    tasks = TasksManager.get_supported_tasks_for_model_type("resnet", "ane", library_name="transformers")
    assert {"feature-extraction", "image-classification"} <= tasks.keys()
    config = tasks["image-classification"](AutoConfig.for_model("resnet"))
    assert isinstance(config, StockImageANEConfig)
    assert list(config.inputs) == ["pixel_values"]
