"""A package on disk: what is in it, and what it says of itself."""

import hashlib
import json

import coremltools as ct
import numpy as np
import pytest
import torch
from ml_programs import FLOAT16, FLOAT32, read_operations, types_of
from tiny_models import TASKS, answer, make_inputs, make_original, make_tokenizer, psnr, save_checkpoint

from optimum_ane import (
    ANEModelForSequenceClassification,
    ANEModelForTokenClassification,
    __version__,
    export,
)
from optimum_ane.errors import ShapeError, UnsupportedModelError
from optimum_ane.package.manifest import Manifest
from optimum_ane.runtimes.portable import PortableSession

LABELS = {0: "dull", 1: "fine", 2: "très bien"}


def description_of(directory):
    return ct.utils.load_spec(str(directory / "model.mlpackage")).description


def shapes_of(features):
    return {feature.name: tuple(feature.type.multiArrayType.shape) for feature in features}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A checkpoint on disk with labels, a card and a tokenizer."""
    directory = tmp_path_factory.mktemp("checkpoints") / "tiny-reviews"
    save_checkpoint(
        directory, "bert", "text-classification", id2label=LABELS, label2id={v: k for k, v in LABELS.items()}
    )
    (directory / "README.md").write_text("---\nlicense: mit\n---\n# Reviews\n")
    return directory


@pytest.fixture(scope="module")
def package(source, tmp_path_factory):
    directory = tmp_path_factory.mktemp("exported") / "out"
    export(source, directory, sequence_length=16, quiet=True)
    return directory


def test_the_files_of_a_package(package):
    assert sorted(path.name for path in package.iterdir()) == [
        "README.md",
        "ane_config.json",
        "card.svg",
        "config.json",
        "export_report.html",
        "export_report.json",
        "model.mlpackage",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_the_program_says_what_it_is_and_where_it_comes_from(package):
    metadata = description_of(package).metadata
    assert "bert for text-classification" in metadata.shortDescription
    assert "tiny-reviews" in metadata.shortDescription
    assert metadata.license == "mit"
    assert metadata.author
    assert metadata.versionString
    said = dict(metadata.userDefined)
    assert said["source_model"] == "tiny-reviews"
    assert said["task"] == "text-classification"
    assert said["sequence_length"] == "16"
    assert said["batch_size"] == "1"
    assert said["tokenizer_class"] == type(make_tokenizer()).__name__
    assert json.loads(said["labels"]) == list(LABELS.values())
    assert said["optimum_ane_version"] == __version__


@pytest.mark.parametrize(
    ("name", "task", "preview"),
    [
        ("bert", "question-answering", "bertQA"),
        ("distilbert", "question-answering", None),  # Apple documents BERT's alone
        ("bert", "text-classification", None),
    ],
)
def test_xcode_is_told_of_the_preview_that_apple_documents(name, task, preview, tiny_package):
    said = dict(description_of(tiny_package(name, task)).metadata.userDefined)
    assert said.get("com.apple.coreml.model.preview.type") == preview


def test_no_path_of_this_machine_is_in_the_program(package, source):
    """A program is published; where it was made is nobody's business."""
    assert str(source.parent) not in str(description_of(package))


def test_every_input_and_output_is_described(package):
    description = description_of(package)
    assert all(feature.shortDescription for feature in [*description.input, *description.output])
    expected = dict.fromkeys(["input_ids", "attention_mask", "token_type_ids"], (1, 16))
    assert shapes_of(description.input) == expected
    assert shapes_of(description.output) == {"logits": (1, 3)}


