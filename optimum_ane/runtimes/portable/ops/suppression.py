"""The selection of boxes in detectors."""

from __future__ import annotations

import torch
from torch import Tensor

from optimum_ane.runtimes.portable.registry import op


@op("non_maximum_suppression", exact=True)
def non_maximum_suppression(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_boxes: int,
    score_threshold: float | None = None,
    per_class_suppression: bool = False,
) -> tuple[Tensor, ...]:
    """Selects boxes by descending score, leaving out what overlaps one selected before.

    A box's score is that of its best class. Of equal scores the first box comes first. Where no box reaches the
    threshold, the best is returned all the same: so does the reference of coremltools' own tests
    (`TestNonMaximumSuppression` in `iOS14/test_tensor_operation.py`), which Core ML passes. The overlap is computed in
    float32; two boxes without area have none.

    Args:
        boxes: (batch, boxes, 4), each x, y, width, height with (x, y) the centre; from iOS 17 on (batch, 4, boxes).
        scores: (batch, boxes, classes); from iOS 17 on (batch, classes, boxes).
        iou_threshold: The intersection over the union above which the lesser of two boxes is left out.
        max_boxes: How many are selected at most.
        score_threshold: The least score; from iOS 17 on there is none.
        per_class_suppression: Whether boxes of different classes may overlap.

    Returns:
        The boxes and scores selected, laid out like the operands, followed by zeros; their indices, followed by −1;
        and, before iOS 17, how many there are, (batch,).
    """
    is_first_version = score_threshold is not None
    if not is_first_version:
        boxes, scores = boxes.transpose(1, 2), scores.transpose(1, 2)
    if boxes.shape[2] != 4 or boxes.shape[:2] != scores.shape[:2]:
        raise ValueError(f"boxes of shape {tuple(boxes.shape)} and scores of shape {tuple(scores.shape)}")
    batch = boxes.shape[0]
    out_boxes, out_scores = boxes.new_zeros(batch, max_boxes, 4), scores.new_zeros(batch, max_boxes, scores.shape[2])
    indices = torch.full((batch, max_boxes), -1)
    counts = torch.zeros(batch, dtype=torch.long)
    for row in range(batch):
        chosen = _selected(boxes[row], scores[row], iou_threshold, max_boxes, score_threshold, per_class_suppression)
        count = len(chosen)
        out_boxes[row, :count], out_scores[row, :count] = boxes[row, chosen], scores[row, chosen]
        indices[row, :count], counts[row] = chosen, count
    if is_first_version:
        return out_boxes, out_scores, indices, counts
    return out_boxes.transpose(1, 2), out_scores.transpose(1, 2), indices


def _selected(
    boxes: Tensor, scores: Tensor, iou_threshold: float, most: int, score_threshold: float | None, per_class: bool
) -> Tensor:
    """Returns the indices of the boxes selected, in order, of boxes (n, 4) and scores (n, classes)."""
    classes = scores.argmax(-1)
    best = scores.gather(-1, classes[:, None])[:, 0]
    order = (-best).argsort(stable=True)
    rest = order if score_threshold is None else order[best[order] >= score_threshold]
    if not len(rest):
        return order[: min(1, most)]
    centres, sizes = boxes.split(2, -1)
    low, high, areas = centres - sizes / 2, centres + sizes / 2, sizes.prod(-1)
    chosen: list[Tensor] = []
    while len(rest) and len(chosen) < most:
        first, rest = rest[0], rest[1:]
        chosen.append(first)
        sides = (torch.minimum(high[first], high[rest]) - torch.maximum(low[first], low[rest])).clamp(min=0)
        shared = sides.prod(-1)
        # 0 / 0 is no number and above no threshold.
        overlaps = shared / (areas[first] + areas[rest] - shared) > iou_threshold
        if per_class:
            overlaps &= classes[rest] == classes[first]
        rest = rest[~overlaps]
    return torch.stack(chosen) if chosen else order[:0]
