"""Detections are compared as a set of queries."""

import numpy as np
import pytest
import torch

from optimum_ane.errors import ValidationError
from optimum_ane.tasks import TASKS
from optimum_ane.validation.comparison import Answers, compare_fields
from optimum_ane.validation.queries import closest_queries, match_queries

QUERIES = 20
FIELDS = TASKS["object-detection"].fields


def detections(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, QUERIES, 5, generator=generator), torch.rand(1, QUERIES, 4, generator=generator)


def compared(expected, actual):
    answers = [Answers({"logits": [each[0]], "pred_boxes": [each[1]]}) for each in (expected, actual)]
    return compare_fields(*answers, [{}], FIELDS)


def test_another_order_is_the_same_answer():
    logits, boxes = detections()
    order = torch.randperm(QUERIES, generator=torch.Generator().manual_seed(1))
    places = match_queries((logits[0].numpy(), boxes[0].numpy()), (logits[0, order].numpy(), boxes[0, order].numpy()))
    assert order[places].tolist() == list(range(QUERIES))
    assert min(compared((logits, boxes), (logits[:, order], boxes[:, order])).values()) == np.inf


def test_where_the_order_is_kept_every_query_counts():
    logits, boxes = detections()
    wrong = boxes.clone()
    wrong[0, 3] += 0.02
    ratios = compared((logits, boxes), (logits, wrong))
    assert ratios["logits"] == np.inf
    assert ratios["pred_boxes"] == pytest.approx(20 * np.log10(float(boxes.max()) * np.sqrt(QUERIES) / 0.02), abs=1e-3)


def test_where_it_turns_a_tenth_may_be_others_and_no_more():
    (logits, boxes), (others, other_boxes) = detections(), detections(1)
    turned = [1, 2, 3, 4, 0, *range(5, QUERIES)]  # more than are others
    logits_of_package, boxes_of_package = logits[:, turned].clone(), boxes[:, turned].clone()
    for count, is_same in ((1, True), (2, True), (3, False)):
        logits_of_package[0, -count], boxes_of_package[0, -count] = others[0, -count], other_boxes[0, -count]
        ratios = compared((logits, boxes), (logits_of_package, boxes_of_package))
        assert (min(ratios.values()) == np.inf) == is_same, count


@pytest.mark.parametrize("count", [1, 2, 3, 5, 10])
def test_wrong_queries_among_others_in_order_are_no_other_order(count):
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        logits, boxes = torch.randn(1, 100, 5, generator=generator), torch.rand(1, 100, 4, generator=generator)
        wrong_logits, wrong_boxes = logits.clone(), boxes.clone()
        wrong_logits[0, :count] = torch.randn(count, 5, generator=generator)
        wrong_boxes[0, :count] = torch.rand(count, 4, generator=generator)
        assert min(compared((logits, boxes), (wrong_logits, wrong_boxes)).values()) < 40


def test_boxes_go_with_their_scores():
    logits, boxes = detections()
    assert min(compared((logits, boxes), (logits.flip(1), boxes)).values()) < 40


def test_what_is_not_finite_is_no_partner():
    logits, boxes = detections()
    broken = logits.clone()
    broken[0, 0, 0] = torch.nan
    assert closest_queries((logits[0].numpy(),), (broken[0].numpy(),))[1].tolist() == list(range(QUERIES))
    assert compared((logits, boxes), (broken, boxes))["logits"] == -np.inf
    with pytest.raises(ValidationError, match="logits has shape"):
        compared((logits, boxes), (logits[:, 1:], boxes[:, 1:]))