def test_ane_config_says_what_the_package_is(package, source):
    config = json.loads((package / "ane_config.json").read_text())
    assert config["model_type"] == "bert"
    assert config["form"] == {
        "task": "text-classification",
        "sequence_length": [16],
        "batch_size": 1,
        "precision": "float16",
        "minimum_deployment_target": "iOS16",
        "compute_units": "cpu_and_ne",
        "class_labels": False,
        "pooling": None,
        "normalize": False,
        "method": "auto",
        "letterbox": False,
        "postprocess": False,
        "image_size": None,
        "image_input": None,
        "context_length": None,
        "prefill_length": None,
        "kv_cache": None,
        "chunks": None,
        "layout": "native",
        "audio_length": None,
    }
    assert config["conversion"] is None
    assert config["compression"] is None
    assert config["method"] == "handwritten"
    assert config["source"]["model"] == str(source)
    (program,) = config["programs"]
    (function,) = program["functions"]
    assert (program["name"], program["precision"], function["name"]) == ("model", "float16", "main")
    assert [tensor["name"] for tensor in function["inputs"]] == ["input_ids", "attention_mask", "token_type_ids"]
    assert (function["inputs"][0]["shape"], function["inputs"][0]["dtype"]) == ([1, 16], "int32")
    (logits,) = function["outputs"]
    assert (logits["name"], logits["shape"], logits["dtype"]) == ("logits", [1, 3], "float16")
    assert all(tensor["meaning"] for tensor in [*function["inputs"], logits])
    assert function["states"] == []
    assert {"coremltools", "torch", "transformers"} <= config["versions"].keys()
    assert Manifest.read(package).functions[0].outputs[0].shape == (1, 3)


def test_ane_config_holds_the_sha256_of_every_other_file(package):
    files = json.loads((package / "ane_config.json").read_text())["files"]
    present = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    assert files.keys() == present - {"ane_config.json", "README.md", "card.svg", "export_report.html"}
    for name, digest in files.items():
        assert hashlib.sha256((package / name).read_bytes()).hexdigest() == digest


def test_the_report_holds_what_was_measured(package):
    report = json.loads((package / "export_report.json").read_text())
    assert report["module_psnr"]["logits"] >= 90
    assert report["package_psnr"]["logits"] >= report["psnr_threshold"] == 50
    assert report["runtime"] == "portable"
    assert report["accuracy"] is None
    operations = read_operations(package)
    assert report["operations"] == {name: types_of(operations).count(name) for name in types_of(operations)}
    files = [path for path in (package / "model.mlpackage").rglob("*") if path.is_file()]
    assert report["sizes"]["package"] == sum(path.stat().st_size for path in files)
    assert 0 < report["sizes"]["weights"] < report["sizes"]["package"]
    assert len(report["seconds"]) == 7
    assert report["peak_memory_bytes"] > 1e8
    assert all(seconds >= 0 for seconds in report["seconds"].values())


def test_the_checkpoints_configuration_and_tokenizer_come_along(package, source):
    config = json.loads((package / "config.json").read_text())
    assert config["model_type"] == "bert"
    assert config["id2label"] == {str(index): label for index, label in LABELS.items()}
    assert json.loads((package / "tokenizer_config.json").read_text())["model_max_length"] == 16
    assert json.loads((source / "tokenizer_config.json").read_text()).get("model_max_length") != 16


def test_the_card_names_source_license_and_numbers(package):
    card = (package / "README.md").read_text()
    assert card.startswith("---\n")
    for word in ("license: mit", "coreml", "tiny-reviews", "ANEModelForSequenceClassification", "très bien", " dB"):
        assert word in card
    assert "{{" not in card
    assert "None" not in card


def test_without_validation_nothing_is_reported_that_was_not_measured(tiny_package):
    report = json.loads((tiny_package("bert", "feature-extraction") / "export_report.json").read_text())
    assert report["module_psnr"] == report["package_psnr"] == {}
    assert report["runtime"] is report["psnr_threshold"] is None
    assert "compare package with original" not in report["seconds"]


@pytest.mark.parametrize(
    ("target", "version"), [("iOS15", 6), ("iOS16", 7), ("iOS18", 9), ("macos13", 7), ("IOS17", 8)]
)
def test_deployment_targets_old_and_new(tmp_path, target, version):
    original = make_original("bert", "text-classification")
    result = export(original, tmp_path / "out", sequence_length=16, minimum_deployment_target=target, quiet=True)
    assert result.report.package_psnr["logits"] >= 50
    spec = ct.utils.load_spec(str(tmp_path / "out" / "model.mlpackage"))
    assert spec.specificationVersion == version
    recorded = Manifest.read(tmp_path / "out").form.target
    assert recorded in ct.target.__members__
    assert recorded.lower() == target.lower()


@pytest.mark.parametrize(
    ("target", "reason"),
    [("iOS14", "older than ML Programs"), ("iOS13", "older"), ("iOS99", "unknown"), ("", "unknown")],
)
def test_other_deployment_targets_are_refused_with_those_that_there_are(tmp_path, target, reason):
    original = make_original("bert", "text-classification")
    with pytest.raises(UnsupportedModelError, match=rf"{target!r} is {reason}(?=.*iOS15)(?=.*iOS18)(?=.*macOS12)"):
        export(original, tmp_path / "out", minimum_deployment_target=target, quiet=True)
    assert not (tmp_path / "out").exists()


