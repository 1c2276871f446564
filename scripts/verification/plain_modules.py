"""Modules outside of transformers with example inputs: tiny ones of `diffusers`, three of `timm`, one written here."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from optimum_ane import export
from optimum_ane.errors import ANEError
from verification.row import MissingError, Row

LEAST_PSNR = 50.0
_TIMM = ("resnet18", "mobilenetv3_small_050", "vit_tiny_patch16_224")
_AS_TUPLE = {"return_dict": False}
"""What diffusers returns is called `sample`, as is what it takes, and a program's names are its own."""

Made = tuple[nn.Module, dict[str, Any], tuple[str, ...]]
"""A module, its example inputs, and the names of its outputs."""


def measure(folder: Path) -> Iterator[Row]:
    """Exports each, and reads from its report how close to the module its package is."""
    makers: Mapping[str, Callable[[], Made]] = {
        "a gated mixer of sequences": _mixer,
        "diffusers, UNet2DModel": _unet,
        "diffusers, UNet2DConditionModel": _conditioned_unet,
        "diffusers, DiTTransformer2DModel": _dit,
        "diffusers, AutoencoderKL's decoder": _decoder,
        **{f"timm, {name}": lambda name=name: _timm(name) for name in _TIMM},
    }
    for number, (name, make) in enumerate(makers.items()):
        torch.manual_seed(0)
        yield _row(name, make, folder / str(number))


def _row(name: str, make: Callable[[], Made], output: Path) -> Row:
    asked = f"≥ {LEAST_PSNR:.0f} dB"
    try:
        module, inputs, outputs = make()
    except MissingError as error:
        return Row(f"plain module, {name}", asked, str(error), None)
    begin = time.perf_counter()
    try:
        report = export(_redrawn(module), output, example_inputs=inputs, outputs=outputs, quiet=True).report
    except ANEError as error:
        return Row(f"plain module, {name}", asked, str(error)[:300], False)
    seconds, worst = time.perf_counter() - begin, min(report.package_psnr.values())
    attempt = report.attempts[-1]
    return Row(
        f"plain module, {name}",
        asked,
        f"{worst:.1f} dB, share {report.residency['flops_share_on_ane']:.3f}, {sum(report.operations.values())} "
        f"operations, {attempt.capture}{'' if attempt.engine_layout else ' without the layout pass'}, {seconds:.0f} s",
        worst >= LEAST_PSNR,
    )


def _redrawn(module: nn.Module) -> nn.Module:
    """Parameters that are far from zero and one: fresh ones hide norms, and layers that begin as nothing."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return module.eval().requires_grad_(False)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:  # torchvision raises the latter where it fits not PyTorch
        raise MissingError(f"needs {name}: pip install optimum-ane[verification] ({error})") from error


class _Mixer(nn.Module):
    """Attention and a gated network on sequences, written with nothing but PyTorch."""

    def __init__(self, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.norm, self.heads = nn.LayerNorm(width), heads
        self.query_key_value, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.gate, self.up, self.down = nn.Linear(width, 96), nn.Linear(width, 96), nn.Linear(96, width)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        batch, length, width = x.shape
        split = (batch, length, self.heads, width // self.heads)
        heads = [each.reshape(split).transpose(1, 2) for each in self.query_key_value(self.norm(x)).chunk(3, -1)]
        mixed = nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(x.shape)
        x = x + self.out(mixed)
        return {"mixed": x + self.down(nn.functional.silu(self.gate(x)) * self.up(x))}


def _mixer() -> Made:
    return _Mixer(), {"x": torch.randn(1, 48, 64)}, ("mixed",)


def _unet() -> Made:
    model = _library("diffusers").UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    return model, {"sample": torch.randn(1, 3, 16, 16), "timestep": torch.tensor([10.0]), **_AS_TUPLE}, ("noise",)


def _conditioned_unet() -> Made:
    model = _library("diffusers").UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=32,
        attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    inputs = {
        "sample": torch.randn(1, 4, 16, 16),
        "timestep": torch.tensor([10.0]),
        "encoder_hidden_states": torch.randn(1, 7, 32),
        **_AS_TUPLE,
    }
    return model, inputs, ("noise",)


def _dit() -> Made:
    model = _library("diffusers").DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=16, in_channels=4, num_layers=2, sample_size=8, patch_size=2
    )
    inputs = {
        "hidden_states": torch.randn(1, 4, 8, 8),
        "timestep": torch.tensor([10.0]),
        "class_labels": torch.tensor([3]),
        **_AS_TUPLE,
    }
    return model, inputs, ("noise",)


def _decoder() -> Made:
    model = _library("diffusers").AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        sample_size=32,
    )
    return _Decoder(model), {"latents": torch.randn(1, 4, 8, 8)}, ("image",)


class _Decoder(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.post_quant_conv, self.decoder = model.post_quant_conv, model.decoder

    def forward(self, latents: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(latents))


def _timm(name: str) -> Made:
    model = _library("timm").create_model(name, pretrained=False)
    size = model.default_cfg["input_size"][-1]
    return model, {"x": torch.randn(1, 3, size, size)}, ("logits",)
