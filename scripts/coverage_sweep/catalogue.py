"""The architectures of transformers that a sweep tries, each in its parts, and why the others are left out."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass

import transformers
from transformers import AutoConfig
from transformers.models.auto import modeling_auto

GROUPS = {
    "text": "text encoders",
    "decoders": "decoders without a cache",
    "cached": "decoders with a cache",
    "vision": "vision",
    "audio": "audio encoders",
    "seq2seq": "halves of encoder-decoder models",
    "written": "encoder-decoder models with both caches",
}

_PACKED = ("grid_thw", "image_grid_thw", "cu_seqlens", "pixel_position_ids", "image_position_ids", "patch_locations")
"""Arguments of towers that take the patches of several images in one sequence, or with places computed beforehand."""

_SUBSTANTIAL = frozenset({"backbone_config", "attn_config", "ffn_config", "esmfold_config", "encoder_config"})
"""Parts of a configuration that do not make a wrapper of several models."""

_WRAPPER = "wraps models of several kinds of input; its parts are tried where they have a model type"


@dataclass(frozen=True)
class Case:
    """One thing to try.

    Attributes:
        model_type: Of the configuration.
        part: `"model"`, or `"encoder"` or `"decoder"` of an encoder-decoder model, `"cached"` for a decoder's
            language model with its cache, or `"written"` for an encoder-decoder's with both.
        group: One of `GROUPS`.
    """

    model_type: str
    part: str
    group: str

    @property
    def key(self) -> str:
        """Its name in records and on the command line."""
        return self.model_type if self.part == "model" else f"{self.model_type}:{self.part}"


@dataclass(frozen=True)
class LeftOut:
    """A model type that is not tried.

    Attributes:
        model_type: Of the configuration.
        reason: Why, in a clause.
    """

    model_type: str
    reason: str


def list_cases() -> tuple[list[Case], list[LeftOut]]:
    """Sorts every model type of transformers' `AutoModel` into what is tried and what is left out."""
    cases: list[Case] = []
    left_out: list[LeftOut] = []
    for model_type in modeling_auto.MODEL_MAPPING_NAMES:
        found = _sort(model_type)
        if isinstance(found, str):
            left_out.append(LeftOut(model_type, found))
        else:
            cases.extend(found)
    return cases, left_out


def _sort(model_type: str) -> list[Case] | str:
    try:
        config = AutoConfig.for_model(model_type)
        model_class = getattr(transformers, _class_name(model_type))
        arguments = list(inspect.signature(model_class.forward).parameters)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        return f"cannot be made without a checkpoint or a further package: {_first_line(error)}"
    first = model_class.main_input_name
    if not isinstance(first, str):
        return _WRAPPER
    if packed := next((name for name in _PACKED if name in arguments), None):
        return f"takes packed patches ({packed})"
    parts = _configurations_inside(config)
    if config.is_encoder_decoder and first in ("input_ids", "input_features", "input_values"):
        if parts - {"encoder", "decoder"}:
            return _WRAPPER
        return [*_halves(model_type, first)]
    if first == "input_ids" and "input_ids" not in arguments:
        first = next((name for name in ("pixel_values", "input_features", "input_values") if name in arguments), first)
    group = _group(model_type, first, arguments)
    if group is None:
        return f"its input is {first}: no group of this page"
    others = {"pixel_values", "input_features", "input_values", "pixel_values_videos", "input_ids"} - {first}
    if parts or (others & set(arguments) and group != "decoders"):
        return _WRAPPER
    cases = [Case(model_type, "model", group)]
    if group == "decoders" and model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        cases.append(Case(model_type, "cached", "cached"))
    return cases


def _class_name(model_type: str) -> str:
    name = modeling_auto.MODEL_MAPPING_NAMES[model_type]
    return name if isinstance(name, str) else name[0]


def _configurations_inside(config: transformers.PretrainedConfig) -> set[str]:
    return set(type(config).sub_configs) - _SUBSTANTIAL


def _halves(model_type: str, first: str) -> Iterator[Case]:
    yield Case(model_type, "encoder", "seq2seq" if first == "input_ids" else "audio")
    yield Case(model_type, "decoder", "seq2seq")
    of_texts = (
        modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.keys()
        - modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES.keys()
        - modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.keys()
    )
    if first == "input_ids" and model_type in of_texts:
        yield Case(model_type, "written", "written")


def _group(model_type: str, first: str, arguments: list[str]) -> str | None:
    if first in ("pixel_values", "pixel_values_videos"):
        return "vision"
    if first in ("input_features", "input_values", "audio_mel"):
        return "audio"
    if first != "input_ids" or "input_ids" not in arguments:
        return None
    is_encoder = model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    is_decoder = model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or "past_key_values" in arguments
    return "decoders" if is_decoder and not is_encoder else "text"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
