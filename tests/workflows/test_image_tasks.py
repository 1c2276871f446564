"""Detection, segmentation and depth: a package for each, alone and inside transformers' pipelines."""

import json

import coremltools as ct
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import psnr
from transformers import (
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    DetrConfig,
    DetrForObjectDetection,
    DetrImageProcessor,
    Dinov2Config,
    DPTImageProcessor,
    ResNetConfig,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    YolosConfig,
    YolosForObjectDetection,
    YolosImageProcessor,
    pipeline,
)

from optimum_ane import (
    ANEModelForDepthEstimation,
    ANEModelForObjectDetection,
    ANEModelForSemanticSegmentation,
    export,
)
from optimum_ane.errors import InputError, ShapeError, UnsupportedModelError
from optimum_ane.hub.card_package import read_card_package
from optimum_ane.hub.swift import swift_snippet
from optimum_ane.package.form import ExportForm
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.targets.coreml.metadata import PREVIEW_TYPE

LABELS = {0: "cat", 1: "dog", 2: "bird"}
YOLOS = YolosConfig(
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=96,
    image_size=[32, 48],
    patch_size=16,
    num_detection_tokens=7,
    id2label=LABELS,
)
DETR = DetrConfig(
    use_timm_backbone=False,
    use_pretrained_backbone=False,
    backbone=None,
    backbone_config=ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 24], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    ),
    d_model=48,
    encoder_layers=1,
    decoder_layers=2,
    encoder_ffn_dim=96,
    decoder_ffn_dim=96,
    encoder_attention_heads=3,
    decoder_attention_heads=3,
    num_queries=9,
    id2label=LABELS,
)
SEGFORMER = SegformerConfig(
    hidden_sizes=[16, 24, 32, 40],
    depths=[1, 1, 1, 1],
    num_attention_heads=[1, 2, 4, 5],
    decoder_hidden_size=32,
    id2label=LABELS,
)
DEPTH_ANYTHING = DepthAnythingConfig(
    backbone_config=Dinov2Config(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=96,
        image_size=28,
        out_features=["stage1", "stage2"],
        reshape_hidden_states=False,
        apply_layernorm=True,
    ),
    reassemble_hidden_size=48,
    neck_hidden_sizes=[16, 24],
    reassemble_factors=[2, 1],
    fusion_hidden_size=24,
    head_hidden_size=16,
    depth_estimation_type="metric",
    max_depth=10,
)
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8))


def make_model(model_class, config):
    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.requires_grad_(False)


def exported(folder, original, processor, task):
    """The package's directory, and its processor; it was scored on the photo, turned, on the way."""
    (folder / "photos").mkdir()
    for turn in range(4):
        PHOTO.rotate(90 * turn, expand=True).save(folder / "photos" / f"{turn}.png")
    result = export(
        original,
        folder / "out",
        task=task,
        processor=processor,
        postprocess=True,
        eval_dataset=str(folder / "photos"),
        max_accuracy_drop=20,
        quiet=True,
    )
    return result.path, type(processor).from_pretrained(result.path)


def metrics_of(path):
    """What an export found on the photos."""
    report = json.loads((path / "export_report.json").read_text())["accuracy"]
    assert report["rows"] == 4
    assert report["psnr"] > 50
    assert report["drop"] == pytest.approx(100 * (1 - report["package"]["metrics"][report["primary_metric"]]))
    return report["package"]["metrics"]


@pytest.fixture(scope="module")
def yolos(tmp_path_factory):
    original = make_model(YolosForObjectDetection, YOLOS)
    processor = YolosImageProcessor(size={"height": 32, "width": 48}, do_pad=False)
    return original, *exported(tmp_path_factory.mktemp("yolos"), original, processor, "object-detection")


def both_pipelines(task, model, original, processor, **options):
    return (pipeline(task, model=each, image_processor=processor)(PHOTO, **options) for each in (model, original))


def test_a_detector_finds_what_the_original_finds(yolos, caplog):
    original, path, processor = yolos
    model = ANEModelForObjectDetection.from_pretrained(path)
    pixels = processor(PHOTO, return_tensors="pt")["pixel_values"]
    answer, expected = model(pixels), original(pixels)
    assert psnr(expected.logits, answer.logits) > 55
    assert psnr(expected.pred_boxes, answer.pred_boxes) > 55
    ours, theirs = both_pipelines("object-detection", model, original, processor, threshold=0.2)
    assert [each["label"] for each in ours] == [each["label"] for each in theirs]
    assert ours
    for one, other in zip(ours, theirs, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=0.005)
        assert all(abs(one["box"][side] - other["box"][side]) <= 1 for side in other["box"])
    assert "is not supported" not in caplog.text


