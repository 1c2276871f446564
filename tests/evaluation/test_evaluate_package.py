import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

import optimum_ane
from optimum_ane.errors import CheckpointError, DatasetError, PackageError, UnsupportedModelError
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.package.form import ExportForm
from optimum_ane.package.manifest import FunctionEntry, Manifest, ProgramEntry, SourceEntry
from optimum_ane.workflows.evaluate import evaluate_package

WORDS = ["[PAD]", "[UNK]", "a", "fine", "dull", "film"]
LABELS = {0: "NEGATIVE", 1: "POSITIVE"}


def _checkpoint(folder, seed=0, **fields):
    torch.manual_seed(seed)
    sizes = {"vocab_size": len(WORDS), "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(**sizes, intermediate_size=16, **({"id2label": LABELS} | fields))
    model = BertForSequenceClassification(config)
    model.half().save_pretrained(folder)  # stored in half: the original must be run in fp32 all the same
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(folder)
    return folder


def _declare(folder, source, task="text-classification"):
    form = ExportForm(task, sequence_length=(4,))
    entry = SourceEntry(source, Path(source).name)
    Manifest(form, "bert", entry, (ProgramEntry("model", (FunctionEntry("main"),)),)).write(folder)


@pytest.fixture
def source(tmp_path):
    return _checkpoint(tmp_path / "source")


@pytest.fixture
def package(tmp_path, source):
    """A package's directory as the export writes it, without its program."""
    folder = _checkpoint(tmp_path / "out")
    (folder / "model.safetensors").unlink()
    _declare(folder, str(source))
    return folder


@pytest.fixture
def dataset(tmp_path):
    path = tmp_path / "dev.tsv"
    path.write_text("a fine film\t1\na dull film\t0\nfine fine fine fine fine\t1\n")
    return DatasetSpec(str(path))


@pytest.fixture(autouse=True)
def modeling(monkeypatch, source):
    """Stands in for the class that loads packages: it answers with the source's own logits."""
    loaded = []

    class FakeModel:
        def __init__(self, folder, runtime):
            self.config = AutoConfig.from_pretrained(folder)
            self.sequence_length = 4
            self.runtime = "portable" if runtime == "auto" else runtime
            self._model = BertForSequenceClassification.from_pretrained(source, dtype=torch.float32).eval()

        @classmethod
        def from_pretrained(cls, folder, *, runtime):
            loaded.append(runtime)
            return cls(folder, runtime)

        def __call__(self, **inputs):
            assert inputs["input_ids"].shape[1] <= self.sequence_length
            return self._model(**inputs)

    monkeypatch.setattr(optimum_ane, "ANEModelForSequenceClassification", FakeModel)
    return loaded


def test_beside_its_source(package, dataset):
    report = evaluate_package(package, dataset)
    assert report.psnr == float("inf")  # the original was run in fp32
    assert (report.rows, report.truncated, report.runtime, report.sequence_length) == (3, 1, "portable", 4)
    assert report.original.metrics == report.package.metrics


def test_runtime_and_no_reference(package, dataset, modeling):
    _declare(package, "gone/elsewhere")
    report = evaluate_package(package, dataset, with_reference=False, runtime="coreml")
    assert (modeling, report.runtime, report.original) == (["coreml"], "coreml", None)


def test_another_reference(tmp_path, package, dataset):
    other = _checkpoint(tmp_path / "other", seed=1)
    report = evaluate_package(package, dataset, reference=str(other))
    assert report.psnr < 40


def test_other_tasks_and_no_package(tmp_path, package, dataset):
    _declare(package, "my-checkpoint", "object-detection")
    with pytest.raises(UnsupportedModelError, match="'object-detection' is not evaluated on a dataset; these tasks"):
        evaluate_package(package, dataset)
    _declare(package, "my-checkpoint", "feature-extraction")
    with pytest.raises(UnsupportedModelError, match="pool"):
        evaluate_package(package, dataset)
    for content in ("{", "[]", "[" * 100_000):
        (package / "ane_config.json").write_text(content)
        with pytest.raises(PackageError, match="damaged"):
            evaluate_package(package, dataset)
    with pytest.raises(PackageError, match=r"holds no ane_config\.json"):
        evaluate_package(tmp_path / "nowhere", dataset)


def test_reference_that_cannot_be_had(tmp_path, package, dataset):
    with pytest.raises(CheckpointError, match=r"cannot be loaded: .* name it with --reference, or .* --no-reference"):
        evaluate_package(package, dataset, reference=str(tmp_path / "nowhere"))
    _declare(package, "my-checkpoint")
    with pytest.raises(
        CheckpointError, match=r"made from a directory, my-checkpoint, which is not here; name it with"
    ):
        evaluate_package(package, dataset)


def test_reference_of_other_labels(tmp_path, package, dataset):
    other = _checkpoint(tmp_path / "other", id2label={0: "POSITIVE", 1: "NEGATIVE"})
    with pytest.raises(CheckpointError, match="has the labels POSITIVE, NEGATIVE, the package has NEGATIVE, POSITIVE"):
        evaluate_package(package, dataset, reference=str(other))


def test_reference_without_its_head(tmp_path, package, dataset):
    """transformers would start a missing head at random, and any package would beat it."""
    other = _checkpoint(tmp_path / "other")
    BertForSequenceClassification.from_pretrained(other).bert.save_pretrained(other)
    config = json.loads((other / "config.json").read_text()) | {"id2label": LABELS}
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        CheckpointError, match=r"weights that the task text-classification needs are missing, classifier\.bias first"
    ):
        evaluate_package(package, dataset, reference=str(other))


def test_flawed_dataset(package, tmp_path):
    (tmp_path / "bad.tsv").write_text("a\t1\nb\t5\n")
    with pytest.raises(DatasetError, match=r"bad\.tsv, row 2, column 1: the model does not know the label '5'"):
        evaluate_package(package, DatasetSpec(str(tmp_path / "bad.tsv")))
