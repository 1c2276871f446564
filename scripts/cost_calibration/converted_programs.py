"""Stand-ins that are converted: transformers' own classes with seeded random weights, at their published sizes."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import torch
import transformers
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from optimum_ane import export
from optimum_ane.analysis.operations import Program, read_program
from optimum_ane.package.layout import MLPACKAGE
from optimum_ane.targets.coreml.quiet import quiet


class _Taken(torch.nn.Module):
    """A model whose answer is one tensor."""

    def __init__(self, model: torch.nn.Module, take: Callable[[Any], torch.Tensor]) -> None:
        super().__init__()
        self.model, self.take = model, take

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.take(self.model(x))


def distilbert(length: int) -> Program:
    """DistilBERT-base for two classes, exported by this library."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "package"
        export(
            _distilbert(),
            package,
            task="text-classification",
            sequence_length=length,
            validate=False,
            quiet=True,
        )
        return read_program(package / MLPACKAGE)


def whisper_encoder(width: int, layers: int) -> Program:
    """Whisper's encoder of 30 s in the original's layout."""
    config = transformers.WhisperConfig(
        d_model=width,
        encoder_layers=layers,
        encoder_attention_heads=width // 64,
        encoder_ffn_dim=4 * width,
        num_mel_bins=80,
        attn_implementation="eager",
    )
    return _converted(WhisperEncoder(config), lambda answer: answer.last_hidden_state, (1, 80, 3000))


def resnet50() -> Program:
    """ResNet-50 at 224 × 224."""
    model = transformers.ResNetForImageClassification(transformers.ResNetConfig(num_labels=1000))
    return _converted(model, lambda answer: answer.logits, (1, 3, 224, 224))


def mobilenet_v2() -> Program:
    """MobileNetV2-1.0 at 224 × 224."""
    config = transformers.MobileNetV2Config(num_labels=1000, tf_padding=False)
    model = transformers.MobileNetV2ForImageClassification(config)
    return _converted(model, lambda answer: answer.logits, (1, 3, 224, 224))


def mobilevit_v2() -> Program:
    """MobileViTv2-1.0 at 256 × 256."""
    model = transformers.MobileViTV2ForImageClassification(transformers.MobileViTV2Config(num_labels=1000))
    return _converted(model, lambda answer: answer.logits, (1, 3, 256, 256))


def _distilbert() -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    return transformers.DistilBertForSequenceClassification(transformers.DistilBertConfig()).eval()


def _converted(model: torch.nn.Module, take: Callable[[Any], torch.Tensor], shape: tuple[int, ...]) -> Program:
    example = torch.zeros(shape)
    with torch.no_grad(), warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        # Exported and not traced: MobileViT computes extents with `int`, which a trace keeps as operations.
        exported = torch.export.export(_Taken(model, take).eval(), (example,)).run_decompositions({})
        return _read(
            ct.convert(
                exported,
                minimum_deployment_target=ct.target.iOS16,
                compute_precision=ct.precision.FLOAT16,
                skip_model_load=True,
            )
        )


def _read(model: ct.models.MLModel) -> Program:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / MLPACKAGE)
        model.save(path)
        return read_program(path)
