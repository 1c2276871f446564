"""A checkpoint of timm, read by transformers' wrapper, goes by its graph."""

import pytest
import torch
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

from optimum_ane import ANEModelForImageClassification, export


def test_a_checkpoint_of_timm_is_exported(tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    torch.manual_seed(0)
    network = timm.create_model("resnet18", pretrained=False, num_classes=7)
    config = TimmWrapperConfig(architecture="resnet18", num_labels=7, pretrained_cfg=network.pretrained_cfg)
    model = TimmWrapperForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "checkpoint")
    result = export(
        tmp_path / "checkpoint", tmp_path / "out", task="image-classification", image_size=(64, 96), quiet=True
    )
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = model(pixels).logits
    answer = ANEModelForImageClassification.from_pretrained(result.path)(pixels).logits
    torch.testing.assert_close(answer.float(), expected, atol=1e-2, rtol=1e-2)
    assert result.report.residency["flops_share_on_ane"] > 0.99