def test_float32_keeps_float32_throughout(tmp_path):
    original = make_original("deberta-v2", "fill-mask")
    result = export(original, tmp_path / "out", sequence_length=16, precision="float32", quiet=True)
    assert result.report.package_psnr["logits"] >= 90
    assert result.report.psnr_threshold == 90
    dtypes = {dtype for operation in read_operations(tmp_path / "out") for dtype in operation.dtypes}
    assert FLOAT32 in dtypes
    assert FLOAT16 not in dtypes
    assert Manifest.read(tmp_path / "out").functions[0].outputs[0].dtype == "float32"


@pytest.mark.parametrize("batch_size", [2, 3])
def test_batches_of_rows(tmp_path, batch_size):
    original = make_original("deberta-v2", "text-classification")
    result = export(original, tmp_path / "out", sequence_length=16, batch_size=batch_size, quiet=True)
    assert result.report.package_psnr["logits"] >= 50
    description = description_of(tmp_path / "out")
    assert shapes_of(description.input)["input_ids"] == (batch_size, 16)
    assert shapes_of(description.output) == {"logits": (batch_size, 2)}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_passes_its_own_validation(tmp_path, task):
    result = export(make_original("bert", task), tmp_path / "out", sequence_length=16, quiet=True)
    assert min(result.report.module_psnr.values()) >= 90
    names = {
        "feature-extraction": ["last_hidden_state"],
        "question-answering": ["start_logits", "end_logits"],
    }.get(task, ["logits"])
    assert [entry.name for entry in Manifest.read(tmp_path / "out").functions[0].outputs] == names
    assert list(result.report.package_psnr) == names


@pytest.mark.parametrize(("pooling", "normalize"), [("mean", True), ("cls", False)])
def test_sentence_embeddings(tmp_path, pooling, normalize):
    original = make_original("mpnet", "feature-extraction")
    result = export(original, tmp_path / "out", sequence_length=16, pooling=pooling, normalize=normalize, quiet=True)
    assert result.report.package_psnr["sentence_embedding"] >= 50
    manifest = Manifest.read(tmp_path / "out")
    assert [(entry.name, entry.shape) for entry in manifest.functions[0].outputs] == [("sentence_embedding", (1, 48))]
    assert (manifest.form.pooling, manifest.form.normalize) == (pooling, normalize)
    assert "batch_norm" not in types_of(read_operations(tmp_path / "out"))


def test_sentence_embeddings_of_large_activations_and_of_nothing(tmp_path):
    """The squares of these overflow float16; a row that is all padding pools to zero."""
    original = make_original("distilbert", "feature-extraction")
    original.transformer.layer[-1].output_layer_norm.weight *= 3000
    export(original, tmp_path / "out", sequence_length=16, pooling="mean", normalize=True, quiet=True)
    session = PortableSession(tmp_path / "out" / "model.mlpackage")
    ids = np.arange(16, dtype=np.int32)[None] + 5
    full = session.predict({"input_ids": ids, "attention_mask": np.ones_like(ids)})["sentence_embedding"]
    assert np.linalg.norm(full.astype(np.float64)) == pytest.approx(1, abs=2e-3)
    empty = session.predict({"input_ids": ids, "attention_mask": np.zeros_like(ids)})["sentence_embedding"]
    assert not empty.any()


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"sequence_length": 0}, ShapeError, "sequence length is 0"),
        ({"batch_size": -1}, ShapeError, "batch size is -1"),
        ({"sequence_length": 41}, ShapeError, "length 41 is above the 40"),
        ({"precision": "int8"}, UnsupportedModelError, "'int8'.*float16, float32"),
        ({"compute_units": "ane"}, UnsupportedModelError, "'ane'.*cpu_and_ne"),
        ({"pooling": "mean"}, UnsupportedModelError, "feature-extraction, not for text-classification"),
        ({"normalize": True}, UnsupportedModelError, "needs a pooling"),
        ({"task": "feature-extraction", "pooling": "max"}, UnsupportedModelError, "'max'.*mean, cls"),
        ({"task": "fill-mask", "class_labels": True}, UnsupportedModelError, "not for fill-mask"),
        ({"class_labels": True, "batch_size": 2}, ShapeError, "batch size 2"),
        ({"task": "translation"}, UnsupportedModelError, "not supported for bert; known: .*text-classification"),
    ],
)
def test_options_that_cannot_work_are_refused_before_any_work(tmp_path, settings, kind, message):
    original = make_original("bert", "text-classification")
    with pytest.raises(kind, match=message):
        export(original, tmp_path / "out", quiet=True, **settings)
    assert list(tmp_path.iterdir()) == []


