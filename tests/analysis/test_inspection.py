"""The whole of an inspection, and the limits that it is held to."""

import json
from collections import Counter

import numpy as np
import pytest
from analysis_programs import save_program
from coremltools.converters.mil import Builder as mb  # noqa: N813
from tiny_models import make_original

from optimum_ane import export
from optimum_ane.analysis.gates import Gates
from optimum_ane.analysis.inspection import inspect
from optimum_ane.analysis.operations import count_operations
from optimum_ane.errors import InputError, PackageError, ValidationError


def half(*shape):
    return np.ones(shape, np.float16)


def build(x):
    """On the engine 2 · 64 · 8 · 8 = 8192 and under a condition 2 · 64 · 8 · 24 = 24576 operations; a sort between."""
    a = mb.conv(x=x, weight=half(8, 8, 1, 1), name="sure")
    b = mb.gather(x=a, indices=[0, 1, 2, 3, 4, 5, 6, 7], axis=1, name="cut")
    rows = mb.transpose(x=mb.squeeze(x=b, axes=[2]), perm=[0, 2, 1])
    return mb.linear(x=rows, weight=half(24, 8), name="open")


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return save_program(tmp_path_factory.mktemp("package") / "a.mlpackage", build, {"x": "fp16 1 8 1 64"})


@pytest.fixture(scope="module")
def inspection(package):
    return inspect(package)


def test_shares_add_up_to_the_program(inspection):
    assert {verdict: share.operations for verdict, share in inspection.shares.items()} == {
        "ane": 3,
        "conditional": 1,
        "fallback": 1,
    }
    assert {verdict: share.flops for verdict, share in inspection.shares.items()} == {
        "ane": 8192,
        "conditional": 24576,
        "fallback": 0,
    }
    assert inspection.flops_share("ane") == 0.25
    assert inspection.flops_share("conditional") == 0.75
    assert [(region.device, len(region.operations)) for region in inspection.regions] == [
        ("ane", 1),
        ("cpu", 2),  # the squeeze is where the gather is
        ("ane", 2),
    ]


def test_of_a_program_without_arithmetic_the_operations_are_shared(tmp_path):
    path = save_program(
        tmp_path / "a.mlpackage", lambda x: mb.topk(x=mb.expand_dims(x=x, axes=[0]), k=1)[0], {"x": "fp16 1 8"}
    )
    inspection = inspect(path)
    assert inspection.program.flops == inspection.shares["fallback"].flops == 8
    path = save_program(tmp_path / "b.mlpackage", lambda x: mb.expand_dims(x=x, axes=[0]), {"x": "fp16 1 8"})
    assert inspect(path).flops_share("ane") == 1


def test_the_summary_names_what_is_not_surely_on_the_engine_and_why(inspection):
    summary = inspection.summary()
    assert summary["crossings"] == 2
    assert summary["worst_offender"] == {"name": "cut", "type": "gather", "rule": "gather", "position": "middle"}
    assert [(group["rule"], group["operations"]) for group in summary["offenders"]] == [("gather", 1), ("linear", 1)]
    assert all(group["reason"] and group["remedy"] and group["source"] for group in summary["offenders"])
    assert summary["latency_ms"] is None


def test_everything_is_json(package):
    answer = json.loads(json.dumps(inspect(package, "A15").to_dict(), allow_nan=False))
    assert len(answer["operations"]) == 5
    assert {operation["region"] for operation in answer["operations"]} == {0, 1, 2}
    assert answer["cost"]["chip"] == "A15"
    assert answer["residency"]["latency_ms"]["typical"] > 0
    assert answer["memory"]["weight_bytes"] == 2 * (64 + 24 * 8 + 24)  # coremltools adds a bias


