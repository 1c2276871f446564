"""Exports that cannot end well: what is said of them, and that they leave nothing behind."""

import errno
import json
import os
import shutil
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from small_disks import mounted
from tiny_models import make_original, make_tokenizer

from optimum_ane import export
from optimum_ane.errors import CheckpointError, DatasetError, OutputError, UnsupportedModelError, ValidationError
from optimum_ane.workflows import export as export_workflow
from optimum_ane.workflows import stages


@pytest.fixture
def place(tmp_path):
    """An empty directory; exports go into one below it."""
    directory = tmp_path / "place"
    directory.mkdir()
    return directory


@pytest.fixture
def original():
    return make_original("distilbert", "text-classification")


def run(original, place, **options):
    return export(original, place / "out", quiet=True, **({"sequence_length": 16} | options))


@pytest.fixture
def without_conversion(monkeypatch):
    """Skips the slow stage, for faults before or after it."""

    def build(functions, path, **_):
        os.makedirs(path)

    session = SimpleNamespace(function_name="main", functions=("main",), inputs={}, outputs={}, states={})
    inspection = SimpleNamespace(
        summary=dict, chip=None, regions=(), worst=None, cost=None, findings=(), flops_share=lambda verdict: 1.0
    )
    monkeypatch.setattr(stages, "build_program", build)
    monkeypatch.setattr(stages, "count_operations", lambda _: {})
    monkeypatch.setattr(stages, "PortableSession", lambda _: session)
    monkeypatch.setattr(stages, "inspect", lambda *_: inspection)
    monkeypatch.setattr(stages, "write_card_and_report", lambda *_, **__: None)


class BrokenError(Exception):
    """A fault of no known kind."""


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (stages, "build_module"),
        (stages, "build_program"),
        (stages, "PortableSession"),
        (stages, "inspect"),
        (stages, "describe_tokenizer"),
        (stages, "write_card_and_report"),
        (stages, "hash_files"),
    ],
)
@pytest.mark.parametrize("fault", [BrokenError, KeyboardInterrupt, MemoryError, SystemExit])
def test_nothing_is_left_behind_wherever_it_fails(
    original, place, without_conversion, monkeypatch, owner, name, fault
):
    def fail(*_, **__):
        raise fault

    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(fault):
        run(original, place, validate=False, tokenizer=make_tokenizer())
    assert list(place.iterdir()) == []


def test_an_interrupted_export_leaves_what_was_there(original, place, without_conversion, monkeypatch):
    (place / "out").mkdir()
    (place / "out" / "ane_config.json").write_text("before")

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "hash_files", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(original, place, validate=False, overwrite=True)
    assert [path.name for path in place.iterdir()] == ["out"]
    assert (place / "out" / "ane_config.json").read_text() == "before"


class TestOutputs:
    def test_an_output_that_is_not_empty_is_refused(self, original, place):
        (place / "out").mkdir()
        (place / "out" / "thesis.tex").write_text("years of work")
        with pytest.raises(OutputError, match=r"not empty.*overwrite=True"):
            run(original, place)
        with pytest.raises(OutputError, match=r"holds no ane_config\.json: only packages are overwritten"):
            run(original, place, overwrite=True)
        assert (place / "out" / "thesis.tex").read_text() == "years of work"

    def test_a_file_is_refused(self, original, place):
        (place / "out").write_text("a file")
        for overwrite in (False, True):
            with pytest.raises(OutputError, match="exists and is not a directory"):
                run(original, place, overwrite=overwrite)
        assert (place / "out").read_text() == "a file"

    def test_a_directory_that_is_a_file_higher_up_is_refused(self, original, place):
        (place / "file").write_text("")
        with pytest.raises(OutputError, match="cannot write"):
            export(original, place / "file" / "out", sequence_length=16, quiet=True)

    def test_overwrite_replaces_a_package_whole(self, original, place):
        run(original, place, validate=False)
        before = (place / "out" / "model.mlpackage" / "Manifest.json").read_bytes()
        run(original, place, overwrite=True, validate=False)
        assert (place / "out" / "model.mlpackage" / "Manifest.json").read_bytes() != before
        assert [path.name for path in place.iterdir()] == ["out"]

    def test_a_package_inside_its_own_checkpoint_is_refused(self, original, place, monkeypatch):
        original.save_pretrained(place)
        monkeypatch.setattr(export_workflow, "open_checkpoint", None)
        for output in (place, place / "ane", place / "a" / "b"):
            with pytest.raises(OutputError, match="or lies in it, which is read meanwhile"):
                export(place, output, sequence_length=16, overwrite=True, quiet=True)

    @pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
    def test_a_place_that_may_not_be_written(self, original, place, monkeypatch, code):
        def refuse(*_, **__):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr("optimum_ane.package.file_operations.make_directory", refuse)
        with pytest.raises(OutputError, match=f"cannot write .*out: {os.strerror(code)}"):
            run(original, place)


