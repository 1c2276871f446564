"""Trains a tiny DistilBERT on sentences made here, so that the demo needs no download.

    python scripts/make_demo_checkpoint.py demo/checkpoint demo/dev.tsv

Film reviews of one sentence are put together from phrases; some turn on a single word ("never dull"). A fifth of the
combinations is held out and becomes the dataset that the package is scored on.
"""

from __future__ import annotations

import itertools
import random
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import DistilBertConfig, DistilBertForSequenceClassification, PreTrainedTokenizerFast, logging

SUBJECTS = (
    "the film",
    "this story",
    "her debut",
    "the second act",
    "the cast",
    "every scene",
    "the ending",
    "his score",
)
VERBS = ("is", "feels", "remains", "turns out", "was, to my surprise,", "stays")
GOOD = ("moving", "gripping", "a delight", "warm and wise", "beautifully shot", "funny throughout", "worth your time")
BAD = ("dull", "a mess", "painfully slow", "hollow", "badly written", "a waste of time", "tired and loud")
TURNS = ("", "never ", "anything but ", "always ")
TURNING = ("never ", "anything but ")
EPOCHS = 12
BATCH = 32


def make_sentences(seed: int = 0) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Returns (text, label) pairs to train on and to score on, shuffled; 1 is positive."""
    rows = []
    for subject, verb, turn, (label, phrases) in itertools.product(SUBJECTS, VERBS, TURNS, ((1, GOOD), (0, BAD))):
        for phrase in phrases:
            rows.append((f"{subject} {verb} {turn}{phrase}", label ^ (turn in TURNING)))
    random.Random(seed).shuffle(rows)
    held_out = len(rows) // 5
    return rows[held_out:], rows[:held_out]


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Trains a WordPiece tokenizer with BERT's special tokens."""
    specials = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=400, special_tokens=list(specials.values()), show_progress=False)
    )
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **specials)


def train(rows: list[tuple[str, int]], tokenizer: PreTrainedTokenizerFast) -> DistilBertForSequenceClassification:
    """Trains two layers from scratch on the CPU."""
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=len(tokenizer),
        dim=64,
        hidden_dim=128,
        n_layers=2,
        n_heads=4,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
        id2label={0: "NEGATIVE", 1: "POSITIVE"},
        label2id={"NEGATIVE": 0, "POSITIVE": 1},
    )
    model = DistilBertForSequenceClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    encoding = tokenizer([text for text, _ in rows], padding=True, return_tensors="pt")
    labels = torch.tensor([label for _, label in rows])
    model.train()
    for epoch in range(EPOCHS):
        total = 0.0
        for batch in torch.randperm(len(rows)).split(BATCH):
            output = model(encoding["input_ids"][batch], encoding["attention_mask"][batch], labels=labels[batch])
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
            total += output.loss.item() * len(batch)
        print(f"epoch {epoch + 1}/{EPOCHS}: loss {total / len(rows):.4f}", file=sys.stderr)
    return model.eval()


def main() -> None:
    """Writes the checkpoint and the held-out sentences."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    checkpoint, dataset = map(Path, sys.argv[1:])
    logging.disable_progress_bar()
    training, held_out = make_sentences()
    tokenizer = make_tokenizer([text for text, _ in training])
    train(training, tokenizer).save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    dataset.write_text("".join(f"{text}\t{label}\n" for text, label in held_out), encoding="utf-8")
    print(f"{checkpoint}: trained on {len(training)} sentences; {dataset}: {len(held_out)} held out")


if __name__ == "__main__":
    main()
