import os
import subprocess
import sys

import datasets
import pytest
from stand_ins import load_examples

from optimum_ane.errors import DatasetError
from optimum_ane.evaluation.columns import GLUE_COLUMNS
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.glue_metric import GLUE_CONFIGS

SENTIMENT = {0: "NEGATIVE", 1: "POSITIVE"}
SINGLE = "single_label_classification"


@pytest.fixture
def hub(monkeypatch):
    """Stands in for the Hub: a table for (dataset, config, split), and what was asked of it."""
    tables, asked = {}, []

    def load_dataset(path, name=None, *, split=None):
        asked.append((path, name, split))
        return tables[path, name, split]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return tables, asked


def _table(label_names, **columns):
    features = {name: datasets.Value("string") for name in columns if name != "label"}
    features["label"] = datasets.ClassLabel(names=label_names)
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def test_glue_by_name(hub):
    tables, asked = hub
    tables["glue", "sst2", "validation"] = _table(["negative", "positive"], sentence=["dull", "fine"], label=[0, 1])
    spec = DatasetSpec("glue", "sst2")
    examples = load_examples(spec, id2label={0: "Positive", 1: "Negative"}, problem_type=SINGLE)
    assert asked == [("glue", "sst2", "validation")]
    assert (examples.texts, examples.labels.tolist()) == (["dull", "fine"], [1, 0])
    assert (examples.metric_config, examples.label_mapping) == ("sst2", "by name")
    assert examples.name == "glue/sst2, split validation"


def test_mnli_has_two_validation_splits(hub):
    tables, asked = hub
    names = ["entailment", "neutral", "contradiction"]
    table = _table(names, premise=["a"], hypothesis=["b"], label=[0])
    tables["nyu-mll/glue", "mnli", "validation_matched"] = table
    examples = load_examples(
        DatasetSpec("nyu-mll/glue", "mnli"), id2label=dict(enumerate(reversed(names))), problem_type=SINGLE
    )
    assert asked[0][2] == "validation_matched"
    assert (examples.texts, examples.text_pairs, examples.labels.tolist()) == (["a"], ["b"], [2])


@pytest.mark.parametrize("config", sorted(GLUE_COLUMNS))
def test_every_task_of_glue(hub, config):
    text, pair = GLUE_COLUMNS[config]
    columns = {"idx": ["0"], text: ["a"]} | ({pair: ["b"]} if pair else {}) | {"label": [0]}
    table = _table(["x", "y", "z"] if "mnli" in config else ["x", "y"], **columns)
    if config == "stsb":
        table = table.cast_column("label", datasets.Value("float32"))
    hub[0]["glue", config, "validation_matched" if config == "mnli" else "validation"] = table
    count = 3 if "mnli" in config else 2
    id2label = {0: "LABEL_0"} if config == "stsb" else {index: f"LABEL_{index}" for index in range(count)}
    examples = load_examples(
        DatasetSpec("glue", config), id2label=id2label, problem_type=GLUE_CONFIGS[config].problem_type
    )
    assert examples.metric_config == config
    assert (examples.text_pairs is None) == (pair is None)


def test_f1_of_the_other_class_is_refused(hub):
    names = ["not_equivalent", "equivalent"]
    hub[0]["glue", "mrpc", "validation"] = _table(names, sentence1=["a"], sentence2=["b"], label=[1])
    spec = DatasetSpec("glue", "mrpc")
    assert load_examples(spec, id2label=dict(enumerate(names)), problem_type=SINGLE).labels.tolist() == [1]
    with pytest.raises(DatasetError, match="the other way round: F1 would be another's"):
        load_examples(spec, id2label=dict(enumerate(reversed(names))), problem_type=SINGLE)


def test_other_datasets_and_rows_beyond_one_batch(hub):
    hub[0]["someone/reviews", None, "test"] = _table(["0", "1"], text=["a"] * 600, label=[0, 1] * 300)
    spec = DatasetSpec("someone/reviews", split="test", max_samples=500)
    examples = load_examples(spec, id2label=SENTIMENT, problem_type=SINGLE)
    assert len(examples) == 500
    assert (examples.metric_config, examples.label_mapping) == ("accuracy", "by id")


def test_secret_labels(hub):
    hub[0]["glue", "sst2", "test"] = _table(["negative", "positive"], sentence=["a"], label=[-1])
    with pytest.raises(DatasetError, match=r"glue/sst2, split test, row 1, column label: the row has no label"):
        load_examples(DatasetSpec("glue", "sst2", "test"), id2label=SENTIMENT, problem_type=SINGLE)


@pytest.mark.parametrize("config", [None, "sst3", "ax"])
def test_glue_needs_a_task(config):
    with pytest.raises(DatasetError, match="name one with dataset_config: cola, sst2"):
        load_examples(DatasetSpec("glue", config), id2label=SENTIMENT, problem_type=SINGLE)


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (ConnectionError("Couldn't reach 'x'"), "the Hub cannot be reached .*pass a local file.*HF_HUB_OFFLINE=1"),
        (ValueError("Unknown split \"dev\".\nShould be one of ['train']."), "Should be one of .*check dataset"),
        (datasets.exceptions.DatasetNotFoundError("gated"), "cannot be loaded .*gated"),
        (RuntimeError("Dataset scripts are no longer supported"), "scripts are no longer supported"),
    ],
)
def test_what_the_hub_refuses(monkeypatch, error, what):
    def load_dataset(path, name=None, *, split=None):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DatasetError, match=what) as caught:
        load_examples(DatasetSpec("someone/x"), id2label=SENTIMENT, problem_type=SINGLE)
    assert "\n" not in str(caught.value)


CACHED = """
import datasets, os
from optimum_ane.errors import DatasetError
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.evaluation.text_classification import TextClassification
from types import SimpleNamespace

features = datasets.Features(
    {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["negative", "positive"])}
)
table = datasets.Dataset.from_dict({"sentence": ["dull", "fine"], "label": [0, 1]}, features=features)
folder = f"{datasets.config.HF_DATASETS_CACHE}/nyu-mll___glue/sst2/0.0.0/0123"
os.makedirs(folder)
writer = datasets.arrow_writer.ArrowWriter(path=f"{folder}/glue-validation.arrow", features=features)
writer.write_table(table.data.table)
size = writer.finalize()[1]
splits = [{"name": "validation", "num_bytes": size, "num_examples": 2, "dataset_name": "glue"}]
datasets.DatasetInfo(
    features=features, dataset_name="glue", config_name="sst2", version="0.0.0", splits=splits
).write_to_directory(folder)
for config in ("sst2", "rte"):
    try:
        labels = SimpleNamespace(id2label={0: "NEGATIVE", 1: "POSITIVE"}, num_labels=2)
        examples = TextClassification(labels).load(DatasetSpec("nyu-mll/glue", config))
        print(examples.texts, examples.labels.tolist())
    except DatasetError as error:
        print(error)
"""


def test_cached_dataset_without_the_hub(tmp_path):
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_DATASETS_CACHE", None)
    done = subprocess.run([sys.executable, "-c", CACHED], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "['dull', 'fine'] [0, 1]"
    assert second.startswith("nyu-mll/glue/rte, split validation: cannot be loaded (ValueError: Couldn't find cache")
