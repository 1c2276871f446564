import json
import shutil

import coremltools as ct
import pytest
from command_line import run_command
from coremltools.converters.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil import types
from coremltools.proto import Model_pb2
from small_disks import mounted

from optimum_ane.commands.inspect import InspectCommand


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A program whose relu is on the engine and whose topk is off it."""

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 8), dtype=types.fp16)], opset_version=ct.target.iOS17)
    def program(x):
        return mb.topk(x=mb.relu(x=x, name="activated"), k=2, axis=1, name="best")[0]

    model = ct.convert(
        program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS17, skip_model_load=True,
        pass_pipeline=ct.PassPipeline.EMPTY, compute_precision=ct.precision.FLOAT32,
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("out")
    model.save(str(directory / "model.mlpackage"))
    return directory


@pytest.fixture
def run(package, capsys):
    """Runs the command; returns stdout, or the one line of an error."""

    def command(*line, code=0, where=package):
        run_command(InspectCommand, "inspect", [where, *line], code)
        output = capsys.readouterr()
        if code:
            assert len(output.err.splitlines()) == 1, output.err
            return output.err
        return output.out

    return command


def test_the_tables_name_the_rule_the_reason_the_remedy_and_the_source(run):
    said = " ".join(run().split())
    assert "a prediction for any chip from A14 and M1 on, nothing was run" in said
    assert "topk best_0, at the end (topk)" in said
    assert "Core ML runs topk on the CPU. Remedy: Return the scores" in said
    assert "roboflow/rf-detr, issue 1495" in said
    assert "first and worst off the engine: topk best_0" in said
    assert "padding of all values together: " in said


def test_json_is_pure(run):
    answer = json.loads(run("--json"))
    assert answer["residency"]["operations"] == {"ane": 1, "conditional": 0, "fallback": 1}
    assert [operation["rule"] for operation in answer["operations"]] == ["activations", "topk"]


def test_a_page_is_written_beside_the_answer(run, package, tmp_path):
    run("--html", str(tmp_path / "report.html"), "--json", where=package / "model.mlpackage")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Core ML runs topk on the CPU." in page
    assert "cannot be written" in run("--html", str(tmp_path / "nowhere/report.html"), code=1)


def test_a_package_without_a_cache_is_no_decoder(run):
    assert "decoder" not in json.loads(run("--json"))


def test_a_chip_adds_an_estimate_of_latency(run):
    assert "latency on M2, an estimate" in run("--chip", "M2")
    assert json.loads(run("--chip", "M2", "--json"))["cost"]["chip"] == "M2"


def test_each_function_of_a_package_is_inspected_by_its_name(run, tiny_package):
    model = {"num_hidden_layers": 1}
    directory = tiny_package("distilbert", "text-classification", model=model, sequence_length=(8, 16))
    said = run(where=directory)
    assert "model.mlpackage, function seq_16: a prediction" in said
    assert "other functions, with --function: seq_8" in said
    answer = json.loads(run("--function", "seq_8", "--json", where=directory))
    assert answer["function"] == "seq_8"
    assert {tuple(output["shape"]) for operation in answer["operations"] for output in operation["outputs"]} >= {
        (1, 8)
    }


def test_a_limit_that_is_not_kept_ends_with_code_1_and_the_reason(run):
    assert "--max-regions 1: there are 2" in run("--max-regions", "1", code=1)
    assert "--min-residency 0.9" in run("--min-residency", "0.9", "--json", code=1)
    assert "--max-latency-ms 1e-05" in run("--chip", "M2", "--max-latency-ms", "0.00001", code=1)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (("--chip", "B52"), "no chip is known as 'B52'"),
        (("--function", "other"), "no function 'other'"),
        (("--max-latency-ms", "5"), "needs --chip"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(line, says, run):
    assert says in run(*line, code=1)


def test_a_path_without_a_package_is_named(run, tmp_path):
    assert "holds no .mlpackage" in run(where=tmp_path, code=1)


def test_a_file_in_place_of_a_package_is_told_from_a_folder_without_one(run, tmp_path):
    (tmp_path / "old.mlmodel").write_bytes(b"")
    assert "old.mlmodel is a file; name an .mlpackage folder" in run(where=tmp_path / "old.mlmodel", code=1)


def test_nothing_is_cut_off_where_a_line_is_narrow(run):
    """Names of rules and of operations are there to be searched for."""
    assert "…" not in run("--chip", "M2")


def test_several_broken_limits_are_one_sentence(run):
    said = run("--min-residency", "1", "--max-regions", "1", "--max-latency-ms", "0.00001", "--chip", "M2", code=1)
    assert [word in said for word in ("--min-residency", "--max-regions", "--max-latency-ms")] == [True] * 3
    assert ".;" not in said


@pytest.mark.parametrize("line", [("--min-residency", "98"), ("--max-regions", "0"), ("--max-latency-ms", "-1")])
def test_a_limit_that_makes_no_sense_is_refused_as_a_usage_error(line, run, capsys):
    with pytest.raises(SystemExit) as ended:
        run(*line)
    assert ended.value.code == 2
    assert line[0] in capsys.readouterr().err


@pytest.mark.usefixtures("drawn_figures")
def test_a_full_disk_does_not_destroy_the_page_before(run, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, 32):
        (disk / "report.html").write_text("the page before")
        assert "No space left on device" in run("--html", str(disk / "report.html"), "--json", code=1)
        assert (disk / "report.html").read_text() == "the page before"
        assert [path.name for path in disk.iterdir()] == ["report.html"]


@pytest.mark.parametrize("name", ["x", "update"])
def test_an_operation_that_lacks_an_input_is_named(run, package, tmp_path, name):
    """A program that anyone may have written: `slice_update` without what the analysis looks at."""
    hostile = shutil.copytree(package, tmp_path / "hostile")
    (file,) = hostile.rglob("*.mlmodel")
    spec = Model_pb2.Model.FromString(file.read_bytes())
    (function,) = spec.mlProgram.functions.values()
    (block,) = function.block_specializations.values()
    relu = next(operation for operation in block.operations if operation.type == "relu")
    relu.type = "slice_update"
    relu.inputs["update"].CopyFrom(relu.inputs["x"])
    del relu.inputs[name]
    file.write_bytes(spec.SerializeToString())
    message = run(where=hostile, code=1)
    assert f"slice_update 'activated' lacks its input {name}; export or download the package again" in message
