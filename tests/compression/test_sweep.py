"""Sweeps of a tiny package: what is measured, what is skipped, what is marked and drawn."""

import io
import json
from pathlib import Path
from xml.etree import ElementTree

import coremltools as ct
import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import AutoTokenizer

from optimum_ane.compression import sweep as module
from optimum_ane.compression.accuracy_scorer import AccuracyScorer
from optimum_ane.compression.recipes import get_recipe
from optimum_ane.compression.sweep import Point, Sweep, mark_best, sweep
from optimum_ane.compression.sweep_report import draw_sweep, print_sweep
from optimum_ane.errors import CompressionError
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.package.layout import MLPACKAGE
from optimum_ane.runtimes.portable import PortableSession


def recipe(folder, name, steps):
    path = Path(folder) / f"{name}.yaml"
    path.write_text(f"summary: of a test\nsteps:\n{steps}")
    return get_recipe(path)


INT8 = "  - {kind: quantize, global: {dtype: int8, weight_threshold: 100}}\n"
PALETTE2 = "  - {kind: palettize, global: {nbits: 2, weight_threshold: 100}}\n"
NO_SUCH_WEIGHT = "  - {kind: palettize, weights: {no_such_weight: {nbits: 4}}}\n"


@pytest.fixture
def package(tiny_package):
    return tiny_package("distilbert", "text-classification", minimum_deployment_target="iOS18")


@pytest.fixture
def data(tmp_path):
    texts = ["a fine film", "dull and bad", "the plot was great", "very poor story", "not good", "gripping"]
    path = tmp_path / "data.tsv"
    path.write_text("".join(f"{text}\t{i % 2}\n" for i, text in enumerate(texts * 4)))
    return DatasetSpec(str(path))


@pytest.fixture
def scorer(package, data):
    return AccuracyScorer(package, data, with_reference=False)


def test_sizes_are_those_on_disk_and_scores_those_of_the_saved_package(package, scorer, tmp_path):
    recipes = [recipe(tmp_path, "eight", INT8), recipe(tmp_path, "two", PALETTE2)]
    found = sweep(package, recipes, tmp_path / "out", scorer.report, scored_by=scorer.name)
    assert [point.recipe for point in found.points] == ["as it is", "eight", "two"]
    whole, eight, two = found.points
    assert whole.weight_bytes == (package / MLPACKAGE / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size
    assert whole.ratio == 1
    assert whole.drop == 0
    assert whole.psnr is None  # equal
    assert two.weight_bytes < eight.weight_bytes < whole.weight_bytes
    assert two.psnr < eight.psnr
    # The same by coremltools' own hand, scored without any of our evaluation.
    config = ct.optimize.coreml.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=100)
    model = ct.models.MLModel(str(package / MLPACKAGE), skip_model_load=True)
    by_hand = ct.optimize.coreml.linear_quantize_weights(
        model, ct.optimize.coreml.OptimizationConfig(global_config=config)
    )
    by_hand.save(str(tmp_path / "hand.mlpackage"))
    session = PortableSession(tmp_path / "hand.mlpackage")
    tokenizer = AutoTokenizer.from_pretrained(package)
    right = 0
    for line in (tmp_path / "data.tsv").read_text().splitlines():
        text, label = line.split("\t")
        row = tokenizer(text, padding="max_length", max_length=16, return_tensors="np")
        inputs = {name: row[name].astype(np.int32) for name in session.inputs}
        right += int(session.predict(inputs)["logits"].argmax() == int(label))
    assert eight.right == right
    assert eight.rows == 24


def test_a_package_of_several_lengths_is_scored_with_each_row_in_its_own(
    package, tiny_package, data, scorer, tmp_path
):
    lengths = (7, 16)  # texts of up to five words, with two special tokens, fit into the shorter
    of_two = tiny_package("distilbert", "text-classification", sequence_length=lengths)
    scorer_of_two = AccuracyScorer(of_two, data, with_reference=False)
    asked = []

    def score(session):
        predict = PortableSession.predict

        def counted(self, *arguments, **options):
            asked.append(self.function_name)
            return predict(self, *arguments, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PortableSession, "predict", counted)
            return scorer_of_two.report(session)

    (several,) = sweep(of_two, [], tmp_path / "several", score, scored_by=scorer_of_two.name).points
    (one,) = sweep(package, [], tmp_path / "one", scorer.report, scored_by=scorer.name).points
    assert several.right == one.right
    assert set(asked) == {"seq_7"}


def test_a_recipe_that_fails_is_noted_and_the_others_go_on(package, scorer, tmp_path):
    recipes = [recipe(tmp_path, "wrong", NO_SUCH_WEIGHT), recipe(tmp_path, "eight", INT8)]
    found = sweep(package, recipes, tmp_path / "out", scorer.report, scored_by=scorer.name)
    assert "no_such_weight" in found.points[1].error
    assert not found.points[1].is_best
    assert found.points[2].error is None
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["sweep.json"]


