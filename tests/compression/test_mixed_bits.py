"""The search for bits on tiny packages: what it measures, what it decides, what it keeps, how it goes on."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from tiny_models import make_original, make_tokenizer

from optimum_ane import export
from optimum_ane.compression import weight_formats
from optimum_ane.compression.calibration_data import (
    Calibration,
    Distance,
    calibration_of_dataset,
    calibration_of_random_tokens,
)
from optimum_ane.compression.compress import compress_mlpackage
from optimum_ane.compression.mixed import Budget, search_mixed
from optimum_ane.compression.recipes import get_recipe
from optimum_ane.compression.sensitivity import Measurements, measure_options
from optimum_ane.compression.weight_formats import FormattedWeights
from optimum_ane.errors import CompressionError
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.package.layout import MLPACKAGE
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.runtimes.portable.package import Package
from optimum_ane.runtimes.portable.variants import ChangedSession, VariantRunner, weights_by_name
from optimum_ane.targets.coreml.multifunction import MAIN
from optimum_ane.workflows.recipe_preparation import Calibrating, prepare_recipe

SENSITIVE = "layer_0_ffn_lin2"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A classifier of two layers; one of its weights is made to matter ten times as much as the others of its kind."""
    original = make_original("distilbert", "text-classification", dim=64, hidden_dim=128, n_heads=2, n_layers=2)
    with torch.no_grad():
        original.distilbert.transformer.layer[0].ffn.lin2.weight *= 30
        original.distilbert.transformer.layer[1].ffn.lin2.weight *= 0.03
    directory = tmp_path_factory.mktemp("mixed") / "package"
    export(
        original, directory, task="text-classification", sequence_length=16, tokenizer=make_tokenizer(),
        validate=False, minimum_deployment_target="iOS18", quiet=True,
    )  # fmt: skip
    return directory


@pytest.fixture
def few_formats(monkeypatch):
    """For tests that make the formats anew."""
    kept = ("int8", "palette6", "palette3-g16")
    monkeypatch.setattr(
        weight_formats,
        "WEIGHT_FORMATS",
        tuple(format for format in weight_formats.WEIGHT_FORMATS if format.name in kept),
    )


@pytest.fixture(scope="module")
def calibration(package):
    return calibration_of_random_tokens(package, rows=6)


@pytest.fixture(scope="module")
def searched(package, calibration, tmp_path_factory):
    """A folder that holds the measurements, so that each test decides anew and measures nothing."""
    folder = tmp_path_factory.mktemp("search")
    search_mixed(package, folder, Budget(size_ratio=0.5), calibration, quiet=True)
    return folder


def formats_of(folder):
    (formats,) = folder.glob("formats-*")
    return formats


