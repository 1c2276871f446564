"""What the rules of `tiny` and `inputs` cannot tell from a configuration, by model type."""

from __future__ import annotations

from typing import Any

_WAVES: dict[str, Any] = {
    "conv_dim": [16, 16],
    "conv_kernel": [10, 3],
    "conv_stride": [5, 2],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
_STAGES: dict[str, Any] = {"hidden_sizes": [16, 32], "depths": [1, 1], "num_encoder_blocks": 2, "mlp_ratios": [2, 2]}
_WINDOWS: dict[str, Any] = {
    "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 2, "image_size": 32, "patch_size": 4
}  # fmt: skip

_RESNET: dict[str, Any] = {
    "backbone_config": {
        "model_type": "resnet",
        "embedding_size": 16,
        "hidden_sizes": [16, 32, 48, 64],
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
        "out_features": ["stage4"],
    },
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
}
_HGNET: dict[str, Any] = {
    "embedding_size": 16,
    "hidden_sizes": [16, 32, 48, 64],
    "depths": [1, 1, 1, 1],
    "stem_channels": [3, 8, 16],
    "stage_in_channels": [16, 16, 32, 48],
    "stage_mid_channels": [8, 8, 16, 16],
    "stage_out_channels": [16, 32, 48, 64],
    "stage_num_blocks": [1, 1, 1, 1],
    "stage_numb_of_layers": [2, 2, 2, 2],
}
_HIERA: dict[str, Any] = {
    "hidden_size": 16,
    "num_attention_heads": 1,
    "blocks_per_stage": [1, 1, 1, 1],
    "embed_dim_per_stage": [16, 32, 64, 64],
    "num_attention_heads_per_stage": [1, 2, 4, 4],
    "window_size_per_stage": [4, 2, 4, 2],
    "global_attention_blocks": [2],
}
_HALF = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 2, 2]}

SETTINGS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("wav2vec2", "wav2vec2-conformer", "hubert", "wavlm", "unispeech", "unispeech-sat"), _WAVES),
    **dict.fromkeys(("sew", "sew-d", "speecht5"), _WAVES),
    **dict.fromkeys(("detr", "conditional_detr", "dab-detr", "table-transformer"), _RESNET),
    "deformable_detr": {
        **_RESNET, "backbone_config": {**_RESNET["backbone_config"], "out_features": ["stage2", "stage3", "stage4"]}
    },
    **{name: {"rope_parameters": _HALF} for name in ("qwen2_vl_text", "qwen2_5_vl_text")},
    **{
        name: {"rope_parameters": _HALF}
        for name in ("glm4v_text", "glm_image_text", "glm_ocr_text")
    },
    "glm4v_moe_text": {"rope_parameters": _HALF | {"mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5}},
    **{
        name: {"head_dim": 16}
        for name in ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral")
    },
    "hgnet_v2": _HGNET,
    **{
        name: {"backbone_config": _HGNET, "encoder_in_channels": [32, 48, 64], "decoder_in_channels": [64, 64, 64]}
        for name in ("d_fine", "deimv2", "pp_doclayout_v3", "pp_doclayout_v4")
    },
    **{
        name: {"encoder_in_channels": [32, 64, 64], "decoder_in_channels": [64, 64, 64]}
        for name in ("rt_detr", "rt_detr_v2")
    },
    "sam2_hiera_det_model": _HIERA,
    "sam2_vision_model": {"backbone_config": _HIERA, "backbone_channel_list": [64, 64, 32, 16]},
    "lw_detr": {"backbone_config": {"num_hidden_layers": 10}},
    "rf_detr": {"backbone_config": {"num_hidden_layers": 12}},
    "bit": {"num_groups": 4, "embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]},
    "textnet": {"hidden_sizes": [64, 64, 128, 256, 512]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "jamba": {"attn_layer_offset": 1, "expert_layer_offset": 1},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "esm": {"vocab_size": 100, "pad_token_id": 0, "mask_token_id": 4},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 16},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "lilt": {"hidden_size": 96},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "lsh"]},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"num_experts_per_tok": 2, "n_routed_experts": 4, "n_shared_experts": 1},
    "falcon_h1": {"mamba_d_ssm": 128},
    "hunyuan_vl_text": {"head_dim": 16, "rope_parameters": _HALF},
    "zamba": {"layers_block_type": ["mamba", "hybrid"]},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"]},
    "muse_spark_audio": {"num_hidden_layers": 4},
    "mimi": {"upsample_groups": 16},
    "data2vec-audio": _WAVES | {"num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 3},
    "deberta": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
    },
    "swin": _WINDOWS,
    "swinv2": _WINDOWS,
    "donut-swin": _WINDOWS,
    "maskformer-swin": _WINDOWS,
    "segformer": _STAGES | {
        "num_attention_heads": [1, 2], "sr_ratios": [2, 1], "patch_sizes": [7, 3], "strides": [4, 2]
    },
    "poolformer": _STAGES | {"patch_sizes": [7, 3], "strides": [4, 2], "padding": [2, 1]},
    "pvt": _STAGES | {
        "num_attention_heads": [1, 2], "sequence_reduction_ratios": [2, 1], "patch_sizes": [4, 2], "strides": [4, 2]
    },
    "convnext": {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2},
    "convnextv2": {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2},
    "resnet": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"},
    "regnet": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "groups_width": 8},
    "focalnet": {"embed_dim": 16, "depths": [1, 1], "focal_levels": [1, 1], "focal_windows": [3, 3], "patch_size": 4},
    "levit": {"hidden_sizes": [16, 32, 48], "num_attention_heads": [2, 2, 2], "depths": [1, 1, 1], "key_dim": [8] * 3},
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320},
    "mobilevit": {
        "image_size": 64, "hidden_sizes": [24, 32, 40], "neck_hidden_sizes": [8, 12, 16, 24, 32, 40, 48]
    },
    "sam_vision_model": {"window_size": 2, "global_attn_indexes": [1], "output_channels": 16},
    "sam_hq_vision_model": {"window_size": 2, "global_attn_indexes": [1], "output_channels": 16},
    "funnel": {"block_sizes": [1, 1], "num_decoder_layers": 1},
    "squeezebert": {
        "q_groups": 2, "k_groups": 2, "v_groups": 2, "intermediate_groups": 2, "output_groups": 2
    },
    "mobilebert": {"embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32},
}  # fmt: skip
"""Settings that replace what the rules give."""

BINS: dict[str, int] = {"fun_asr_nano_encoder": 560, "granite_speech5_encoder": 320, "granite_speech5_ctc": 320}
"""Numbers of a frame of sound, where no field of the configuration states them."""

LENGTHS: dict[str, int] = {"canine": 32, "reformer": 16, "big_bird": 32}
"""Tokens of an input, where 13 will not do."""
