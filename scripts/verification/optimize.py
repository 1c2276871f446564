"""Stock packages of real checkpoints, made with coremltools, through `ane optimize`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    WhisperModel,
)

from optimum_ane import optimize
from optimum_ane.runtimes.portable.package import Package
from optimum_ane.targets.coreml.quiet import quiet
from optimum_ane.targets.coreml.translations import missing_translations
from verification.row import Row, shared

LEAST_SHARE, LEAST_PSNR = 0.95, 60.0
_TOKENS = 64


def measure(folder: Path) -> Iterator[Row]:
    """Converts each checkpoint as it is, optimizes the package, and optimizes the result once more."""
    makers: Mapping[str, Callable[[], ct.models.MLModel]] = {
        "DistilBERT, distilbert-sst2": _distilbert,
        "DistilBERT, weights of 8 bits": lambda: _quantized(_distilbert()),
        "ViT, vit-digits": _vit,
        "Whisper's encoder, whisper-tiny-en": _whisper,
        "ResNet, random weights": _resnet,
    }
    for number, (name, make) in enumerate(makers.items()):
        source = folder / f"{number}.mlpackage"
        make().save(str(source))
        yield from _rows(name, source)


def _rows(name: str, source: Path) -> Iterator[Row]:
    first = optimize(source, source.with_name(f"{source.stem}-first.mlpackage"), psnr_threshold=0, quiet=True)
    second = optimize(first.path, source.with_name(f"{source.stem}-second.mlpackage"), quiet=True)
    function = first.functions["main"]
    before, after = function.before, function.after
    what = f"ane optimize, {name}"
    yield Row(
        f"{what}: share of the arithmetic predicted on the engine",
        f"≥ {LEAST_SHARE}",
        f"{after.share_on_ane:.4f}, before {before.share_on_ane:.4f} ({before.operations} → {after.operations} "
        f"operations, {before.transposes} → {after.transposes} transposes)",
        after.share_on_ane >= LEAST_SHARE,
    )
    worst = min(function.psnr.values())
    yield Row(
        f"{what}: worst output against the package before",
        f"≥ {LEAST_PSNR:.0f} dB",
        f"{worst:.1f} dB on {function.examples} inputs",
        worst >= LEAST_PSNR,
    )
    descriptions = [Package(path).spec.description for path in (source, first.path)]
    is_same = descriptions[0] == descriptions[1]
    yield Row(f"{what}: names, types, metadata", "equal", "equal" if is_same else "not equal", is_same)
    yield Row(
        f"{what}: the second run", "changes nothing", "changed" if second.changed else "nothing", not second.changed
    )


class _Wrapped(nn.Module):
    """A model with tensors for arguments and one tensor for an answer: the tracer takes no dictionaries."""

    def __init__(self, model: nn.Module, names: list[str], field: str) -> None:
        super().__init__()
        self.model, self.names, self.field = model, names, field

    def forward(self, *values: Tensor) -> Tensor:
        return self.model(**dict(zip(self.names, values, strict=True)))[self.field]


def _convert(model: nn.Module, inputs: Mapping[str, Tensor], field: str) -> ct.models.MLModel:
    """Traces and converts a model as it is, with nothing of ours but the translations that coremltools lacks."""
    wrapped = _Wrapped(model.eval(), [*inputs], field)
    with torch.no_grad(), quiet(), missing_translations():
        traced = torch.jit.trace(wrapped, tuple(inputs.values()), check_trace=False)
        converted = ct.convert(
            traced,
            inputs=[
                ct.TensorType(name=name, shape=tuple(x.shape), dtype=np.float32 if x.is_floating_point() else np.int32)
                for name, x in inputs.items()
            ],
            outputs=[ct.TensorType(name=field)],
            minimum_deployment_target=ct.target.iOS17,
            skip_model_load=True,
        )
    converted.author, converted.user_defined_metadata["made.by"] = "somebody else", "coremltools"
    return converted


def _distilbert() -> ct.models.MLModel:
    model = AutoModelForSequenceClassification.from_pretrained(shared("models/distilbert-sst2"), dtype=torch.float32)
    ids = torch.randint(0, model.config.vocab_size, (1, _TOKENS), generator=torch.Generator().manual_seed(0))
    # A mask of ones is left out by the model while it is traced.
    mask = (torch.arange(_TOKENS) < _TOKENS // 2).long()[None]
    return _convert(model, {"input_ids": ids, "attention_mask": mask}, "logits")


def _quantized(model: ct.models.MLModel) -> ct.models.MLModel:
    with quiet():
        return cto.linear_quantize_weights(model, cto.OptimizationConfig(cto.OpLinearQuantizerConfig()))


def _vit() -> ct.models.MLModel:
    model = AutoModelForImageClassification.from_pretrained(shared("models/vit-digits"), dtype=torch.float32)
    return _convert(model, {"pixel_values": _pixels(model)}, "logits")


def _resnet() -> ct.models.MLModel:
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=32, hidden_sizes=[32, 64, 96, 128], depths=[1, 1, 2, 1], layer_type="basic")
    config.image_size = 64
    model = ResNetForImageClassification(config)
    return _convert(model, {"pixel_values": _pixels(model)}, "logits")


def _pixels(model: PreTrainedModel) -> Tensor:
    size, channels = model.config.image_size, model.config.num_channels
    return torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(0))


def _whisper() -> ct.models.MLModel:
    model = WhisperModel.from_pretrained(shared("models/whisper-tiny-en"), dtype=torch.float32)
    shape = (1, model.config.num_mel_bins, 2 * model.config.max_source_positions)
    features = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return _convert(model.encoder, {"input_features": features}, "last_hidden_state")
