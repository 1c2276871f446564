import json
import math
import shutil
from dataclasses import replace

import coremltools as ct
import pytest
import torch
from rich.console import Console
from tiny_models import save_checkpoint

from optimum_ane import export
from optimum_ane.benchmark.memory import ProcessMeasurement, measure_process
from optimum_ane.benchmark.plot import draw
from optimum_ane.benchmark.report import BenchmarkReport
from optimum_ane.benchmark.table import print_report
from optimum_ane.benchmark.timed_models import TimedModel
from optimum_ane.benchmark.timing import Settings
from optimum_ane.errors import CheckpointError, ExecutionError, InputError, OutputError, RuntimeUnavailableError
from optimum_ane.package.form import ExportForm
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.workflows import benchmark as comparison
from optimum_ane.workflows.benchmark import Engines, benchmark_package

BALLAST = 240_000_000
"""Bytes that this process holds while others measure themselves."""
QUICK = Settings(iterations=4, warmup=1, rounds=2, pause=0.001, paused_iterations=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny checkpoint on disk, and its package of 1 × 16."""
    folder = tmp_path_factory.mktemp("benchmark")
    save_checkpoint(folder / "checkpoint", "bert", "text-classification")
    export(str(folder / "checkpoint"), folder / "package", sequence_length=16, validate=False, quiet=True)
    return folder


def without_processes(has_coreml=False, load=None):
    """Engines that start no processes; `load` stands for Core ML."""
    measured = lambda model, inputs, threads: ProcessMeasurement(0.5, 12.0, 3_000_000)  # noqa: E731
    return Engines(has_coreml=has_coreml, load=load, measure_process=measured)


@pytest.fixture(scope="module")
def report(made):
    ballast = torch.ones(BALLAST // 4)
    report = benchmark_package(made / "package", settings=QUICK)
    assert ballast.nbytes == BALLAST
    return report


def test_off_a_mac_the_portable_runtime_is_timed_beside_pytorch_and_says_what_that_is_worth(report):
    assert [(row.kind, row.runtime, row.compute_units, row.precision) for row in report.rows] == [
        ("package", "portable", None, "float16"),
        ("stock", "portable", None, "float16"),
        ("original", "pytorch", None, "float32"),
    ]
    assert {(row.batch_size, row.sequence_length) for row in report.rows} == {(1, 16)}
    assert "no statement about an Apple device" in report.statement
    assert report.original == "checkpoint"
    for row in report.rows:
        assert (row.burst.count, row.paused.count) == (4, 2)
        assert 0 < row.burst.min_ms <= row.burst.median_ms <= row.burst.p90_ms <= row.burst.p99_ms
        assert row.load_seconds > 0
        assert row.first_prediction_ms > 0
        assert row.size_bytes > 10_000
    package, stock, original = report.rows
    assert package.psnr > 50
    assert stock.psnr > 50
    assert original.psnr is original.times_as_fast is None
    assert package.times_as_fast > 0


def test_a_report_survives_json(report, tmp_path):
    report = replace(report, rows=(replace(report.rows[0], psnr=-math.inf), *report.rows[1:]), notes=("a note",))
    report.write(tmp_path / "report.json")
    entries = json.loads((tmp_path / "report.json").read_text())
    assert entries["rows"][0]["psnr"] == "-inf"
    assert [row["is_noisy"] for row in entries["rows"]] == [row.is_noisy for row in report.rows]
    assert BenchmarkReport.from_dict(entries) == report
    assert {"chip", "system", "architecture"} <= entries["machine"].keys()
    assert {"coremltools", "torch", "python"} <= entries["versions"].keys()


def test_a_report_of_another_format_or_damaged_is_refused(report):
    with pytest.raises(InputError, match="has format 99, this version reads 2"):
        BenchmarkReport.from_dict(report.to_dict() | {"format_version": 99})
    with pytest.raises(InputError, match="damaged"):
        BenchmarkReport.from_dict(report.to_dict() | {"rows": [{"kind": "package"}]})


def test_the_table_holds_every_row_and_what_it_rests_on(report):
    console = Console(record=True, width=119, file=open("/dev/null", "w"))  # noqa: SIM115
    noisy = replace(report.rows[0], burst=replace(report.rows[0].burst, spread=0.5, median_ms=123.456))
    quiet = replace(report.rows[1], burst=replace(report.rows[1].burst, spread=0.0, drift=0.0, median_ms=77.7))
    print_report(replace(report, rows=(noisy, quiet), notes=("left out: x",)), console)
    text = console.export_text()
    assert "~ 123.46" in text
    assert "~ 77.70" not in text
    assert "77.70" in text
    assert "NOISY RUN: rows with ~ spread by up to 50%" in text
    assert report.machine.chip in text
    assert "no statement about an Apple device" in text
    assert "left out: x" in text
    assert "…" not in text  # nothing is cut off


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_picture_is_drawn(report, tmp_path, suffix):
    path = tmp_path / f"picture.{suffix}"
    draw(report, path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG" if suffix == "png" else b"<?xml")
    if suffix == "svg":
        assert b"this package, portable" in content
        assert b"no statement about an Apple device" in content


def test_a_sweep_is_drawn_as_curves_and_an_unknown_format_is_refused(report, tmp_path):
    rows = tuple(replace(row, sequence_length=n, batch_size=b) for row in report.rows for n in (8, 16) for b in (1, 4))
    draw(replace(report, rows=rows), tmp_path / "sweep.svg")
    text = (tmp_path / "sweep.svg").read_text()
    assert "batch 4" in text
    assert text.count("this package, portable") == 1
    with pytest.raises(OutputError, match=r"ends in one of \.png, \.svg"):
        draw(report, tmp_path / "picture.bmp")


def test_other_shapes_are_exported_for_the_purpose_and_leave_nothing_behind(made, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = sorted(path.relative_to(made) for path in made.rglob("*"))
    report = benchmark_package(
        made / "package",
        batch_sizes=[1, 2],
        sequence_lengths=[16, 24],
        with_stock=False,
        settings=replace(QUICK, pause=0),
        engines=without_processes(),
    )
    shapes = [(row.batch_size, row.sequence_length) for row in report.rows if row.kind == "package"]
    assert shapes == [(1, 16), (1, 24), (2, 16), (2, 24)]
    assert {row.kind for row in report.rows} == {"package", "original"}
    assert all(row.psnr > 50 for row in report.rows if row.kind == "package")
    assert all(row.paused is None for row in report.rows)
    assert sorted(path.relative_to(made) for path in made.rglob("*")) == before
    assert not list(tmp_path.glob("optimum-ane-*"))  # coremltools removes its own when the process ends


class FakeMLModel:
    """What coremltools' MLModel is on a Mac, answered by the portable runtime."""

    def __init__(self, path, units, function_name):
        self._model = ct.models.MLModel(path, skip_model_load=True)
        self._session = PortableSession(path, function_name)
        self.units, self.function_name, self.predictions = units, function_name, 0

    def get_spec(self):
        return self._model.get_spec()

    def predict(self, inputs):
        self.predictions += 1
        return self._session.predict(inputs)


def test_on_a_mac_each_program_runs_on_each_of_the_compute_units(made):
    loaded = []

    def load(path, units, function_name):
        loaded.append(FakeMLModel(path, units, function_name))
        return loaded[-1]

    report = benchmark_package(made / "package", settings=QUICK, engines=without_processes(True, load))
    units = ["cpu_and_ne", "all", "cpu_and_gpu", "cpu_only"]
    assert [(row.kind, row.compute_units) for row in report.rows] == [
        *(("package", each) for each in units),
        *(("stock", each) for each in units),
        ("original", None),
    ]
    assert [each.units for each in loaded] == [ct.ComputeUnit[name.upper()] for name in units] * 2
    # One for the answer and one to see what is predicted, 2 × (1 + 2) in the burst, 2 after pauses; one more to see
    # what the model class takes around them.
    assert [each.predictions for each in loaded] == [11] * 8
    assert report.statement.startswith("Core ML on this machine")
    assert {(row.load_seconds, row.first_prediction_ms, row.memory_bytes) for row in report.rows} == {(0.5, 12.0, 3e6)}


def test_only_the_compute_units_asked_for_are_timed(made):
    report = benchmark_package(
        made / "package",
        settings=QUICK,
        with_stock=False,
        with_original=False,
        compute_units=["cpu_only", "cpu_only"],
        engines=without_processes(True, FakeMLModel),
    )
    assert [(row.kind, row.compute_units, row.times_as_fast) for row in report.rows] == [("package", "cpu_only", None)]
    assert report.original is None


def test_compute_units_are_refused_where_there_is_no_core_ml(made):
    with pytest.raises(RuntimeUnavailableError, match="needs macOS"):
        benchmark_package(made / "package", compute_units=["all"], engines=without_processes())


def test_a_bare_program_is_timed_by_itself_in_its_own_shape(made):
    mlpackage = made / "package" / "model.mlpackage"
    report = benchmark_package(mlpackage, settings=QUICK, engines=without_processes())
    (row,) = report.rows
    assert (row.kind, row.batch_size, row.precision, row.psnr) == ("package", None, None, None)
    assert "timed by itself" in report.notes[0]
    with pytest.raises(InputError, match="its own shape only"):
        benchmark_package(mlpackage, sequence_lengths=[8], engines=without_processes())
    with pytest.raises(InputError, match="does not say its task"):
        benchmark_package(mlpackage, compare=str(made / "checkpoint"), engines=without_processes())


def test_an_original_that_is_gone_or_another_is_named_with_the_remedy(made, tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot be loaded: .*compare.*with_original=False"):
        benchmark_package(made / "package", compare=str(tmp_path / "gone"), engines=without_processes())
    save_checkpoint(tmp_path / "other", "distilbert", "text-classification")
    with pytest.raises(CheckpointError, match="is a distilbert, the package was made from a bert"):
        benchmark_package(made / "package", compare=str(tmp_path / "other"), engines=without_processes())


def test_another_shape_without_the_checkpoint_is_refused(made):
    with pytest.raises(InputError, match=r"shape 1 × 16; to time 1 × 32 .*leave out with_original=False"):
        benchmark_package(made / "package", sequence_lengths=[32], with_original=False, engines=without_processes())


def compressed(made, folder, recipe):
    """The package, with a recipe written into its description."""
    shutil.copytree(made / "package", folder)
    description = json.loads((folder / "ane_config.json").read_text())
    (folder / "ane_config.json").write_text(json.dumps(description | {"compression": recipe}))
    return folder


def test_another_shape_of_a_compressed_package_is_compressed_as_well(made, tmp_path):
    package = compressed(made, tmp_path / "int8", "int8")
    options = {"with_stock": False, "settings": QUICK, "engines": without_processes()}
    (small, *_) = benchmark_package(package, sequence_lengths=[24], **options).rows
    (large, *_) = benchmark_package(made / "package", sequence_lengths=[24], **options).rows
    assert small.size_bytes < 0.85 * large.size_bytes
    package = compressed(made, tmp_path / "own", "my.yaml")
    with pytest.raises(InputError, match=r"compressed with 'my\.yaml', a recipe of its own; export it for 1 × 24"):
        benchmark_package(package, sequence_lengths=[24], **options)


def test_a_checkpoint_without_a_stock_conversion_is_timed_without_it_and_the_reason_stands_there(made, monkeypatch):
    def refuse(*_, **__):
        raise comparison.UnsupportedModelError("Bert has no stock-layout conversion: of no use")

    monkeypatch.setattr(comparison, "make_stock", refuse)
    report = benchmark_package(made / "package", settings=QUICK, engines=without_processes())
    assert [row.kind for row in report.rows] == ["package", "original"]
    assert report.notes == ("no stock-layout conversion 1 × 16: Bert has no stock-layout conversion: of no use",)


FORM = ExportForm("text-classification", sequence_length=16)


def test_memory_is_of_one_model_whatever_this_process_holds(report):
    assert all(0 < row.memory_bytes < BALLAST / 2 for row in report.rows)


def test_memory_grows_with_the_weights(report, tmp_path):
    save_checkpoint(tmp_path, "distilbert", "text-classification", intermediate_size=100_000)  # × 48 × 4: 77 MB
    inputs = {name: torch.ones(1, 16, dtype=torch.int64) for name in ("input_ids", "attention_mask")}
    large = measure_process(TimedModel("original", "pytorch", str(tmp_path), FORM), inputs, 1)
    assert 70e6 < large.memory_bytes - report.rows[2].memory_bytes < 250e6


def test_a_process_that_fails_is_quoted(tmp_path):
    model = TimedModel("package", "portable", str(tmp_path / "gone"), FORM)
    with pytest.raises(ExecutionError, match=r"package could not be measured.*gone holds no ane_config\.json"):
        measure_process(model, {}, threads=1)
