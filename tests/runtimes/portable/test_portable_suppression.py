"""The selection of boxes, against the algorithm word for word, and numbers that coremltools' tests hold Core ML to."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder
from portable_attacks import edit, find, integers, refused
from portable_programs import save_program

from optimum_ane.errors import ExecutionError, PackageError
from optimum_ane.runtimes.portable import PortableSession, limits


def overlap(a, b):
    """Intersection over union of two boxes (x, y, width, height), as torchvision computes it."""
    left, right = max(a[0] - a[2] / 2, b[0] - b[2] / 2), min(a[0] + a[2] / 2, b[0] + b[2] / 2)
    top, bottom = max(a[1] - a[3] / 2, b[1] - b[3] / 2), min(a[1] + a[3] / 2, b[1] + b[3] / 2)
    shared = max(0.0, right - left) * max(0.0, bottom - top)
    union = a[2] * a[3] + b[2] * b[3] - shared
    return shared / union if union else 0.0


def selection(boxes, scores, iou, least, most, per_class):
    """The indices selected, one box after the other; the boxes (n, 4), the scores (n, classes)."""
    boxes, scores = boxes.astype(np.float64), scores.astype(np.float64)
    best = [max(row) for row in scores]
    classes = [list(row).index(max(row)) for row in scores]
    order = sorted(range(len(best)), key=lambda i: (-best[i], i))
    chosen = []
    for i in order:
        rivals = [j for j in chosen if not per_class or classes[i] == classes[j]]
        if best[i] >= least and all(overlap(boxes[i], boxes[j]) <= iou for j in rivals):
            chosen.append(i)
    return (chosen or order[:1])[:most]


def results(boxes, scores, iou, least, most, per_class):
    """The four results of iOS 15, for a batch."""
    batch, _, classes = scores.shape
    out = np.zeros((batch, most, 4)), np.zeros((batch, most, classes)), np.full((batch, most), -1), np.zeros(batch)
    for row in range(batch):
        chosen = selection(boxes[row], scores[row], iou, least, most, per_class)
        out[0][row, : len(chosen)] = boxes[row, chosen]
        out[1][row, : len(chosen)] = scores[row, chosen]
        out[2][row, : len(chosen)] = chosen
        out[3][row] = len(chosen)
    return out


def check(run, boxes, scores, target, *, iou, least=-np.inf, most=6, **options):
    """Runs the operation and compares it with the algorithm; returns the indices."""
    dtype = boxes.dtype.type
    iou, late = dtype(iou), target >= ct.target.iOS17
    if not late:
        options["score_threshold"] = dtype(least)
    swapped = [a.transpose(0, 2, 1).copy() if late else a for a in (boxes, scores)]

    def build(a, b):
        return Builder.non_maximum_suppression(boxes=a, scores=b, iou_threshold=iou, max_boxes=most, **options)

    actual = run(build, *swapped, target=target)
    threshold = -np.inf if late else float(dtype(least))
    expected = results(boxes, scores, float(iou), threshold, most, options.get("per_class_suppression", False))
    assert len(actual) == (3 if late else 4)
    for number, (result, value) in enumerate(zip(actual, expected, strict=False)):
        value = value.transpose(0, 2, 1) if late and number < 2 else value
        np.testing.assert_array_equal(result, value)
        assert result.dtype == (dtype if number < 2 else np.int32)
    return actual[2]


TARGETS = [ct.target.iOS15, ct.target.iOS16, ct.target.iOS17, ct.target.iOS18]


def _random(rng, batch=2, count=20, classes=3, dtype=np.float32):
    boxes = np.concatenate([rng.uniform(0, 30, (batch, count, 2)), rng.uniform(4, 20, (batch, count, 2))], -1)
    return boxes.astype(dtype), rng.uniform(-5, 5, (batch, count, classes)).astype(dtype)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("iou", [0.0, 0.1, 0.45, 0.9, 1.0])
@pytest.mark.parametrize("per_class_suppression", [None, False, True])
def test_random_boxes(run, rng, target, iou, per_class_suppression):
    options = {} if per_class_suppression is None else {"per_class_suppression": per_class_suppression}
    boxes, scores = _random(rng)
    indices = check(run, boxes, scores, target, iou=iou, least=1.5, most=17, **options)
    assert (indices >= 0).any()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("classes", [1, 2, 5])
def test_classes_do_and_do_not_matter(run, rng, target, classes):
    boxes, scores = _random(rng, 1, 12, classes)
    apart = check(run, boxes, scores, target, iou=0.05, most=12, per_class_suppression=True)
    together = check(run, boxes, scores, target, iou=0.05, most=12)
    assert np.array_equal(apart, together) == (classes == 1)


@pytest.mark.parametrize("target", [ct.target.iOS15, ct.target.iOS16])
@pytest.mark.parametrize("least", [-10.0, 0.0, 3.0, 4.5])
def test_scores_below_the_threshold_are_rejected(run, rng, target, least):
    boxes, scores = _random(rng, 3)
    check(run, boxes, scores, target, iou=0.3, least=least, most=20)


def test_a_score_at_the_threshold_is_kept(run):
    boxes = np.array([[[0, 0, 1, 1], [5, 0, 1, 1], [9, 0, 1, 1]]], np.float32)
    scores = np.array([[[0.25], [0.5], [0.75]]], np.float32)
    indices = check(run, boxes, scores, ct.target.iOS15, iou=0.5, least=0.5, most=3)
    assert indices.tolist() == [[2, 1, -1]]


def test_where_no_score_reaches_the_threshold_the_best_is_returned(run):
    """As in the reference of coremltools' tests, which Core ML passes."""
    boxes = np.array([[[0, 0, 1, 1], [5, 0, 1, 1]], [[0, 0, 1, 1], [5, 0, 1, 1]]], np.float32)
    scores = np.array([[[0.1], [0.2]], [[0.8], [0.3]]], np.float32)
    indices = check(run, boxes, scores, ct.target.iOS15, iou=0.5, least=0.5, most=2)
    assert indices.tolist() == [[1, -1], [0, -1]]


