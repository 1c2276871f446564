"""Models that write sounds letter by letter (CTC), by graph: in PyTorch, as packages, and through the pipeline."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import torch
from coverage_sweep.weights import redraw
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCTC, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, pipeline

from optimum_ane import ANEModelForCTC, export
from optimum_ane.exporters.stock_audio import StockAudioANEConfig
from optimum_ane.package.form import ExportForm
from optimum_ane.validation.psnr import psnr
from verification.row import Row

LEAST_IN_PYTORCH, LEAST_AS_PROGRAM, LEAST_OF_KIN = 120.0, 60.0, 50.0
"""dB; kin of the named architectures keep what each export asks."""
_NAMED = ("wav2vec2", "wav2vec2, one head", "wav2vec2, layer norms", "hubert", "hubert, layer norms")
MOST_OF_LETTERS = 0.03
"""Of a random network, which is undecided between two letters at a frame here and there."""

_LENGTH, _ODD, _RATE = 8_000, 5_003, 16_000
_FRAMES, _ODD_FRAMES = 96, 57
_VOCABULARY = ["<pad>", "<unk>", "|", *"aeinorst"]
_SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 64,
    "conv_dim": [32] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": len(_VOCABULARY),
    "pad_token_id": 0,
}
_LAYER_NORMS = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
_STRIDES = {"conv_kernel": [10, 3, 3, 3, 3, 2, 2], "conv_stride": [5, 2, 2, 2, 2, 2, 2], "squeeze_factor": 2}
_CONFORMER: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "num_mel_bins": 16,
    "subsampling_conv_channels": 16,
    "conv_kernel_size": 5,
}
_OF_MELS = {"vocab_size": len(_VOCABULARY), "pad_token_id": 0, "encoder_config": _CONFORMER}

ARCHITECTURES: Mapping[str, dict[str, Any]] = {
    "wav2vec2": _SIZES,
    "wav2vec2, one head": _SIZES | {"num_attention_heads": 1},
    "wav2vec2, layer norms": _SIZES | _LAYER_NORMS,
    "wav2vec2, adapter": _SIZES | _LAYER_NORMS | {"add_adapter": True, "num_adapter_layers": 1},
    "hubert": _SIZES,
    "hubert, layer norms": _SIZES | _LAYER_NORMS,
    "wavlm": _SIZES,
    "data2vec-audio": _SIZES | {"conv_pos_kernel_size": 5},
    "unispeech": _SIZES,
    "unispeech-sat": _SIZES,
    "sew": _SIZES | _STRIDES,
    "sew-d": _SIZES | _STRIDES | {"position_buckets": 8, "max_position_embeddings": 64},
    "wav2vec2-conformer": _SIZES,
    "wav2vec2-bert": _SIZES | {"feature_projection_input_dim": 40, "conv_depthwise_kernel_size": 5},
    "parakeet_ctc": _OF_MELS,
    "lasr_ctc": _OF_MELS,
}


def measure(folder: Path) -> Iterator[Row]:
    """Compares modules and packages of each architecture with its original, and two pipelines over long sounds."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    exact: dict[str, float] = {}
    rounded: dict[str, float] = {}
    for name, settings in ARCHITECTURES.items():
        original = _original(name, settings)
        lengths = (_LENGTH, _ODD) if _takes_samples(original) else (_FRAMES, _ODD_FRAMES)
        exact[name] = min(_module_psnr(original, length) for length in lengths)
        package = folder / name
        _export(original, package)
        rounded[name] = _package_psnr(original, package)
    kin = {name: value for name, value in rounded.items() if name not in _NAMED}
    named = {name: rounded[name] for name in _NAMED}
    for what, least, found in (
        ("modules in float32 against the originals, two lengths, padding", LEAST_IN_PYTORCH, exact),
        ("packages in float16 of wav2vec2 and HuBERT, sounds of five lengths", LEAST_AS_PROGRAM, named),
        ("packages in float16 of their kin, sounds of five lengths", LEAST_OF_KIN, kin),
    ):
        worst = min(found, key=lambda name: found[name])
        yield Row(
            f"CTC, {len(found)} models: {what}",
            f"≥ {least:.0f} dB",
            f"least {found[worst]:.1f} ({worst}); "
            + ", ".join(f"{name} {value:.1f}" for name, value in found.items()),
            found[worst] >= least,
        )
    for name in ("wav2vec2, layer norms", "hubert, layer norms"):
        error = _pipeline_error(_original(name, ARCHITECTURES[name]), folder / name)
        yield Row(
            f"CTC through transformers' pipeline, windows that overlap, timestamps: {name}",
            f"≤ {MOST_OF_LETTERS:.0%} of the letters differ",
            f"{error:.2%}",
            error <= MOST_OF_LETTERS,
        )


