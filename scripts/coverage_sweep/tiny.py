"""Tiny configurations of any architecture: the default one with every size made small, by rules over field names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from coverage_sweep.special_cases import SETTINGS

WIDTH, HEADS, HEAD, LAYERS, INNER, VOCABULARY, POSITIONS, IMAGE = 64, 4, 16, 2, 128, 100, 64, 32
PAD, BOS, EOS = 0, 1, 2

_KEPT = (
    r"(type_vocab_size|.*_dropout.*|.*_prob|.*bias.*|num_channels|in_channels|num_labels|.*_ratio|.*_eps|.*_scale)$"
)

Rule = Callable[[Any], Any]


def _at_most(limit: int) -> Rule:
    return lambda value: min(value, limit) if _is_size(value) else value


def _exactly(size: int) -> Rule:
    return lambda value: size if _is_size(value) else value


_RULES: tuple[tuple[str, Rule], ...] = tuple(
    (pattern + "$", rule)
    for pattern, rule in (
        (r".*vocab_size.*", _exactly(VOCABULARY)),
        (r"pad_token_id|pad_index", lambda _: PAD),
        (r"bos_token_id|bos_index", lambda _: BOS),
        (r"eos_token_id|eos_index", lambda _: EOS),
        (r".*_token_id|.*_token_index", _at_most(VOCABULARY - 1)),
        (r".*(max_position|n_positions|max_source_positions|max_target_positions|max_seq_len|max_sequence_length"
         r"|context_length).*", _at_most(POSITIONS)),
        (r".*(experts_per_tok(en)?|moe_topk|moe_k|top_k_experts|expert_top_k|moe_top_k)", _at_most(2)),
        (r"n_group|num_expert_group|topk_group|num_groups_experts", _exactly(1)),
        (r"(num|n|moe_num)_shared_experts", _at_most(1)),
        (r".*num_(local_|routed_)?experts|n_routed_experts|num_experts_all", _at_most(4)),
        (r"first_k_dense_replace|num_dense_layers|moe_layer_start_index", _at_most(1)),
        (r"mamba_(n|num)_heads", _exactly(2 * WIDTH // HEAD)),
        (r".*(key_value_heads|kv_heads|num_kv)", _at_most(2)),
        (r"(.*_)?(num_)?(n_)?(.*attention_|.*attn_|mamba_n_|mamba_|linear_num_.*_|index_n_)?heads|n_head|.*_num_heads",
         _at_most(HEADS)),
        (r"qk_rope_head_dim", _exactly(8)),
        (r"qk_head_dim", _exactly(8 + HEAD)),
        (r"rotary_dim", _at_most(8)),
        (r"context_size", _at_most(16)),
        (r".*head_dim|d_kv|kv_channels|mamba_d_head|mamba_headdim|d_head|.*attention_head_size|head_size"
         r"|.*key_head_dim|.*value_head_dim", _exactly(HEAD)),
        (r"q_lora_rank|kv_lora_rank|o_lora_rank|.*lora_rank", _at_most(32)),
        (r"(.*_)?(num_|n_)?(hidden_|encoder_|decoder_|transformer_|speech_encoder_|t2u_.*)?layers|n_layer"
         r"|num_hidden_layers|depth|.*_num_hidden_layers|num_blocks|.*_num_layers", _at_most(LAYERS)),
        (r"moe_intermediate_size|shared_expert_intermediate_size|.*expert_.*intermediate_size", _exactly(32)),
        (r".*(intermediate_size|intermediate_dim|ffn_dim|d_ff|n_inner|d_inner|ffn_hidden_size|dim_feedforward"
         r"|feedforward_dim|mlp_dim|ffn_size|feed_forward_hidden_size)", _exactly(INNER)),
        (r"state_size|mamba_d_state|ssm_state_size", _at_most(8)),
        (r"time_step_rank|mamba_dt_rank", _at_most(8)),
        (r"(.*_)?(hidden_size|d_model|n_embd|hidden_dim|emb_dim|embed_dim|embedding_size|d_embed|dim|projection_dim"
         r"|word_embed_proj_dim|lru_width|output_channels|fpn_hidden_size|hidden_channels|embedding_dim)",
         _at_most(WIDTH)),
        (r"num_queries|num_query_tokens", _at_most(5)),
        (r"(image|img|pretrain_image|input_image)_size", lambda value: _like(value, IMAGE)),
        (r"patch_size", lambda value: _patches(value)),
        (r".*sliding_window(_size)?|attention_window|local_attention|chunk_size|mamba_chunk_size|attention_chunk_size"
         r"|block_size", _at_most(8)),
        (r"depths|stage_num_blocks", lambda value: [1 for _ in value] if isinstance(value, list | tuple) else value),
        (r"(.*_)?(hidden_sizes|embed_dims|encoder_hidden_size|neck_hidden_sizes"
         r"|backbone_channel_list|embed_dim)", lambda value: _narrowed(value)),
        (r"num_heads|num_attention_heads", lambda value: _few(value)),
        (r".*sparse_step", _at_most(1)),
        (r"(full_attention_interval|attn_layer_period|sliding_window_pattern|global_attn_every_n_layers"
         r"|no_rope_layer_interval)", _at_most(2)),
        (r"num_frames|frames_per_clip", _at_most(4)),
        (r"mrope_section", lambda value: _sections(value)),
    )
)  # fmt: skip


def tiny_config(model_type: str) -> PretrainedConfig:
    """Makes the tiny configuration of an architecture.

    Args:
        model_type: Of transformers' auto mapping.

    Raises:
        Exception: Whatever the configuration's own checks raise.
    """
    default = AutoConfig.for_model(model_type)
    settings = _merged(_shrink(default), SETTINGS.get(model_type, {}))
    config = AutoConfig.for_model(model_type, **settings)
    names = MODEL_MAPPING_NAMES[model_type]
    config.architectures = [names if isinstance(names, str) else names[0]]
    if hasattr(config, "use_cache"):
        config.use_cache = False
    return config


def _merged(values: dict[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """The second over the first, entry by entry where both have a mapping of the same kind of model."""
    merged = dict(values)
    for name, value in others.items():
        old = merged.get(name)
        is_same_kind = isinstance(old, dict) and isinstance(value, dict) and "model_type" not in value
        merged[name] = _merged(old, value) if is_same_kind else value
    return merged


def _shrink(config: PretrainedConfig) -> dict[str, Any]:
    """The fields of a configuration that a rule changes."""
    changed: dict[str, Any] = {}
    inner = {name: getattr(config, name, None) for name in type(config).sub_configs}
    for name, value in config.to_dict().items():
        if isinstance(inner.get(name), PretrainedConfig):
            changed[name] = _without_layers(inner[name]) | _shrink(inner[name])
        elif isinstance(value, dict) and name == "rope_parameters":
            changed[name] = _shrink_mapping(value)
        elif (new := _smaller(name, value)) != value:
            changed[name] = new
    _agree_on_heads(config, changed)
    return changed


def _without_layers(config: PretrainedConfig) -> dict[str, Any]:
    """The fields of a part, without lists of one entry a layer: they are made anew for fewer layers."""
    layers = getattr(config, "num_hidden_layers", None)
    return {
        name: value
        for name, value in config.to_dict().items()
        if not (isinstance(value, list) and len(value) == layers and layers > 4)
    }


def _agree_on_heads(config: PretrainedConfig, changed: dict[str, Any]) -> None:
    """Keeps what the default has equal: heads of keys and of queries, a head's width and its rotary part."""
    for name in list(changed):
        if name.endswith("key_value_heads"):
            heads = getattr(config, name.replace("key_value", "attention"), None)
            if heads is None or heads == getattr(config, name, None):
                changed[name] = HEADS
    rotary = getattr(config, "qk_rope_head_dim", None)
    if rotary is not None and getattr(config, "head_dim", None) == rotary:
        changed["head_dim"] = changed.get("qk_rope_head_dim", rotary)


