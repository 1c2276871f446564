import json
import re
from argparse import ArgumentParser

import coremltools as ct
import numpy as np
import pytest
from command_line import run_command
from coremltools.converters.mil import Builder
from coremltools.converters.mil.mil import types
from optimum.commands.base import CommandInfo

from optimum_ane.commands.run import RunCommand


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """An exported directory around a program of two inputs: y = softmax(gather(table, ids) * scale)."""
    table = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float16)

    @Builder.program(
        input_specs=[
            Builder.TensorSpec(shape=(1, 3), dtype=types.int32),
            Builder.TensorSpec(shape=(1,), dtype=types.fp16),
        ],
        opset_version=ct.target.iOS17,
    )
    def program(ids, scale):
        rows = Builder.gather(x=table, indices=ids, axis=0, validate_indices=False, name="rows")
        return Builder.softmax(x=Builder.mul(x=rows, y=scale, name="scaled"), axis=-1, name="y")

    model = ct.convert(
        program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS17, skip_model_load=True,
        pass_pipeline=ct.PassPipeline.EMPTY, compute_precision=ct.precision.FLOAT32,
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("out")
    model.save(str(directory / "model.mlpackage"))
    return directory


@pytest.fixture
def run(package, capsys, monkeypatch, tmp_path):
    """Runs the command in an empty directory; returns what it printed."""
    monkeypatch.chdir(tmp_path)

    def command(*line, code=0, where=package):
        run_command(RunCommand, "run", [where, *line], code)
        output = capsys.readouterr()
        if code:
            assert len(output.err.splitlines()) == 1, output.err
            return output.err
        return output.out

    return command


def test_inputs_from_files_and_outputs_to_one(run, package, tmp_path):
    np.savez(tmp_path / "in.npz", ids=np.array([[1, 2, 9]]), scale=np.array([0.5], np.float32))
    (tmp_path / "in.json").write_text(json.dumps({"ids": [[1, 2, 9]], "scale": 0.5}))
    out = run("--inputs", "in.npz", "--outputs", "a.npz")
    assert "y: float16 (1, 3, 4) [" in out
    assert "random" not in out
    run("--inputs", "in.json", "--outputs", "b.npz", where=package / "model.mlpackage")
    first, second = np.load("a.npz"), np.load("b.npz")
    assert first.files == ["y"]
    np.testing.assert_array_equal(first["y"], second["y"])
    np.testing.assert_allclose(first["y"].sum(-1, dtype=np.float32), 1, atol=2e-3)


def test_random_inputs_are_announced_and_seeded(run):
    first = run("--outputs", "a.npz")
    assert "random ones of seed 0" in first
    assert run("--outputs", "b.npz").replace("b.npz", "a.npz") == first
    assert "random ones of seed 5" in run("--seed", "5", "--outputs", "c.npz")
    assert np.array_equal(np.load("a.npz")["y"], np.load("b.npz")["y"])
    assert not np.array_equal(np.load("a.npz")["y"], np.load("c.npz")["y"])


def test_each_function_of_a_package_runs_by_its_name(run, tiny_package):
    model = {"num_hidden_layers": 1}
    directory = tiny_package("distilbert", "token-classification", model=model, sequence_length=(4, 8))
    assert "function seq_8, precision program" in run(where=directory)
    said = run("--function", "seq_4", where=directory)
    assert "function seq_4" in said
    assert "logits: float16 (1, 4, 2) [" in said


def test_precision(run):
    run("--intermediates", "scaled", "--intermediates-file", "a.npz")
    run("--intermediates", "scaled", "--intermediates-file", "b.npz", "--precision", "float32")
    rounded, exact = np.load("a.npz")["scaled"], np.load("b.npz")["scaled"]
    assert rounded.dtype == np.float16
    assert exact.dtype == np.float32
    np.testing.assert_array_equal(rounded, exact.astype(np.float16))
    assert not np.array_equal(rounded, exact)


def test_intermediates(run, tmp_path):
    assert "4 intermediate values: intermediates.npz" in run("--intermediates", "[rs]*", "y", "scale")
    assert set(np.load("intermediates.npz").files) == {"rows", "scaled", "y", "scale"}
    (tmp_path / "names.txt").write_text("rows\n\n  ids \n")
    run("--intermediates", "@names.txt", "--intermediates-file", "some.npz")
    values = np.load("some.npz")
    assert set(values.files) == {"rows", "ids"}
    assert values["ids"].dtype == np.int32
    assert "no value of the program that ran is named 'scald'; near it are: scaled" in run(
        "--intermediates", "scald", "--intermediates-file", "none.npz", code=1
    )
    assert not (tmp_path / "none.npz").exists()
    (tmp_path / "names.txt").write_text("\n")
    assert "names no value" in run("--intermediates", "@names.txt", code=1)
    assert "cannot be read" in run("--intermediates", "@nowhere.txt", code=1)


def test_first_value_that_is_not_finite_is_named(run, tmp_path):
    np.savez(tmp_path / "in.npz", ids=np.array([[1, 2, 9]]), scale=np.array([np.inf], np.float32))
    assert "the first of them that holds infinity: scaled" in run("--inputs", "in.npz", "--intermediates", "*", "s*d")


def test_profile(run):
    out = run("--profile")
    assert "a prediction takes" in out
    assert "Time per kind of operation" in out
    for word in ("gather", "softmax", "scaled"):
        assert word in out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--inputs", "nowhere.npz"], "cannot be read: No such file"),
        (["--inputs", "bad.json"], "lacks input 'scale' (float16, shape (1,))"),
        (["--inputs", "shape.json"], "input 'ids' takes shape (1, 3) and got (1, 2)"),
        (["--inputs", "ragged.json"], "input 'ids'"),
        (["--inputs", "fraction.json"], "input 'ids' takes int32 and got float64"),
        (["--inputs", "unknown.json"], "has no input 'x'; its inputs are: ids, scale"),
        (["--function", "decode"], "no function 'decode'"),
        (["--outputs", "nowhere/out.npz"], "there is no directory nowhere"),
        (["--outputs", "."], "is a directory"),
    ],
)
def test_errors_are_one_line(run, tmp_path, line, message):
    for name, content in {
        "bad": {"ids": [[1, 2, 3]]},
        "shape": {"ids": [[1, 2]], "scale": 1},
        "ragged": {"ids": [[1, 2], [3]], "scale": 1},
        "fraction": {"ids": [[0.5, 1, 2]], "scale": 1},
        "unknown": {"ids": [[1, 2, 3]], "scale": 1, "x": 1},
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert message in run(*line, code=1)


def test_packages_that_are_not_there(run, package, tmp_path):
    assert "does not exist" in run(where=tmp_path / "nowhere", code=1)
    assert "holds no .mlpackage" in run(where=tmp_path, code=1)
    for name in ("a", "b"):
        (tmp_path / f"{name}.mlpackage").mkdir()
    assert "holds a.mlpackage, b.mlpackage: name one of them" in run(where=tmp_path, code=1)
    assert "Manifest.json" in run(where=tmp_path / "a.mlpackage", code=1)


@pytest.mark.parametrize(
    "line", [["--precision", "float16"], ["--threads", "0"], ["--seed", "x"], ["--intermediates"]]
)
def test_usage_errors(run, line):
    parser = ArgumentParser()
    RunCommand(parser.add_subparsers(), command=CommandInfo(name="run", help=""))
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["run", "out", *line])
    assert ended.value.code == 2


@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_the_examples_of_the_run_commands_help_find_their_values(name, tiny_package, tmp_path, monkeypatch, capsys):
    line = next(line for line in RunCommand.DESCRIPTION.splitlines() if "--intermediates '*layer" in line)
    patterns = re.findall("'([^']+)'", line)
    assert len(patterns) == 2
    monkeypatch.chdir(tmp_path)
    for pattern in patterns:  # each finds something by itself
        arguments = [tiny_package(name, "text-classification"), "--intermediates", pattern]
        run_command(RunCommand, "run", arguments, 0)
        capsys.readouterr()
        with np.load("intermediates.npz") as values:
            assert len(values.files) >= 2
