"""`ane_config.json` of a stranger: entries of other types are refused by name."""

import json

import pytest

from optimum_ane.errors import PackageError
from optimum_ane.package.manifest import Manifest


@pytest.fixture(scope="module")
def entries(tiny_package):
    return json.loads((tiny_package("bert", "fill-mask") / "ane_config.json").read_text())


def read(tmp_path, entries):
    (tmp_path / "ane_config.json").write_text(json.dumps(entries))
    return Manifest.read(tmp_path)


def test_what_was_written_is_read(tmp_path, entries):
    config = read(tmp_path, entries)
    config.write(tmp_path)
    assert json.loads((tmp_path / "ane_config.json").read_text()) == entries


def test_entries_that_old_packages_lack_have_defaults(tmp_path, entries):
    line = (
        "task model_type sequence_length batch_size precision minimum_deployment_target compute_units inputs outputs"
    )
    kept = {name: entries[name] for name in [*line.split(), "format_version"]}
    config = read(tmp_path, kept | {"source_model": "/home/somebody/models/reviews"})
    assert config.source_name == "reviews"
    assert (config.source_is_hub, config.source_license, config.labels, config.tokenizer) == (False, None, (), None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sequence_length", True),
        ("sequence_length", 1.5),
        ("batch_size", 0),
        ("task", "x\n# Owned"),
        ("task", None),
        ("model_type", "a|b"),
        ("minimum_deployment_target", "`"),
        ("precision", ["float16"]),
        ("compute_units", ""),
        ("source_model", 3),
        ("source_name", None),
        ("source_license", 1.0),
        ("source_license_name", []),
        ("source_revision", {}),
        ("compression", 8),
        ("pooling", False),
        ("normalize", "yes"),
        ("source_is_hub", 1),
        ("source_languages", "en"),
        ("source_datasets", [1]),
        ("labels", {"0": "a"}),
        ("padding_id", -1),
        ("padding_id", "0"),
        ("inputs", [{"name": "a b", "shape": [1], "dtype": "int32"}]),
        ("outputs", [{"name": "a", "shape": [1], "dtype": "<b>"}]),
        ("versions", ["torch"]),
        ("versions", {"torch": 2}),
        ("files", {"a": None}),
        ("tokenizer", {"leading": -1}),
        ("tokenizer", {"mask_token": 5}),
        ("tokenizer", {"model": ["WordPiece"]}),
    ],
)
def test_other_types_are_refused_by_name(tmp_path, entries, name, value):
    if name == "tokenizer":
        value = entries["tokenizer"] | value
    with pytest.raises(PackageError, match=name) as caught:
        read(tmp_path, entries | {name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["WordPiece", [], {"model": "x"}, {"tokenizer_class": "x", "extra": 1}])
def test_a_tokenizer_of_another_form_is_damage(tmp_path, entries, value):
    with pytest.raises(PackageError, match=r"damaged"):
        read(tmp_path, entries | {"tokenizer": value})
