"""Tiny random models of every vision architecture that is named, in every task: images of odd sizes, not square."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from coverage_sweep.weights import redraw
from torch import Tensor, nn

HEIGHT, WIDTH = 45, 61
"""Of the images; odd, and no multiples of a patch: what is left at the edges belongs to no patch."""

_PLAIN = {
    "hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 80, "patch_size": 8,
    "image_size": [HEIGHT, WIDTH],
}  # fmt: skip
_SQUARE = _PLAIN | {"image_size": 56}
"""Positions of 7 × 7 patches, which are interpolated to those of the image."""
_BEIT = _PLAIN | {
    "image_size": 56, "use_relative_position_bias": True, "use_absolute_position_embeddings": False,
    "layer_scale_init_value": 0.5,
}  # fmt: skip
_LABELS = {"num_labels": 7}
_RESNET = {
    "model_type": "resnet", "embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1],
    "layer_type": "basic", "out_features": ["stage4"],
}  # fmt: skip
_RT_RESNET = {
    "model_type": "rt_detr_resnet", "embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1],
    "layer_type": "basic", "out_features": ["stage2", "stage3", "stage4"],
}  # fmt: skip
YOLOS = _PLAIN | {"num_detection_tokens": 9, "image_size": [48, 64]}
"""Its positions are those of an image of whole patches, and interpolated to those of the image."""
DETR = {
    "backbone_config": _RESNET, "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None,
    "d_model": 48, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 3,
    "decoder_attention_heads": 3, "encoder_ffn_dim": 80, "decoder_ffn_dim": 80, "num_queries": 9,
}  # fmt: skip
_RT_DETR = {
    "backbone_config": _RT_RESNET, "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None,
    "d_model": 48, "encoder_hidden_dim": 48, "encoder_in_channels": [32, 48, 64], "encoder_ffn_dim": 80,
    "encoder_attention_heads": 3, "decoder_attention_heads": 3, "decoder_layers": 2, "decoder_ffn_dim": 80,
    "decoder_in_channels": [48, 48, 48], "num_queries": 11, "decoder_n_points": 2, "anchor_image_size": None,
}  # fmt: skip
_CLIP_TEXT = {
    "hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 80, "vocab_size": 99,
    "max_position_embeddings": 16, "projection_dim": 40,
}  # fmt: skip
_SCORES = ("enc_score_head", "class_embed")
_STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 24, 32, 40]}


@dataclass(frozen=True)
class VisionModel:
    """One architecture in one task.

    Attributes:
        model_type: Of transformers.
        task: Optimum's name of it.
        model_class: The class of transformers that is exported.
        settings: Of its configuration, where they are not the default.
        outputs: The fields of what it returns that are compared.
        size: Height and width of the images; None of a model of text.
        constants: Further arguments of each call.
        score_scale: What weights of scores are multiplied by: where the network takes the best of many, those of
            random weights lie so close that rounding to float16 takes others.
        seed: Of the weights.
    """

    model_type: str
    task: str
    model_class: str
    settings: Mapping[str, Any]
    outputs: tuple[str, ...]
    size: tuple[int, int] | None = (HEIGHT, WIDTH)
    constants: Mapping[str, Any] = field(default_factory=dict)
    score_scale: float = 1.0
    seed: int = 0

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return f"{self.model_type}, {self.task}"

    def make(self) -> nn.Module:
        """The model, in evaluation mode, with weights under which every part of it shows in its answer."""
        config = transformers.AutoConfig.for_model(self.model_type, **self.settings)
        torch.manual_seed(self.seed)
        model_class = getattr(transformers, self.model_class)
        make = getattr(model_class, "from_config", None) or model_class._from_config
        model = make(config).eval().requires_grad_(False)
        redraw(model, self.seed)
        if self.task == "object-detection":
            tell_apart(model)
        for name, parameter in model.named_parameters():
            if any(part in name for part in _SCORES) and name.endswith("weight"):
                parameter.mul_(self.score_scale)
        return model

    def inputs(self, seed: int = 0) -> dict[str, Tensor]:
        """One row of noise, or of tokens that end with the largest, as CLIP's texts do."""
        generator = torch.Generator().manual_seed(seed)
        if self.size is not None:
            return {"pixel_values": torch.randn(1, 3, *self.size, generator=generator)}
        ids = torch.randint(3, 98, (1, 16), generator=generator)
        ids[:, 11:] = 98
        return {"input_ids": ids, "attention_mask": (torch.arange(16) < 12).long()[None]}


