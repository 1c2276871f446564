"""What apps make of the outputs of image models, inside a program: maps of classes, confidences of boxes, depth."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ClassMap(nn.Module):
    """The best class of each point of an image, as `post_process_semantic_segmentation` of transformers finds it.

    Args:
        size: Height and width of the image.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, logits: Tensor) -> tuple[Tensor]:
        """Takes (1, classes, h, w); gives ids of classes (height, width), int32."""
        enlarged = nn.functional.interpolate(logits, size=self.size, mode="bilinear", align_corners=False)
        return (enlarged[0].argmax(dim=0).to(torch.int32),)


class Detections(nn.Module):
    """The probability of each label of each box, and the boxes, under the names that detectors of Core ML have.

    Args:
        labels: How many there are. As in `post_process_object_detection` of transformers, the probabilities are a
            softmax where the scores have one more, for no object (DETR, YOLOS), else sigmoids (RT-DETR).
    """

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.labels = labels

    def forward(self, logits: Tensor, pred_boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Takes (1, queries, scores) and (1, queries, 4); gives both without the batch, and without no object."""
        is_together = logits.shape[-1] > self.labels
        probabilities = logits.softmax(-1)[..., : self.labels] if is_together else logits.sigmoid()
        return probabilities[0], pred_boxes[0] * 1.0


class DepthImage(nn.Module):
    """A distance for each point of an image, bilinearly enlarged where the model gives fewer points.

    Args:
        size: Height and width of the image.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, predicted_depth: Tensor) -> tuple[Tensor]:
        """Takes (1, h, w); gives (1, 1, height, width), of one channel as an image has it."""
        depth = predicted_depth.unsqueeze(1)
        if tuple(depth.shape[-2:]) == self.size:
            return (depth * 1.0,)
        return (nn.functional.interpolate(depth, size=self.size, mode="bilinear", align_corners=False),)
