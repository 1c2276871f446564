"""The table after a compression, against the files and coremltools' own reading of them."""

import shutil

import pytest
from coremltools.models import MLModel
from rich.console import Console

from optimum_ane.analysis.operations import count_operations
from optimum_ane.compression import compress_mlpackage, get_recipe
from optimum_ane.compression.coverage import measure_coverage, print_coverage
from optimum_ane.errors import CompressionError, PackageError

WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


@pytest.fixture(scope="module")
def source(tiny_package):
    """48 wide: 16 divides it, 32 does not."""
    package = tiny_package("distilbert", "text-classification", minimum_deployment_target="iOS18")
    return package / "model.mlpackage"


@pytest.fixture
def compress(source, tmp_path):
    def compress(text):
        recipe = tmp_path / "mine.yaml"
        recipe.write_text(text)
        target = tmp_path / "out.mlpackage"
        return target, compress_mlpackage(source, target, get_recipe(recipe))

    return compress


def by_name(coverage):
    return {weight.name.split("_to_fp16")[0].removeprefix("distilbert_"): weight for weight in coverage.weights}


def readers_of_decoded_weights(mlpackage):
    """How many operands of the program come from a `constexpr_` operation, straight from the file's own words."""
    function = MLModel(str(mlpackage), skip_model_load=True).get_spec().mlProgram.functions["main"]
    operations = function.block_specializations[function.opset].operations
    decoded = {o.name for op in operations if op.type.startswith("constexpr_") for o in op.outputs}
    return sum(
        argument.name in decoded
        for op in operations
        if not op.type.startswith("constexpr_")
        for value in op.inputs.values()
        for argument in value.arguments
    )


@pytest.mark.parametrize("recipe", ["int8", "palette4-g16", "sparse50-int8", "palette6-int8"])
def test_the_table_says_what_the_file_holds(source, tmp_path, recipe):
    target = tmp_path / "out.mlpackage"
    coverage = compress_mlpackage(source, target, get_recipe(recipe))
    assert len(coverage.compressed) == readers_of_decoded_weights(target) > 10
    size = (target / WEIGHTS).stat().st_size
    # A record of 64 bytes before each array, and each array filled up to 64.
    assert coverage.bytes_after < size < coverage.bytes_after + 128 * 5 * len(coverage.weights)
    assert coverage.ratio == pytest.approx(coverage.bytes_after / coverage.bytes_before)
    assert all(weight.bytes_after < weight.bytes_before for weight in coverage.compressed)
    assert all(weight.psnr > 20 for weight in coverage.compressed)


def test_a_program_gains_no_operations(source, tmp_path):
    """Three of coremltools' passes, each of which would guard the indices of the gather once more."""
    target = tmp_path / "out.mlpackage"
    compress_mlpackage(source, target, get_recipe("sparse50-int8"))
    before, after = count_operations(source), count_operations(target)
    assert before["greater_equal"] == 1
    assert after == before


def test_int8_takes_a_byte_for_each_weight_and_two_for_each_scale(source, tmp_path):
    coverage = compress_mlpackage(source, tmp_path / "out.mlpackage", get_recipe("int8"))
    table = by_name(coverage)["embeddings_word_embeddings_weight"]
    assert table.shape == (100, 48)
    assert (table.bytes_before, table.bytes_after) == (100 * 48 * 2, 100 * 48 + 100 * 2)


def test_extents_that_groups_do_not_divide_are_named(compress):
    _, coverage = compress(
        "steps: [{kind: palettize, global: {nbits: 4, granularity: per_grouped_channel, group_size: 32}}]"
    )
    weights = by_name(coverage)
    assert weights["transformer_layer_0_attention_q_lin_weight_carried"].skipped == (
        "axis 0 of 48 does not divide into groups of 32"
    )
    assert weights["embeddings_word_embeddings_weight"].skipped == "axis 0 of 100 does not divide into groups of 32"
    assert weights["transformer_layer_0_ffn_lin1_weight_carried"].form == "palette of 4 bits, groups of 32"


