"""Tiny random encoder-decoder models, whose choices of tokens are clear in float16 too."""

from __future__ import annotations

import torch
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    GPT2Config,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)

WORDS = 100
_LIKE_T5 = {
    "d_model": 48, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 3,
    "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
_LIKE_BART = {
    "d_model": 48, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 3,
    "decoder_attention_heads": 3, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "max_position_embeddings": 64,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2,
}  # fmt: skip
SETTINGS = {
    "bart": _LIKE_BART | {"forced_eos_token_id": 2},
    "blenderbot": _LIKE_BART,
    "blenderbot-small": _LIKE_BART,
    "m2m_100": _LIKE_BART | {"scale_embedding": True},
    "marian": _LIKE_BART | {"pad_token_id": 99, "decoder_start_token_id": 99, "eos_token_id": 0},
    "mbart": _LIKE_BART,
    "mt5": _LIKE_T5,
    "pegasus": _LIKE_BART | {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0},
    "plbart": _LIKE_BART,
    "t5": _LIKE_T5,
    "t5:gated": _LIKE_T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "umt5": _LIKE_T5,
}
"""By model type, with what is particular about it behind a colon."""


def make_encoder_decoder(name, seed=0, **settings):
    """A model in float32 and evaluation mode.

    Of T5, which does not scale its scores, the queries are drawn as trained ones are: smaller by the square root of
    their width.
    """
    torch.manual_seed(seed)
    config = AutoConfig.for_model(name.split(":")[0], **{"vocab_size": WORDS} | SETTINGS[name] | settings)
    model = AutoModelForSeq2SeqLM.from_config(config).eval().requires_grad_(False)
    for path, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.add_(0.1 * torch.randn(parameter.shape))
            continue
        parameter.copy_(torch.randn(parameter.shape) * 1.2 * parameter[0].numel() ** -0.5)
        if path.endswith("Attention.q.weight"):
            parameter.mul_(config.d_kv**-0.5)
    model.generation_config.do_sample = False
    return model


def source_rows(model, counts=(13, 7, 9), seed=5):
    """Ids and mask of texts of these lengths, padded on the right to the longest."""
    ids = torch.randint(3, WORDS - 2, (len(counts), max(counts)), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(max(counts))[None] < torch.tensor(counts)[:, None]).long()
    return torch.where(mask.bool(), ids, model.config.pad_token_id), mask


def make_captioner(width=32, seed=0):
    """A ViT with a GPT-2 that writes of what it sees; `enc_to_dec_proj` lies between, where the widths differ."""
    torch.manual_seed(seed)
    encoder = ViTConfig(
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=24,
        patch_size=8,
    )
    decoder = GPT2Config(
        n_embd=48, n_layer=2, n_head=3, n_positions=40, vocab_size=WORDS, bos_token_id=0, eos_token_id=2,
        pad_token_id=1, add_cross_attention=True, is_decoder=True,
    )  # fmt: skip
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        encoder, decoder, decoder_start_token_id=0, pad_token_id=1, eos_token_id=2
    )
    model = VisionEncoderDecoderModel(config).eval().requires_grad_(False)
    for path, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.add_(0.1 * torch.randn(parameter.shape))
            continue
        is_conv1d = path.startswith("decoder.transformer.h.")  # (in, out), as GPT-2 has its weights
        inputs = parameter.shape[0] if is_conv1d else parameter[0].numel()
        parameter.copy_(torch.randn(parameter.shape) * 1.2 * inputs**-0.5)
    model.generation_config.do_sample = False
    return model