def tell_apart(model: nn.Module) -> None:
    """Lets the queries of a detector differ, in place: what all have in common is most of a random network's values.

    Behind a ReLU all values are positive. Where the rows of a matrix sum to zero it does not pass their mean on.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and not any(part in name for part in ("embed", "token")):
            parameter.sub_(parameter.flatten(1).mean(1).reshape(-1, *[1] * (parameter.ndim - 1)))
        elif "bias" in name:
            parameter.mul_(0.2)
        elif "query_position" in name:
            parameter.mul_(3)


def _classes(
    model_type: str, settings: Mapping[str, Any], classifier: str = "AutoModelForImageClassification", **others: Any
) -> list[VisionModel]:
    """An architecture as a classifier and as a maker of features."""
    return [
        VisionModel(model_type, "image-classification", classifier, {**settings, **_LABELS}, ("logits",), **others),
        VisionModel(model_type, "feature-extraction", "AutoModel", settings, ("last_hidden_state",), **others),
    ]  # fmt: skip


def _one(
    model_type: str, task: str, settings: Mapping[str, Any], outputs: tuple[str, ...], **others: Any
) -> VisionModel:
    classes = {
        "object-detection": "AutoModelForObjectDetection",
        "image-segmentation": "AutoModelForSemanticSegmentation",
        "depth-estimation": "AutoModelForDepthEstimation",
        "feature-extraction": "AutoModel",
    }
    return VisionModel(model_type, task, others.pop("model_class", None) or classes[task], settings, outputs, **others)


_BOXES = ("logits", "pred_boxes")
_SEGMENTS = ("logits",)
_DEPTH = ("predicted_depth",)
VISION_MODELS: tuple[VisionModel, ...] = (
    *_classes("vit", _PLAIN),
    *_classes("deit", _PLAIN, classifier="DeiTForImageClassification"),
    *_classes("dinov2", _SQUARE | {"layerscale_value": 0.5}),
    *_classes("dinov2_with_registers", _SQUARE | {"num_register_tokens": 3}),
    _one("dinov3_vit", "feature-extraction", _SQUARE | {"num_register_tokens": 3}, ("last_hidden_state",)),
    *_classes("beit", _BEIT),
    *_classes("swin", {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 3], "window_size": 3, "patch_size": 4,
                       "image_size": [HEIGHT, WIDTH]}),
    *_classes("resnet", {"embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 2, 1, 1]}),
    *_classes("convnext", _STAGES),
    *_classes("mobilenet_v2", {"depth_multiplier": 0.25}),
    *_classes("mobilevit", {"hidden_sizes": [24, 32, 40], "neck_hidden_sizes": [8, 12, 16, 24, 32, 40, 48],
                            "num_attention_heads": 2, "image_size": 64}),
    *_classes("efficientnet", {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320,
                               "image_size": 61}),
    *_classes("segformer", {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1],
                            "num_attention_heads": [1, 1, 2, 3], "decoder_hidden_size": 32}),
    VisionModel("clip_vision_model", "zero-shot-image-classification", "CLIPVisionModelWithProjection",
                _SQUARE | {"projection_dim": 40}, ("image_embeds",), (HEIGHT, WIDTH),
                {"interpolate_pos_encoding": True}),
    VisionModel("clip_text_model", "zero-shot-image-classification", "CLIPTextModelWithProjection",
                _CLIP_TEXT | {"eos_token_id": 98, "bos_token_id": 1, "pad_token_id": 0}, ("text_embeds",), None),
    VisionModel("siglip_vision_model", "zero-shot-image-classification", "SiglipVisionModel", _SQUARE,
                ("pooler_output",), (HEIGHT, WIDTH), {"interpolate_pos_encoding": True}),
    VisionModel("siglip_text_model", "zero-shot-image-classification", "SiglipTextModel",
                _CLIP_TEXT, ("pooler_output",), None),
    VisionModel("siglip2_text_model", "zero-shot-image-classification", "Siglip2TextModel",
                _CLIP_TEXT, ("pooler_output",), None),
    _one("yolos", "object-detection", YOLOS, _BOXES),
    _one("yolos", "feature-extraction", YOLOS, ("last_hidden_state",)),
    _one("detr", "object-detection", DETR, _BOXES, size=(109, 173)),
    _one("rt_detr_v2", "object-detection", _RT_DETR, _BOXES, size=(96, 160), score_scale=10.0, seed=1),
    _one("segformer", "image-segmentation",
         {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 3],
          "decoder_hidden_size": 32} | _LABELS, _SEGMENTS),
    _one("mobilevit", "image-segmentation",
         {"hidden_sizes": [24, 32, 40], "neck_hidden_sizes": [8, 12, 16, 24, 32, 40, 48], "num_attention_heads": 2,
          "image_size": 64, "aspp_out_channels": 24, "atrous_rates": [2, 3, 4]} | _LABELS, _SEGMENTS),
    _one("mobilenet_v2", "image-segmentation", {"depth_multiplier": 0.25} | _LABELS, _SEGMENTS),
    _one("beit", "image-segmentation", _BEIT | {"num_hidden_layers": 4, "out_indices": [1, 2, 3, 4],
         "pool_scales": [1, 2, 3, 6], "use_auxiliary_head": False} | _LABELS, _SEGMENTS),
    _one("depth_anything", "depth-estimation",
         {"backbone_config": {"model_type": "dinov2", **_SQUARE, "out_indices": [1, 2, 3, 4], "num_hidden_layers": 4,
                              "reshape_hidden_states": False, "apply_layernorm": True},
          "patch_size": 8, "reassemble_hidden_size": 48, "neck_hidden_sizes": [16, 24, 32, 40],
          "fusion_hidden_size": 24, "head_hidden_size": 16}, _DEPTH),
)  # fmt: skip
"""Every architecture in every task that it has here."""
