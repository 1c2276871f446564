import math
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from stand_ins import one_pixel, save_images
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from optimum_ane.errors import DatasetError, ValidationError
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.preprocessors import TextAndImagePreprocessor
from optimum_ane.evaluation.zero_shot_image_classification import ZeroShotImageClassification

WORDS = ["[pad]", "[unk]", "a", "photo", "of", ".", "red", "cat", "dog", *(f"class{number}" for number in range(20))]
EVALUATOR = ZeroShotImageClassification(SimpleNamespace())


def make_tokenizer():
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[unk]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[pad]", unk_token="[unk]", model_input_names=names
    )


class TwoTowers:
    """A text's vector is one-hot in its fifth word, an image's is the row of a table that its number names."""

    def __init__(self, table, with_mask=True):
        self.table = torch.as_tensor(np.asarray(table), dtype=torch.float32)
        self.texts = []
        if not with_mask:
            self.forward = self._without_mask

    def _without_mask(self, input_ids, pixel_values):
        return self(input_ids=input_ids, pixel_values=pixel_values)

    def __call__(self, input_ids, pixel_values, attention_mask=None):
        self.texts.append(len(input_ids))
        assert attention_mask is None or attention_mask.shape == input_ids.shape
        texts = torch.eye(len(WORDS))[input_ids[:, 4]]
        images = torch.zeros(len(pixel_values), len(WORDS))
        rows = self.table[pixel_values[:, 0, 0, 0].long()]
        images[:, 6 : 6 + rows.shape[1]] = rows
        return SimpleNamespace(text_embeds=texts, image_embeds=images)


def run(folder, original, package, length=8):
    data = EVALUATOR.load(DatasetSpec(str(folder)))
    processor = TextAndImagePreprocessor(make_tokenizer(), one_pixel)
    reference = None if original is None else TwoTowers(original, with_mask=False)
    return EVALUATOR.compare(reference, TwoTowers(package), processor, data, sequence_length=length,
                             runtime="portable")  # fmt: skip


def test_by_hand(tmp_path):
    """Columns are red, cat and dog; images 0 and 1 are cats, 2 and 3 dogs. Both are wrong on one."""
    folder = save_images(tmp_path, cat=[0, 1], dog=[2, 3])
    original = [[0, 4, 1], [9, 4, 1], [0, 1, 4], [0, 2, 1]]
    package = [[0, 1, 4], [9, 4, 1], [0, 1, 4], [0, 1, 4]]
    report = run(folder, original, package)
    assert (report.original.metrics, report.package.metrics) == ({"accuracy": 0.75}, {"accuracy": 0.75})
    assert (report.drop, report.agreement, report.package.right) == (0.0, 0.5, 3)
    # of cat and dog: errors 3, 3, 1 and 3 in eight similarities, peak 4
    assert report.psnr == pytest.approx(20 * math.log10(4 / math.sqrt(28 / 8)), abs=1e-4)
    assert (report.outputs, report.label_mapping) == ("similarities", "by name")
    assert run(folder, None, package).package.metrics == {"accuracy": 0.75}


def test_texts_are_encoded_once(tmp_path):
    folder = save_images(tmp_path, **{f"class{number}": [number] * 2 for number in range(20)})
    data, model = EVALUATOR.load(DatasetSpec(str(folder))), TwoTowers(np.eye(23)[3:])
    processor = TextAndImagePreprocessor(make_tokenizer(), one_pixel)
    report = EVALUATOR.compare(None, model, processor, data, sequence_length=7, runtime="portable")
    assert report.package.metrics == {"accuracy": 1.0, "top_5_accuracy": 1.0}
    assert model.texts == [16, 4, 1, 1, 1]


def test_names_of_classes(tmp_path):
    folder = save_images(tmp_path, red_cat=[0], dog=[1])
    assert run(folder, None, [[1, 0, 0], [0, 0, 1]]).package.right == 2
    with pytest.raises(DatasetError, match=r"'a photo of a red cat.' has 7 tokens, and the package takes 6"):
        run(folder, None, [[1, 0, 0], [0, 0, 1]], length=6)
    with pytest.raises(DatasetError, match="has one class alone"):
        EVALUATOR.load(DatasetSpec(str(save_images(tmp_path / "one", dog=[1]))))


def test_classes_of_tables(tmp_path):
    def load(name, labels, feature):
        features = datasets.Features({"image": datasets.Image(), "label": feature})
        values = {"image": [Image.new("RGB", (2, 2))] * len(labels), "label": labels}
        datasets.Dataset.from_dict(values, features=features).to_parquet(tmp_path / name)
        return EVALUATOR.load(DatasetSpec(str(tmp_path / name)))

    named = load("named.parquet", [1, 0], datasets.ClassLabel(names=["cat", "dog", "emu"]))
    assert (named.classes, named.labels.tolist()) == (["cat", "dog", "emu"], [1, 0])
    texts = load("texts.parquet", ["emu", "cat", "emu"], datasets.Value("string"))
    assert (texts.classes, texts.labels.tolist()) == (["cat", "emu"], [1, 0, 1])
    with pytest.raises(DatasetError, match=r"row 1, column label: a text is expected, found int"):
        load("numbers.parquet", [1, 2], datasets.Value("int64"))
    with pytest.raises(DatasetError, match=r"row 2, column label: -1 is none of the dataset's classes"):
        load("secret.parquet", [1, -1], datasets.ClassLabel(names=["cat", "dog"]))


def test_models_without_vectors(tmp_path):
    folder = save_images(tmp_path, cat=[0], dog=[1])
    data = EVALUATOR.load(DatasetSpec(str(folder)))
    processor = TextAndImagePreprocessor(make_tokenizer(), one_pixel)
    with pytest.raises(ValidationError, match="the package gives no text_embeds"):
        EVALUATOR.compare(None, lambda **inputs: SimpleNamespace(), processor, data, sequence_length=8,
                          runtime="portable")  # fmt: skip
