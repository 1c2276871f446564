"""Tiny random Whisper models of two seconds, with tokenizers and feature extractors, for tests."""

import numpy as np
import torch
from tokenizers import AddedToken, pre_tokenizers
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer

SECONDS, RATE = 2, 16000
TIMES = [f"<|{0.02 * step:.2f}|>" for step in range(1501)]
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
SPECIAL = ["<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>"]
SPECIAL += ["<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
END_OF_ENGLISH, WORDS_OF_ENGLISH = 50256, 51864


def make_tokenizer(words=None, times=True):
    """Letters and special tokens; as many words before these as an English model has, where it shall be one."""
    vocabulary = [*BYTES, *(f"filler{number}" for number in range((words or 0) - len(BYTES)))]
    tokenizer = WhisperTokenizer({word: index for index, word in enumerate(vocabulary)}, [])
    special = SPECIAL if words is None else [*SPECIAL[:1], *(f"<|l{n}|>" for n in range(99)), *SPECIAL[3:]]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special], special_tokens=True)
    if times:
        tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in TIMES])
    return tokenizer


def make_extractor(mels=80):
    return WhisperFeatureExtractor(feature_size=mels, chunk_length=SECONDS)


def make_whisper(tokenizer, *, heads=3, layers=2, width=48, mels=80, seed=0, **settings):
    """A random model of a tokenizer's words, all of whose parameters are random, and whose texts end after a while."""
    ids = tokenizer.get_vocab()
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    torch.manual_seed(seed)
    config = WhisperConfig(
        **{
            "vocab_size": len(tokenizer),
            "num_mel_bins": mels,
            "d_model": width,
            "encoder_layers": 2,
            "decoder_layers": layers,
            "encoder_attention_heads": heads,
            "decoder_attention_heads": heads,
            "encoder_ffn_dim": 2 * width,
            "decoder_ffn_dim": 2 * width,
            "max_source_positions": SECONDS * 50,
            "max_target_positions": 448,
            "bos_token_id": end,
            "eos_token_id": end,
            "pad_token_id": end,
            "decoder_start_token_id": start,
            "begin_suppress_tokens": None,
            "init_std": 0.1,
            **settings,
        }
    )
    model = WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        # Letters are to be written more often than times, which are many.
        model.model.decoder.embed_tokens.weight[: len(BYTES)] *= 3
        model.model.decoder.embed_tokens.weight[end] *= 5  # and texts to end
        # Sounds that differ are to be written differently, and words to stand somewhere in them.
        for layer in model.model.decoder.layers:
            layer.encoder_attn.out_proj.weight *= 4
            layer.encoder_attn.q_proj.weight *= 3
            layer.encoder_attn.k_proj.weight *= 3
    generation = model.generation_config
    generation._from_model_config = False  # what is set here is lost when it is loaded, otherwise
    generation.max_length = config.max_target_positions
    generation.no_timestamps_token_id = ids["<|notimestamps|>"]
    generation.prev_sot_token_id = ids["<|startofprev|>"]
    generation.max_initial_timestamp_index = 50
    generation.alignment_heads = [[0, heads - 1], [layers - 1, 0]]
    generation.is_multilingual = "<|en|>" in ids
    generation.suppress_tokens, generation.begin_suppress_tokens = [1, 2], [BYTES.index("Ġ"), end]
    if generation.is_multilingual:
        generation.lang_to_id = {token: ids[token] for token in ("<|en|>", "<|de|>")}
        generation.task_to_id = {name: ids[f"<|{name}|>"] for name in ("transcribe", "translate")}
    return model.requires_grad_(False)


def make_sound(seconds, seed=0):
    """Tones that come and go, float32 between −1 and 1."""
    random, samples = np.random.default_rng(seed), int(seconds * RATE)
    time = np.arange(samples) / RATE
    sound = 0.02 * random.standard_normal(samples)
    for _ in range(3):
        is_on = (random.random(samples // 1600 + 1) > 0.5).repeat(1600)[:samples]
        sound += 0.3 * np.sin(2 * np.pi * random.uniform(150, 3000) * time) * is_on
    return np.clip(sound, -1, 1).astype(np.float32)
