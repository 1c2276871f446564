"""Packages that are damaged, foreign or hostile are refused when they are loaded, and the message says where."""

from __future__ import annotations

import json
import os
import shutil
import struct

import numpy as np
import pytest
import torch
from coremltools.proto import Model_pb2
from portable_programs import save_module

from optimum_ane.errors import PackageError, UnsupportedOperationError
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.runtimes.portable.registry import OPERATIONS, Role, builtin, op, prepare

MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64))
    return save_module(tmp_path_factory.mktemp("original") / "m.mlpackage", net, {"x": torch.zeros(1, 64)})


@pytest.fixture
def package(original, tmp_path):
    return shutil.copytree(original, tmp_path / "m.mlpackage")


def _edit(package, change):
    spec = Model_pb2.Model()
    spec.ParseFromString((package / MODEL).read_bytes())
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    change(spec, block)
    (package / MODEL).write_bytes(spec.SerializeToString())


def _blob(block):
    return next(
        op.attributes["val"].blobFileValue
        for op in block.operations
        if op.type == "const" and op.attributes["val"].WhichOneof("value") == "blobFileValue"
    )


def _set_manifest_path(package, path):
    place = package / "Manifest.json"
    manifest = json.loads(place.read_text())
    manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = path
    place.write_text(json.dumps(manifest))


def test_the_original_loads(package):
    PortableSession(package)


def test_no_package(tmp_path):
    with pytest.raises(PackageError, match=r"none\.mlpackage: no such"):
        PortableSession(tmp_path / "none.mlpackage")
    (tmp_path / "file").write_text("")
    with pytest.raises(PackageError, match="not a folder"):
        PortableSession(tmp_path / "file")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"rootModelIdentifier": "a"}', b"\xff\xfe", b"[" * 100_000])
def test_manifest_that_is_none(package, content):
    (package / "Manifest.json").write_bytes(content)
    with pytest.raises(PackageError, match=r"Manifest\.json: not a package manifest"):
        PortableSession(package)


@pytest.mark.parametrize("path", ["../outside.mlmodel", "/etc/passwd", "a/../../../b", "", 7, "a\0b", "..\\b"])
def test_manifest_that_leaves_the_package(package, path):
    shutil.copy(package / MODEL, package.parent / "outside.mlmodel")
    _set_manifest_path(package, path)
    with pytest.raises(PackageError, match=r"outside the package|impossible file"):
        PortableSession(package)


def test_link_out_of_the_package(package, tmp_path):
    outside = tmp_path / "weight.bin"
    shutil.move(package / WEIGHTS, outside)
    (package / WEIGHTS).symlink_to(outside)
    with pytest.raises(PackageError, match="a link to a file outside the package"):
        PortableSession(package)


def test_links_of_the_hub_cache(original, tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc" / "m.mlpackage"
    blobs.mkdir()
    for number, source in enumerate(p for p in sorted(original.rglob("*")) if p.is_file()):
        blob = shutil.copy(source, blobs / str(number))
        link = snapshot / source.relative_to(original)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    PortableSession(snapshot)


def test_specification_that_is_none(package):
    (package / MODEL).write_bytes(b"\x07 no protobuf")
    with pytest.raises(PackageError, match="not a Core ML specification"):
        PortableSession(package)


def test_other_kinds_of_model(package):
    (package / MODEL).write_bytes(Model_pb2.Model(neuralNetwork={}).SerializeToString())
    with pytest.raises(PackageError, match="holds neuralNetwork, not an ML Program"):
        PortableSession(package)


def test_missing_weights(package):
    (package / WEIGHTS).unlink()
    with pytest.raises(PackageError, match=r"weight\.bin', which is missing"):
        PortableSession(package)


@pytest.mark.parametrize("keep", [0, 10, 64, 200, 4000, -64])
def test_truncated_weights(package, keep):
    data = (package / WEIGHTS).read_bytes()
    (package / WEIGHTS).write_bytes(data[:keep])
    with pytest.raises(PackageError, match=r"shorter than its header|weight file of"):
        PortableSession(package)


@pytest.mark.parametrize("offset", [0, 63, 10**6, 2**63, 2**64 - 1])
def test_offset_beyond_the_weights(package, offset):
    def change(spec, block):
        _blob(block).offset = offset

    _edit(package, change)
    with pytest.raises(PackageError, match=f"is said to be at byte {offset} of a weight file"):
        PortableSession(package)


def test_offset_between_records(package):
    def change(spec, block):
        _blob(block).offset += 8

    _edit(package, change)
    with pytest.raises(PackageError, match="no record of an array at byte"):
        PortableSession(package)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        (1, 2, "float16 in the program and float32 in the weight file"),
        (1, 99, r"unknown \(99\)"),
        (2, 2**63, "the weight file holds 9223372036854775808"),
        (3, 2**63, "is the file truncated"),
    ],
)
def test_record_that_lies(package, field, value, says):
    data = bytearray((package / WEIGHTS).read_bytes())
    record = list(struct.unpack_from("<IIQQQ", data, 64))
    record[field] = value
    struct.pack_into("<IIQQQ", data, 64, *record)
    (package / WEIGHTS).write_bytes(data)
    with pytest.raises(PackageError, match=says):
        PortableSession(package)


