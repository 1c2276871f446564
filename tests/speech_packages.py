"""Tiny random models that write the text of sounds by CTC, with a feature extractor and a tokenizer."""

from __future__ import annotations

import json

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCTC, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor

RATE, LENGTH = 16_000, 8_000
LETTERS = "aeinorst"
VOCABULARY = {name: index for index, name in enumerate(["<pad>", "<unk>", "|", *LETTERS])}

SIZES = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 64,
    "conv_dim": [32] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": len(VOCABULARY),
    "pad_token_id": 0,
}
LAYER_NORMS = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
"""As large checkpoints have them, which take a mask."""


def make_ctc_model(model_type, seed=0, **settings):
    """A random model, of which every parameter is random: norms at ones and zeros would hide from tests."""
    torch.manual_seed(seed)
    model = AutoModelForCTC.from_config(AutoConfig.for_model(model_type, **(SIZES | settings))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        # Frames differ little in a random network: without what they share, they are letters that follow each other.
        sounds = torch.from_numpy(make_sounds(2, LENGTH))
        model.lm_head.weight *= 20
        model.lm_head.bias -= model(sounds).logits.mean((0, 1))
    return model.requires_grad_(False)


def make_sounds(rows, length, seed=3):
    """Sounds of a voice's kind: tones that come and go, float32 (rows, length) of mean 0 and variance 1."""
    random = np.random.default_rng(seed)
    time = np.arange(length) / RATE
    sounds = []
    for _ in range(rows):
        sound = 0.05 * random.standard_normal(length)
        for _ in range(4):
            is_on = (random.random(length // 800 + 1) > 0.5).repeat(800)[:length]
            sound += np.sin(2 * np.pi * random.uniform(100, 3000) * time) * is_on
        sounds.append(sound)
    stacked = np.stack(sounds)
    return ((stacked - stacked.mean(1, keepdims=True)) / stacked.std(1, keepdims=True)).astype(np.float32)


def make_ctc_tokenizer(directory):
    path = directory / "vocab.json"
    path.write_text(json.dumps(VOCABULARY))
    return Wav2Vec2CTCTokenizer(
        str(path), pad_token="<pad>", unk_token="<unk>", word_delimiter_token="|", bos_token=None, eos_token=None
    )


def make_extractor(masks):
    return Wav2Vec2FeatureExtractor(return_attention_mask=masks)
