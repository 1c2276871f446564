"""A package of several functions, compressed: what each of them would become alone, and every weight once."""

from collections import Counter

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import types
from stored_programs import WEIGHTS, content_of, stored_arrays

from optimum_ane.compression import compress as compress_module
from optimum_ane.compression import compress_mlpackage, get_recipe
from optimum_ane.compression.activations import quantize_activations
from optimum_ane.compression.calibration_data import calibration_of_random_tokens
from optimum_ane.compression.coverage import measure_coverage
from optimum_ane.compression.mixed import Budget, search_mixed
from optimum_ane.compression.weights import StoredWeights
from optimum_ane.errors import CompressionError, PackageError
from optimum_ane.package.layout import MLPACKAGE
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.runtimes.portable.package import Package
from optimum_ane.targets.coreml.multifunction import functions_of, merge_functions, split_function

LENGTHS = (64, 96)  # both position tables, 48 wide, are above the threshold of 2048 elements
MODEL = {"max_position_embeddings": 128}
OPTIONS = {"minimum_deployment_target": "iOS18"}


@pytest.fixture(scope="module")
def package(tiny_package):
    return tiny_package("distilbert", "text-classification", MODEL, sequence_length=LENGTHS, **OPTIONS)


@pytest.fixture(scope="module")
def source(package):
    return package / MLPACKAGE


@pytest.fixture(scope="module")
def singles(tiny_package):
    """The same model with one length, by the name of the function."""
    return {
        f"seq_{n}": tiny_package("distilbert", "text-classification", MODEL, sequence_length=n, **OPTIONS) / MLPACKAGE
        for n in LENGTHS
    }


@pytest.fixture(scope="module")
def compressed(source, tmp_path_factory):
    made = {}

    def make(recipe):
        if recipe not in made:
            target = tmp_path_factory.mktemp("compressed") / MLPACKAGE
            made[recipe] = (target, compress_mlpackage(source, target, get_recipe(recipe)))
        return made[recipe]

    return make


def inputs_of(session):
    generator = np.random.default_rng(0)
    shape = session.inputs["input_ids"].shape
    ids = generator.integers(5, 90, shape).astype(np.int32)
    return {"input_ids": ids, "attention_mask": (np.arange(shape[1]) < 40).astype(np.int32)[None]}


RECIPES = ("int8", "palette4-g16", "int4-block32", "sparse50-palette6", "palette6-int8")


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_function_is_what_it_becomes_alone(compressed, singles, tmp_path, recipe):
    target, _ = compressed(recipe)
    assert functions_of(Package(target).spec) == ("seq_96", "seq_64")
    for name, single in singles.items():
        alone = tmp_path / f"{name}.mlpackage"
        compress_mlpackage(single, alone, get_recipe(recipe))
        taken_out = tmp_path / f"{name}-taken-out.mlpackage"
        split_function(target, name, taken_out)
        assert content_of(target, name) == content_of(alone)
        assert Counter(stored_arrays(taken_out)) == Counter(set(stored_arrays(alone)))
        together = PortableSession(target, name)
        expected = PortableSession(alone).predict(inputs_of(together))["logits"]
        np.testing.assert_array_equal(together.predict(inputs_of(together))["logits"], expected)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_weight_is_stored_and_counted_once(compressed, source, recipe):
    target, coverage = compressed(recipe)
    stored = stored_arrays(target)
    assert len(set(stored)) == len(stored)
    before = StoredWeights(source)
    floats = [data for kind, data in stored_arrays(source) if kind == 1]
    assert len(coverage.weights) == len(floats)
    assert sorted(weight.bytes_before for weight in coverage.weights) == sorted(map(len, floats))
    assert coverage.bytes_before == before.stored_bytes == sum(len(data) for _, data in stored_arrays(source))
    in_file = sum(len(data) for _, data in stored)
    # Palettes of fewer than ten values stand in the program itself.
    assert in_file <= coverage.bytes_after <= in_file + 64 * len(coverage.weights)
    assert len({weight.name for weight in coverage.weights}) == len(coverage.weights)


