"""`ane_config.json`: written, read again, of version 1, of a later minor version, and of a stranger."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from optimum_ane import ANEModelForSequenceClassification
from optimum_ane.errors import PackageError
from optimum_ane.package.files import verify_files
from optimum_ane.package.manifest import MINOR_VERSION, Manifest

VERSION_1 = Path(__file__).parent / "fixtures" / "version-1"


@pytest.fixture(scope="module")
def entries(tiny_package):
    return json.loads((tiny_package("bert", "fill-mask") / "ane_config.json").read_text())


def read(tmp_path, entries):
    (tmp_path / "ane_config.json").write_text(json.dumps(entries))
    return Manifest.read(tmp_path)


def changed(entries, path, value):
    """A copy with another value at a place such as `("form", "task")`."""
    copy = json.loads(json.dumps(entries))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return copy


def test_what_was_written_is_read(tmp_path, entries):
    manifest = read(tmp_path, entries)
    manifest.write(tmp_path)
    assert json.loads((tmp_path / "ane_config.json").read_text()) == entries


class TestVersion1:
    def test_a_package_of_version_1_is_read_and_whole(self):
        manifest = Manifest.read(VERSION_1)
        assert (manifest.form.task, manifest.form.sequence_length) == ("text-classification", (16,))
        assert (manifest.form.target, manifest.form.precision) == ("iOS16", "float16")
        assert manifest.source.name == "BertForSequenceClassification"
        (program,) = manifest.programs
        (function,) = program.functions
        assert (program.path, function.name) == ("model.mlpackage", "main")
        assert [tensor.name for tensor in function.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
        assert function.outputs[0].meaning == "Scores before softmax or sigmoid."
        assert manifest.labels == ("NEGATIVE", "POSITIVE")
        assert manifest.text.padding_id == 1
        verify_files(VERSION_1, manifest)

    def test_it_answers_as_it_did_when_it_was_made(self):
        model = ANEModelForSequenceClassification.from_pretrained(VERSION_1)
        ids = torch.arange(5, 15)[None]
        # What the version that wrote it printed.
        assert model(input_ids=ids).logits.tolist() == [[0.1490478515625, 0.259765625]]

    def test_entries_that_the_first_packages_lack_have_defaults(self, tmp_path):
        whole = json.loads((VERSION_1 / "ane_config.json").read_text())
        names = "task model_type sequence_length batch_size precision minimum_deployment_target compute_units"
        kept = {name: whole[name] for name in [*names.split(), "inputs", "outputs", "format_version"]}
        manifest = read(tmp_path, kept | {"source_model": "/home/somebody/models/reviews"})
        assert manifest.source.name == "reviews"
        assert (manifest.source.is_hub, manifest.source.license) == (False, None)
        assert (manifest.labels, manifest.tokenizer) == ((), None)

    @pytest.mark.parametrize(
        "change",
        [
            {"sequence_length": 0},
            {"batch_size": "1"},
            {"inputs": None},
            {"inputs": [{"name": "input_ids"}]},
            {"outputs": [1]},
            {"task": None},
            {"files": []},
            {"source_model": 3},
            {"tokenizer": {"leading": -1}},
            {"surprise": 1},
        ],
    )
    def test_entries_of_the_wrong_kind_are_refused(self, tmp_path, change):
        whole = json.loads((VERSION_1 / "ane_config.json").read_text())
        with pytest.raises(PackageError, match=r"ane_config\.json"):
            read(tmp_path, whole | change)


class TestLaterVersions:
    def test_unknown_entries_of_a_later_minor_version_are_passed_over(self, tmp_path, entries):
        later = entries | {"minor_version": MINOR_VERSION + 1, "surprise": {"deep": [1]}}
        later["form"] = entries["form"] | {"image_size": [224, 224]}
        manifest = read(tmp_path, later)
        assert manifest.form.task == "fill-mask"

    @pytest.mark.parametrize("place", [(), ("form",), ("source",), ("text",)])
    def test_unknown_entries_of_this_version_are_damage(self, tmp_path, entries, place):
        with pytest.raises(PackageError, match=r"unknown entries: \['surprise'\]"):
            read(tmp_path, changed(entries, (*place, "surprise"), 1))

    @pytest.mark.parametrize("version", [3, "2", None, 2.5, True])
    def test_another_format_is_refused_with_what_is_read(self, tmp_path, entries, version):
        with pytest.raises(PackageError, match=r"has format .*, this version reads 2 and earlier"):
            read(tmp_path, entries | {"format_version": version})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("form", "sequence_length"), [True]),
        (("form", "sequence_length"), [1.5]),
        (("form", "sequence_length"), 128),
        (("form", "sequence_length"), []),
        (("form", "sequence_length"), [10**30]),
        (("form", "batch_size"), 0),
        (("form", "task"), None),
        (("form", "minimum_deployment_target"), 16),
        (("form", "precision"), ["float16"]),
        (("form", "compute_units"), ""),
        (("form", "pooling"), False),
        (("form", "normalize"), "yes"),
        (("model_type",), "a|b"),
        (("source", "model"), 3),
        (("source", "name"), None),
        (("source", "license"), 1.0),
        (("source", "license_name"), []),
        (("source", "revision"), {}),
        (("source", "is_hub"), 1),
        (("source", "languages"), "en"),
        (("source", "datasets"), [1]),
        (("compression",), 8),
        (("labels",), {"0": "a"}),
        (("text", "padding_id"), -1),
        (("text", "padding_id"), "0"),
        (("text", "tokenizer"), "WordPiece"),
        (("text", "tokenizer", "leading"), -1),
        (("text", "tokenizer", "mask_token"), 5),
        (("text", "tokenizer", "model"), ["WordPiece"]),
        (("text", "prompts"), {"query": 1}),
        (("programs",), []),
        (("programs",), [1]),
        (("programs", 0, "name"), "../../x"),
        (("programs", 0, "functions"), []),
        (("programs", 0, "functions", 0, "name"), "a b"),
        (("programs", 0, "functions", 0, "inputs"), [{"name": "a b", "shape": [1], "dtype": "int32"}]),
        (("programs", 0, "functions", 0, "inputs"), [{"name": "a", "shape": [-1], "dtype": "int32"}]),
        (("programs", 0, "functions", 0, "outputs"), [{"name": "a", "shape": [1], "dtype": "<b>"}]),
        (("constants",), {"logit_scale": "1"}),
        (("versions",), ["torch"]),
        (("versions",), {"torch": 2}),
        (("files",), {"a": None}),
    ],
)
def test_other_types_are_refused_by_name(tmp_path, entries, path, value):
    name = next(key for key in reversed(path) if isinstance(key, str))
    with pytest.raises(PackageError, match=name.replace("_", "[ _]")) as caught:
        read(tmp_path, changed(entries, path, value))
    assert "\n" not in str(caught.value)


def test_two_programs_or_functions_of_one_name_are_refused(tmp_path, entries):
    with pytest.raises(PackageError, match="programs should be 1 to 64 of different names"):
        read(tmp_path, entries | {"programs": entries["programs"] * 2})
    doubled = entries["programs"][0]["functions"] * 2
    with pytest.raises(PackageError, match="functions of model should be 1 to 64 of different names"):
        read(tmp_path, changed(entries, ("programs", 0, "functions"), doubled))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no ane_config.json"),
        ("{", "damaged"),
        ("[]", "damaged"),
        ("[" * 100_000, "damaged"),
        ("{}", "format None"),
        ('{"format_version": 2}', "lacks the entry 'form'"),
        ("\udcff", "damaged"),
    ],
)
def test_a_damaged_ane_config_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "ane_config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(PackageError, match=message):
        Manifest.read(tmp_path)


def test_values_that_belong_to_no_program_are_kept(tmp_path, entries):
    manifest = read(tmp_path, entries | {"constants": {"logit_scale": 4}})
    assert manifest.constants == {"logit_scale": 4.0}


def test_a_package_of_a_directory_is_published_by_its_name(tmp_path, entries):
    manifest = read(tmp_path, changed(entries, ("source", "model"), "/home/anna/reviews"))
    assert "/home/anna" not in manifest.as_published()


def test_the_package_of_version_1_can_be_copied_and_loaded_elsewhere(tmp_path):
    shutil.copytree(VERSION_1, tmp_path / "package")
    model = ANEModelForSequenceClassification.from_pretrained(tmp_path / "package")
    model.save_pretrained(tmp_path / "copy")
    assert Manifest.read(tmp_path / "copy") == Manifest.read(VERSION_1)