def predict_photo(path, height, width):
    """What the program gives for an image of its size, as an app calls it, and the image."""
    image = PHOTO.resize((width, height))
    return PortableSession(path / "model.mlpackage").predict({"pixel_values": image}), image


def test_a_detector_gives_confidences_and_coordinates(yolos):
    original, path, processor = yolos
    outputs, image = predict_photo(path, 32, 48)
    expected = original(**processor(image, return_tensors="pt"))
    assert outputs["confidence"].shape == (7, len(LABELS))
    assert np.allclose(outputs["confidence"], expected.logits.softmax(-1)[0, :, :-1], atol=1e-3)
    assert np.allclose(outputs["coordinates"], expected.pred_boxes[0], atol=1e-3)
    assert {outputs[name].dtype for name in ("confidence", "coordinates")} == {np.dtype("float32")}


def test_boxes_are_measured_in_pixels_of_the_image(yolos):
    """Beside the same by transformers' own reading of the outputs."""
    original, path, processor = yolos
    model = ANEModelForObjectDetection.from_pretrained(path)
    errors = []
    for turn in range(4):
        image = PHOTO.rotate(90 * turn, expand=True)
        pixels = processor(image, return_tensors="pt")["pixel_values"]
        ours, theirs = (
            processor.post_process_object_detection(each(pixels), threshold=0, target_sizes=[image.size[::-1]])[0]
            for each in (model, original)
        )
        scores = theirs["scores"]
        chosen = scores >= 0.5 if (scores >= 0.5).any() else scores >= scores.sort().values[-10:][0]
        errors.append((ours["boxes"] - theirs["boxes"])[chosen].abs().flatten())
    found, errors = metrics_of(path), torch.cat(errors)
    assert found["mean_box_error"] == pytest.approx(float(errors.mean()), rel=1e-3)
    assert found["largest_box_error"] == pytest.approx(float(errors.max()), rel=1e-3)
    assert 0 < found["mean_box_error"] < 0.2
    assert found["matched_boxes"] > 0.8
    assert found["largest_score_error"] < 0.01
    card = (path / "README.md").read_text()
    assert "mean_box_error" in card
    assert f"0.000 px → {found['mean_box_error']:.3f} px" in card


def test_masks_of_padding_are_refused(yolos):
    _, path, _ = yolos
    model = ANEModelForObjectDetection.from_pretrained(path)
    pixels, mask = torch.zeros(1, 3, 32, 48), torch.ones(1, 32, 48, dtype=torch.long)
    assert torch.equal(model(pixels).logits, model(pixels, pixel_mask=mask).logits)
    mask[0, 31] = 0
    with pytest.raises(InputError, match="pixel_mask marks padding"):
        model(pixels, pixel_mask=mask)


def test_swift_of_a_detector_leaves_out_the_score_of_no_object(yolos):
    swift = swift_snippet(read_card_package("", yolos[1]))
    assert 'let labels = ["cat", "dog", "bird"]' in swift
    assert "score is that of no object" in swift


def test_a_detector_with_a_backbone_at_a_size_that_is_asked_for(tmp_path):
    original = make_model(DetrForObjectDetection, DETR)
    result = export(original, tmp_path / "out", task="object-detection", image_size=(40, 72), quiet=True)
    pixels = torch.randn(2, 3, 40, 72, generator=torch.Generator().manual_seed(1))
    answer = ANEModelForObjectDetection.from_pretrained(result.path)(pixels)
    expected = original(pixels)
    assert psnr(expected.logits, answer.logits) > 50
    assert psnr(expected.pred_boxes, answer.pred_boxes) > 55


