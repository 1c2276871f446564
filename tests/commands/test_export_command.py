"""`optimum-cli export ane`: arguments in, a package or one line of error out."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from command_line import run_command
from tiny_models import save_checkpoint

from optimum_ane.analysis.gates import Gates
from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.commands.export import ANEExportCommand
from optimum_ane.exporters.config import supported_tasks
from optimum_ane.package.form import ExportForm
from optimum_ane.workflows import export as export_workflow
from optimum_ane.workflows import stages
from optimum_ane.workflows.export import ExportChecks

HEAVY = {"torch", "transformers", "coremltools", "numpy", "datasets", "evaluate", "scipy", "sklearn", "rich"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("source") / "tiny"
    save_checkpoint(directory, "distilbert", "text-classification")
    return directory


@pytest.fixture
def command(capsys, monkeypatch, tmp_path):
    """Runs the command in an empty directory; returns what it printed on stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*line, code=0):
        run_command(ANEExportCommand, "ane", line, code)
        return capsys.readouterr()

    return run


def test_a_checkpoint_becomes_a_package(command, checkpoint, tmp_path):
    printed = command("--model", checkpoint, "--sequence-length", 16, "out")
    assert (tmp_path / "out" / "model.mlpackage").is_dir()
    assert re.search(r"logits: PSNR \d+\.\d dB against the original \(portable runtime\)", printed.out)
    assert re.search(r"\d+ operations, \d+\.\d MB: out/", printed.out)
    stages = re.findall(r"\[(\d)/8\] .* \d+\.\d s", printed.err)
    assert stages == ["1", "2", "3", "4", "5", "6", "7", "8"]


def test_every_option_reaches_the_package(command, checkpoint, tmp_path):
    line = (
        "--task text-classification --sequence-length 8 --batch-size 2 --precision float32 --compute-units all "
        "--minimum-deployment-target iOS17 --no-validate out"
    )
    command("--model", checkpoint, *line.split())
    form = json.loads((tmp_path / "out" / "ane_config.json").read_text())["form"]
    expected = {
        "task": "text-classification",
        "sequence_length": [8],
        "batch_size": 2,
        "precision": "float32",
        "compute_units": "all",
        "minimum_deployment_target": "iOS17",
        "class_labels": False,
    }
    assert {name: form[name] for name in expected} == expected
    assert json.loads((tmp_path / "out" / "export_report.json").read_text())["package_psnr"] == {}


