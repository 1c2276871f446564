"""Trains a small Marian to translate a toy language, made of sentences of a grammar, and writes it as a checkpoint.

    python scripts/toy_translation.py demo/translation

English goes into "Lusk": other words, the verb last, adjectives behind their nouns, and a plural that also marks the
verb. What decides a word so stands elsewhere in the sentence. A tenth of the sentences is held out.
"""

from __future__ import annotations

import itertools
import random
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import MarianConfig, MarianMTModel, PreTrainedTokenizerFast, logging

NOUNS = {
    "dog": "bral", "cat": "mim", "bird": "tufa", "fish": "olo", "child": "neri", "teacher": "sadun", "horse": "gart",
    "baker": "pekel",
}  # fmt: skip
ADJECTIVES = {"": "", "old": "vem", "small": "ti", "happy": "lulo", "red": "rag"}
VERBS = {"sees": "kem", "likes": "fira", "follows": "dosta", "hears": "onu"}
NUMBERS = {"the": ("ga", False), "many": ("moru", True), "two": ("du", True)}
"""What stands before a noun: its translation, and whether the noun is of several."""
PADDING, END, UNKNOWN = "<pad>", "</s>", "<unk>"
EPOCHS, BATCH = 3, 64


def make_pairs(seed: int = 0) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Pairs of English and Lusk to train on and to score on, shuffled."""
    phrases = [*itertools.product(NUMBERS, ADJECTIVES, NOUNS)]
    generator = random.Random(seed)
    pairs = {
        _pair(generator.choice(phrases), generator.choice([*VERBS]), generator.choice(phrases)) for _ in range(6000)
    }
    rows = sorted(pairs)
    generator.shuffle(rows)
    held_out = 200
    return rows[held_out:], rows[:held_out]


def _pair(subject: tuple[str, str, str], verb: str, other: tuple[str, str, str]) -> tuple[str, str]:
    english = [*_english(subject), verb if not NUMBERS[subject[0]][1] else verb.removesuffix("s"), *_english(other)]
    lusk = [*_lusk(subject), *_lusk(other), VERBS[verb], *(["eno"] if NUMBERS[subject[0]][1] else [])]
    return " ".join(english), " ".join(lusk)


def _english(phrase: tuple[str, str, str]) -> list[str]:
    number, adjective, noun = phrase
    plural = {"child": "children", "fish": "fish"}.get(noun, f"{noun}s")
    return [word for word in (number, adjective, plural if NUMBERS[number][1] else noun) if word]


def _lusk(phrase: tuple[str, str, str]) -> list[str]:
    number, adjective, noun = phrase
    word, is_plural = NUMBERS[number]
    return [word, NOUNS[noun] + ("ne" if is_plural else ""), *([ADJECTIVES[adjective]] if adjective else [])]


def make_tokenizer(pairs: list[tuple[str, str]], length: int = 16) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words of both languages, which ends each text as Marian's does."""
    words = sorted({word for pair in pairs for text in pair for word in text.split()})
    vocabulary = {word: index for index, word in enumerate([END, UNKNOWN, *words, PADDING])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=length, eos_token=END, unk_token=UNKNOWN, pad_token=PADDING
    )


def train(
    pairs: list[tuple[str, str]], tokenizer: PreTrainedTokenizerFast, epochs: int = EPOCHS, width: int = 96
) -> MarianMTModel:
    """Trains two layers to either side from scratch on the CPU."""
    torch.manual_seed(0)
    padding = tokenizer.pad_token_id
    config = MarianConfig(
        vocab_size=len(tokenizer), d_model=width, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=2 * width, decoder_ffn_dim=2 * width, max_position_embeddings=32,
        pad_token_id=padding, eos_token_id=tokenizer.eos_token_id, decoder_start_token_id=padding,
        forced_eos_token_id=None, scale_embedding=True, dropout=0.0, num_beams=1,
    )  # fmt: skip
    model = MarianMTModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    steps = epochs * -(-len(pairs) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    generator = random.Random(1)
    for _ in range(epochs):
        generator.shuffle(pairs)
        for start in range(0, len(pairs), BATCH):
            sources, targets = zip(*pairs[start : start + BATCH], strict=True)
            inputs = tokenizer([*sources], padding=True, return_tensors="pt")
            labels = tokenizer([*targets], padding=True, return_tensors="pt")["input_ids"]
            loss = model(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                labels=labels.masked_fill(labels == padding, -100),
            ).loss
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return model.eval().requires_grad_(False)


def main() -> None:
    """Trains, and writes checkpoint and held-out pairs."""
    logging.set_verbosity_error()
    directory = Path(sys.argv[1])
    pairs, held_out = make_pairs()
    tokenizer = make_tokenizer([*pairs, *held_out])
    train(pairs, tokenizer).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    lines = ["source\ttarget", *("\t".join(pair) for pair in held_out)]
    (directory / "held_out.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
