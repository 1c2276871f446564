"""What is in a compressed package, against the formulas computed here, and against coremltools' own decoding."""

import numpy as np
import pytest
from coremltools.models import MLModel
from coremltools.optimize.coreml import decompress_weights, get_weights_metadata

from optimum_ane.compression import compress_mlpackage, get_recipe
from optimum_ane.errors import CompressionError
from optimum_ane.runtimes.portable import PortableSession

MODEL = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def source(tiny_package):
    """Weights of 64 × 64, 128 × 64 and 64 × 128, an embedding of 100 × 64, and positions of 16 × 64."""
    package = tiny_package("distilbert", "text-classification", MODEL, minimum_deployment_target="iOS18")
    return package / "model.mlpackage"


@pytest.fixture(scope="module")
def compressed(source, tmp_path_factory):
    made = {}

    def make(recipe):
        if recipe not in made:
            target = tmp_path_factory.mktemp("compressed") / "model.mlpackage"
            made[recipe] = target, compress_mlpackage(source, target, get_recipe(recipe))
        return made[recipe]

    return make


def values_of(mlpackage, decode=False):
    """The large float weights of a package by the name before, as coremltools reads or decodes them."""
    model = MLModel(str(mlpackage), skip_model_load=True)
    if decode:
        model = decompress_weights(model)
    metadata = get_weights_metadata(model, weight_threshold=1023)
    found = {}
    for name, entry in metadata.items():
        stem = name.split("_to_fp16")[0]
        found[stem] = entry.val.astype(np.float64)
    return found


@pytest.fixture(scope="module")
def original(source):
    return values_of(source)


def rows(values):
    return values.reshape(values.shape[0], -1)


def is_table(name):
    return "embeddings" in name or "positions" in name


def test_int8_rounds_each_row_to_multiples_of_its_scale(compressed, original):
    target, _ = compressed("int8")
    decoded = values_of(target, decode=True)
    assert decoded.keys() == original.keys()
    checked = 0
    for name, before in original.items():
        if before.size <= 2048:
            np.testing.assert_array_equal(decoded[name], before)
            continue
        weight = rows(before)
        scale = (np.abs(weight).max(1, keepdims=True) / 127).astype(np.float16).astype(np.float64)
        expected = np.clip(np.round(weight / scale), -127, 127) * scale
        # A quotient in float16 may fall on the other side of a half: one step, in few places.
        steps = np.abs(rows(decoded[name]) - expected) / scale
        assert steps.max() < 1.1
        assert (steps > 0.1).mean() < 0.02
        checked += 1
    assert checked == 14  # 2 layers of 6, the embedding, the classifier's first


def test_int8_per_tensor_has_one_scale(compressed, original):
    target, _ = compressed("int8-per-tensor")
    decoded = values_of(target, decode=True)
    for name, before in original.items():
        if before.size > 2048:
            scale = np.float64(np.float16(np.abs(before).max() / 127))
            multiples = decoded[name] / scale
            np.testing.assert_allclose(multiples, np.round(multiples), atol=0.07)
            assert np.abs(decoded[name] - before).max() < 0.6 * scale


@pytest.mark.parametrize(("recipe", "entries"), [("palette6", 64), ("palette4", 16), ("palette2", 4)])
def test_a_palette_holds_so_many_values_and_each_weight_takes_the_nearest(compressed, original, recipe, entries):
    target, _ = compressed(recipe)
    decoded = values_of(target, decode=True)
    for name, before in original.items():
        if before.size <= 2048 or (is_table(name) and recipe != "palette6"):
            continue
        palette = np.unique(decoded[name])
        assert len(palette) <= entries
        nearest = np.abs(before.reshape(-1, 1) - palette).min(1)
        np.testing.assert_allclose(np.abs(decoded[name] - before).reshape(-1), nearest)


