"""Packages that the recipes made for a package cannot be made for."""

from dataclasses import replace

import pytest

from optimum_ane.compression.sweep import sweep, swept_program
from optimum_ane.errors import CompressionError
from optimum_ane.package.manifest import Manifest
from optimum_ane.workflows.recipe_preparation import Calibrating, prepare_recipe


@pytest.fixture(scope="module")
def two_lengths(tiny_package):
    return tiny_package("distilbert", "text-classification", sequence_length=(8, 16))


@pytest.fixture(scope="module")
def two_programs(tiny_package, tmp_path_factory):
    """A description of two programs, which is all that is looked at."""
    folder = tmp_path_factory.mktemp("two")
    manifest = Manifest.read(tiny_package("distilbert", "text-classification"))
    (program,) = manifest.programs
    replace(manifest, programs=(replace(program, name="text"), replace(program, name="image"))).write(folder)
    return folder


@pytest.mark.parametrize(("name", "options"), [("mixed", {"max_size_ratio": 0.5}), ("int8-activations", {})])
def test_recipes_made_for_a_package_refuse_several_functions_and_programs_by_name(
    name, options, two_lengths, two_programs, tmp_path
):
    with pytest.raises(
        CompressionError, match=rf"has the functions seq_16, seq_8; {name} is made for packages of one"
    ):
        prepare_recipe(two_lengths, name, tmp_path / "out", Calibrating(**options))
    with pytest.raises(CompressionError, match=rf"has the programs text, image; {name} is made for packages of one"):
        prepare_recipe(two_programs, name, tmp_path / "out", Calibrating(**options))


def test_other_recipes_do_not_ask(two_programs, tmp_path):
    assert prepare_recipe(two_programs, "int8", tmp_path / "out", Calibrating()).recipe.name == "int8"


def test_a_sweep_takes_one_program_of_any_functions(two_lengths, two_programs, tmp_path):
    assert swept_program(two_lengths, Manifest.read(two_lengths)).path == "model.mlpackage"
    with pytest.raises(CompressionError, match="has the programs text, image; a sweep scores packages of one"):
        sweep(two_programs, [], tmp_path / "out", lambda session: None, scored_by="x")
