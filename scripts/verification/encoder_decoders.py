"""Every encoder-decoder architecture that is named, tiny and random: its modules in PyTorch and its programs.

Sources of 37 tokens and of 13, or two images; twelve tokens of each, one by one through one state, with other words
where the shorter source ends and rubbish in the encoder's states there.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    GPT2Config,
    PreTrainedModel,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTImageProcessor,
)

from optimum_ane import export
from optimum_ane.errors import ANEError
from verification.row import Row

LEAST_MODULE, LEAST_PROGRAM = 120.0, 60.0
SOURCE, CONTEXT, IMAGE = 37, 40, 48
_T5 = {
    "d_model": 96, "d_kv": 32, "d_ff": 192, "num_layers": 3, "num_decoder_layers": 3, "num_heads": 3,
    "vocab_size": 512, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
_GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
_BART = {
    "d_model": 96, "encoder_layers": 3, "decoder_layers": 3, "encoder_attention_heads": 3,
    "decoder_attention_heads": 3, "encoder_ffn_dim": 192, "decoder_ffn_dim": 192, "vocab_size": 512,
    "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
    "decoder_start_token_id": 2,
}  # fmt: skip
_ONE_HEAD = {"encoder_attention_heads": 1, "decoder_attention_heads": 1, "d_model": 64}
_VIT = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 192,
        "image_size": IMAGE, "patch_size": 8}  # fmt: skip

TEXT_TO_TEXT: dict[str, dict[str, Any]] = {
    "t5": _T5,
    "t5, gated as flan": _T5 | _GATED,
    "t5, one head, more layers than the encoder": _T5 | {"num_heads": 1, "num_layers": 2},
    "mt5": _T5 | _GATED,
    "umt5": _T5 | _GATED,
    "bart": _BART,
    "bart, one head": _BART | _ONE_HEAD,
    "mbart": _BART | {"scale_embedding": True},
    "marian": _BART | {"pad_token_id": 511, "decoder_start_token_id": 511, "eos_token_id": 0},
    "marian, tables of its own": _BART
    | {"pad_token_id": 511, "decoder_start_token_id": 511, "share_encoder_decoder_embeddings": False,
       "decoder_vocab_size": 512},
    "pegasus": _BART | {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0},
    "m2m_100": _BART | {"scale_embedding": True},
    "blenderbot": _BART,
    "blenderbot-small": _BART,
    "plbart": _BART,
}  # fmt: skip
"""Model type, and what is particular, with the settings of a tiny one."""

CAPTIONS: dict[str, dict[str, Any]] = {
    "vit, of one width with gpt2": _VIT,
    "vit, enc_to_dec_proj": _VIT | {"hidden_size": 48},
    "deit": _VIT,
    "beit": _VIT,
}
"""The encoder of images, whose decoder is GPT-2."""


def measure(folder: Path) -> Iterator[Row]:
    """Exports each; the report says how close module and programs are to the original."""
    options: dict[str, Any] = {"sequence_length": SOURCE, "context_length": CONTEXT}
    for number, (name, settings) in enumerate(TEXT_TO_TEXT.items()):
        yield _row(name, make_text_to_text(name, settings), folder / f"text-{number}", options)
        gc.collect()
    processor = ViTImageProcessor(size={"height": IMAGE, "width": IMAGE})
    for number, (name, settings) in enumerate(CAPTIONS.items()):
        options = {"context_length": CONTEXT, "processor": processor}
        yield _row(f"captions of {name}", make_captioner(name, settings), folder / f"image-{number}", options)
        gc.collect()


def make_text_to_text(name: str, settings: dict[str, Any]) -> PreTrainedModel:
    """A random model whose every part tells."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(name.partition(",")[0], **settings)
    return _draw(AutoModelForSeq2SeqLM.from_config(config), getattr(config, "d_kv", None))


def make_captioner(name: str, settings: dict[str, Any]) -> PreTrainedModel:
    """A random encoder of images with a random GPT-2."""
    torch.manual_seed(0)
    decoder = GPT2Config(
        n_embd=96, n_layer=3, n_head=3, n_positions=64, vocab_size=512, bos_token_id=0, eos_token_id=2,
        pad_token_id=1, add_cross_attention=True, is_decoder=True,
    )  # fmt: skip
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        AutoConfig.for_model(name.partition(",")[0], **settings), decoder, decoder_start_token_id=0, pad_token_id=1
    )
    return _draw(VisionEncoderDecoderModel(config), None)


def _draw(model: PreTrainedModel, query_width: int | None) -> PreTrainedModel:
    """Draws all weights anew.

    Those of T5 as its own file does, which keeps what gated layers multiply from growing: queries smaller by the root
    of their width, since nothing else scales its scores.
    """
    gain = 1.2 if query_width is None else 1.0
    for path, parameter in model.eval().requires_grad_(False).named_parameters():
        noise = torch.randn(parameter.shape)
        if parameter.ndim < 2:
            parameter.copy_(0.2 * noise + (0 if path.endswith("bias") else 1))
            continue
        is_conv1d = ".transformer.h." in path
        parameter.copy_(noise * gain * (parameter.shape[0] if is_conv1d else parameter[0].numel()) ** -0.5)
        if query_width is not None and path.endswith("Attention.q.weight"):
            parameter.mul_(query_width**-0.5)
    return model


def _row(name: str, model: PreTrainedModel, output: Path, options: dict[str, Any]) -> Row:
    asked = f"≥ {LEAST_MODULE:.0f} dB in float32, ≥ {LEAST_PROGRAM:.0f} as programs"
    try:
        report = export(model, output, psnr_threshold=40.0, quiet=True, **options).report
    except ANEError as error:
        return Row(f"of a source: {name}", asked, str(error)[:300], False)
    module, program = min(report.module_psnr.values()), min(report.package_psnr.values())
    shares = {each: summary["flops_share_on_ane"] for each, summary in (report.functions or {}).items()}
    return Row(
        f"of a source: {name}",
        asked,
        f"{module:.1f}, {program:.1f} dB, shares {', '.join(f'{share:.3f}' for share in shares.values())}",
        module >= LEAST_MODULE and program >= LEAST_PROGRAM,
    )
