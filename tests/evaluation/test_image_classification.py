import math
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from stand_ins import ImageLookup, one_pixel, save_images

from optimum_ane.errors import DatasetError, UnsupportedModelError, ValidationError
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.image_classification import ImageClassification
from optimum_ane.evaluation.report import print_report


def evaluator(*labels, problem_type=None):
    config = SimpleNamespace(id2label=dict(enumerate(labels)), num_labels=len(labels), problem_type=problem_type)
    return ImageClassification(config)


def run(folder, original, package, labels=("cat", "dog"), processor=one_pixel):
    made = evaluator(*labels)
    data = made.load(DatasetSpec(str(folder)))
    reference = None if original is None else ImageLookup(logits=original)
    return made.compare(reference, ImageLookup(logits=package), processor, data, sequence_length=7, runtime="portable")


def test_by_hand(tmp_path):
    """Images 0 and 1 are cats, 2 and 3 dogs; the original is wrong on the last, the package on the last two."""
    folder = save_images(tmp_path, Cat=[0, 1], dog=[2, 3])
    report = run(folder, [[4, 0], [4, 0], [0, 4], [4, 0]], [[4, 0], [4, 0], [2, 1], [4, 0]])
    assert report.original.metrics == {"accuracy": 0.75}
    assert report.package.metrics == {"accuracy": 0.5}
    assert (report.original.right, report.package.right, report.rows, report.truncated) == (3, 2, 4, 0)
    assert (report.drop, report.agreement, report.label_mapping) == (25.0, 0.75, "by name")
    # errors 2 and 3 in 8 logits, peak 4
    assert report.psnr == pytest.approx(20 * math.log10(4 / math.sqrt(13 / 8)), abs=1e-5)
    assert report.drop_interval == pytest.approx((0.0, 75.0))
    console = Console(record=True, width=120)
    print_report(report, console)
    text = console.export_text()
    assert "4 images; labels matched by name" in text
    assert "the original takes 4 images at once" in text
    assert "tokens" not in text


def test_top_5_of_more_labels(tmp_path):
    """The right label is fifth of seven, then sixth twice; of equal scores the first is the better."""
    labels = ("a", "b", "c", "d", "e", "f", "g")
    folder = save_images(tmp_path, a=[0], g=[1], f=[2])
    report = run(folder, None, [[5, 9, 8, 7, 6, 1, 1], [6, 5, 4, 3, 2, 0, 1], [0, 0, 0, 0, 0, 0, 0]], labels)
    assert report.package.metrics == {"accuracy": 0.0, "top_5_accuracy": pytest.approx(1 / 3)}
    assert (report.original, report.drop) == (None, None)


def test_batches(tmp_path):
    folder = save_images(tmp_path, cat=range(20), dog=range(20, 37))
    made, model = evaluator("cat", "dog"), ImageLookup(logits=[[1, 0]] * 20 + [[0, 1]] * 17)
    data = made.load(DatasetSpec(str(folder)))
    done = []
    report = made.compare(None, model, one_pixel, data, sequence_length=1, runtime="portable",
                          progress=lambda *steps: done.append(steps))  # fmt: skip
    assert report.package.right == 37
    assert model.calls == [(16, 3, 1, 1), (16, 3, 1, 1), (5, 3, 1, 1)]
    assert done == [(16, 37), (32, 37), (37, 37)]


def test_labels_that_the_model_does_not_know(tmp_path):
    folder = save_images(tmp_path, cat=[0], emu=[1], yak=[2])
    with pytest.raises(DatasetError, match=r"does not know the labels of the folders emu, yak; it knows cat, dog"):
        evaluator("cat", "dog").load(DatasetSpec(str(folder)))
    with pytest.raises(UnsupportedModelError, match="the checkpoint does multi_label_classification"):
        evaluator("cat", "dog", problem_type="multi_label_classification").load(DatasetSpec(str(folder)))


def test_models_that_answer_something_else(tmp_path):
    folder = save_images(tmp_path, cat=[0], dog=[1])
    with pytest.raises(ValidationError, match=r"the package answers with logits of shape \(2, 1, 2\) for 2 rows of"):
        run(folder, None, [[[1, 0]], [[0, 1]]])
    with pytest.raises(ValidationError, match="the package answers with NaN or infinity, first for example 2"):
        run(folder, None, [[1, 0], [0, math.nan]])
    with pytest.raises(DatasetError, match="the checkpoint names 7 labels, and the model gives scores of others"):
        run(folder, None, [[1, 0], [0, 1]], ("cat", "dog", "c", "d", "e", "f", "g"))


def test_processors_that_make_no_inputs(tmp_path):
    def broken(image, return_tensors):
        raise ZeroDivisionError("height")

    def as_it_is(image, return_tensors):
        return {"pixel_values": np.moveaxis(np.asarray(image, np.float32), -1, 0)[None]}

    folder = save_images(tmp_path, cat=[0, 1], dog=[1])
    with pytest.raises(DatasetError, match=r"image 1: the image processor cannot take it \(ZeroDivisionError: height"):
        run(folder, None, [[1, 0], [0, 1]], processor=broken)
    with pytest.raises(DatasetError, match=r"images of several sizes, \(3, 4, 5\) and \(3, 4, 6\)"):
        run(folder, None, [[1, 0], [0, 1]], processor=as_it_is)
