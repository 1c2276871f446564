"""Models of known answers, and a tokenizer that turns numbers into themselves."""

from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from optimum_ane.evaluation.text_classification import TextClassification

NUMBERS = 100


def load_examples(spec, *, id2label, problem_type):
    """The rows as the text classifier of these labels sees them."""
    config = SimpleNamespace(id2label=id2label, problem_type=problem_type, num_labels=len(id2label))
    return TextClassification(config).load(spec)


def make_number_tokenizer(**settings):
    """The text "7 3" becomes the ids 7 and 3; pads with 100."""
    vocabulary = {str(number): number for number in range(NUMBERS)} | {"[PAD]": NUMBERS, "[UNK]": NUMBERS + 1}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = ["input_ids", "token_type_ids", "attention_mask"]
    defaults = {"pad_token": "[PAD]", "unk_token": "[UNK]", "model_input_names": names}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **(defaults | settings))


class Lookup:
    """Answers with the row of a table that the first token of each row names, as if it were a model."""

    def __init__(self, table, field="logits"):
        self.table = torch.as_tensor(np.asarray(table), dtype=torch.float32)
        self.field = field
        self.calls = []

    def __call__(self, input_ids, attention_mask):
        self.calls.append(tuple(input_ids.shape))
        first = attention_mask.argmax(-1, keepdim=True)
        return SimpleNamespace(**{self.field: self.table[input_ids.gather(-1, first).squeeze(-1)]})


class TokenLookup(Lookup):
    """Answers for each token with the row of the table that it names; what stands for padding has a row too."""

    def __call__(self, input_ids, attention_mask):
        self.calls.append(tuple(input_ids.shape))
        return SimpleNamespace(**{self.field: self.table[input_ids]})


class WithTokenTypes:
    """The same model, which takes token types too."""

    def __init__(self, model):
        self.model = model

    def __call__(self, input_ids, attention_mask, token_type_ids):
        assert token_type_ids.shape == input_ids.shape
        return self.model(input_ids, attention_mask)


def save_images(folder, **classes):
    """Writes PNG images of one colour each, whose first channel is the number: `cat=[7, 3]`; returns the folder."""
    for name, numbers in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index, number in enumerate(numbers):
            Image.new("RGB", (5 + index, 4), (number, 0, 0)).save(folder / name / f"{index}.png")
    return folder


def one_pixel(image, return_tensors):
    """An image processor that keeps the colour of the first point, (1, 3, 1, 1)."""
    assert return_tensors == "pt"
    return {"pixel_values": torch.tensor(image.getpixel((0, 0)), dtype=torch.float32).reshape(1, 3, 1, 1)}


class ImageLookup:
    """Answers with the entries of tables that the first channel of each image's first point names."""

    def __init__(self, **tables):
        self.tables = {name: torch.as_tensor(np.asarray(table), dtype=torch.float32) for name, table in tables.items()}
        self.calls = []

    def __call__(self, pixel_values):
        self.calls.append(tuple(pixel_values.shape))
        numbers = pixel_values[:, 0, 0, 0].long()
        return SimpleNamespace(**{name: table[numbers] for name, table in self.tables.items()})
