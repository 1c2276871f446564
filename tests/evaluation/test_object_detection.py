import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console
from stand_ins import ImageLookup, one_pixel, save_images
from transformers import YolosImageProcessor

from optimum_ane.errors import ValidationError
from optimum_ane.evaluation.accuracy import AccuracyLimits, check_accuracy
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.object_detection import ObjectDetection, compare_detections, overlaps, read_detections
from optimum_ane.evaluation.report import print_report

EVALUATOR = ObjectDetection(SimpleNamespace(num_labels=2, id2label={0: "cat", 1: "dog"}))
CAT, DOG, NOTHING = [4, 0, 0], [0, 4, 0], [0, 0, 4]
LEFT, RIGHT = [0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0]


def run(folder, original, package):
    """Each model is a list of (logits, boxes) of queries, one for each image."""
    models = [
        None if model is None else ImageLookup(logits=[each[0] for each in model], pred_boxes=[e[1] for e in model])
        for model in (original, package)
    ]
    data = EVALUATOR.load(DatasetSpec(str(folder)))
    return EVALUATOR.compare(*models, one_pixel, data, sequence_length=1, runtime="portable")


def test_by_hand(tmp_path):
    """Two images, 5 × 4 and 6 × 4 pixels: a cat on the left and a dog on the right, then a dog."""
    folder = save_images(tmp_path, photos=[0, 1]) / "photos"
    original = [([CAT, DOG, NOTHING], [LEFT, RIGHT, LEFT]), ([NOTHING, DOG, NOTHING], [LEFT, LEFT, LEFT])]
    moved = [0.25 + 0.02, 0.5, 0.5, 1.0]  # both sides of the cat by 0.02 of 5 pixels
    package = [([CAT, CAT, NOTHING], [moved, RIGHT, LEFT]), ([NOTHING, DOG, DOG], [LEFT, LEFT, RIGHT])]
    report = run(folder, original, package)
    # Both cats on the left and both dogs of the second image are partners. What the package calls a cat on the right
    # has none, nor has the dog that the original sees there, nor the package's second dog.
    assert report.package.metrics["matched_boxes"] == pytest.approx(4 / (3 + 4))
    assert report.package.metrics["mean_box_error"] == pytest.approx(2 * 0.1 / 12)
    assert report.package.metrics["largest_box_error"] == pytest.approx(0.1)
    change = (math.exp(4) - 1) / (math.exp(4) + 2)
    assert report.package.metrics["mean_score_error"] == pytest.approx(change / 3)
    assert report.package.metrics["largest_score_error"] == pytest.approx(change)
    assert list(report.original.metrics.values()) == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert report.drop == pytest.approx(100 * 3 / 7)
    assert (report.primary_metric, report.agreement) == ("matched_boxes", None)
    assert report.counts == {"detections of the original": 3}
    console = Console(record=True, width=120)
    print_report(report, console)
    assert "0.017 px" in console.export_text()


def test_gates(tmp_path):
    folder = save_images(tmp_path, photos=[0]) / "photos"
    report = run(folder, [([CAT], [LEFT])], [([CAT], [[0.26, 0.5, 0.5, 1.0]])])
    check_accuracy(report, AccuracyLimits(max_box_error=0.026))
    with pytest.raises(ValidationError, match=r"mean_box_error on .* is 0\.025 px, max_box_error allows 0\.020 px"):
        check_accuracy(report, AccuracyLimits(max_box_error=0.02))
    with pytest.raises(ValidationError, match="min_iou is for image-segmentation and says nothing to object-detec"):
        check_accuracy(report, AccuracyLimits(min_iou=0.02))
    with pytest.raises(ValidationError, match=r"object-detection is scored against the original, .* with_reference"):
        run(folder, None, [([CAT], [LEFT])])


def test_images_without_a_detection_give_the_ten_best_queries():
    scores = np.linspace(-3, 0.3, 15)
    logits = np.stack([scores, np.zeros(15), np.full(15, 2.0)], axis=1)
    detections = read_detections(logits, np.full((15, 4), 0.5), 2, (10, 10))
    assert detections.scores.max() < 0.5
    best, chosen = detections.scores.max(axis=1), detections.chosen()
    assert len(chosen) == 10
    assert (np.diff(best[chosen]) <= 0).all()
    assert best[chosen].min() >= np.delete(best, chosen).max()
    sure = read_detections(np.concatenate([logits, [CAT]]), np.full((16, 4), 0.5), 2, (10, 10))
    assert sure.chosen().tolist() == [15]


@pytest.mark.parametrize("labels", [2, 3], ids=["no object", "each by itself"])
def test_as_transformers_reads_them(labels):
    generator = torch.Generator().manual_seed(0)
    logits, boxes = 2 * torch.randn(1, 9, 3, generator=generator), torch.rand(1, 9, 4, generator=generator)
    found = read_detections(logits[0].numpy(), boxes[0].numpy(), labels, (30, 50))
    if labels == 3:
        assert found.scores == pytest.approx(logits[0].sigmoid().numpy(), abs=1e-6)
        return
    processor = YolosImageProcessor()
    (expected,) = processor.post_process_object_detection(
        SimpleNamespace(logits=logits, pred_boxes=boxes), threshold=0.0, target_sizes=[(30, 50)]
    )
    assert found.labels.tolist() == expected["labels"].tolist()
    assert found.scores.max(axis=1) == pytest.approx(expected["scores"].numpy(), abs=1e-6)
    assert found.boxes == pytest.approx(expected["boxes"].numpy(), abs=1e-4)
    assert compare_detections(found, found).partners == compare_detections(found, found).detections


def test_masks_of_what_is_filled_up_reach_both_models(tmp_path):
    def letterbox(image, return_tensors):
        pixels = one_pixel(image, return_tensors)["pixel_values"]
        return {"pixel_values": pixels, "pixel_mask": torch.full((1, 1, 1), image.width)}

    folder = save_images(tmp_path, photos=[0, 0]) / "photos"
    model, seen = ImageLookup(logits=[[CAT]], pred_boxes=[[LEFT]]), []

    def with_mask(pixel_values, pixel_mask):
        seen.append(pixel_mask.flatten().tolist())
        return model(pixel_values)

    def without_mask(pixel_values):
        return model(pixel_values)

    for original in (with_mask, without_mask):  # YOLOS takes none
        data = EVALUATOR.load(DatasetSpec(str(folder)))
        EVALUATOR.compare(original, with_mask, letterbox, data, sequence_length=1, runtime="portable")
    assert seen == [[5, 6]] * 3


def test_other_shapes(tmp_path):
    folder = save_images(tmp_path, photos=[0]) / "photos"
    with pytest.raises(ValidationError, match=r"a detector of 2 labels answers with logits \(1, 5\) and boxes"):
        run(folder, [([[0] * 5], [LEFT])], [([[0] * 5], [LEFT])])


def test_overlaps():
    boxes = np.array([[0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6], [4, 4, 4, 4]], float)
    assert overlaps(boxes, boxes[:2]) == pytest.approx(np.array([[1, 1 / 7], [1 / 7, 1], [0, 0], [0, 0]]))
