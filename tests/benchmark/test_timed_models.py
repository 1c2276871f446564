"""What is timed answers as it does for a user, and the model class around it is measured and not counted."""

import json
import shutil
import time

import numpy as np
import pytest
import torch
from tiny_models import make_original, save_checkpoint
from transformers import AutoConfig

from optimum_ane import export
from optimum_ane.benchmark.memory import ProcessMeasurement
from optimum_ane.benchmark.recorded_session import RecordedSession, Recorder
from optimum_ane.benchmark.timed_models import (
    LoadedOriginal,
    LoadedPackage,
    LoadedProgram,
    TimedModel,
    load_timed_model,
)
from optimum_ane.benchmark.timing import Settings
from optimum_ane.errors import InputError, PackageError
from optimum_ane.modeling import model_class_of
from optimum_ane.package.form import ExportForm
from optimum_ane.package.manifest import Manifest
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.workflows.benchmark import Engines, benchmark_package
from optimum_ane.workflows.benchmark_preparation import make_inputs, open_package

QUICK = Settings(iterations=2, warmup=0, rounds=1, pause=0)
LENGTHS = (8, 16)


def measured(model, inputs, threads):
    return ProcessMeasurement(0.5, 12.0, 3_000_000)


ENGINES = Engines(has_coreml=False, measure_process=measured)


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A checkpoint on disk and its package of two lengths."""
    folder = tmp_path_factory.mktemp("several")
    save_checkpoint(folder / "checkpoint", "bert", "token-classification")
    export(str(folder / "checkpoint"), folder / "package", sequence_length=LENGTHS, validate=False, quiet=True)
    return folder / "package"


class CountedSession:
    """A session that takes its time, notes what it was asked, and runs a row at a time, as Core ML does."""

    runtime = "portable"

    def __init__(self, session, asked, seconds=0.0):
        self.session, self.asked, self.seconds = session, asked, seconds
        self.function_name, self.functions = session.function_name, session.functions
        self.inputs, self.outputs, self.states = session.inputs, session.outputs, session.states

    def function(self, name):
        return CountedSession(self.session.function(name), self.asked, self.seconds)

    def with_rows(self, rows):
        return self

    def predict(self, inputs, state=None, *, intermediates=()):
        self.asked.append((self.function_name, {name: value.copy() for name, value in inputs.items()}))
        time.sleep(self.seconds)
        return self.session.predict(inputs, state, intermediates=intermediates)


def loaded(directory, asked, seconds=0.0):
    manifest = Manifest.read(directory)
    session = CountedSession(PortableSession(directory / manifest.programs[0].path), asked, seconds)
    return LoadedPackage({"model": session}, directory, manifest)


def rows(*lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths)
    mask = (torch.arange(width)[None, :] < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": torch.randint(5, 90, (len(lengths), width), generator=generator), "attention_mask": mask}


def test_what_is_timed_are_the_predictions_of_one_call_each_on_its_own_arrays(several):
    asked = []
    package = loaded(several, asked)
    inputs = rows(16, 3, 8, 9)
    predict = package.prediction(inputs)
    first, asked[:] = asked.copy(), []
    assert [name for name, _ in first] == ["seq_8", "seq_8", "seq_16", "seq_16"]
    for _ in range(2):
        asked[:] = []
        predict()
        assert [name for name, _ in asked] == [name for name, _ in first]
        for (_, ours), (_, theirs) in zip(asked, first, strict=True):
            assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_a_loaded_package_answers_as_its_model_class_does(several):
    inputs = rows(16, 3, 8, 9)
    config = AutoConfig.from_pretrained(several)
    manifest = Manifest.read(several)
    model = model_class_of("token-classification")(
        {"model": PortableSession(several / "model.mlpackage")}, config, manifest
    )
    package = load_timed_model(TimedModel("package", "portable", str(several), manifest.form))
    assert torch.equal(package(**inputs).logits, model(**inputs).logits)


def test_the_time_of_the_model_class_has_none_of_its_predictions_in_it(several):
    asked = []
    package = loaded(several, asked, seconds=0.02)
    around = package.model_class_ms(rows(16, 3, 8, 9))
    assert len(asked) == 4  # of one call; the others were answered from memory
    assert 0 < around < 10  # four predictions take 80 at the least


def test_a_recorder_that_answers_from_memory_gives_what_it_was_told_in_order(several):
    recorder = Recorder()
    session = RecordedSession(PortableSession(several / "model.mlpackage", "seq_8"), recorder)
    one, two = ({name: np.full((1, 8), value, np.int32) for name in session.inputs} for value in (1, 0))
    with recorder.record() as calls:
        answers = [session.predict(one)["logits"], session.predict(two)["logits"]]
    assert not np.array_equal(*answers)
    session.predict(one)
    assert len(calls) == 2  # the third was made when nothing was recorded
    with recorder.recall(calls):
        assert np.array_equal(session.predict({})["logits"], answers[0])
        assert np.array_equal(session.predict({})["logits"], answers[1])


def test_a_model_to_measure_survives_the_way_to_another_process():
    form = ExportForm("feature-extraction", sequence_length=(8, 16), batch_size=3, pooling="mean", normalize=True)
    model = TimedModel("stock", "coreml", "a/b", form, compute_units="all", revision="abc")
    assert TimedModel.from_dict(json.loads(json.dumps(model.to_dict()))) == model
    bare = TimedModel("package", "portable", "a.mlpackage")
    assert TimedModel.from_dict(json.loads(json.dumps(bare.to_dict()))) == bare
    with pytest.raises(PackageError, match="the model to measure: kind is 'fast'"):
        TimedModel.from_dict(model.to_dict() | {"kind": "fast"})


def test_each_length_of_a_package_is_a_shape_and_others_are_exported(several):
    report = benchmark_package(several, settings=QUICK, engines=ENGINES)
    found = [(row.kind, row.batch_size, row.sequence_length) for row in report.rows]
    assert found == [(kind, 1, length) for length in LENGTHS for kind in ("package", "stock", "original")]
    assert all(row.psnr > 50 for row in report.rows if row.kind != "original")
    assert all(row.model_class_ms > 0 for row in report.rows if row.kind != "original")
    assert {row.model_class_ms for row in report.rows if row.kind == "original"} == {None}
    sizes = {row.size_bytes for row in report.rows if row.kind == "package"}
    assert len(sizes) == 1
    options = {"with_stock": False, "settings": QUICK, "engines": ENGINES}
    own, other = (row for row in benchmark_package(several, sequence_lengths=[8, 12], **options).rows[::2])
    assert own.size_bytes in sizes
    assert (other.sequence_length, other.kind) == (12, "package")
    assert other.size_bytes not in sizes
    assert other.psnr > 50


def test_rows_of_one_length_take_the_function_of_that_length(several):
    package = open_package(several, None, False)
    for form in package.forms([], []):
        asked = []
        loaded(several, asked).prediction(make_inputs(package, form, seed=0))
        ((name, arrays),) = asked
        assert name == f"seq_{form.longest}"
        assert arrays["attention_mask"].all()  # every row full


def test_a_shape_that_a_package_of_several_lengths_lacks_names_all_that_it_has(several):
    with pytest.raises(InputError, match="has the shape 1 × 8 or 16; to time 2 × 8"):
        benchmark_package(several, batch_sizes=[2], with_original=False, settings=QUICK, engines=ENGINES)


@pytest.mark.parametrize(
    ("task", "options", "stock_note"),
    [
        ("feature-extraction", {"pooling": "mean", "normalize": True}, True),
        ("feature-extraction", {}, False),
        ("question-answering", {}, False),
        ("multiple-choice", {"batch_size": 2}, False),
        ("text-classification", {"class_labels": True}, False),
        ("fill-mask", {"precision": "float32"}, False),
    ],
)
def test_every_task_is_compared_through_its_own_fields(task, options, stock_note, tmp_path):
    save_checkpoint(tmp_path / "checkpoint", "distilbert" if task != "multiple-choice" else "bert", task)
    export(str(tmp_path / "checkpoint"), tmp_path / "out", task=task, sequence_length=8, validate=False, quiet=True,
           **options)  # fmt: skip
    report = benchmark_package(tmp_path / "out", settings=QUICK, engines=ENGINES)
    package, stock, original = report.rows
    assert (package.kind, stock.kind, original.kind) == ("package", "stock", "original")
    assert package.precision == stock.precision == options.get("precision", "float16")
    least = 90 if "precision" in options else 50
    assert package.psnr > least
    assert stock.psnr > least
    assert any("gives hidden states" in note for note in report.notes) is stock_note


def test_another_original_is_seen_in_the_answers(several, tmp_path):
    save_checkpoint(tmp_path / "other", "bert", "token-classification", seed=1)
    report = benchmark_package(
        several, compare=str(tmp_path / "other"), with_stock=False, settings=QUICK, engines=ENGINES
    )
    assert all(row.psnr < 30 for row in report.rows if row.kind == "package")


def test_a_bare_program_is_predicted_on_its_own_inputs(several):
    session = PortableSession(several / "model.mlpackage")
    program = LoadedProgram(session)
    inputs = {name: torch.ones(spec.shape, dtype=torch.int32) for name, spec in session.inputs.items()}
    expected = session.predict({name: value.numpy() for name, value in inputs.items()})["logits"]
    assert np.array_equal(program(**inputs)["logits"], expected)
    assert np.array_equal(program.prediction(inputs)()["logits"], expected)
    assert program.model_class_ms(inputs) is None


def test_a_package_without_its_configuration_is_refused(several, tmp_path):
    shutil.copytree(several, tmp_path / "package")
    (tmp_path / "package" / "config.json").unlink()
    form = Manifest.read(several).form
    with pytest.raises(PackageError, match=r"holds no config\.json that transformers reads"):
        load_timed_model(TimedModel("package", "portable", str(tmp_path / "package"), form))


def test_the_original_is_timed_as_a_package_that_pools_is_compared(tmp_path):
    original = make_original("distilbert", "feature-extraction")
    inputs = rows(8, 5)
    form = ExportForm("feature-extraction", sequence_length=8, pooling="cls", normalize=True)
    answer = LoadedOriginal(original, form)(**inputs).pooler_output
    hidden = original(**inputs).last_hidden_state[:, 0]
    assert torch.allclose(answer, hidden / hidden.norm(dim=1, keepdim=True), atol=1e-6)