def _original(name: str, settings: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    config = AutoConfig.for_model(name.split(",")[0], **settings)
    model: nn.Module = AutoModelForCTC.from_config(config).eval().requires_grad_(False)
    redraw(model, 0)
    return model


def _takes_samples(original: Any) -> bool:
    return getattr(original.config, "conv_kernel", None) is not None


def _is_masked(original: Any) -> bool:
    return getattr(original.config, "feat_extract_norm", "layer") == "layer"


def _is_alone(original: Any) -> bool:
    """Whether a mask keeps what is filled up from all frames: adapters, and convolutions in a row, look past it."""
    config = original.config
    looks_past = getattr(config, "add_adapter", False) or config.model_type == "data2vec-audio"
    return _is_masked(original) and _takes_samples(original) and not looks_past


def _module_psnr(original: Any, length: int) -> float:
    config = StockAudioANEConfig(original.config, "automatic-speech-recognition")
    form = config.complete(ExportForm(task="automatic-speech-recognition", audio_length=length), None)
    config.limit_inputs(["attention_mask"] if _is_masked(original) else [])
    (program,) = config.programs(form)
    module = config.wrap(original, program)
    (batch,) = config.examples(form, seed=5)
    with torch.no_grad():
        answer = module(*(batch[name] for name in config.input_names))
        expected = original(**batch).logits
    return psnr(expected, answer[0] if isinstance(answer, tuple) else answer)


def _export(original: Any, package: Path) -> None:
    if _takes_samples(original):
        extractor = Wav2Vec2FeatureExtractor(return_attention_mask=_is_masked(original))
        export(original, package, processor=extractor, audio_length=_LENGTH, quiet=True)
    else:
        export(original, package, audio_length=_FRAMES, quiet=True)


def _package_psnr(original: Any, package: Path) -> float:
    """Of sounds that fill the package, and of shorter ones: as they are, where no frame sees what is filled up."""
    model = ANEModelForCTC.from_pretrained(package, runtime="portable")
    name = model.main_input_name
    whole = _inputs(original, model.audio_length)
    ratios = [psnr(original(**{name: whole}).logits, model(**{name: whole}).logits)]
    for part in (0.99, 0.6, 0.31, 0.2):
        length = int(part * model.audio_length)
        short = whole[:, :length]
        answer = model(**{name: short}).logits
        if _is_alone(original):
            expected = original(**{name: short}).logits
        else:  # what is filled up belongs to the sound: of silence, or of frames of nothing with a mask
            filled = torch.nn.functional.pad(short.transpose(1, -1), (0, model.audio_length - length)).transpose(1, -1)
            mask = (torch.arange(model.audio_length) < length).long().expand(len(short), -1)
            masked = {"attention_mask": mask} if "attention_mask" in model._session.inputs else {}
            expected = original(**{name: filled}, **masked).logits[:, : answer.shape[1]]
        ratios.append(psnr(expected, answer))
    return min(ratios)


def _inputs(original: Any, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    if _takes_samples(original):
        swell = torch.sin(torch.linspace(0, 40, length)) ** 2
        return torch.randn(3, length, generator=generator) * swell
    config = original.config
    bins = getattr(config, "feature_projection_input_dim", None) or config.encoder_config.num_mel_bins
    return torch.randn(3, length, bins, generator=generator)


def _pipeline_error(original: Any, package: Path) -> float:
    """The share of letters that differ between the original's pipeline and the package's, on two long sounds."""
    path = package.parent / "vocab.json"
    path.write_text(json.dumps({name: index for index, name in enumerate(_VOCABULARY)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(path), bos_token=None, eos_token=None)
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(package)
    make: Any = pipeline
    both = [
        make("automatic-speech-recognition", model=model, tokenizer=tokenizer, feature_extractor=extractor)
        for model in (original, ANEModelForCTC.from_pretrained(package, runtime="portable"))
    ]
    texts: list[list[str]] = [[], []]
    for seed, length in enumerate((4 * _LENGTH + 1_234, 2 * _LENGTH)):
        sound = np.random.default_rng(seed).standard_normal(length).astype(np.float32)
        for writer, written in zip(both, texts, strict=True):
            answer = writer(sound.copy(), chunk_length_s=_LENGTH / _RATE, return_timestamps="char")
            written += [answer["text"], " ".join(f"{each['text']}{each['timestamp'][0]}" for each in answer["chunks"])]
    return float(jiwer.cer(texts[0], texts[1]))