def test_arguments_of_the_command_are_those_of_the_function(command, checkpoint, monkeypatch):
    """Every option arrives under its own name, and the defaults are the ones that are promised."""
    seen = {}

    def export_checkpoint(model, output, form, checks, **options):
        seen.update(options, model=model, output=output, form=form, checks=checks)
        raise SystemExit(0)

    monkeypatch.setattr(export_workflow, "export_checkpoint", export_checkpoint)
    with pytest.raises(SystemExit):
        command("--model", "some/one", "out")
    assert (seen["model"], str(seen["output"]), seen["overwrite"]) == ("some/one", "out", False)
    assert (seen["hub"], seen["compress"], seen["adapter"], seen["gguf_file"]) == (HubOptions(), None, None, None)
    assert (seen["form"], seen["checks"]) == (ExportForm(), ExportChecks())
    form = ExportForm()
    assert (form.task, form.sequence_length, form.batch_size, form.target) == ("auto", (128,), 1, "iOS16")
    assert (form.precision, form.compute_units, form.class_labels) == ("float16", "cpu_and_ne", False)
    line = (
        "--revision v1 --cache-dir c --token t --trust-remote-code --class-labels --psnr-threshold 70 --overwrite "
        "--eval-dataset dev.tsv --max-accuracy-drop 0.5 --pooling mean --normalize --adapter a --gguf-file g "
        "--compress int8 --max-latency-ms 2 --chip A15"
    )
    with pytest.raises(SystemExit):
        command("--model", "some/one", *line.split(), "--sequence-length", "32", "out")
    assert seen["hub"] == HubOptions("v1", "c", "t", True)
    assert (seen["compress"], seen["adapter"], seen["gguf_file"], seen["overwrite"]) == ("int8", "a", "g", True)
    assert seen["form"] == ExportForm(sequence_length=(32,), class_labels=True, pooling="mean", normalize=True)
    checks = seen["checks"]
    assert (checks.dataset.dataset, checks.limits.max_accuracy_drop, checks.psnr_threshold) == ("dev.tsv", 0.5, 70.0)
    assert (checks.chip, checks.gates) == ("A15", Gates(max_latency_ms=2.0))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--model", "/nowhere", "out"], ["there is no directory /nowhere"]),
        (["--model", "CHECKPOINT", "--sequence-length", "41", "out"], ["41", "40"]),
        (["--model", "CHECKPOINT", "--sequence-length", "0", "out"], ["sequence length is 0"]),
        (["--model", "CHECKPOINT", "--task", "fill-mask", "--sequence-length", "16", "out"], ["fill-mask", "vocab_"]),
        (["--model", "CHECKPOINT", "--minimum-deployment-target", "iOS14", "out"], ["iOS14", "iOS16"]),
        (["--model", "CHECKPOINT", "--eval-dataset", "no.tsv", "--sequence-length", "16", "out"], ["no.tsv"]),
        (["--model", "CHECKPOINT", "--sequence-length", "16", "full"], ["full is not empty", "--overwrite"]),
        (["--model", "CHECKPOINT", "--sequence-length", "16", "--overwrite", "full"], ["only packages"]),
    ],
)
def test_errors_are_one_line_and_exit_code_1(command, checkpoint, tmp_path, line, words):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    printed = command(*(str(checkpoint) if word == "CHECKPOINT" else word for word in line), code=1)
    errors = [text for text in printed.err.splitlines() if not text.startswith(("[", "method: "))]
    assert len(errors) == 1, printed.err
    assert errors[0].startswith("error: ")
    assert all(word in errors[0] for word in words)
    assert "Traceback" not in printed.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (KeyboardInterrupt(), "interrupted; nothing was written"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero (run again with --verbose"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_faults_of_no_known_kind_are_one_line_too(command, checkpoint, tmp_path, monkeypatch, fault, words):
    def fail(*_, **__):
        raise fault

    monkeypatch.setattr(stages, "build_module", fail)
    line = ("--model", checkpoint, "--sequence-length", 16, "out")
    code = 130 if isinstance(fault, KeyboardInterrupt) else 1
    printed = command(*line, code=code)
    assert printed.err.splitlines()[-1].startswith(f"error: {words}")
    assert "Traceback" not in printed.err
    assert "Traceback" in command(*line, "--verbose", code=code).err
    assert list(tmp_path.iterdir()) == []


def test_missing_arguments_are_named(command):
    assert "model and output must be given" in command(code=2).err
    assert "output must be given" in command("--model", "some/one", code=2).err


def test_the_list_holds_every_architecture_and_task(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    printed = command("--list").out
    for model_type, tasks in supported_tasks().items():
        (line,) = [line for line in printed.splitlines() if f" {model_type} " in line]
        assert all(task in line for task in tasks)


def subprocess_of(*line, **environment):
    program = "import sys; from optimum.commands.optimum_cli import main; sys.argv[0] = 'optimum-cli'; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, line)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


def test_the_help_names_every_option_and_an_example():
    text = subprocess_of("export", "ane", "--help").stdout
    options = (
        "--model --task --sequence-length --batch-size --precision --minimum-deployment-target --compute-units "
        "--class-labels --revision --cache-dir --token --trust-remote-code --eval-dataset --max-accuracy-drop "
        "--psnr-threshold --no-validate --overwrite --verbose --list --pooling --normalize"
    )
    assert all(option in text for option in options.split())
    assert "optimum-cli export ane --model" in text


def test_the_whole_command_in_a_process_of_its_own(checkpoint, tmp_path):
    done = subprocess_of("export", "ane", "--model", checkpoint, "--sequence-length", 99, tmp_path / "out")
    assert done.returncode == 1
    assert done.stdout == ""
    first, second = done.stderr.splitlines()
    assert first == "loading PyTorch, transformers and coremltools …"
    assert second.startswith("error: sequence length 99 is above the 40 positions")
    assert "--sequence-length 40" in second
    assert list(tmp_path.iterdir()) == []


_SIGNALS = {
    signal.SIGINT: (130, 1),
    signal.SIGTERM: (143, 1),
    signal.SIGHUP: (129, 1),
    "SIGINT twice": (130, 2),
}
"""The exit code, and how often it is sent."""


@pytest.mark.parametrize("number", _SIGNALS)
def test_a_signal_in_the_middle_leaves_nothing_behind(checkpoint, tmp_path, number):
    program = "import sys; from optimum.commands.optimum_cli import main; sys.argv[0] = 'optimum-cli'; main()"
    place, temporary = tmp_path / "place", tmp_path / "temporary"
    place.mkdir()
    temporary.mkdir()
    line = ["export", "ane", "--model", str(checkpoint), "--sequence-length", "16", str(place / "out")]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *line],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    code, times = _SIGNALS[number]
    seen = []
    for text in process.stderr:
        seen.append(text)
        if text.startswith("[3/8]"):  # now it traces and converts
            time.sleep(0.1)
            for _ in range(times):
                process.send_signal(signal.SIGINT if isinstance(number, str) else number)
                time.sleep(0.02)
    assert process.wait() == code
    assert seen[-1].startswith("error: interrupted; nothing was written"), seen
    assert "Traceback" not in "".join(seen)
    assert list(place.iterdir()) == []
    assert list(temporary.iterdir()) == []


def test_the_public_names_are_loaded_when_they_are_asked_for():
    program = f"""
import sys
import optimum_ane
assert not {HEAVY!r} & set(sys.modules), {HEAVY!r} & set(sys.modules)
assert set(optimum_ane.__all__) <= set(dir(optimum_ane))
assert optimum_ane.__version__
assert not {HEAVY!r} & set(sys.modules)
try:
    optimum_ane.nothing
except AttributeError as error:
    assert "nothing" in str(error)
for name in optimum_ane.__all__:
    assert getattr(optimum_ane, name) is not None
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
