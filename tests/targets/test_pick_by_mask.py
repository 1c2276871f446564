"""Tokens picked by a mask: the same ones as PyTorch looks up, without a look-up; others are left alone."""

import numpy as np
import pytest
import torch
from torch import nn

from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.targets.coreml.build import ConvertibleFunction, build_program
from optimum_ane.targets.coreml.conversion import GRAPH_CONVERSIONS
from optimum_ane.targets.coreml.metadata import Metadata

METADATA = Metadata("pick", "a text model's pooling with random weights", "apache-2.0", "0", {})
LENGTH, END = 9, 30


class Text(nn.Module):
    """Reads a text at a token, as CLIP does, or at the same place plus one, which may be none."""

    def __init__(self, pick):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.norm, self.head = nn.Embedding(31, 8), nn.LayerNorm(8), nn.Linear(8, 5)
        self.pick = pick

    def forward(self, input_ids):
        hidden = self.norm(self.embed(input_ids))
        return self.head(self.pick(hidden, input_ids))


PICKS = {
    "the first that ends it": lambda hidden, ids: hidden[torch.arange(1), (ids == END).int().argmax(-1)],
    "the largest": lambda hidden, ids: hidden[torch.arange(1), ids.argmax(-1)],
}
OTHERS = {
    "a place that is computed further": lambda hidden, ids: hidden[torch.arange(1), (ids.argmax(-1) + 3) % LENGTH],
    "two of them": lambda hidden, ids: hidden[torch.zeros(2, dtype=torch.long), ids[0, :2] % LENGTH],
}


def texts():
    generator = torch.Generator().manual_seed(0)
    for end in (0, 4, LENGTH - 1):
        ids = torch.randint(0, END, (1, LENGTH), generator=generator)
        ids[:, end:] = END
        yield ids.int()


def made(pick, path):
    module = Text(pick).eval()
    function = ConvertibleFunction("main", lambda: module, {"input_ids": next(texts())}, ("vector",))
    build_program(
        [function], path, precision="float16", minimum_deployment_target="iOS17", class_labels=None, metadata=METADATA,
        conversion=GRAPH_CONVERSIONS[0],
    )  # fmt: skip
    session = PortableSession(path)
    for ids in texts():
        with torch.no_grad():
            expected = module(ids).numpy()
        np.testing.assert_allclose(session.predict({"input_ids": ids.numpy()})["vector"], expected, atol=4e-3)
    return [step.node.op for step in session._program.steps]


@pytest.mark.parametrize("what", PICKS)
def test_a_token_is_picked_without_a_look_up(what, tmp_path):
    kinds = made(PICKS[what], tmp_path / "a.mlpackage")
    assert "gather_nd" not in kinds
    assert "reduce_sum" in kinds


@pytest.mark.parametrize("what", OTHERS)
def test_what_may_be_another_look_up_is_left_alone(what, tmp_path):
    assert "gather_nd" in made(OTHERS[what], tmp_path / "a.mlpackage")


class Pooled(nn.Module):
    def __init__(self, pool):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.pool = nn.Conv2d(3, 6, 3), pool

    def forward(self, x):
        return self.pool(self.conv(x))


@pytest.mark.parametrize(
    ("pool", "kind"),
    [
        (nn.AvgPool2d(40, ceil_mode=True), "reduce_mean"),
        (nn.AvgPool2d((5, 7)), "reduce_mean"),
        (nn.MaxPool2d((5, 7)), "reduce_max"),
        (nn.AvgPool2d((5, 5)), "avg_pool"),
        (nn.AvgPool2d((5, 7), stride=9, padding=(1, 0)), "avg_pool"),
    ],
)
def test_a_window_over_the_whole_image_is_a_mean_of_it(pool, kind, tmp_path):
    module = Pooled(pool).eval()
    x = torch.randn(1, 3, 7, 9, generator=torch.Generator().manual_seed(1))
    function = ConvertibleFunction("main", lambda: module, {"x": x}, ("y",))
    build_program(
        [function], tmp_path / "a.mlpackage", precision="float32", minimum_deployment_target="iOS17",
        class_labels=None, metadata=METADATA, conversion=GRAPH_CONVERSIONS[0],
    )  # fmt: skip
    session = PortableSession(tmp_path / "a.mlpackage")
    assert kind in [step.node.op for step in session._program.steps]
    np.testing.assert_allclose(session.predict({"x": x.numpy()})["y"], module(x).detach().numpy(), atol=1e-5)