class TestClassLabels:
    @pytest.fixture(scope="class")
    def classifier(self, source, tmp_path_factory):
        directory = tmp_path_factory.mktemp("classifier") / "out"
        export(source, directory, sequence_length=16, class_labels=True, quiet=True)
        return directory

    def test_the_package_is_a_classifier_with_the_checkpoints_labels(self, classifier):
        spec = ct.utils.load_spec(str(classifier / "model.mlpackage"))
        assert spec.description.predictedFeatureName == "classLabel"
        assert {feature.name for feature in spec.description.output} >= {"classLabel", "logits"}
        assert spec.description.predictedProbabilitiesName
        assert all(feature.shortDescription for feature in spec.description.output)

    def test_it_gives_label_probabilities_and_logits(self, classifier, source):
        session = PortableSession(classifier / "model.mlpackage")
        ids = np.arange(16, dtype=np.int32)[None] + 3
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        outputs = session.predict(inputs)
        logits = np.asarray(outputs["logits"], np.float64)[0]
        expected = np.exp(logits) / np.exp(logits).sum()
        (probabilities,) = [value for value in outputs.values() if isinstance(value, dict)]
        assert set(probabilities) == set(LABELS.values())
        for index, label in LABELS.items():
            assert probabilities[label] == pytest.approx(expected[index], abs=2e-3)
        assert outputs["classLabel"] == LABELS[int(logits.argmax())]

    def test_the_model_class_works_on_it(self, classifier, source):
        original = make_original("bert", "text-classification", id2label=LABELS)
        inputs = make_inputs(original, length=16)
        ours = ANEModelForSequenceClassification.from_pretrained(classifier)(**inputs).logits
        assert ours.shape == (4, 3)
        assert psnr(answer(original, inputs)[0], ours) >= 50

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"num_labels": 1}, "regression or multi-label"),
            ({"problem_type": "multi_label_classification"}, "regression or multi-label"),
            ({"id2label": {0: "same", 1: "same"}}, "two labels of config.json are equal: same, same"),
        ],
    )
    def test_models_that_do_not_choose_one_label_are_refused(self, tmp_path, settings, message):
        original = make_original("bert", "text-classification", **settings)
        with pytest.raises(UnsupportedModelError, match=message):
            export(original, tmp_path / "out", sequence_length=16, class_labels=True, quiet=True)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("settings", [{"num_labels": 1}, {"problem_type": "multi_label_classification"}])
def test_regression_and_multi_label_models(tmp_path, settings):
    original = make_original("roberta", "text-classification", **settings)
    result = export(original, tmp_path / "out", sequence_length=16, quiet=True)
    assert result.report.package_psnr["logits"] >= 50


def test_the_callers_tokenizer_is_left_as_it_is(tmp_path):
    tokenizer = make_tokenizer(model_max_length=99)
    original = make_original("bert", "text-classification")
    export(original, tmp_path / "out", sequence_length=16, tokenizer=tokenizer, validate=False, quiet=True)
    assert tokenizer.model_max_length == 99
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["model_max_length"] == 16


def test_a_model_in_training_mode_or_half_precision_is_left_as_it_is(tmp_path):
    original = make_original("bert", "text-classification").half().train()
    result = export(original, tmp_path / "out", sequence_length=16, quiet=True)
    assert result.report.package_psnr["logits"] >= 50
    assert original.training
    assert original.dtype == torch.float16


def test_the_home_directory_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_checkpoint(tmp_path / "checkpoint", "bert", "token-classification", num_hidden_layers=1)
    result = export("~/checkpoint", "~/out", task="ner", sequence_length=8, validate=False, quiet=True)
    assert result.path == tmp_path / "out"
    assert ANEModelForTokenClassification.from_pretrained("~/out").manifest.source.model == str(
        tmp_path / "checkpoint"
    )