def weight_bytes(mlpackage):
    return (mlpackage / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size


def applied(package, found, tmp_path, name="made"):
    path = tmp_path / f"{name}.yaml"
    path.write_text(found.text)
    target = tmp_path / f"{name}.mlpackage"
    compress_mlpackage(package / MLPACKAGE, target, get_recipe(path))
    return target


def bits_of(found, weight):
    steps = yaml.safe_load(found.text)["steps"]
    bits = [
        settings.get("nbits", 8) if step["kind"] == "palettize" else int(settings.get("dtype", "int8")[3:])
        for step in steps
        for name, settings in step["weights"].items()
        if weight in name and "weight" in name
    ]
    return bits[0] if bits else 16


@pytest.mark.parametrize("ratio", [0.22, 0.3, 0.45])
def test_the_size_on_disk_keeps_the_budget_and_is_the_one_predicted(package, calibration, searched, tmp_path, ratio):
    found = search_mixed(package, searched, Budget(size_ratio=ratio), calibration, quiet=True)
    made = weight_bytes(applied(package, found, tmp_path)) / weight_bytes(package / MLPACKAGE)
    assert made <= ratio
    assert made == pytest.approx(found.size_ratio, abs=1e-9)
    assert made > ratio - 0.05


def test_a_weight_that_matters_more_gets_more_bits(package, calibration, searched):
    found = search_mixed(package, searched, Budget(size_ratio=0.3), calibration, quiet=True)
    assert bits_of(found, SENSITIVE) > bits_of(found, "layer_1_ffn_lin2")


def test_harms_are_those_of_packages_with_one_weight_compressed(package, calibration, searched, tmp_path):
    """Independent of branching: the package is compressed by a recipe of one weight and run whole."""
    library = FormattedWeights(package / MLPACKAGE, formats_of(searched))
    weight = next(name for name in library.weights if SENSITIVE in name)
    path = tmp_path / "one.yaml"
    path.write_text(f"steps:\n  - {{kind: palettize, weights: {{{weight}: {{nbits: 3}}}}}}\n")
    compress_mlpackage(package / MLPACKAGE, tmp_path / "one.mlpackage", get_recipe(path))
    answers = [
        [PortableSession(mlpackage).predict(batch)["logits"][0].astype(np.float64) for batch in calibration.batches]
        for mlpackage in (package / MLPACKAGE, tmp_path / "one.mlpackage")
    ]
    expected, actual = (np.array(a) - np.log(np.exp(np.array(a)).sum(-1, keepdims=True)) for a in answers)
    by_hand = (np.exp(expected) * (expected - actual)).sum(-1).mean()
    (path,) = searched.glob("measured-*.json")
    numbers = json.loads(path.read_text())["numbers"]
    assert numbers[f"harm | {weight} | palette3"] == pytest.approx(by_hand, rel=1e-6)
    assert by_hand > 0


def test_the_weights_that_are_scored_are_those_of_the_saved_package(package, calibration, searched, tmp_path):
    """What the bisection tries in memory answers bit for bit as what is saved."""

    class First:
        name = "first"

        def drop(self, session):
            sessions.append(session)
            return 0.0

    sessions = []
    found = search_mixed(package, searched, Budget(accuracy_drop=1.0), calibration, First(), quiet=True)
    saved = PortableSession(applied(package, found, tmp_path))
    for batch in calibration.batches:
        np.testing.assert_array_equal(sessions[-1].predict(batch)["logits"], saved.predict(batch)["logits"])


class Counting:
    """Takes the PSNR-like distance from the package for a drop, and counts how often it is asked."""

    name = "counting"

    def __init__(self, package, batches):
        self.asked = 0
        self._batches = batches
        session = PortableSession(package / MLPACKAGE)
        self._expected = [session.predict(batch)["logits"] for batch in batches]

    def drop(self, session):
        self.asked += 1
        answers = [session.predict(batch)["logits"] for batch in self._batches]
        return 100 * float(np.mean([np.abs(a - b).mean() for a, b in zip(answers, self._expected, strict=True)]))


def test_an_accuracy_budget_finds_a_small_package_within_it_in_few_evaluations(
    package, calibration, searched, tmp_path
):
    scorer = Counting(package, calibration.batches)
    loose = search_mixed(package, searched, Budget(accuracy_drop=50), calibration, scorer, quiet=True)
    assert scorer.asked <= 9
    assert scorer.drop(PortableSession(applied(package, loose, tmp_path, "loose"))) <= 50
    tight = search_mixed(package, searched, Budget(accuracy_drop=5), calibration, scorer, quiet=True)
    assert scorer.drop(PortableSession(applied(package, tight, tmp_path, "tight"))) <= 5
    assert loose.size_ratio < tight.size_ratio


def test_both_budgets_hold_together_or_the_error_says_so(package, calibration, searched):
    scorer = Counting(package, calibration.batches)
    found = search_mixed(package, searched, Budget(0.4, 50), calibration, scorer, quiet=True)
    assert found.size_ratio <= 0.4
    with pytest.raises(CompressionError, match=r"within max_size_ratio 0\.2 keeps the drop within 0\.1"):
        search_mixed(package, searched, Budget(0.2, 0.1), calibration, scorer, quiet=True)


def test_a_size_that_nothing_reaches_is_refused_with_the_least_one(package, calibration, searched):
    with pytest.raises(CompressionError, match=r"smallest format of every weight takes 0\.\d+"):
        search_mixed(package, searched, Budget(size_ratio=0.05), calibration, quiet=True)


@pytest.mark.parametrize("numbers", [(), (0.0,), (1.5,)])
def test_a_budget_of_nothing_is_refused(numbers):
    with pytest.raises(CompressionError, match="max_size_ratio"):
        Budget(*numbers)


def test_a_killed_search_goes_on_where_it_stopped(package, calibration, few_formats, tmp_path, monkeypatch):
    written = []
    write = Measurements.write

    def killed(self, value, *key):
        write(self, value, *key)
        written.append(key)
        if len(written) == 20:
            raise KeyboardInterrupt

    monkeypatch.setattr(Measurements, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        search_mixed(package, tmp_path, Budget(size_ratio=0.5), calibration, quiet=True)
    made = []
    compress = weight_formats.compress_mlpackage
    monkeypatch.setattr(weight_formats, "compress_mlpackage", lambda *args: made.append(1) or compress(*args))
    resumed = search_mixed(package, tmp_path, Budget(size_ratio=0.5), calibration, quiet=True)
    assert not made
    assert len(set(written)) == len(written)  # nothing was measured twice
    monkeypatch.setattr(Measurements, "write", write)
    whole = search_mixed(package, tmp_path / "other", Budget(size_ratio=0.5), calibration, quiet=True)
    assert resumed.text == whole.text


def test_drops_that_were_measured_are_not_measured_again(package, calibration, searched):
    scorer = Counting(package, calibration.batches)
    scorer.name = "kept"
    first = search_mixed(package, searched, Budget(accuracy_drop=20), calibration, scorer, quiet=True)
    asked = scorer.asked
    second = search_mixed(package, searched, Budget(accuracy_drop=20), calibration, scorer, quiet=True)
    assert asked > 0
    assert scorer.asked == asked
    assert first.text == second.text


def test_other_data_begin_another_notebook(package, searched):
    before = set(searched.glob("measured-*.json"))
    other = calibration_of_random_tokens(package, rows=2, seed=1)
    search_mixed(package, searched, Budget(size_ratio=0.4), other, quiet=True)
    assert len(set(searched.glob("measured-*.json")) - before) == 1


def test_another_package_begins_other_forms_in_the_same_folder(package, calibration, few_formats, tmp_path):
    folder = tmp_path / "search"
    search_mixed(package, folder, Budget(size_ratio=0.5), calibration, quiet=True)
    other = tmp_path / "other"
    shutil.copytree(package, other)
    weights = other / MLPACKAGE / "Data/com.apple.CoreML/weights/weight.bin"
    content = bytearray(weights.read_bytes())
    content[200:202] = b"\x00\x00"  # one number of the first weight, the embedding table
    weights.write_bytes(content)
    search_mixed(other, folder, Budget(size_ratio=0.5), calibration, quiet=True)
    assert len(list(folder.glob("formats-*"))) == len(list(folder.glob("measured-*.json"))) == 2


def test_a_damaged_notebook_is_begun_anew(tmp_path):
    measurements = Measurements(tmp_path, {"a": 1})
    measurements.write(0.5, "harm", "w", "int8")
    assert Measurements(tmp_path, {"a": 1}).number("harm", "w", "int8") == 0.5
    assert Measurements(tmp_path, {"a": 2}).number("harm", "w", "int8") is None
    for text in ("{", "[1]", '{"of": 1}'):
        measurements.path.write_text(text)
        assert Measurements(tmp_path, {"a": 1}).number("harm", "w", "int8") is None


def test_a_changed_session_and_a_trial_answer_alike(package, calibration):
    opened = Package(package / MLPACKAGE)
    weights = weights_by_name(opened, MAIN)
    name = next(n for n in weights if SENSITIVE in n and "weight" in n)
    other = next(n for n in weights if "layer_1_ffn_lin2" in n and "weight" in n)
    runner = VariantRunner(opened, calibration.batches, MAIN)
    (trial,) = runner.trials([name], lambda weight: {"swapped": lambda: weights[other]})
    session = ChangedSession(opened, {name: weights[other]}, MAIN)
    for batch, outputs, before in zip(calibration.batches, trial.outputs, runner.baseline, strict=True):
        np.testing.assert_array_equal(session.predict(batch)["logits"], outputs["logits"])
        assert not np.array_equal(outputs["logits"], before["logits"])


def test_a_trial_leaves_no_trace_on_the_next(package, calibration):
    opened = Package(package / MLPACKAGE)
    weights = weights_by_name(opened, MAIN)
    names = [n for n in weights if n.endswith(("lin_weight_carried_to_fp16", "lin1_weight_carried_to_fp16"))]
    runner = VariantRunner(opened, calibration.batches, MAIN)
    for trial in runner.trials(names, lambda weight: {"itself": lambda: weights[weight]}):
        for outputs, before in zip(trial.outputs, runner.baseline, strict=True):
            np.testing.assert_array_equal(outputs["logits"], before["logits"])


def test_tables_have_forms_of_their_own(package, searched):
    library = FormattedWeights(package / MLPACKAGE, formats_of(searched))
    table = next(name for name in library.weights if "word_embeddings" in name)
    other = next(name for name in library.weights if SENSITIVE in name)
    assert "int4-block32" in library.formats_of(table)
    assert "int4-block32" not in library.formats_of(other)
    # 100 rows do not divide into groups of 16, 64 columns do.
    assert "palette4-g16" not in library.formats_of(table)
    assert "palette4-g16-width" in library.formats_of(table)


def test_the_distance_of_classes_is_the_divergence_and_leaves_padding_out():
    rng = np.random.default_rng(0)
    mask = np.array([[1, 1, 0]])
    expected, actual = rng.standard_normal((2, 1, 3, 4)).astype(np.float32)
    far = actual.copy()
    far[0, 2] = 1e3  # padding
    distance = Distance(
        Calibration(({"attention_mask": mask},), "", ""), [{"logits": expected}], of_classes=True
    )  # fmt: skip
    p, q = (torch.from_numpy(array[0, :2]).double().softmax(-1) for array in (expected, actual))
    by_torch = torch.nn.functional.kl_div(q.log(), p, reduction="batchmean").item()
    assert distance([{"logits": far}]) == pytest.approx(by_torch, rel=1e-6)
    assert distance([{"logits": expected}]) == 0
    far[0, 0] = np.nan
    assert distance([{"logits": far}]) == np.inf


def test_the_distance_of_numbers_is_the_relative_power_of_the_error():
    batches = ({"attention_mask": np.ones((1, 2))},) * 2
    distance = Distance(
        Calibration(batches, "", ""), [{"x": np.array([[3.0, 4.0]])}, {"x": np.array([[0.0, 5.0]])}], of_classes=False
    )
    # Power: (12.5 + 12.5) / 2. Errors: 0.5 and 0, averaged.
    answer = [{"x": np.array([[4.0, 4.0]])}, {"x": np.array([[0.0, 5.0]])}]
    assert distance(answer) == pytest.approx(0.25 / 12.5)


def test_rows_of_a_dataset_are_tokenised_as_the_package_takes_them(package, tmp_path):
    path = tmp_path / "data.tsv"
    path.write_text("a fine film\t0\n" + "dull " * 40 + "\t1\nthe plot\t1\n")
    calibration = calibration_of_dataset(package, DatasetSpec(str(path)), rows=2)
    assert len(calibration.batches) == 2
    for batch in calibration.batches:
        assert batch["input_ids"].shape == batch["attention_mask"].shape == (1, 16)
        assert batch["input_ids"].dtype == np.int32
    assert calibration.name.startswith("2 rows of ")
    again = calibration_of_dataset(package, DatasetSpec(str(path)), rows=2)
    assert again.digest == calibration.digest
    assert calibration_of_dataset(package, DatasetSpec(str(path)), rows=2, seed=3).digest != calibration.digest


def test_options_are_measured_only_where_they_are_missing(package, calibration, searched):
    library = FormattedWeights(package / MLPACKAGE, formats_of(searched))
    seen = []
    options = measure_options(
        library, calibration, Measurements(searched, {"fresh": 1}), of_classes=True, progress=lambda *n: seen.append(n)
    )
    assert seen[-1][0] == seen[-1][1] == len(seen)
    assert all(option.size > 0 for formats in options.values() for option in formats)
    assert {formats[0].format for formats in options.values()} == {"fp16"}


@pytest.mark.parametrize(
    ("recipe", "options", "says"),
    [
        ("int8", {"dataset": "x.tsv"}, "calibration_dataset says nothing to the recipe int8"),
        ("int8-activations", {"max_size_ratio": 0.3}, "max_size_ratio says nothing"),
        ("mixed", {}, "needs a budget"),
        ("no-such", {}, "no recipe 'no-such'"),
    ],
)
def test_options_that_say_nothing_and_budgets_that_lack_are_named(package, tmp_path, recipe, options, says):
    with pytest.raises(CompressionError, match=says):
        prepare_recipe(package, recipe, tmp_path / "out", Calibrating(**options))


def test_a_recipe_prepared_for_a_package_is_named_mixed_and_leaves_a_file(package, few_formats, tmp_path):
    calibrating = Calibrating(samples=2, max_size_ratio=0.5)
    prepared = prepare_recipe(package, "mixed", tmp_path / "out", calibrating, quiet=True)
    assert prepared.recipe.name == "mixed"
    assert (tmp_path / "out.search").is_dir()
    prepared.finish(tmp_path / "out.yaml")
    assert not (tmp_path / "out.search").exists()
    assert get_recipe(tmp_path / "out.yaml").steps == prepared.recipe.steps