@pytest.mark.parametrize("target", TARGETS)
def test_of_equal_scores_the_first_comes_first(run, target):
    boxes = np.tile(np.array([0, 0, 2, 2], np.float32), (1, 6, 1))
    boxes[0, :, 0] = [0, 9, 0.5, 20, 9.5, 30]
    scores = np.ones((1, 6, 2), np.float32)
    indices = check(run, boxes, scores, target, iou=0.5, most=6)
    assert indices.tolist() == [[0, 1, 3, 5, -1, -1]]


@pytest.mark.parametrize("target", TARGETS)
def test_an_overlap_at_the_threshold_is_kept(run, target):
    # Two boxes of 2 × 2, one moved by 1: they share 2 of 6, and by 2/3: 8/3 of 16/3, a half.
    boxes = np.array([[[0, 0, 4, 1], [2, 0, 4, 1], [0, 9, 3, 1], [1, 9, 3, 1]]], np.float32)
    scores = np.array([[[4], [3], [2], [1]]], np.float32)
    assert overlap(boxes[0, 2], boxes[0, 3]) == 0.5
    kept = check(run, boxes, scores, target, iou=0.5, most=4)
    dropped = check(run, boxes, scores, target, iou=np.nextafter(np.float32(0.5), np.float32(0)), most=4)
    assert kept.tolist() == [[0, 1, 2, 3]]
    assert dropped.tolist() == [[0, 1, 2, -1]]


@pytest.mark.parametrize("target", TARGETS)
def test_boxes_without_area_and_boxes_alike(run, target):
    boxes = np.array([[[1, 1, 0, 0], [1, 1, 0, 0], [3, 3, 2, 2], [3, 3, 2, 2], [3, 3, 0, 2]]], np.float32)
    scores = np.array([[[5], [4], [3], [2], [1]]], np.float32)
    indices = check(run, boxes, scores, target, iou=0.0, most=5)
    assert indices.tolist() == [[0, 1, 2, 4, -1]]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("most", [1, 3, 40])
def test_fewer_and_more_than_there_are(run, rng, target, most):
    boxes, scores = _random(rng, 2, 10)
    indices = check(run, boxes, scores, target, iou=0.99, most=most)
    assert (indices >= 0).sum() == 2 * min(most, 10)