def test_a_second_sweep_measures_only_what_is_new_or_failed(package, scorer, tmp_path, monkeypatch):
    made = []
    compress = module.compress_mlpackage

    def counted(source, target, recipe):
        made.append(recipe.name)
        return compress(source, target, recipe)

    monkeypatch.setattr(module, "compress_mlpackage", counted)
    eight, wrong = recipe(tmp_path, "eight", INT8), recipe(tmp_path, "wrong", NO_SUCH_WEIGHT)
    first = sweep(package, [eight, wrong], tmp_path / "out", scorer.report, scored_by=scorer.name)
    assert made == ["eight", "wrong"]
    two = recipe(tmp_path, "two", PALETTE2)
    second = sweep(package, [eight, wrong, two], tmp_path / "out", scorer.report, scored_by=scorer.name)
    assert made == ["eight", "wrong", "wrong", "two"]
    assert second.points[1].right == first.points[1].right
    # A file that changed under its name is another recipe, and other data are another sweep.
    eight = recipe(tmp_path, "eight", PALETTE2)
    third = sweep(package, [eight], tmp_path / "out", scorer.report, scored_by=scorer.name)
    assert made[4:] == ["eight"]
    assert third.points[1].weight_bytes == second.points[3].weight_bytes
    sweep(package, [eight], tmp_path / "out", scorer.report, scored_by="other data")
    assert made[5:] == ["eight"]


def test_a_sweep_that_is_killed_keeps_what_was_done(package, scorer, tmp_path):
    recipes = [recipe(tmp_path, "eight", INT8), recipe(tmp_path, "two", PALETTE2)]

    def killed(point):
        if point.recipe == "eight":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(package, recipes, tmp_path / "out", scorer.report, scored_by=scorer.name, on_point=killed)
    content = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert [entry["recipe"] for entry in content["points"]] == ["as it is", "eight"]

    def untouchable(session):
        assert session.path.parent != package
        return scorer.report(session)

    found = sweep(package, recipes, tmp_path / "out", untouchable, scored_by=scorer.name)
    assert [point.error for point in found.points] == [None, None, None]


def test_a_damaged_file_of_an_earlier_sweep_is_begun_anew(package, scorer, tmp_path):
    (tmp_path / "out").mkdir()
    for text in ("{", "[]", '{"of": {}, "points": 3}'):
        (tmp_path / "out" / "sweep.json").write_text(text)
        assert sweep(package, [], tmp_path / "out", scorer.report, scored_by="x").points[0].ratio == 1


def test_two_recipes_of_one_name_are_refused(package, scorer, tmp_path):
    with pytest.raises(CompressionError, match="two recipes are called eight"):
        sweep(package, [recipe(tmp_path, "eight", INT8)] * 2, tmp_path / "out", scorer.report, scored_by="x")


def point(name, size, score, **values):
    return Point(name, weight_bytes=size, score=score, metric="accuracy", rows=100, **values)


def test_the_pareto_front_by_hand():
    points = (
        point("best", 100, 0.90),
        point("as small as the next, worse", 50, 0.80),
        point("small", 50, 0.88),
        point("larger and worse", 60, 0.87),
        point("larger, as good", 70, 0.88),
        point("smallest", 10, 0.5),
        point("twin of the smallest", 10, 0.5),
        Point("failed", error="no"),
        point("no score", 1, None),
    )
    best = [p.recipe for p in mark_best(points) if p.is_best]
    assert best == ["best", "small", "smallest", "twin of the smallest"]


def test_the_pictures_are_sound_and_the_same_bytes_each_time(tmp_path):
    points = mark_best((point("as it is", 45e6, 0.889), point("a", 23e6, 0.888), point("b", 23e6, 0.871)))
    svg, png = draw_sweep(Sweep(points, "the original", None), tmp_path)
    ElementTree.parse(svg)
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    again = svg.read_bytes()
    draw_sweep(Sweep(points, "the original", None), tmp_path)
    assert svg.read_bytes() == again


def test_one_point_makes_no_picture(tmp_path):
    assert draw_sweep(Sweep((point("as it is", 1, 0.5),), "the original", None), tmp_path) == ()


def test_the_table_marks_the_front_and_says_why_a_recipe_failed():
    points = mark_best((
        point("a", 2_500_000, 0.88, right=88, drop=0.5, ratio=0.25, latency_ms=(0.5, 1.0, 2.0)),
        Point("b", error="it needs iOS18"),
    ))  # fmt: skip
    console = Console(file=io.StringIO(), width=160)
    print_sweep(Sweep(points, "the original", "A15"), console)
    text = console.file.getvalue()
    for part in ("a *", "2.50 MB", "0.250", "88 of 100", "+0.50", "1 (0.5–2)", "b failed: it needs iOS18"):
        assert part in text
    assert "an estimate with its range" in text


def test_the_original_runs_once_for_each_row(package, data):
    scorer = AccuracyScorer(package, data, with_reference=False)
    calls = []
    model = scorer._original._model
    scorer._original._model = lambda **inputs: calls.append(1) or model(**inputs)
    session = PortableSession(package / MLPACKAGE)
    with torch.inference_mode():
        first, second = scorer.report(session), scorer.report(session)
    assert len(calls) == 2  # batches of 16 in 24 rows
    assert first.drop == second.drop == 0