def _shrink_mapping(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _shrink_mapping(value) if isinstance(value, dict) else _smaller(name, value)
        for name, value in values.items()
    }


def _smaller(name: str, value: Any) -> Any:
    if isinstance(value, bool | str | float) or re.match(_KEPT, name):
        return value
    if value is None and name not in ("pad_token_id", "bos_token_id", "eos_token_id"):
        return value
    for pattern, rule in _RULES:
        if re.match(pattern, name):
            new = rule(value)
            if new != value:
                return new
    return value


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _like(value: Any, size: int) -> Any:
    return [size for _ in value] if isinstance(value, list | tuple) else size


def _patches(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [min(each, 8) for each in value]
    return min(value, 8) if _is_size(value) else value


def _narrowed(value: Any) -> Any:
    """Widths of stages, in their proportions, the first 16."""
    if not isinstance(value, list | tuple) or not value or not all(_is_size(each) for each in value):
        return value
    least = min(value)
    return [min(16 * max(1, each // least), WIDTH) for each in value]


def _few(value: Any) -> Any:
    return [min(each, 2) for each in value] if isinstance(value, list | tuple) else value


def _sections(value: list[int]) -> list[int]:
    """The parts of a rotary embedding over time, height and width, for heads of `HEAD` channels."""
    return [HEAD // 2 - 2 * (HEAD // 6), *(HEAD // 6 for _ in value[1:])] if len(value) == 3 else value