class TestFullDisk:
    def test_the_error_names_the_output_and_what_is_free(self, original, place, without_conversion, monkeypatch):
        def full(functions, path, **_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        monkeypatch.setattr(stages, "build_program", full)
        with pytest.raises(OutputError, match=r"no space left for .*out \(\d+ MB free\); free some"):
            run(original, place, validate=False)
        assert list(place.iterdir()) == []

    @pytest.mark.parametrize("kilobytes", [16, 64, 160])
    def test_a_real_small_disk(self, original, tmp_path, kilobytes):
        """Full while the program is written, while it is copied, or while what stands beside it is written."""
        disk = tmp_path / "disk"
        disk.mkdir()
        with mounted(disk, kilobytes):
            with pytest.raises(OutputError, match=r"no space left for .*out") as caught:
                export(
                    original, disk / "out", sequence_length=16, tokenizer=make_tokenizer(), validate=False, quiet=True
                )
            assert "\n" not in str(caught.value)
            assert list(disk.iterdir()) == []


class TestWrongExports:
    """A package that answers something else is not written, at the default thresholds."""

    @pytest.fixture
    def corrupt(self, monkeypatch):
        """Changes the module after it was compared with the original and before it is converted."""

        def with_change(change):
            build = stages.build_program

            def changed(functions, *arguments, **options):
                def make_module(function):
                    module = function.make_module()
                    change(module)
                    return module

                functions = [replace(each, make_module=partial(make_module, each)) for each in functions]
                return build(functions, *arguments, **options)

            monkeypatch.setattr(stages, "build_program", changed)

        return with_change

    def swapped_layers(self, module):
        layers = module.distilbert.transformer.layer
        layers[0], layers[1] = layers[1], layers[0]

    def zeroed_row(self, module):
        weight = module.classifier.weight.clone()
        weight[0] *= 1.1
        module.classifier.weight = torch.nn.Parameter(weight, requires_grad=False)

    def other_head_order(self, module):
        layer = module.distilbert.transformer.layer[0].attention
        layer.v_lin.weight = torch.nn.Parameter(layer.v_lin.weight.flip(0), requires_grad=False)

    def no_mask(self, module):
        import optimum_ane.models.distilbert as distilbert

        mask = distilbert.additive_mask
        self.monkeypatch.setattr(distilbert, "additive_mask", lambda attention_mask: mask(attention_mask) * 0)

    @pytest.mark.parametrize("fault", ["swapped_layers", "zeroed_row", "other_head_order", "no_mask"])
    def test_it_is_refused_with_both_numbers(self, original, place, corrupt, monkeypatch, fault):
        self.monkeypatch = monkeypatch
        corrupt(getattr(self, fault))
        message = r"package does not answer as the original does: PSNR of logits is -?\d+\.\d dB, 50\.0 are asked for"
        with pytest.raises(ValidationError, match=message):
            run(original, place)
        assert list(place.iterdir()) == []

    def test_a_wrong_module_is_refused_before_it_is_converted(self, original, place, monkeypatch):
        build = stages.build_module

        def wrong(*arguments):
            loaded = build(*arguments)
            head = loaded.module.classifier
            head.bias = torch.nn.Parameter(head.bias + 0.001, requires_grad=False)
            return loaded

        monkeypatch.setattr(stages, "build_module", wrong)
        monkeypatch.setattr(stages, "build_program", None)
        with pytest.raises(ValidationError, match="Neural Engine module does not answer as the original does"):
            run(original, place)

    def test_numbers_that_leave_float16_are_refused(self, original, place):
        original.classifier.bias[0] = 1e6
        with pytest.raises(
            CheckpointError, match=r"classifier\.bias, row 0 holds 1000000, and float16 ends at 65,504"
        ):
            run(original, place)
        assert list(place.iterdir()) == []

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_an_original_of_no_numbers_is_refused(self, original, place, value):
        original.classifier.bias[0] = value
        with pytest.raises(
            CheckpointError, match=r"classifier\.bias, row 0 holds (nan|inf): the checkpoint is damaged"
        ):
            run(original, place)
        assert list(place.iterdir()) == []

    def test_a_threshold_of_ones_own(self, original, place):
        with pytest.raises(ValidationError, match=r"150\.0 are asked for .*; nothing was written.*psnr_threshold"):
            run(original, place, psnr_threshold=150.0)
        assert list(place.iterdir()) == []
        run(original, place, psnr_threshold=10.0)
        assert json.loads((place / "out" / "export_report.json").read_text())["psnr_threshold"] == 10


class TestDatasets:
    def test_a_dataset_without_validation_is_refused(self, original, place):
        with pytest.raises(DatasetError, match="validation switched off"):
            run(original, place, eval_dataset="dev.tsv", validate=False)

    def test_a_dataset_for_hidden_states_is_refused(self, place):
        with pytest.raises(UnsupportedModelError, match=r"gives hidden states.*export with pooling mean"):
            run(make_original("bert", "feature-extraction"), place, eval_dataset="dev.tsv")

    def test_a_missing_file_is_refused_before_any_work(self, original, place, monkeypatch):
        monkeypatch.setattr(export_workflow, "open_checkpoint", None)
        monkeypatch.setattr(stages, "build_module", None)
        with pytest.raises(DatasetError, match=r"nowhere\.tsv"):
            run(original, place, eval_dataset=str(place / "nowhere.tsv"))

    def test_a_model_without_a_tokenizer_is_refused(self, original, place):
        (place / "dev.tsv").write_text("fine\t1\n")
        with pytest.raises(ValueError, match="has no tokenizer"):
            run(original, place, eval_dataset=str(place / "dev.tsv"))

    def test_an_export_that_loses_too_much_is_refused(self, original, place):
        (place / "dev.tsv").write_text("a fine film\t1\na dull story\t0\n" * 4)
        options = {"tokenizer": make_tokenizer(), "eval_dataset": str(place / "dev.tsv")}
        with pytest.raises(ValidationError, match=r"drop|points"):
            run(original, place, max_accuracy_drop=-200.0, **options)
        shutil.rmtree(place / "out", ignore_errors=True)
        result = run(original, place, **options)
        assert result.accuracy.rows == 8
        report = json.loads((place / "out" / "export_report.json").read_text())
        assert report["accuracy"]["rows"] == 8
        assert "dev.tsv" in (place / "out" / "README.md").read_text()


def test_a_full_disk_while_the_tokenizer_is_saved(tmp_path, monkeypatch):
    """The tokenizers library raises a plain Exception with the system's reason in its text."""
    tokenizer = make_tokenizer()
    save = tokenizer.backend_tokenizer.save
    with pytest.raises(Exception, match=r"\(os error 28\)") as real:
        save("/dev/full")
    assert type(real.value) is Exception
    monkeypatch.setattr(
        type(tokenizer), "save_pretrained", lambda self, directory: self.backend_tokenizer.save("/dev/full")
    )
    with pytest.raises(OutputError, match=r"no space left for .*out \(.* MB free\); free some or choose"):
        export(
            make_original("bert", "text-classification"),
            tmp_path / "out",
            tokenizer=tokenizer,
            sequence_length=16,
            validate=False,
            quiet=True,
        )
    assert not list(tmp_path.iterdir())