def test_what_the_second_function_adds_is_its_position_table(compressed, singles, tmp_path):
    target, _ = compressed("palette4-g16")
    compress_mlpackage(singles["seq_96"], tmp_path / "one.mlpackage", get_recipe("palette4-g16"))
    one, both = ((path / WEIGHTS).stat().st_size for path in (tmp_path / "one.mlpackage", target))
    assert both - one < 64 * 48 * 2 + 1000


def test_a_name_that_stands_for_two_weights_has_two_labels(compressed, source):
    _, coverage = compressed("int8")
    twice = [weight for weight in coverage.weights if "/" in weight.name]
    assert [weight.name.split("/")[0] for weight in twice] == ["seq_64"]
    (other,) = (weight for weight in coverage.weights if weight.name == twice[0].name.split("/")[1])
    assert {other.shape, twice[0].shape} == {(96, 48), (64, 48)}
    assert StoredWeights(source).weights[twice[0].name].function == "seq_64"


def test_palettes_are_found_once(source, tmp_path, monkeypatch):
    found = Counter()
    palette = compress_module.palette

    def counted(values, nbits):
        found[values.tobytes()] += 1
        return palette(values, nbits)

    monkeypatch.setattr(compress_module, "palette", counted)
    coverage = compress_mlpackage(source, tmp_path / "out.mlpackage", get_recipe("palette6"))
    assert set(found.values()) == {1}
    covered = [weight for weight in coverage.compressed if weight.form.startswith("palette")]
    assert len(found) == len(covered) > 10


def test_progress_counts_what_all_functions_read(source, tmp_path):
    seen = []
    recipe = get_recipe("palette4-g16")
    compress_mlpackage(source, tmp_path / "out.mlpackage", recipe, lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1]


def test_what_a_package_says_of_itself_is_kept(compressed, source):
    target, _ = compressed("palette4-g16")
    before, after = Package(source).spec.description, Package(target).spec.description
    assert list(after.functions) == list(before.functions)
    assert after.defaultFunctionName == before.defaultFunctionName
    assert after.metadata.author == before.metadata.author
    assert dict(before.metadata.userDefined).items() <= dict(after.metadata.userDefined).items()