def test_a_hundred_gigabytes_in_ten_bytes(package):
    def change(spec, block):
        for op_ in block.operations:
            if op_.type == "const" and op_.attributes["val"].WhichOneof("value") == "blobFileValue":
                op_.attributes["val"].type.tensorType.dimensions[0].constant.size = 2**30
                break

    _edit(package, change)
    with pytest.raises(PackageError, match=r"needs .* bytes, the weight file holds"):
        PortableSession(package)


def test_name_that_nothing_defines(package):
    def change(spec, block):
        linear = next(o for o in block.operations if o.type == "linear")
        linear.inputs["x"].arguments[0].name = "nowhere"

    _edit(package, change)
    with pytest.raises(PackageError, match="uses 'nowhere', which nothing before it defines"):
        PortableSession(package)


def test_parameter_that_is_missing_or_unknown(package):
    def drop(spec, block):
        linear = next(o for o in block.operations if o.type == "linear")
        del linear.inputs["weight"]

    _edit(package, drop)
    with pytest.raises(PackageError, match=r"linear at .* lacks weight"):
        PortableSession(package)

    def add(spec, block):
        linear = next(o for o in block.operations if o.type == "linear")
        linear.inputs["weight"].CopyFrom(linear.inputs["bias"])
        linear.inputs["colour"].CopyFrom(linear.inputs["bias"])

    _edit(package, add)
    with pytest.raises(PackageError, match="parameters that this runtime does not know: colour"):
        PortableSession(package)


def test_missing_function(package):
    def change(spec, block):
        spec.mlProgram.functions["other"].CopyFrom(spec.mlProgram.functions["main"])
        del spec.mlProgram.functions["main"]

    _edit(package, change)
    with pytest.raises(PackageError, match="no function 'main' in the program; it has: other"):
        PortableSession(package)


def test_unsupported_operations_are_named_with_their_places(package):
    places = []

    def change(spec, block):
        for op_ in block.operations:
            if op_.type == "linear":
                op_.type = "quantum_linear"
                places.append(op_.outputs[0].name)

    _edit(package, change)
    with pytest.raises(UnsupportedOperationError, match=rf"quantum_linear \(at {', '.join(places)}\)"):
        PortableSession(package)


def test_an_operation_is_registered_once():
    with pytest.raises(ValueError, match="'add' is registered already"):
        builtin("add", np.add, "x", "y")
    with pytest.raises(ValueError, match="'softmax' is registered already"):
        op("softmax")(lambda x: x)
    with pytest.raises(ValueError, match="has a preparation already"):
        prepare("conv")(lambda call: None)


def test_annotations_say_how_arguments_come():
    assert OPERATIONS["gather"].roles["x"] is Role.STORED
    assert OPERATIONS["concat"].roles["values"] is Role.TENSORS
    assert OPERATIONS["conv"].roles["bias"] is Role.TENSOR
    assert OPERATIONS["conv"].roles["strides"] is Role.PYTHON
    assert OPERATIONS["read_state"].roles["input"] is Role.CELL
    assert OPERATIONS["linear"].required == {"x", "weight"}