def test_a_letterboxed_detector_tells_the_image_from_what_is_filled_up(tmp_path):
    """Boxes are parts of the image itself, so that what is filled up must not be seen."""
    original = make_model(DetrForObjectDetection, DETR)
    result = export(
        original,
        tmp_path / "out",
        task="object-detection",
        image_size=(64, 96),
        letterbox=True,
        processor=DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 200}),
        quiet=True,
    )
    processor = DetrImageProcessor.from_pretrained(result.path)
    inputs = processor([PHOTO, PHOTO.resize((300, 60))], return_tensors="pt")
    assert inputs["pixel_values"].shape == (2, 3, 64, 96)
    assert 0.3 < inputs["pixel_mask"].float().mean() < 0.9
    swift = swift_snippet(read_card_package("", result.path))
    assert "shape: [1, 64, 96]" in swift
    assert "func detect(\n        _ image: CGImage" in swift
    model = ANEModelForObjectDetection.from_pretrained(result.path)
    answer, expected = model(**inputs), original(**inputs)
    assert psnr(expected.logits, answer.logits) > 50
    assert psnr(expected.pred_boxes, answer.pred_boxes) > 50
    without = model(inputs["pixel_values"])
    assert psnr(expected.logits, without.logits) < 45  # the mask is read
    session = PortableSession(result.path / "model.mlpackage")
    white = {"pixel_values": PHOTO.resize((96, 64)), "pixel_mask": inputs["pixel_mask"][:1].int().numpy()}
    other = {**white, "pixel_values": _filled(white["pixel_values"], white["pixel_mask"][0])}
    assert np.array_equal(session.predict(white)["logits"], session.predict(other)["logits"])
    with pytest.raises(InputError, match=r"pixel_mask has shape \(2, 64, 64\)"):
        model(inputs["pixel_values"], pixel_mask=inputs["pixel_mask"][:, :, :64])


def _filled(image, mask):
    """An image with another colour where the mask is 0."""
    pixels = np.array(image)
    pixels[mask == 0] = 255
    return Image.fromarray(pixels)


def test_a_model_without_a_mask_is_not_letterboxed(yolos, tmp_path):
    with pytest.raises(UnsupportedModelError, match=r"yolos takes no pixel_mask"):
        export(yolos[0], tmp_path / "out", task="object-detection", letterbox=True, quiet=True)


def test_a_segmenter_gives_each_point_its_class(tmp_path, caplog):
    original = make_model(SegformerForSemanticSegmentation, SEGFORMER)
    processor = SegformerImageProcessor(size={"height": 64, "width": 96})
    path, processor = exported(tmp_path, original, processor, "image-segmentation")
    found = metrics_of(path)
    assert 0.99 < found["pixel_agreement"] < 1
    assert 0.95 < found["iou_with_original"] < 1
    model = ANEModelForSemanticSegmentation.from_pretrained(path)
    ours, theirs = both_pipelines("image-segmentation", model, original, processor)
    assert [part["label"] for part in ours] == [part["label"] for part in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert (np.asarray(one["mask"]) == np.asarray(other["mask"])).mean() > 0.99
    assert "is not supported" not in caplog.text
    assert '["class_map"]!' in swift_snippet(read_card_package("", path))
    outputs, image = predict_photo(path, 64, 96)
    (expected,) = processor.post_process_semantic_segmentation(
        original(**processor(image, return_tensors="pt")), target_sizes=[(64, 96)]
    )
    assert outputs["class_map"].dtype == np.int32
    assert len(expected.unique()) > 1
    assert (outputs["class_map"] == expected.numpy()).mean() > 0.99
    assert preview_of(path) == "imageSegmenter"


def test_depth_is_measured_as_the_original_measures_it(tmp_path):
    original = make_model(DepthAnythingForDepthEstimation, DEPTH_ANYTHING)
    processor = DPTImageProcessor(size={"height": 28, "width": 42}, keep_aspect_ratio=False)
    path, processor = exported(tmp_path, original, processor, "depth-estimation")
    found = metrics_of(path)
    assert found["within_1.25"] == 1
    assert 0 < found["depth_error"] < 0.01
    model = ANEModelForDepthEstimation.from_pretrained(path)
    ours, theirs = both_pipelines("depth-estimation", model, original, processor)
    assert ours["predicted_depth"].shape == (70, 90)
    assert theirs["predicted_depth"].std() > 0.01
    assert psnr(theirs["predicted_depth"], ours["predicted_depth"]) > 50
    assert "VNPixelBufferObservation" in swift_snippet(read_card_package("", path))
    outputs, image = predict_photo(path, 28, 42)
    expected = original(**processor(image, return_tensors="pt")).predicted_depth[0]
    assert outputs["depth"].mode == "F"
    assert psnr(expected, torch.from_numpy(np.array(outputs["depth"]))) > 50
    assert preview_of(path) == "depthEstimation"


def preview_of(path):
    specification = ct.utils.load_spec(str(path / "model.mlpackage"))
    return specification.description.metadata.userDefined[PREVIEW_TYPE]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"task": "image-classification"}, UnsupportedModelError, "postprocess is for the tasks depth-estimation, "),
        ({"task": "object-detection", "batch_size": 2}, ShapeError, "batch size 2 was asked for"),
    ],
)
def test_what_cannot_be_processed_further(options, error, says):
    with pytest.raises(error, match=says):
        ExportForm(postprocess=True, **options)
