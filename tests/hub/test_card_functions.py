"""The card of a package with several functions, or several programs."""

import dataclasses

import pytest
from card_packages import card_package, changed, plain_package, row_of, tables_of, tensor_table

from optimum_ane.analysis.inspection import inspect
from optimum_ane.hub.card import make_card
from optimum_ane.hub.card_functions import function_rows, tensors
from optimum_ane.package.manifest import FunctionEntry, ProgramEntry, TensorEntry

PREDICTED = {
    "operations": {"ane": 390, "conditional": 6, "fallback": 4},
    "flops_share_on_ane": 0.9731,
    "regions": 5,
}


def function_table(card):
    return next(table for table in tables_of(card) if table[0][0] == "function")


def entry(name, *shape, dtype="float16"):
    return TensorEntry(name, shape, dtype)


@pytest.fixture(scope="module")
def directory(tiny_package):
    return tiny_package("distilbert", "text-classification", model={"num_hidden_layers": 1}, sequence_length=(8, 16))


class TestAnExportedPackage:
    def test_each_function_stands_with_what_is_predicted_of_it(self, directory):
        card = make_card([card_package(directory)], repo_id="org/model")
        rows = function_table(card)[1:]
        assert [row[:2] for row in rows] == [["seq_8", "1 × 8"], ["seq_16, the default", "1 × 16"]]
        for row in rows:
            inspection = inspect(directory, function=row[0].split(",")[0])
            counts = {verdict: share.operations for verdict, share in inspection.shares.items()}
            assert row[2:6] == [str(sum(counts.values())), *map(str, counts.values())]
            assert row[6:] == [f"{inspection.flops_share('ane'):.1%}", str(len(inspection.regions))]

    def test_the_lengths_are_named(self, directory):
        package = card_package(directory)
        card = make_card([package], repo_id="org/model")
        assert "on rows of 8 or 16 tokens, each row in the shortest that it fits into, in float16" in card
        assert "padded to 8 or 16 tokens, and lose their end where they are longer than 16" in card
        beside = make_card([package, plain_package()], repo_id="org/model")
        table = next(table for table in tables_of(beside) if table[0][0] == "folder")
        assert [cells[table[0].index("tokens")] for cells in table[1:]] == ["8, 16", "16"]

    def test_functions_that_differ_in_their_length_alone_share_their_rows(self, directory):
        table = tensor_table(make_card([card_package(directory)], repo_id="org/model"))
        assert [cells[:4] for cells in table[1:]] == [
            ["input", "input_ids", "1 × 8/16", "int32"],
            ["input", "attention_mask", "1 × 8/16", "int32"],
            ["output", "logits", "1 × 2", "float16"],
        ]
        assert "function" not in table[0]

    def test_operations_are_those_of_the_default_function(self, directory):
        package = card_package(directory)
        card = make_card([package], repo_id="org/model")
        assert row_of(card, "operations of the function seq_16") == str(sum(package.report["operations"].values()))


def test_of_one_function_there_is_no_table():
    assert function_rows(plain_package()) == []
    assert "## Functions" not in make_card([plain_package()], repo_id=None)


def test_what_was_not_predicted_is_left_open():
    package = changed(plain_package(sequence_length=(8, 16)), report={"functions": {"seq_8": PREDICTED}})
    rows = function_table(make_card([package], repo_id=None))[1:]
    assert rows == [
        ["seq_8", "1 × 8", "400", "390", "6", "4", "97.3%", "5"],
        ["seq_16, the default", "1 × 16", "–", "–", "–", "–", "–", "–"],
    ]


@pytest.fixture
def decoder():
    """A program whose functions take different things, and a head beside it."""
    state = entry("keys", 2, 1, 64, 4)
    infer = FunctionEntry("infer", (entry("ids", 1, 1, dtype="int32"),), (entry("hidden", 1, 8),), (state,))
    prefill = FunctionEntry("prefill", (entry("ids", 1, 64, dtype="int32"),), (), (state,))
    head = FunctionEntry("main", (entry("hidden", 1, 8),), (entry("logits", 1, 100),))
    programs = (ProgramEntry("chunk_01", (infer, prefill)), ProgramEntry("lm_head", (head,)))
    return changed(plain_package(), programs=programs)


def test_functions_that_take_other_things_have_their_own_rows(decoder):
    assert [(row["function"], row["kind"], row["name"], row["shape"]) for row in tensors(decoder)] == [
        ("chunk\\_01.infer", "input", "ids", "1 × 1"),
        ("chunk\\_01.infer", "output", "hidden", "1 × 8"),
        ("chunk\\_01.infer", "state", "keys", "2 × 1 × 64 × 4"),
        ("chunk\\_01.prefill", "input", "ids", "1 × 64"),
        ("chunk\\_01.prefill", "state", "keys", "2 × 1 × 64 × 4"),
        ("lm\\_head", "input", "hidden", "1 × 8"),
        ("lm\\_head", "output", "logits", "1 × 100"),
    ]
    table = tensor_table(make_card([decoder], repo_id=None))
    assert table[0][-1] == "function"
    assert table[1][-1] == "chunk_01.infer"


def test_programs_are_told_apart(decoder):
    predicted = changed(decoder, report={"functions": {"lm_head": PREDICTED}})
    names = [(row["name"], row["ane"]) for row in function_rows(predicted, show=str)]
    assert names == [("chunk_01.infer, the default", "–"), ("chunk_01.prefill", "–"), ("lm_head", "390")]


def test_the_meaning_of_a_tensor_stays_in_its_cell():
    package = plain_package()
    evil = "x | y\n\n# Owned <img src=x>"
    function = package.manifest.programs[0].functions[0]
    inputs = (dataclasses.replace(function.inputs[0], meaning=evil), *function.inputs[1:])
    program = dataclasses.replace(
        package.manifest.programs[0], functions=(dataclasses.replace(function, inputs=inputs),)
    )
    table = tensor_table(make_card([changed(package, programs=(program,))], repo_id=None))
    assert table[1][4] == "x | y # Owned <img src=x>"
