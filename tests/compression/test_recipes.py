"""Recipes by name and from files: what is read, what is refused, and what a system must be to carry them."""

import pytest

from optimum_ane.compression import get_recipe, recipe_names
from optimum_ane.compression.settings import Palettize, Prune, Quantize
from optimum_ane.errors import CompressionError

SOUND = """\
summary: mine
steps:
  - kind: palettize
    global: {nbits: 6}
    op_types:
      gather: null
    weights:
      "*classifier*": {nbits: 8}
      exact_name: null
  - kind: quantize
    global: {dtype: int8}
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return path

    return write


def test_the_recipes_that_people_ask_for_ship():
    asked = (
        "int8 int8-per-tensor int8-block128 int4-block32 palette8 palette6 palette4 palette3 palette2 palette4-g16 "
        "sparse50 sparse50-int8 sparse50-palette6 palette6-int8"
    )
    assert set(asked.split()) <= set(recipe_names())


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("int8", "iOS16"),
        ("palette6", "iOS16"),
        ("palette4", "iOS16"),
        ("sparse50", "iOS16"),
        ("palette3", "iOS18"),
        ("palette4-g16", "iOS18"),
        ("int4-block32", "iOS18"),
        ("int8-block128", "iOS18"),
        ("sparse50-int8", "iOS18"),
        ("palette6-int8", "iOS18"),
    ],
)
def test_each_recipe_knows_the_oldest_system(name, target):
    """The table of coremltools' guide, `opt-overview`."""
    recipe = get_recipe(name)
    assert recipe.minimum_deployment_target == target
    recipe.check_target("iOS18", "the package")
    if target == "iOS18":
        with pytest.raises(CompressionError, match=rf"{name} needs iOS18 .* the export is for iOS17; export with .*"):
            recipe.check_target("iOS17", "the export")


def test_a_target_that_cannot_carry_a_recipe_names_the_one_that_can_and_recipes_for_it():
    with pytest.raises(CompressionError) as refused:
        get_recipe("palette4-g16").check_target("iOS16", "the export")
    message = str(refused.value)
    assert "minimum_deployment_target iOS18" in message
    assert "palette for each group" in message
    assert "choose one of int8, " in message
    assert "int4-block32" not in message.split("choose one of")[1]


@pytest.mark.parametrize("name", recipe_names())
def test_each_recipe_says_what_it_does_and_where_that_is_published(name):
    recipe = get_recipe(name)
    assert recipe.summary
    assert recipe.sources
    assert all(source.startswith("https://") for source in recipe.sources)


def test_what_is_poor_advises_against_itself():
    assert "Take int8 instead" in get_recipe("int8-per-tensor").advice
    assert get_recipe("int8").advice is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("int9", "did you mean 'int8'"),
        ("palete6", "did you mean 'palette6'"),
        ("zzz", "known are int8"),
        ("palette4-scale", "take palette4-g16"),
        ("mixed", "then `optimum-cli ane compress PACKAGE mixed OUTPUT`"),
    ],
)
def test_an_unknown_name_is_answered_with_a_near_one(name, words):
    with pytest.raises(CompressionError, match=words):
        get_recipe(name)


def test_a_file_of_ones_own_is_read(write):
    recipe = get_recipe(write(SOUND))
    assert recipe.name == "mine"
    first, second = recipe.steps
    assert first.default == Palettize(nbits=6)
    assert first.settings_for("table", ("gather",)) is None
    assert first.settings_for("my_classifier_weight", ("gather",)) == Palettize(nbits=8)
    assert first.settings_for("exact_name", ("conv",)) is None
    assert first.settings_for("other", ("conv", "add")) == Palettize(nbits=6)
    assert second.default == Quantize(dtype="int8")


def test_a_name_goes_before_patterns_and_patterns_go_in_order(write):
    text = SOUND.replace(
        '"*classifier*": {nbits: 8}', '"a*": {nbits: 8}\n      "*b": {nbits: 4}\n      ab: {nbits: 2}'
    )
    step = get_recipe(write(text)).steps[0]
    assert [step.settings_for(name, ()).nbits for name in ("ab", "acb", "cb", "c")] == [2, 8, 4, 6]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("summary: mine", "sumary: mine", "unknown entry 'sumary'; did you mean 'summary'"),
        ("summary: mine", "summary: [mine]", "summary is .* should be a text"),
        ("summary: mine", "psnr: many", "psnr is 'many'"),
        ("summary: mine", "sources: none", "sources should be a list"),
        ("kind: palettize", "kind: palletize", "kind is 'palletize'; it should be one of palettize"),
        ("global: {nbits: 6}", "globl: {nbits: 6}", "step 1: unknown entry 'globl'; did you mean 'global'"),
        ("{nbits: 6}", "{nbit: 6}", "step 1: global: palettize has no setting 'nbit'; did you mean 'nbits'"),
        ("{nbits: 6}", "{nbits: 5}", "step 1: global: nbits is 5; it must be one of 1, 2, 3, 4, 6, 8"),
        ("{nbits: 6}", '{nbits: "6"}', "nbits is '6'; it should be int"),
        ("{nbits: 6}", "{nbits: true}", "nbits is True; it should be int"),
        ("{nbits: 6}", "{nbits: 6, nbits: 8}", "'nbits' is there twice"),
        ("{nbits: 6}", "{nbits: 6, group_size: 0}", "group_size is 0"),
        ("{nbits: 6}", "{nbits: 4, enable_per_channel_scale: true}", "wrong axis"),
        ("{nbits: 6}", "6", "global should be a mapping"),
        ("{dtype: int8}", "{dtype: int7}", "step 2: global: dtype is 'int7'"),
        ("{dtype: int8}", "{mode: symmetric}", "linear_symmetric, linear"),
        ("      gather: null", "      1: null", "op_types should be a mapping of names"),
        ("  - kind: quantize\n    global: {dtype: int8}", "  - kind: quantize", "step 2 compresses nothing"),
        ("  - kind: palettize", "  - kind: palettize\n    joint: true", "step 1 is joint"),
        ("  - kind: palettize", "  - kind: palettize\n    joint: maybe", "joint is 'maybe'"),
        ("steps:", "steps: []\nresidency:", "steps should be a list"),
        ("summary: mine", "summary: &a mine\nadvice: *a", "aliases are not read"),
        ("summary: mine", "summary: !!python/object/apply:os.getcwd []", "not sound YAML"),
        ("summary: mine", "summary: {", "not sound YAML"),
        (SOUND, "- a\n- b\n", "should be a mapping with summary"),
    ],
)
def test_a_flawed_file_is_refused_with_the_place(write, old, new, words):
    assert old in SOUND
    with pytest.raises(CompressionError, match=words) as refused:
        get_recipe(write(SOUND.replace(old, new, 1)))
    assert "mine.yaml" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CompressionError, match=r"nowhere\.yaml"):
        get_recipe(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, 2.0])
def test_a_share_of_zeros_lies_between_none_and_all(share):
    with pytest.raises(CompressionError, match="between 0 and 1"):
        Prune(target_sparsity=share)