class TestSeveralFunctions:
    @pytest.fixture(scope="class")
    def directory(self, tiny_package):
        """An export of two lengths, whose default is the longer one."""
        model = {"num_hidden_layers": 1}
        return tiny_package("distilbert", "text-classification", model=model, sequence_length=(8, 16))

    def test_each_is_inspected_by_its_name(self, directory):
        short, long = (inspect(directory, "A15", f"seq_{length}") for length in (8, 16))
        assert (short.program.function, short.program.others) == ("seq_8", ("seq_16",))
        assert [short.program.inputs[0].shape, long.program.inputs[0].shape] == [(1, 8), (1, 16)]
        # Products of tokens with weights double with the length, those of tokens with tokens grow fourfold.
        assert 2 * short.program.flops < long.program.flops < 4 * short.program.flops
        assert short.memory.weight_bytes == pytest.approx(long.memory.weight_bytes, rel=0.02)  # a table of positions
        assert short.cost.typical_ms < long.cost.typical_ms
        for inspection in (short, long):
            counted = count_operations(directory / "model.mlpackage", inspection.program.function)
            assert counted == Counter(operation.type for operation in inspection.program.operations)

    def test_without_a_name_it_is_the_default(self, directory):
        assert inspect(directory).program.function == "seq_16"

    def test_a_name_that_there_is_not(self, directory):
        with pytest.raises(PackageError, match=r"no function 'seq_9'.*seq_16, seq_8"):
            inspect(directory, function="seq_9")

    def test_a_broken_limit_names_the_function(self, directory):
        with pytest.raises(ValidationError, match="prediction for function seq_8 breaks max_regions 1"):
            Gates(max_regions=1).check(inspect(directory, function="seq_8"))

    def test_the_report_of_an_export_holds_each(self, directory):
        report = json.loads((directory / "export_report.json").read_text())
        assert report["residency"] == inspect(directory).summary()
        assert report["functions"] == {name: inspect(directory, None, name).summary() for name in ("seq_16", "seq_8")}


def test_an_unknown_chip_and_a_missing_package_are_named(package, tmp_path):
    with pytest.raises(InputError, match="no chip is known as 'B52'"):
        inspect(package, "B52")
    with pytest.raises(PackageError, match="does not exist"):
        inspect(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "gates",
    [Gates(), Gates(min_residency=0.25), Gates(max_regions=3), Gates(min_residency=0.2, max_regions=9)],
)
def test_a_limit_that_is_kept_says_nothing(gates, inspection):
    gates.check(inspection)


def test_what_is_there_under_a_condition_does_not_count_as_resident(inspection):
    with pytest.raises(ValidationError, match=r"min_residency 0.3: 0\.2500 .* 0\.7500 more .* rule linear"):
        Gates(min_residency=0.3).check(inspection)


def test_every_broken_limit_is_in_the_one_message(package):
    with pytest.raises(ValidationError) as broken:
        Gates(min_residency=0.98, max_regions=2, max_latency_ms=1e-6).check(inspect(package, "M2"))
    for part in ("min_residency 0.98", "max_regions 2: there are 3", "gather cut", "max_latency_ms 1e-06", "M2"):
        assert part in str(broken.value)


def test_a_latency_is_limited_for_a_chip_only(package, inspection):
    with pytest.raises(InputError, match="max_latency_ms needs chip"):
        Gates(max_latency_ms=1).check(inspection)
    Gates(max_latency_ms=1e6).check(inspect(package, "M2"))


def test_an_export_reports_what_is_predicted(tiny_package):
    report = json.loads((tiny_package("distilbert", "text-classification") / "export_report.json").read_text())
    assert report["residency"]["operations"]["fallback"] == 4
    assert report["residency"]["flops_share_on_ane"] == 1
    assert report["residency"]["chip"] is None
    assert "predict residency" in report["seconds"]


def test_an_export_that_breaks_a_limit_leaves_nothing(tmp_path):
    original = make_original("distilbert", "text-classification")
    options = {"sequence_length": 16, "validate": False, "quiet": True}
    with pytest.raises(ValidationError, match="max_regions 1: there are 2"):
        export(original, tmp_path / "out", gates=Gates(max_regions=1), **options)
    assert not list(tmp_path.iterdir())


def test_an_export_asks_for_the_chip_before_it_starts(tmp_path):
    original = make_original("distilbert", "text-classification")
    with pytest.raises(InputError, match="no chip is known"):
        export(original, tmp_path / "out", chip="B52", sequence_length=16, quiet=True)
    with pytest.raises(InputError, match="needs chip"):
        export(original, tmp_path / "out", gates=Gates(max_latency_ms=1), sequence_length=16, quiet=True)