def test_extents_that_blocks_do_not_divide_are_named(compress):
    _, coverage = compress("steps: [{kind: quantize, global: {dtype: int4, granularity: per_block, block_size: 32}}]")
    weights = by_name(coverage)
    assert weights["embeddings_word_embeddings_weight"].skipped == "axis 1 of 48 does not divide into blocks of 32"
    assert weights["transformer_layer_0_ffn_lin2_weight_carried"].form == "int4 per block of 32"


def test_every_other_reason_to_skip_is_given(compress):
    _, coverage = compress(
        "steps: [{kind: quantize, global: {weight_threshold: 3000}, op_types: {gather: null}, "
        "weights: {'*layer_1*lin1_weight*': null}}]"
    )
    weights = by_name(coverage)
    assert weights["embeddings_word_embeddings_weight"].skipped == "the recipe leaves weights of gather as they are"
    assert weights["transformer_layer_1_ffn_lin1_weight_carried"].skipped.startswith("the recipe leaves")
    assert weights["transformer_layer_0_ffn_lin1_weight_carried"].form == "int8 per channel"
    assert weights["pre_classifier_weight_carried"].skipped == "2304 elements; the recipe's threshold is 3000"
    assert weights["transformer_layer_0_ffn_lin1_bias"].skipped == "a vector: coremltools compresses none"


def test_what_one_step_cannot_do_a_later_one_does(source, tmp_path):
    coverage = compress_mlpackage(source, tmp_path / "out.mlpackage", get_recipe("int4-block32"))
    weights = by_name(coverage)
    assert weights["transformer_layer_0_ffn_lin2_weight_carried"].form == "int4 per block of 32, with zero point"
    assert weights["transformer_layer_0_ffn_lin1_weight_carried"].form == "int8 per channel"


def test_a_pattern_that_matches_no_weight_is_an_error_before_any_work(compress, tmp_path):
    with pytest.raises(CompressionError, match=r"'\*lin9\*' matches none of the \d+ weights .* one is called"):
        compress("steps: [{kind: quantize, global: {}, weights: {'*lin9*': null}}]")
    assert not (tmp_path / "out.mlpackage").exists()


def test_a_weight_that_was_not_compressed_and_changed_is_an_error(source, tmp_path):
    target = tmp_path / "out.mlpackage"
    shutil.copytree(source, target)
    data = bytearray((target / WEIGHTS).read_bytes())
    data[-2:] = b"\x00\x3c"
    (target / WEIGHTS).write_bytes(data)
    with pytest.raises(PackageError, match=r"did not compress .* and yet changed its values"):
        measure_coverage(source, target, get_recipe("int8"), {})


def test_the_printed_table_names_the_size_and_what_was_left(compress, capsys):
    _, coverage = compress("advice: do not\nsteps: [{kind: quantize, global: {}, op_types: {gather: null}}]")
    print_coverage(coverage.to_dict(), Console(width=200))
    printed = capsys.readouterr().out
    assert "int8 per channel (conv)" in printed
    assert "not compressed: distilbert_embeddings_word_embeddings_weight_to_fp16, 9.6 kB" in printed
    assert f"{coverage.ratio:.3f} of float16" in printed
    assert "advice on mine: do not" in printed


def test_packages_for_older_systems_are_refused_by_their_opset(tiny_package, tmp_path):
    source = tiny_package("distilbert", "text-classification") / "model.mlpackage"
    with pytest.raises(CompressionError, match=r"needs iOS18 .* the package is for iOS16; export with minimum_dep"):
        compress_mlpackage(source, tmp_path / "out.mlpackage", get_recipe("palette4-g16"))
    compress_mlpackage(source, tmp_path / "out.mlpackage", get_recipe("palette4"))
