"""One attack of each kind on a package: refused by name and place, and without a crash."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from portable_attacks import MODEL, WEIGHTS, edit, find, refused
from portable_programs import save_module

from optimum_ane.errors import ExecutionError

pytestmark = pytest.mark.usefixtures("capped")


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Packages by name, each built once."""
    folder = tmp_path_factory.mktemp("originals")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64))
    save_module(folder / "net.mlpackage", net, {"x": torch.zeros(1, 64)})
    return folder


@pytest.fixture
def package(originals, tmp_path):
    return shutil.copytree(originals / "net.mlpackage", tmp_path / "m.mlpackage")


# Files.


def test_manifest_that_is_huge(package):
    (package / "Manifest.json").write_bytes(b" " * (2**20 + 1))
    refused(package, "bytes; at most 1048576 are read")


def test_manifest_that_is_a_link_out(package, tmp_path):
    shutil.move(package / "Manifest.json", tmp_path / "Manifest.json")
    (package / "Manifest.json").symlink_to(tmp_path / "Manifest.json")
    refused(package, "a link to a file outside the package")


@pytest.mark.parametrize("file", ["Manifest.json", MODEL, WEIGHTS])
def test_pipe_in_the_place_of_a_file(package, file):
    (package / file).unlink()
    os.mkfifo(package / file)
    refused(package, "which is not a file")


@pytest.mark.parametrize("file", ["Manifest.json", MODEL, WEIGHTS])
def test_folder_in_the_place_of_a_file(package, file):
    (package / file).unlink()
    (package / file).mkdir()
    refused(package, "which is not a file")


def test_link_to_itself(package):
    (package / WEIGHTS).unlink()
    (package / WEIGHTS).symlink_to("weight.bin")
    refused(package, "which is missing")


def test_specification_larger_than_protobuf_reads(package):
    with (package / MODEL).open("r+b") as file:
        file.truncate(2**31)  # a hole: it takes no space on disk
    refused(package, "bytes; at most 2147483647 are read")


def test_name_that_is_no_text(package):
    data = (package / MODEL).read_bytes()
    assert b"linear" in data
    (package / MODEL).write_bytes(data.replace(b"linear", b"lin\xff\xfer"))
    refused(package, "not a Core ML specification")


def test_array_between_two_elements(package):
    data = bytearray((package / WEIGHTS).read_bytes())
    data[64 + 16] += 1
    (package / WEIGHTS).write_bytes(data)
    refused(package, "between two elements")


# Names.


def test_value_defined_twice(package):
    def change(spec, block):
        block.operations.add().CopyFrom(find(block, "linear"))

    edit(package, change)
    refused(package, "is defined twice")


def test_value_that_hides_an_input(package):
    def change(spec, block):
        find(block, "const").outputs[0].name = "x"

    edit(package, change)
    refused(package, "'x' is defined twice")


def test_cycle(package):
    def change(spec, block):
        first, second = (op for op in block.operations if op.type == "linear")
        first.inputs["x"].arguments[0].name = second.outputs[0].name

    edit(package, change)
    refused(package, "which nothing before it defines")


def test_input_described_twice(package):
    edit(package, lambda spec, block: spec.description.input.add().CopyFrom(spec.description.input[0]))
    refused(package, "input 'x' is described twice")


def test_output_described_twice_differently(package):
    def change(spec, block):
        spec.description.output.add().CopyFrom(spec.description.output[0])
        spec.description.output[1].type.multiArrayType.shape[:] = [1, 9]

    edit(package, change)
    refused(package, "output .* is described twice, and not alike")


def test_blocks_nested_deeply(package):
    def change(spec, block):
        for _ in range(70):
            inner = block.operations.add()
            inner.type = "cond"
            block = inner.blocks.add()

    # protobuf has a limit of its own, at about half of that many blocks.
    edit(package, change)
    refused(package, "not a Core ML specification|nested deeper")


# Declarations.


@pytest.mark.parametrize(("size", "says"), [(2**62, "more than 2\\*\\*40"), (2**20, "needs .* bytes")])
def test_declared_extent(package, size, says):
    def change(spec, block):
        const = next(o for o in block.operations if o.attributes["val"].WhichOneof("value") == "blobFileValue")
        const.attributes["val"].type.tensorType.dimensions[0].constant.size = size

    edit(package, change)
    refused(package, says)


@pytest.mark.parametrize("shape", [[2**40, 2**40], [-1, 64], [1] * 1000, [0, 2**62]])
def test_described_shape(package, shape):
    edit(
        package,
        lambda spec, block: spec.description.input[0].type.multiArrayType.shape.__setitem__(slice(None), shape),
    )
    refused(package, "'x' of")


def test_description_and_program_differ(package):
    edit(package, lambda spec, block: spec.description.input[0].type.multiArrayType.shape.__setitem__(1, 32))
    refused(package, r"input 'x' is float32 \(1, 32\) in the description and float32 \(1, 64\) in the program")


def test_many_blocks_among_many_names(package):
    """Copying what is visible for each block would take minutes."""

    def change(spec, block):
        const = find(block, "const")
        for number in range(3000):
            block.operations.add().CopyFrom(const)
            block.operations[-1].outputs[0].name = f"const{number}"
        for _ in range(3000):
            branch = block.operations.add()
            branch.type = "cond"
            branch.blocks.add()
            branch.blocks.add()

    edit(package, change)
    refused(package, "cond at .* has 2 blocks and parameters")


def test_linear_layer_of_another_width(package):
    def change(spec, block):
        spec.mlProgram.functions["main"].inputs[0].type.tensorType.dimensions[1].constant.size = 1
        spec.description.input[0].type.multiArrayType.shape[1] = 1

    edit(package, change)
    refused(package, "linear at ", ExecutionError, (1, 1))
