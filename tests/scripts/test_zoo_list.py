"""The list of models: what is read from it, and how it complains."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
import zoo
from model_zoo.catalog import make_jobs, read_catalog
from model_zoo.strict_yaml import ListError

from optimum_ane.compression.recipes import get_recipe
from optimum_ane.exporters.config import graph_tasks, supported_tasks
from optimum_ane.package.form import ExportForm

GOOD = """\
models:
  - name: one
    model: org/one
    architecture: bert
    task: text-classification
"""


def read(tmp_path, text):
    path = tmp_path / "list.yaml"
    path.write_text(text)
    return read_catalog(path)


def test_the_shipped_list_names_supported_architectures_tasks_and_recipes():
    models = read_catalog(zoo.LIST)
    by_hand, by_graph = supported_tasks(), graph_tasks()
    for model in models:
        assert model.form.task in {*by_hand.get(model.architecture, ()), *by_graph.get(model.architecture, ())}
        assert all(name == "none" or get_recipe(name) for name in model.compress)
        assert not model.model.startswith("/")
    for task in (
        "text-classification",
        "token-classification",
        "question-answering",
        "feature-extraction",
        "text-generation",
        "image-classification",
        "object-detection",
        "image-segmentation",
        "depth-estimation",
        "zero-shot-image-classification",
    ):
        assert any(model.form.task == task for model in models)
    embedders = [
        model for model in models if model.form.task == "feature-extraction" and model.form.image_size is None
    ]
    assert all(model.form.pools and model.form.normalize for model in embedders)
    assert {"bge", "gte", "e5", "minilm"} <= {part for model in embedders for part in re.split("[-_]", model.name)}
    jobs = make_jobs(models, "org")
    assert len({(job.repository, job.subfolder) for job in jobs}) == len(jobs) > len(models)


def test_what_an_entry_leaves_out_is_the_exports_default(tmp_path):
    (model,) = read(tmp_path, GOOD)
    assert (model.sequence_lengths, model.compress) == ((128,), ("none",))
    assert model.form == ExportForm(task="text-classification")
    assert (model.revision, model.evaluation, model.psnr_threshold) == (None, None, None)


def test_every_option_of_the_exports_form_may_stand_in_the_list(tmp_path):
    options = {
        "batch_size": 2,
        "precision": "float32",
        "minimum_deployment_target": "iOS17",
        "compute_units": "all",
        "pooling": "cls",
        "normalize": True,
        "method": "handwritten",
    }
    text = GOOD.replace("text-classification", "feature-extraction")
    text += "".join(f"    {name}: {json.dumps(value)}\n" for name, value in options.items())
    (model,) = read(tmp_path, text)
    assert model.form == ExportForm(task="feature-extraction", **options)
    named = {entry.name for entry in fields(ExportForm)}
    of_other_rows = {"image_input", "image_size", "letterbox", "postprocess", "audio_length"}
    of_language_models = {"context_length", "prefill_length", "kv_cache", "chunks", "layout"}
    assert named == options.keys() | of_other_rows | of_language_models | {"task", "sequence_length", "class_labels"}


def test_defaults_hold_where_an_entry_says_nothing(tmp_path):
    text = "defaults: {sequence_lengths: [64], class_labels: true}\n" + GOOD + "    sequence_lengths: [32]\n"
    (model,) = read(tmp_path, text)
    assert (model.sequence_lengths, model.form.class_labels) == ((32,), True)


def test_each_length_and_recipe_is_a_package_the_first_at_the_root(tmp_path):
    (model,) = read(tmp_path, GOOD + "    sequence_lengths: [128, 64]\n    compress: [none, int8]\n")
    jobs = make_jobs([model], "me")
    assert [(job.id, job.repository, job.subfolder) for job in jobs] == [
        ("one/seq128", "me/one-ane", ""),
        ("one/seq128-int8", "me/one-ane", "seq128-int8"),
        ("one/seq64", "me/one-ane", "seq64"),
        ("one/seq64-int8", "me/one-ane", "seq64-int8"),
    ]
    assert {job.repository for job in make_jobs([model], None)} == {None}
    (model,) = read(tmp_path, GOOD + "    first_at_root: false\n    repository: '{org}/ane-{name}'\n")
    (job,) = make_jobs([model], "me")
    assert (job.repository, job.subfolder) == ("me/ane-one", "seq128")


LANGUAGE_MODEL = GOOD.replace("bert", "llama").replace("text-classification", "text-generation")
DETECTOR = GOOD.replace("bert", "yolos").replace("text-classification", "object-detection")


def test_packages_without_a_length_of_rows_are_told_apart_by_their_weights(tmp_path):
    """Lengths among the defaults are for those that have rows of tokens."""
    defaults = "defaults: {sequence_lengths: [64, 32], compress: [none, int8]}\n"
    (model,) = read(tmp_path, defaults + LANGUAGE_MODEL + "    context_length: 256\n    chunks: auto\n")
    jobs = make_jobs([model], "me")
    assert [(job.id, job.subfolder) for job in jobs] == [("one/float16", ""), ("one/int8", "int8")]
    assert {job.form for job in jobs} == {ExportForm(task="text-generation", context_length=256, chunks="auto")}
    (model,) = read(tmp_path, DETECTOR + "    image_size: [512, 512]\n    image_input: tensor\n")
    (job,) = make_jobs([model], "me")
    assert job.form == ExportForm(task="object-detection", image_size=(512, 512), image_input="tensor")
    (model,) = read(tmp_path, defaults + LANGUAGE_MODEL + "    kv_cache: none\n")
    assert model.sequence_lengths == (64, 32)


def test_paths_are_relative_to_the_list(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "dev.tsv").write_text("")
    text = GOOD.replace("org/one", "./checkpoint") + "    evaluation: {dataset: ./dev.tsv, max_samples: 5}\n"
    (model,) = read(tmp_path, text)
    assert model.model == str(tmp_path / "checkpoint")
    assert (model.evaluation.dataset, model.evaluation.max_samples) == (str(tmp_path / "dev.tsv"), 5)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (GOOD + "    sequence_length: 5\n", 6, "model 'one', sequence_length: unknown key 'sequence_length'; did you"),
        (GOOD + "    color: red\n", 6, "unknown key 'color'. Allowed: architecture, audio_length, batch_size"),
        (GOOD + "    task: fill-mask\n", 6, "the key 'task' is there twice, first in line 5"),
        (GOOD + GOOD.partition("\n")[2], 6, "another model has this name"),
        (GOOD.replace("bert", "brt"), 4, "architecture: 'brt' is no model type that can be exported; did you mean b"),
        (GOOD.replace("text-", "image-"), 5, "task: 'image-classification' is not one of feature-extraction, "),
        (GOOD.replace("    task: text-classification\n", ""), 2, "model 'one': 'task' is missing: one of"),
        (GOOD.replace("    model: org/one\n", ""), 2, "'model' is missing"),
        (GOOD.replace("one", "../one", 1), 2, "'../one' is no name"),
        (GOOD.replace("org/one", "./nowhere"), 3, "there is no directory"),
        (GOOD + "    sequence_lengths: 128\n", 6, "128 is a number; a list with one value or more is expected"),
        (LANGUAGE_MODEL + "    sequence_lengths: [64]\n", 6, "llama for text-generation has no rows of tokens"),
        (DETECTOR + "    sequence_lengths: [64]\n", 6, "yolos for object-detection has no rows of tokens"),
        (DETECTOR + "    image_size: [512, wide]\n", 6, "'wide' is not a whole number from 1 on"),
        (LANGUAGE_MODEL + "    context_length: long\n", 6, "'long' is not a whole number from 1 on"),
        (GOOD + "    sequence_lengths: []\n", 6, "is empty; a list with one value or more is expected"),
        (GOOD + "    sequence_lengths: [64, 64]\n", 6, "64 is there twice"),
        (GOOD + "    sequence_lengths: [0]\n", 6, "0 is not a whole number from 1 on"),
        (GOOD + "    sequence_lengths: [yes]\n", 6, "True is not a whole number from 1 on"),
        (GOOD + "    batch_size: many\n", 6, "'many' is not a whole number from 1 on"),
        (GOOD + "    class_labels: 1\n", 6, "1 is a number; true or false is expected"),
        (GOOD + "    revision: 1.0\n", 6, "1.0 is a number; a text is expected, so write it in quotes"),
        (GOOD + "    psnr_threshold: .nan\n", 6, "nan is not a number from 0 on"),
        (GOOD + "    pooling: mean\n", 2, "pooling is for the task feature-extraction"),
        (GOOD + "    precision: int8\n", 2, "precision 'int8' is not one of float16, float32"),
        (GOOD + "    minimum_deployment_target: iOS12\n", 6, "choose one of iOS15"),
        (GOOD + "    compress: [int3]\n", 6, "there is no recipe 'int3'"),
        (GOOD + "    compress: [./none.yaml]\n", 6, "there is no file"),
        (GOOD + "    repository: '{org}/{model}'\n", 6, "may use {org} and {name} alone"),
        (GOOD + "    repository: '{org.__class__}/{name}'\n", 6, "may use {org} and {name} alone"),
        (GOOD + "    repository: '{org}/{name:>99}'\n", 6, "may use {org} and {name} alone"),
        (GOOD + "    evaluation: {dataset: glue, confg: sst2}\n", 6, "'one', evaluation, confg: unknown key 'confg'"),
        (GOOD + "    evaluation: glue\n", 6, "'glue' is a text; a mapping is expected"),
        (GOOD + "extra: 1\n", 6, "extra: unknown key 'extra'. Allowed: defaults, models"),
        ("defaults: {name: x}\n" + GOOD, 1, "defaults, name: unknown key 'name'"),
        ("models: {}\n", 1, "'models' must be a list"),
        ("models: [one]\n", 1, "entry 1 is a text; a mapping is expected"),
        ("models:\n  - name: a\n   model: b\n", 3, "no valid YAML"),
        ("models: [!!python/object/apply:os.system [ls]]\n", 1, "entry 1 is a list"),
        ("models: !!timestamp x\n", 1, "'x' is no value"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(tmp_path, text, line, says):
    with pytest.raises(ListError) as caught:
        read(tmp_path, text)
    assert says in str(caught.value)
    assert f"list.yaml, line {line}: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a\n", "just text\n"])
def test_what_is_no_list_at_all(tmp_path, text):
    with pytest.raises(ListError, match="must hold a mapping with the key 'models'"):
        read(tmp_path, text)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ListError, match=r"nowhere\.yaml cannot be read: No such file"):
        read_catalog(tmp_path / "nowhere.yaml")
    (tmp_path / "list.yaml").write_bytes(b"models: \xff")
    with pytest.raises(ListError, match="is not UTF-8"):
        read_catalog(tmp_path / "list.yaml")
    with pytest.raises(ListError, match="nested too deep"):
        read(tmp_path, "models: " + "[" * 900 + "]" * 900)
    with pytest.raises(ListError, match="larger than"):
        read(tmp_path, "#" * 1_100_000)


def test_two_packages_at_one_place_are_refused(tmp_path):
    second = GOOD.partition("\n")[2].replace("name: one", "name: two")
    models = read(tmp_path, GOOD + "    repository: '{org}/all'\n" + second + "    repository: '{org}/all'\n")
    with pytest.raises(ListError, match="one/seq128 and two/seq128 would both stand at me/all; give one another"):
        make_jobs(models, "me")
    (model,) = read(tmp_path, GOOD)
    with pytest.raises(ListError, match="'not an org/one-ane' cannot be a repository; check org"):
        make_jobs([model], "not an org")


def test_recipes_of_the_same_file_name_are_refused(tmp_path):
    recipe = "steps:\n  - kind: quantize\n    global: {dtype: int8}\n"
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.yaml").write_text(recipe)
    models = read(tmp_path, GOOD + "    compress: [./a/mine.yaml, ./b/mine.yaml]\n")
    assert [Path(name).stem for name in models[0].compress] == ["mine", "mine"]
    with pytest.raises(ListError, match="one/seq128-mine is there twice"):
        make_jobs(models, None)
