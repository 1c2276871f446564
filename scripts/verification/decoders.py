"""Every decoder architecture that is named, tiny and random, over a cache of ours: in PyTorch and as programs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from optimum_ane import export
from optimum_ane.errors import ANEError
from verification.row import Row

LEAST_MODULE, LEAST_PROGRAM, LEAST_SHARE = 120.0, 60.0, 0.95
CONTEXT, PREFILL, WINDOW = 64, 16, 12
_LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
_SIZES = {
    "hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 1, "num_hidden_layers": 3,
    "intermediate_size": 192, "vocab_size": 512, "max_position_embeddings": 128, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_NINE = {"hidden_size": 144, "num_attention_heads": 9, "num_key_value_heads": 3}
_ONE = {"hidden_size": 64, "num_attention_heads": 1, "num_key_value_heads": 1}
_ALL = {"num_key_value_heads": 3}
_WINDOW = {"sliding_window": WINDOW}
_LLAMA_3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32, "rope_theta": 10000.0,
}  # fmt: skip
_OLD = {"n_embd": 96, "n_head": 3, "n_layer": 3, "n_positions": 128, "vocab_size": 512, "bos_token_id": 1,
        "eos_token_id": 2}  # fmt: skip

DECODERS: dict[str, dict[str, Any]] = {
    "gpt2": _OLD,
    "gpt_neox": _SIZES,
    "llama": _SIZES | {"tie_word_embeddings": True},
    "llama, Llama 3's frequencies, nine heads": _SIZES | _NINE | {"rope_parameters": _LLAMA_3},
    "llama, linear scaling, one head": _SIZES
    | _ONE
    | {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
    "mistral": _SIZES | _WINDOW,
    "mistral, no window": _SIZES | {"sliding_window": None},
    "qwen2": _SIZES | {"use_sliding_window": False},
    "qwen3": _SIZES | {"head_dim": 64},
    "smollm3": _SIZES | {"no_rope_layers": [1, 1, 0]},
    "gemma2": _SIZES | _WINDOW | {"head_dim": 64, "layer_types": _LAYERS},
    "gemma3_text": _SIZES | _WINDOW | {"head_dim": 64, "layer_types": _LAYERS},
    "phi3": _SIZES,
    "olmo2": _SIZES | _ALL,
    # As Granite 3 has them: by default its scores are not scaled at all.
    "granite": _SIZES
    | {
        "attention_multiplier": 1 / 32,
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.22,
        "logits_scaling": 8.0,
    },
    "cohere2": _SIZES | _WINDOW | {"layer_types": _LAYERS},
    "falcon": {name: value for name, value in _SIZES.items() if name != "num_key_value_heads"},
    "opt": {name: value for name, value in _SIZES.items() if name != "num_key_value_heads"}
    | {"ffn_dim": 192, "word_embed_proj_dim": 96},
    "bloom": {"hidden_size": 96, "n_head": 3, "n_layer": 3, "vocab_size": 512, "bos_token_id": 1, "eos_token_id": 2},
    "starcoder2": _SIZES | _WINDOW,
}
"""Model type, and what is particular, with the settings of a tiny one."""


def measure(folder: Path) -> Iterator[Row]:
    """Exports each with its cache; the report says how close module and programs are to the original."""
    for number, (name, settings) in enumerate(DECODERS.items()):
        yield _row(name, settings, folder / str(number))
        gc.collect()


def make(name: str, settings: dict[str, Any]) -> PreTrainedModel:
    """A random model whose every part tells: scores far apart, norms and biases that are no ones and zeros."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(name.partition(",")[0], **settings)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().requires_grad_(False)
    for path, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape)
        if parameter.ndim > 1:
            parameter.copy_(noise * 1.2 * parameter[0].numel() ** -0.5)
        else:
            parameter.copy_(0.2 * noise + (0 if path.endswith("bias") else 1))
    return model


def _row(name: str, settings: dict[str, Any], output: Path) -> Row:
    asked = f"≥ {LEAST_MODULE:.0f} dB in float32, ≥ {LEAST_PROGRAM:.0f} as programs, share ≥ {LEAST_SHARE}"
    try:
        report = export(
            make(name, settings), output, task="text-generation", context_length=CONTEXT, prefill_length=PREFILL,
            psnr_threshold=40.0, quiet=True,
        ).report  # fmt: skip
    except ANEError as error:
        return Row(f"with a cache: {name}", asked, str(error)[:300], False)
    module, program = min(report.module_psnr.values()), min(report.package_psnr.values())
    shares = {each: summary["flops_share_on_ane"] for each, summary in (report.functions or {}).items()}
    return Row(
        f"with a cache: {name}",
        asked,
        f"{module:.1f}, {program:.1f} dB, shares {', '.join(f'{share:.3f}' for share in shares.values())}; "
        f"{sum(report.operations.values())} operations of infer",
        module >= LEAST_MODULE and program >= LEAST_PROGRAM and min(shares.values()) >= LEAST_SHARE,
    )
