"""Seeded inputs of a model by the arguments of its forward: three of different contents and masks, one at an edge."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from coverage_sweep.catalogue import Case
from coverage_sweep.special_cases import BINS, LENGTHS
from coverage_sweep.tiny import IMAGE, PAD, VOCABULARY, WIDTH

_MASKS = ("attention_mask", "input_features_mask")
"""Of sounds. Where a forward goes without, it gets none: all are of full length."""

Examples = list[dict[str, Tensor]]

_LENGTH, _LONGER, _DECODED = 13, 19, 9
"""Tokens: odd, so that no power of two fits by chance."""


class NoInputsError(Exception):
    """The arguments of a forward ask for something that is not known here; the message names it."""


def candidates(
    case: Case, model: nn.Module, config: PretrainedConfig, seed: int, *, longer: bool
) -> Iterator[Examples]:
    """Yields sets of inputs to try, in order: the first that the model can be called with is the right one.

    Args:
        case: What is tried.
        model: The part of the model that is called.
        config: Of the whole model.
        seed: Of the contents.
        longer: Another length or size than that of `longer=False`, where the form of the input allows it.

    Yields:
        Three sets of keyword arguments of equal shapes, batch 1.

    Raises:
        NoInputsError: An argument without a default is not known.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters = inspect.signature(model.forward).parameters
    if case.group == "vision":
        made = _images(config, parameters, generator, longer)
    elif case.group == "audio":
        made = _sounds(config, parameters, generator, longer)
    else:
        made = iter([_tokens(case, config, parameters, generator, longer)])
    for examples in made:
        missing = [
            name
            for name, parameter in parameters.items()
            if parameter.default is parameter.empty
            and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
            and name not in examples[0]
        ]
        if not missing:
            yield examples
        elif not set(missing) & set(_MASKS):
            raise NoInputsError(f"its forward asks for {', '.join(missing)}")


def _tokens(
    case: Case,
    config: PretrainedConfig,
    parameters: Mapping[str, inspect.Parameter],
    generator: torch.Generator,
    longer: bool,
) -> Examples:
    """All tokens, two thirds of them, and one alone."""
    length = LENGTHS.get(case.model_type, _LONGER if longer else _LENGTH)
    own = _DECODED + 2 * longer if case.part == "decoder" else length
    vocabulary = getattr(config.get_text_config(), "vocab_size", VOCABULARY)
    padding = getattr(config.get_text_config(), "pad_token_id", None)
    examples = []
    for kept, kept_there in ((own, length * 2 // 3), (own * 2 // 3, length), (1, 1)):
        mask = (torch.arange(own) < kept).long()[None]
        ids = torch.randint(3, vocabulary - 1, (1, own), generator=generator)
        example = {"input_ids": ids}
        if "attention_mask" in parameters:
            example["input_ids"] = ids.where(mask.bool(), PAD if padding is None else padding)
            example["attention_mask"] = mask
        if "token_type_ids" in parameters and (getattr(config, "type_vocab_size", 0) or 0) > 1:
            example["token_type_ids"] = (torch.arange(own) >= own // 2).long()[None]
        if "bbox" in parameters:
            example["bbox"] = _boxes(own, generator)
        if "encoder_hidden_states" in parameters and case.part == "decoder":
            width = _encoder_width(config)
            example["encoder_hidden_states"] = torch.randn(1, length, width, generator=generator)
            if "encoder_attention_mask" in parameters:
                example["encoder_attention_mask"] = (torch.arange(length) < kept_there).long()[None]
        examples.append(example)
    if "attention_mask" not in parameters:  # the edge is one token over and over
        examples[-1]["input_ids"] = examples[-1]["input_ids"][:, :1].repeat(1, own)
    return examples


def _boxes(length: int, generator: torch.Generator) -> Tensor:
    corners = torch.randint(0, 30, (1, length, 2), generator=generator)
    return torch.cat([corners, corners + torch.randint(1, 30, (1, length, 2), generator=generator)], -1)


def _encoder_width(config: PretrainedConfig) -> int:
    encoder = getattr(config, "encoder", None)
    return getattr(encoder if isinstance(encoder, PretrainedConfig) else config, "hidden_size", WIDTH)


def _images(
    config: PretrainedConfig,
    parameters: Mapping[str, inspect.Parameter],
    generator: torch.Generator,
    longer: bool,
) -> Iterator[Examples]:
    """Two of noise, and one that is black on one side and white on the other."""
    stated = getattr(config, "image_size", None)
    frames = next((getattr(config, name) for name in ("num_frames", "frames_per_clip") if hasattr(config, name)), None)
    name = "pixel_values_videos" if "pixel_values_videos" in parameters else "pixel_values"
    channels = getattr(config, "num_channels", None) or getattr(config, "in_channels", None) or 3
    sizes = [tuple(stated) if isinstance(stated, list | tuple) else (stated, stated)] if stated else []
    sizes += [(2 * IMAGE, 2 * IMAGE), (IMAGE, IMAGE), (4 * IMAGE, 4 * IMAGE)]
    if longer:
        sizes.insert(0, (3 * IMAGE, 2 * IMAGE))
    for size in sizes:
        shape = (1, channels, *size) if frames is None else (1, frames, channels, *size)
        halves = torch.full(shape, -2.0)
        halves[..., shape[-1] // 3 :] = 2.5
        yield [{name: value} for value in (_noise(shape, generator), _noise(shape, generator), halves)]


def _sounds(
    config: PretrainedConfig,
    parameters: Mapping[str, inspect.Parameter],
    generator: torch.Generator,
    longer: bool,
) -> Iterator[Examples]:
    """Two of noise, and one whose second half is silent."""
    name = next(
        (name for name in ("input_values", "input_features", "audio_mel") if name in parameters),
        next(iter(parameters)),
    )
    bins = BINS.get(config.model_type) or next(
        (
            getattr(config, each)
            for each in (
                "num_mel_bins",
                "feature_projection_input_dim",
                "input_feat_size",
                "feature_size",
                "input_dim",
                "input_size",
            )
            if isinstance(getattr(config, each, None), int)
        ),
        80,
    )
    positions = getattr(config, "max_source_positions", None)
    frames = [2 * positions] if isinstance(positions, int) and name == "input_features" else []
    if isinstance(getattr(config, "max_length", None), int) and name == "input_values":
        frames.insert(0, config.max_length)
    extra = 32 * longer
    shapes: list[tuple[int, ...]] = []
    if name == "input_values" and not frames:
        shapes += [(1, 801 + 10 * extra), (1, 1, 960 + 10 * extra), (1, 1, 3840), (1, 3840), (1, 16000), (1, 1, 16000)]
    frames += [64 + extra, 67 + extra, 128 + extra, 200]
    shapes += [shape for count in frames for shape in ((1, count, bins), (1, bins, count))]
    for shape in shapes:
        silent = _noise(shape, generator)
        axis = 1 if len(shape) == 3 and shape[2] == bins else len(shape) - 1
        silent.narrow(axis, shape[axis] // 2, shape[axis] - shape[axis] // 2).zero_()
        values = (_noise(shape, generator), _noise(shape, generator), silent)
        yield [{name: value} for value in values]
        masks = [mask for mask in _MASKS if mask in parameters]
        for mask in masks:
            yield [{name: value, mask: torch.ones(1, shape[axis], dtype=torch.long)} for value in values]


def _noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator)
