from types import SimpleNamespace

import pytest
from stand_ins import ImageLookup, one_pixel, save_images

from optimum_ane.errors import DatasetError, ValidationError
from optimum_ane.evaluation.accuracy import AccuracyLimits, check_accuracy
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.depth_estimation import DepthEstimation


def run(folder, original, package):
    evaluator = DepthEstimation(SimpleNamespace())
    models = [None if depths is None else ImageLookup(predicted_depth=depths) for depths in (original, package)]
    data = evaluator.load(DatasetSpec(str(folder)))
    return evaluator.compare(*models, one_pixel, data, sequence_length=1, runtime="portable")


def test_by_hand(tmp_path):
    """Of four points and four, one has no depth and one less than a thousandth of the largest."""
    folder = save_images(tmp_path, photos=[0, 1]) / "photos"
    original = [[[1, 2], [4, 0]], [[10, 5], [8, 0.009]]]
    package = [[[1.1, 2], [5, 3]], [[10, 4], [-1, 1]]]
    report = run(folder, original, package)
    errors = [0.1, 0, 0.25, 0, 0.2, 9 / 8]
    assert report.package.metrics["depth_error"] == pytest.approx(sum(errors) / 6, rel=1e-6)
    assert report.package.metrics["within_1.25"] == pytest.approx(3 / 6)  # 5/4 both ways is not less than 1.25
    assert report.original.metrics == {"within_1.25": 1.0, "depth_error": 0.0}
    assert (report.drop, report.counts) == (50.0, {"points": 6})
    loose = {"max_accuracy_drop": 60}
    check_accuracy(report, AccuracyLimits(**loose, max_depth_error=0.28))
    with pytest.raises(ValidationError, match=r"depth_error on .* is 27\.92%, max_depth_error allows 20\.00%"):
        check_accuracy(report, AccuracyLimits(**loose, max_depth_error=0.2))
    with pytest.raises(ValidationError, match="depth-estimation is scored against the original"):
        run(folder, None, package)


def test_no_depth_at_all(tmp_path):
    folder = save_images(tmp_path, photos=[0]) / "photos"
    with pytest.raises(DatasetError, match="the original sees no depth above 0"):
        run(folder, [[[0, -1]]], [[[1, 1]]])
