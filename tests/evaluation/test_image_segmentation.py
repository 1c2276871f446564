from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from stand_ins import ImageLookup, one_pixel, save_images
from transformers import SegformerImageProcessor

from optimum_ane.errors import DatasetError, ValidationError
from optimum_ane.evaluation import image_segmentation
from optimum_ane.evaluation.accuracy import AccuracyLimits, check_accuracy
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.image_segmentation import ImageSegmentation, class_map

EVALUATOR = ImageSegmentation(SimpleNamespace(num_labels=3, semantic_loss_ignore_index=255))


def as_logits(maps):
    """Scores that are highest for the class of each point."""
    return np.moveaxis(np.eye(3)[np.asarray(maps)], -1, 1)


def run(folder, original, package, processor=one_pixel):
    models = [None if maps is None else ImageLookup(logits=as_logits(maps)) for maps in (original, package)]
    data = EVALUATOR.load(DatasetSpec(str(folder)))
    return EVALUATOR.compare(*models, processor, data, sequence_length=1, runtime="portable")


def save_masks(folder, *maps, mode="L"):
    """Images of the numbers 0, 1, … and their maps; folders `images` and `masks`."""
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    for index, ids in enumerate(maps):
        array = np.asarray(ids, np.uint8)
        Image.new("RGB", array.shape[::-1], (index, 0, 0)).save(folder / "images" / f"{index}.png")
        Image.fromarray(array).convert(mode).save(folder / "masks" / f"{index}.png")
    return folder


HALVES = [[0, 0, 1, 1]] * 4


def test_against_the_original_alone(tmp_path):
    """An image of 4 × 5 points, whose class the network gives for each of 4 × 5."""
    folder = save_images(tmp_path, photos=[0]) / "photos"
    original, package = [[0, 0, 1, 1, 1]] * 4, [[0, 1, 1, 1, 1]] * 4
    report = run(folder, [original], [package])
    assert report.package.metrics == pytest.approx(
        {"pixel_agreement": 0.8, "iou_with_original": (4 / 8 + 12 / 16) / 2}
    )
    assert report.original.metrics == {"pixel_agreement": 1.0, "iou_with_original": 1.0}
    assert report.drop == pytest.approx(20)
    assert report.counts == {"points": 20}
    limits = AccuracyLimits(max_accuracy_drop=50, min_iou=0.62)
    check_accuracy(report, limits)
    with pytest.raises(ValidationError, match=r"iou_with_original on .* is 62\.50%, min_iou allows 63\.00%"):
        check_accuracy(report, AccuracyLimits(max_accuracy_drop=50, min_iou=0.63))
    with pytest.raises(ValidationError, match="image-segmentation is scored against the original"):
        run(folder, None, [package])


@pytest.mark.parametrize("mode", ["L", "P"])
def test_beside_masks(tmp_path, mode):
    """Points with the id 255 are not scored; sums run over both images, for the classes that occur."""
    half_ignored = [[0, 0, 255, 255]] * 4
    folder = save_masks(tmp_path, HALVES, half_ignored, mode="L")
    if mode == "P":
        for path in (folder / "masks").iterdir():
            image = Image.open(path)
            image.putpalette([0, 0, 0] * 256)
            image.save(path)
    ours = [[[0, 1, 1, 1]] * 4, [[0, 2, 2, 2]] * 4]
    theirs = [HALVES, [[0, 0, 0, 0]] * 4]
    report = run(folder, theirs, ours)
    # class 0: 8 points right of 16; class 1: 8 of 12; class 2: none of 4
    assert report.package.metrics["mean_iou"] == pytest.approx((8 / 16 + 8 / 12 + 0) / 3)
    assert report.original.metrics["mean_iou"] == 1.0
    assert report.package.metrics["pixel_agreement"] == pytest.approx(16 / 32)
    # class 0: 8 of 24, class 1: 8 of 12, class 2: none of 12
    assert report.package.metrics["iou_with_original"] == pytest.approx((8 / 24 + 8 / 12) / 3)
    assert (report.primary_metric, report.label_mapping, report.rows) == ("mean_iou", "by id", 2)
    alone = run(folder, None, ours)
    assert alone.package.metrics == pytest.approx({"mean_iou": report.package.metrics["mean_iou"]})


def test_ids_that_the_processor_reduces(tmp_path):
    """Of ADE20K's maps 0 is no class, and 1 is the class 0."""

    class Reducing:
        do_reduce_labels = True

        def __call__(self, image, return_tensors):
            return one_pixel(image, return_tensors)

    folder = save_masks(tmp_path, [[0, 1, 2, 3]] * 4)
    assert run(folder, None, [[[2, 0, 1, 2]] * 4], Reducing()).package.metrics["mean_iou"] == 1.0
    with pytest.raises(DatasetError, match=r"0\.png: the class id 3 occurs, and the checkpoint has 3 classes"):
        run(folder, None, [[[2, 0, 1, 2]] * 4])


def test_masks_that_do_not_fit(tmp_path):
    folder = save_masks(tmp_path, HALVES)
    Image.new("RGB", (4, 4)).save(folder / "masks" / "0.png")
    with pytest.raises(DatasetError, match=r"a map of class ids has one number a point, .* mode RGB"):
        run(folder, None, [HALVES])
    Image.new("L", (4, 3)).save(folder / "masks" / "0.png")
    with pytest.raises(DatasetError, match="3 × 4 points, and its image has 4 × 4"):
        run(folder, None, [HALVES])

    class Cropping:
        do_center_crop = True

        def __call__(self, image, return_tensors):
            return one_pixel(image, return_tensors)

    with pytest.raises(DatasetError, match="cuts the edges of images off"):
        run(folder, None, [HALVES], Cropping())
    (folder / "masks" / "0.png").unlink()
    with pytest.raises(DatasetError, match=r"masks: there is no map of classes for 0\.png"):
        EVALUATOR.load(DatasetSpec(str(folder)))


@pytest.mark.parametrize("at_once", [1, 2**30])
def test_maps_are_those_of_transformers(monkeypatch, at_once):
    monkeypatch.setattr(image_segmentation, "_NUMBERS_AT_ONCE", at_once)
    logits = torch.randn(1, 7, 5, 9, generator=torch.Generator().manual_seed(0))
    (expected,) = SegformerImageProcessor().post_process_semantic_segmentation(
        SimpleNamespace(logits=logits), target_sizes=[(33, 20)]
    )
    found = class_map(logits[0].numpy(), (33, 20))
    assert len(np.unique(found)) > 3
    assert np.array_equal(found, expected.numpy())
