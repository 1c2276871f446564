"""Named arrays on disk."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from optimum_ane.errors import InputError, OutputError
from optimum_ane.runtimes.arrays import check_place, random_arrays, read_arrays, write_arrays
from optimum_ane.runtimes.session import TensorSpec


def test_archive_comes_back(tmp_path: Path) -> None:
    values = {
        "x": np.arange(6, dtype=np.float16).reshape(2, 3).T,
        "file": np.array([True, False]),  # a keyword of numpy.savez
        "scope/value": np.zeros((0, 4), np.int32),
        "label": "cat",
        "classes": {"cat": 0.75, "dog": 0.25},
        "numbered": {0: 0.5},
    }
    write_arrays(tmp_path / "a.npz", values)
    back = read_arrays(tmp_path / "a.npz")
    assert set(back) == {
        "x", "file", "scope/value", "label", "classes.keys", "classes.values", "numbered.keys", "numbered.values"
    }  # fmt: skip
    for name in ("x", "file", "scope/value"):
        np.testing.assert_array_equal(back[name], values[name])
        assert back[name].dtype == np.asarray(values[name]).dtype
    assert str(back["label"]) == "cat"
    assert back["classes.keys"].tolist() == ["cat", "dog"]
    assert back["numbered.keys"].tolist() == [0]
    write_arrays(tmp_path / "a.npz", {"y": np.zeros(1)})
    assert set(read_arrays(tmp_path / "a.npz")) == {"y"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", {"x": np.zeros(1)})
    with pytest.raises(ValueError, match="allow_pickle"):
        write_arrays(tmp_path / "a.npz", {"y": np.array([object()])})
    assert set(read_arrays(tmp_path / "a.npz")) == {"x"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    for place, message in ((tmp_path, "is a directory"), (tmp_path / "no" / "a.npz", "no directory")):
        with pytest.raises(OutputError, match=message):
            check_place(place)
        with pytest.raises(OutputError, match="cannot be written"):
            write_arrays(place, {"x": np.zeros(1)})


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "inputs.json"
    path.write_text('{"ids": [[1, 2], [3, 4]], "scale": 0.5, "flag": true, "none": []}')
    assert read_arrays(path) == {"ids": [[1, 2], [3, 4]], "scale": 0.5, "flag": True, "none": []}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[1, 2]]", "should hold an object of inputs"),
        ("7", "holds the number 7"),
        ('{"x": "1"}', "input 'x' should hold numbers and holds a string"),
        ('{"x": [[1, null]]}', "holds null"),
        ('{"x": [{"y": 1}]}', "holds an object"),
        ('{"x": [1], "x": [2]}', "names an input twice"),
        ('{"x": [1', "not readable JSON"),
        ("[" * 100_000, "not readable JSON"),
        ("", "not readable JSON"),
    ],
)
def test_json_that_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "inputs.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_arrays(path)


def test_archives_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "inputs.npz"
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_arrays(path)
    np.savez(path, x=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="plain arrays"):
        read_arrays(path)
    single = io.BytesIO()
    np.save(single, np.zeros(2))
    path.write_bytes(single.getvalue())
    with pytest.raises(InputError, match=r"numpy\.savez"):
        read_arrays(path)
    np.savez(path, x=np.zeros(1000))
    whole = path.read_bytes()
    for damaged in (
        b"",
        b"not an archive",
        whole[:600],
        whole[: len(whole) // 2] + b"\1\2" + whole[len(whole) // 2 :],
    ):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="plain arrays"):
            read_arrays(path)
    with pytest.raises(InputError, match=r"\.npz archive or a \.json"):
        read_arrays(tmp_path / "inputs.pkl")


def test_random_arrays() -> None:
    specs = {
        "ids": TensorSpec("ids", (2, 50), "int32"),
        "x": TensorSpec("x", (3, 1), "float16"),
        "empty": TensorSpec("empty", (0, 2), "float32"),
        "scalar": TensorSpec("scalar", (), "float32"),
    }
    arrays = random_arrays(specs, 1)
    assert {name: (array.shape, array.dtype.name) for name, array in arrays.items()} == {
        name: (spec.shape, spec.dtype) for name, spec in specs.items()
    }
    assert set(np.unique(arrays["ids"])) == {0, 1}
    again, other = random_arrays(specs, 1), random_arrays(specs, 2)
    assert np.array_equal(arrays["x"], again["x"])
    assert not np.array_equal(arrays["x"], other["x"])
    with pytest.raises(InputError, match="'text' is a string"):
        random_arrays({"text": TensorSpec("text", (), "string")}, 0)


def test_json_is_what_json_writes(tmp_path: Path) -> None:
    path = tmp_path / "inputs.json"
    path.write_text(json.dumps({"x": [[0.1, float("inf")]]}))
    assert read_arrays(path) == {"x": [[0.1, float("inf")]]}