@pytest.mark.parametrize("target", TARGETS[1:])  # iOS 15 has no fp16 inputs
def test_half_precision(run, rng, target):
    """The overlaps are those of the fp16 boxes, in float32."""
    boxes, scores = _random(rng, 2, 30, dtype=np.float16)
    check(run, boxes, scores, target, iou=0.3, least=0.5, most=30)


def test_a_score_that_is_no_number_comes_last(run):
    boxes = np.array([[[0, 0, 1, 1], [5, 0, 1, 1], [9, 0, 1, 1]]], np.float32)
    scores = np.array([[[np.nan], [0.5], [0.75]]], np.float32)

    def build(a, b, **options):
        return Builder.non_maximum_suppression(boxes=a, scores=b, iou_threshold=0.5, max_boxes=3, **options)

    def early(a, b):
        return build(a, b, score_threshold=0.0)

    assert run(early, boxes, scores, target=ct.target.iOS15)[2].tolist() == [[2, 1, -1]]
    late = run(build, boxes.transpose(0, 2, 1).copy(), scores.transpose(0, 2, 1).copy())
    assert late[2].tolist() == [[2, 1, 0]]


def test_the_numbers_of_coremltools_own_test(run):
    """`TestNonMaximumSuppression.test_builder_to_backend_smoke`."""
    boxes = np.array([[[i] * 4 for i in range(4)]], np.float32)
    scores = np.array([[[-3.5], [9.4], [2.3], [0.7]]], np.float32)

    def build(a, b):
        return Builder.non_maximum_suppression(
            boxes=a, scores=b, iou_threshold=0.2, score_threshold=0.4, max_boxes=2, per_class_suppression=True
        )

    chosen, kept, indices, count = run(build, boxes, scores, target=ct.target.iOS15)
    assert chosen.tolist() == [[[1] * 4, [2] * 4]]
    np.testing.assert_array_equal(kept, np.array([[[9.4], [2.3]]], np.float32))
    assert (indices.tolist(), count.tolist()) == ([[1, 2]], [2])


def _saved(path):
    def build(x):
        boxes, scores = Builder.split(x=x, split_sizes=[4, 2], axis=-1)
        return Builder.non_maximum_suppression(
            boxes=boxes, scores=scores, iou_threshold=0.5, score_threshold=0.0, max_boxes=3
        )

    return save_program(path, build, {"x": np.zeros((1, 8, 6), np.float32)}, ct.target.iOS15)


@pytest.mark.usefixtures("capped")
@pytest.mark.parametrize("most", [2**31 - 1, -1, -(2**31)])
def test_a_number_of_boxes_that_is_impossible_is_refused(tmp_path, most):
    path = _saved(tmp_path / "m.mlpackage")
    edit(path, lambda spec, block: integers(block, "non_maximum_suppression", "max_boxes").__setitem__(0, most))
    says = "non_maximum_suppression at .*(impossible|at most 2147483648 elements|does not fit)"
    refused(path, says, PackageError, (1, 8, 6))


def test_boxes_that_are_none_are_refused(tmp_path):
    path = _saved(tmp_path / "m.mlpackage")

    def change(spec, block):
        arguments = find(block, "non_maximum_suppression").inputs
        arguments["boxes"].CopyFrom(arguments["scores"])

    edit(path, change)
    refused(path, r"boxes of shape \(1, 8, 2\) and scores of shape \(1, 8, 2\)", ExecutionError, (1, 8, 6))


def test_a_selection_that_takes_too_long_is_refused_before_it_begins(tmp_path, monkeypatch):
    path = _saved(tmp_path / "m.mlpackage")
    PortableSession(path).predict({"x": np.ones((1, 8, 6), np.float32)})
    monkeypatch.setattr(limits, "MAX_TURNS", 2)
    refused(path, "a selection of boxes of 3 steps; at most 2", (PackageError, ExecutionError), (1, 8, 6))


def test_the_work_of_a_selection_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_WORK", 2**22)  # two steps, of which there may be three
    refused(_saved(tmp_path / "m.mlpackage"), "more than 4194304 elementary steps", ExecutionError, (1, 8, 6))