def test_each_group_of_16_channels_has_a_palette_of_its_own(compressed, original):
    target, _ = compressed("palette4-g16")
    decoded = values_of(target, decode=True)
    for name, before in original.items():
        if before.size <= 2048 or is_table(name):
            continue
        groups = np.split(rows(decoded[name]), before.shape[0] // 16)
        assert all(len(np.unique(group)) <= 16 for group in groups)
        assert len(np.unique(decoded[name])) > 16
        error = np.abs(decoded[name] - before).mean() / np.abs(before).mean()
        assert error < 0.12


def test_int4_takes_16_values_in_each_block_of_32(compressed, original):
    target, _ = compressed("int4-block32")
    decoded = values_of(target, decode=True)
    for name, before in original.items():
        if before.size <= 2048 or is_table(name):
            continue
        blocks, given = decoded[name].reshape(-1, 32), before.reshape(-1, 32)
        width = np.maximum(given.max(1), 0) - np.minimum(given.min(1), 0)
        assert max(len(np.unique(block)) for block in blocks) <= 16
        assert (np.abs(blocks - given).max(1) <= 0.54 * width / 15 + 1e-3).all()


@pytest.mark.parametrize("recipe", ["sparse50", "sparse50-int8", "sparse50-palette6"])
def test_the_smaller_half_of_each_weight_is_zero(compressed, original, recipe):
    target, _ = compressed(recipe)
    decoded = values_of(target, decode=True)
    for name, before in original.items():
        if before.size <= 2048 or is_table(name):
            continue
        zero, magnitude = decoded[name] == 0, np.abs(before)
        assert 0.49 < zero.mean() < 0.51
        assert magnitude[zero].max() <= magnitude[~zero].min()
        assert np.abs(decoded[name] - before)[~zero].max() <= {"sparse50": 0}.get(recipe, 0.1)


@pytest.mark.parametrize("recipe", ["palette4", "palette4-g16", "int4-block32", "palette3", "palette2", "sparse50"])
def test_embeddings_are_int8_where_the_rest_has_fewer_bits(compressed, original, recipe):
    target, coverage = compressed(recipe)
    (table,) = [weight for weight in coverage.weights if weight.op_types == ("gather",)]
    assert table.form == "int8 per channel"
    decoded = values_of(target, decode=True)["distilbert_embeddings_word_embeddings_weight"]
    before = original["distilbert_embeddings_word_embeddings_weight"]
    assert np.abs(decoded - before).max() < 0.6 * np.abs(before).max() / 127


@pytest.mark.parametrize("recipe", ["int8", "palette4-g16", "sparse50-palette6", "palette6-int8"])
def test_the_portable_runtime_decodes_what_coremltools_decodes(compressed, recipe, tmp_path):
    """The compressed package answers as the one that coremltools decompressed."""
    target, _ = compressed(recipe)
    model = decompress_weights(MLModel(str(target), skip_model_load=True))
    model.save(str(tmp_path / "plain.mlpackage"))
    random = np.random.default_rng(0)
    inputs = {
        "input_ids": random.integers(5, 100, (1, 16)).astype(np.int32),
        "attention_mask": np.ones((1, 16), np.int32),
    }
    ours = PortableSession(target).predict(inputs)["logits"]
    theirs = PortableSession(tmp_path / "plain.mlpackage").predict(inputs)["logits"]
    np.testing.assert_array_equal(ours, theirs)


def test_the_same_package_gives_the_same_bytes_twice(source, tmp_path):
    files = []
    for name in ("first", "second"):
        target = tmp_path / f"{name}.mlpackage"
        compress_mlpackage(source, target, get_recipe("palette4-g16"))
        files.append((target / "Data/com.apple.CoreML/weights/weight.bin").read_bytes())
    assert files[0] == files[1]


def test_what_a_package_says_of_itself_is_kept(source, compressed):
    target, _ = compressed("int8")
    before, after = (MLModel(str(path), skip_model_load=True) for path in (source, target))
    assert after.short_description == before.short_description
    assert after.author == before.author
    assert after.license == before.license
    for name, value in before.user_defined_metadata.items():
        assert after.user_defined_metadata[name] == value
    specs = before.get_spec(), after.get_spec()
    assert specs[0].description.input == specs[1].description.input
    assert specs[0].specificationVersion == specs[1].specificationVersion


def test_a_package_is_not_compressed_twice(compressed, tmp_path):
    target, _ = compressed("int8")
    with pytest.raises(CompressionError, match=r"is compressed already .* compress the package that it was made from"):
        compress_mlpackage(target, tmp_path / "twice.mlpackage", get_recipe("palette6"))
    assert list(tmp_path.iterdir()) == []


def test_progress_ends_where_it_said_it_would(source, tmp_path):
    seen = []
    recipe = get_recipe("palette4-g16")
    compress_mlpackage(source, tmp_path / "out.mlpackage", recipe, lambda done, total: seen.append((done, total)))
    done = [entry[0] for entry in seen]
    assert done == sorted(done)
    assert seen[-1][0] == seen[-1][1]
