"""What makes a float32 output of a float16 program: its last element-wise steps are float32, and no others."""

import numpy as np
import torch
from torch import nn

from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.targets.coreml.build import ConvertibleFunction, build_program
from optimum_ane.targets.coreml.conversion import GRAPH_CONVERSIONS
from optimum_ane.targets.coreml.metadata import Metadata

METADATA = Metadata("boxes", "a head of boxes with random weights", "apache-2.0", "0", {})
QUERIES, WIDTH = 7, 16


def turned_back(guess):
    """The inverse of the sigmoid, as RT-DETR writes it."""
    return torch.log(guess.clamp(min=1e-5) / (1 - guess).clamp(min=1e-5))


class Boxes(nn.Module):
    """Corners of boxes that are refined once, as by detectors: of a first guess that other layers read as well."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.mixed = nn.Linear(WIDTH, 4), nn.Linear(WIDTH, 4), nn.Linear(4, WIDTH)

    def forward(self, hidden):
        guess = self.first(hidden).sigmoid()
        hidden = hidden + self.mixed(guess)
        center, size = (self.second(hidden) + turned_back(guess)).sigmoid().chunk(2, -1)
        return torch.cat((center - 0.5 * size, center + 0.5 * size), -1), hidden


def made(tmp_path, *float32_outputs):
    module = Boxes().eval()
    inputs = {"hidden": torch.randn(1, QUERIES, WIDTH, generator=torch.Generator().manual_seed(1))}
    path = tmp_path / f"{len(float32_outputs)}.mlpackage"
    function = ConvertibleFunction(
        "main", lambda: module, inputs, ("boxes", "states"), float32_outputs=float32_outputs
    )
    build_program(
        [function], path, precision="float16", minimum_deployment_target="iOS17", class_labels=None, metadata=METADATA,
        conversion=GRAPH_CONVERSIONS[0],
    )  # fmt: skip
    with torch.no_grad():
        return PortableSession(path), inputs["hidden"].numpy(), [each.numpy() for each in module(**inputs)]


def types_of(session, *kinds):
    nodes = [step.node for step in session._program.steps]
    return [node.outputs[0].type.dtype.name for node in nodes if node.op in kinds]


def test_boxes_are_finer_than_float16_where_they_leave_as_float32(tmp_path):
    errors = {}
    for names in ((), ("boxes",)):
        session, hidden, (boxes, states) = made(tmp_path, *names)
        answer = session.predict({"hidden": hidden})
        assert (answer["boxes"].dtype == np.float32) == bool(names)
        assert answer["states"].dtype == np.float16
        np.testing.assert_allclose(answer["states"], states, atol=4e-3)
        errors[names] = np.abs(answer["boxes"] - boxes).max()
        if names:
            held = np.unique(answer["boxes"])
            assert (held.astype(np.float16).astype(np.float32) != held).any()
    assert errors["boxes",] < 0.7 * errors[()]


def test_what_others_read_and_what_is_multiplied_stays_float16(tmp_path):
    session, *_ = made(tmp_path, "boxes")
    assert types_of(session, "sigmoid") == ["float16", "float32"]
    assert set(types_of(session, "conv", "linear")) == {"float16"}
    # The guess turned back and added to, the sizes halved and added to the centres; not what is added to the states.
    assert types_of(session, "log") == ["float32"]


def test_an_output_that_is_only_moved_is_cast_behind_all_moves(tmp_path):
    session, *_ = made(tmp_path, "states")
    assert "float32" not in types_of(session, "add", "sub", "sigmoid", "transpose", "log")