def test_a_weight_named_in_a_recipe_is_compressed_in_all_functions(source, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("steps: [{kind: palettize, weights: {'*layer_1*lin1_weight*': {nbits: 2}}}]\n")
    coverage = compress_mlpackage(source, tmp_path / "out.mlpackage", get_recipe(recipe))
    (weight,) = coverage.compressed
    for name in ("seq_64", "seq_96"):
        split_function(tmp_path / "out.mlpackage", name, tmp_path / f"{name}.mlpackage")
        stored = StoredWeights(tmp_path / f"{name}.mlpackage")
        (label,) = (label for label in stored.weights if "layer_1_ffn_lin1_weight" in label)
        assert len(np.unique(stored.values(label))) == 4
    assert weight.form == "palette of 2 bits"


def test_refusals_are_those_of_one_function(compressed, package, source, tmp_path):
    target, _ = compressed("int8")
    with pytest.raises(CompressionError, match="is compressed already"):
        compress_mlpackage(target, tmp_path / "twice.mlpackage", get_recipe("palette6"))
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("steps: [{kind: palettize, weights: {'*lin9*': {nbits: 2}}}]\n")
    with pytest.raises(CompressionError, match="matches none of the"):
        compress_mlpackage(source, tmp_path / "twice.mlpackage", get_recipe(recipe))
    calibration = calibration_of_random_tokens(package, rows=2)
    with pytest.raises(CompressionError, match=r"int8-activations .* seq_96, seq_64; export one sequence length"):
        quantize_activations(source, tmp_path / "twice.mlpackage", calibration)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_nothing_else_is_left_beside_it(compressed):
    target, _ = compressed("int8")
    assert [path.name for path in target.parent.iterdir()] == [MLPACKAGE]


def test_a_search_runs_the_default_function_and_its_recipe_compresses_all(package, source, tmp_path):
    calibration = calibration_of_random_tokens(package, rows=2)
    assert calibration.batches[0]["input_ids"].shape == (1, 96)
    found = search_mixed(package, tmp_path / "search", Budget(size_ratio=0.45), calibration, quiet=True)
    path = tmp_path / "mixed.yaml"
    path.write_text(found.text)
    coverage = compress_mlpackage(source, tmp_path / "made.mlpackage", get_recipe(path))
    split_function(tmp_path / "made.mlpackage", "seq_96", tmp_path / "one.mlpackage")
    split_function(source, "seq_96", tmp_path / "before.mlpackage")
    made, before = ((tmp_path / name / WEIGHTS).stat().st_size for name in ("one.mlpackage", "before.mlpackage"))
    assert made / before == pytest.approx(found.size_ratio, abs=1e-3)
    assert len(coverage.compressed) > 10


TABLE = np.random.default_rng(0).normal(size=(64, 48)).astype(np.float32)


def save(body, path, shape, dtype):
    model = ct.convert(
        mb.program(input_specs=[mb.TensorSpec(shape=shape, dtype=dtype)], opset_version=ct.target.iOS18)(body),
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )
    model.save(str(path))
    return path


@pytest.fixture
def tied(tmp_path):
    """A table that one function looks rows up in and another multiplies by."""
    sources = {
        "look_up": save(
            lambda ids: mb.gather(x=mb.const(val=TABLE, name="table"), indices=ids, axis=0),
            tmp_path / "look_up.mlpackage",
            (3,),
            types.int32,
        ),
        "multiply": save(
            lambda x: mb.linear(x=x, weight=mb.const(val=TABLE, name="head")),
            tmp_path / "multiply.mlpackage",
            (1, 48),
            types.fp32,
        ),
    }
    merge_functions(sources, tmp_path / "tied.mlpackage", default="look_up")
    return tmp_path / "tied.mlpackage"


def test_a_weight_is_treated_by_what_reads_it_in_any_function(tied, tmp_path):
    """By the types of operations alone the two functions would store it twice, in two formats and under two names."""
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("steps: [{kind: palettize, op_types: {gather: {nbits: 8}, linear: {nbits: 2}}}]\n")
    coverage = compress_mlpackage(tied, tmp_path / "out.mlpackage", get_recipe(recipe))
    (weight,) = coverage.compressed
    assert set(weight.op_types) == {"gather", "linear"}
    assert (weight.name, weight.form) == ("table", "palette of 8 bits")
    assert len([data for _, data in stored_arrays(tmp_path / "out.mlpackage") if len(data) == TABLE.size]) == 1
    x = np.eye(48, dtype=np.float32)[:1]
    session = PortableSession(tmp_path / "out.mlpackage", "multiply")
    (answer,) = session.predict({"x": x}).values()
    rows = session.function("look_up").predict({"ids": np.arange(3, dtype=np.int32)})
    np.testing.assert_allclose(answer[0, :3], next(iter(rows.values()))[:, 0], atol=1e-6)
    assert np.abs(answer[0] - TABLE[:, 0]).max() < 0.02


def test_a_weight_that_is_stored_for_each_function_is_an_error(source, tmp_path):
    parts = {}
    for index, name in enumerate(functions_of(Package(source).spec)):
        split_function(source, name, tmp_path / f"{name}.mlpackage")
        parts[name] = tmp_path / f"{name}-compressed.mlpackage"
        recipe = get_recipe(("palette4", "palette6")[index])
        compress_mlpackage(tmp_path / f"{name}.mlpackage", parts[name], recipe)
    merge_functions(parts, tmp_path / "apart.mlpackage", default="seq_96")
    with pytest.raises(PackageError, match=r"is stored beside what other functions read"):
        measure_coverage(source, tmp_path / "apart.mlpackage", get_recipe("palette4"), {})
