"""Boxes of detectors in float16 at 800 × 800, in pixels, beside the original's in float32.

How far rounding moves a box depends on the weights. Here the last layer of the head reads the directions in which the
queries differ most, as a trained one does, and all weights are numbers of float16. Random heads that are merely scaled
until boxes spread over the image make much of differences as small as the rounding: of DETR their mean was 3.6 and 4.5
pixels with two draws. Trained checkpoints are to be judged on images: `ane evaluate`, `--max-box-error`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from coverage_sweep.weights import redraw
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForObjectDetection

from optimum_ane.exporters.stock_module import StockModule
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.targets.coreml.build import ConvertibleFunction, build_program
from optimum_ane.targets.coreml.conversion import GRAPH_CONVERSIONS
from optimum_ane.targets.coreml.metadata import Metadata
from verification.row import Row
from verification.vision_models import DETR, YOLOS, tell_apart

MOST_MEAN, MOST_IN_TAIL, MOST_SHIFT = 0.5, 2.0, 0.1
"""Pixels: of the sides' mean absolute error, of the 99th percentile, and of the mean with its sign."""
SIDE, IMAGES = 800, 4
_SPREAD = 1.2
"""Deviation of what leaves the last layer of the head, before the sigmoid: sides are spread over the image."""
_METADATA = Metadata("boxes", "a detector with random weights", "apache-2.0", "0", {})
_DETECTORS = {
    "detr": DETR | {"d_model": 96, "encoder_ffn_dim": 192, "decoder_ffn_dim": 192, "num_queries": 60},
    "yolos": YOLOS | {"hidden_size": 96, "num_detection_tokens": 60, "image_size": [SIDE, SIDE], "patch_size": 32,
                      "num_hidden_layers": 3},
}  # fmt: skip


def measure_boxes(folder: Path) -> Iterator[Row]:
    """Makes each detector in float16, and compares the corners of all boxes of some images."""
    for kind in _DETECTORS:
        error = torch.cat([_error(kind, seed, folder / f"{kind}-{seed}.mlpackage") for seed in (0, 1)])
        mean, tail, shift = (float(each) for each in (error.abs().mean(), error.abs().quantile(0.99), error.mean()))
        yield Row(
            f"boxes of {kind} in float16 at {SIDE} × {SIDE}, pixels",
            f"mean ≤ {MOST_MEAN}, 99 % ≤ {MOST_IN_TAIL:.0f}, shift ≤ ±{MOST_SHIFT}",
            f"mean {mean:.2f}, 99 % {tail:.2f}, shift {shift:+.3f}; {error.numel()} sides",
            mean <= MOST_MEAN and tail <= MOST_IN_TAIL and abs(shift) <= MOST_SHIFT,
        )


def _error(kind: str, seed: int, path: Path) -> Tensor:
    model = _detector(kind, seed)
    images = [_image(index) for index in range(IMAGES)]
    _spread(model, images[0])
    function = ConvertibleFunction(
        "main",
        lambda: StockModule(model, ["pixel_values"], ["logits", "pred_boxes"]).eval(),
        {"pixel_values": images[0]},
        ["logits", "pred_boxes"],
        float32_outputs=["pred_boxes"],
    )
    build_program(
        [function],
        path,
        precision="float16",
        minimum_deployment_target="iOS17",
        class_labels=None,
        metadata=_METADATA,
        conversion=GRAPH_CONVERSIONS[0],
    )
    session = PortableSession(path)
    errors = []
    for image in images:
        with torch.no_grad():
            expected = model(pixel_values=image).pred_boxes
        answer = torch.from_numpy(session.predict({"pixel_values": image.numpy()})["pred_boxes"])
        errors.append((_corners(answer) - _corners(expected)).flatten())
    return torch.cat(errors)


def _detector(kind: str, seed: int) -> nn.Module:
    """A detector whose weights are numbers of float16, as those of most checkpoints: what is judged is arithmetic."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **_DETECTORS[kind])
    model: nn.Module = AutoModelForObjectDetection.from_config(config).eval().requires_grad_(False)
    redraw(model, seed)
    tell_apart(model)
    for parameter in model.parameters():
        parameter.copy_(parameter.half())
    return model


def _image(seed: int) -> Tensor:
    coarse = torch.randn(1, 3, 50, 50, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, (SIDE, SIDE))


def _spread(model: nn.Module, image: Tensor) -> None:
    """Lets the last layer of the head read the four directions in which the queries differ most."""
    head = [each for each in model.modules() if isinstance(each, nn.Linear) and each.out_features == 4][-1]
    seen: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        model(pixel_values=image)
    hook.remove()
    hidden = seen[-1][0].double()
    mean = hidden.mean(0)
    _, sizes, directions = torch.linalg.svd(hidden - mean, full_matrices=False)
    weight = directions[:4] * (_SPREAD * len(hidden) ** 0.5 / sizes[:4, None])
    head.weight.copy_(weight.half())
    head.bias.copy_((-(weight @ mean)).half())


def _corners(boxes: Tensor) -> Tensor:
    center, size = boxes.chunk(2, -1)
    return SIDE * torch.cat((center - size / 2, center + size / 2), -1)
