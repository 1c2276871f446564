"""The card of a package that its export scored on a dataset."""

import ast

import pytest
from card_packages import blocks_of, card_package, numbers, row_of
from tiny_models import save_checkpoint

from optimum_ane import export
from optimum_ane.hub.card import make_card


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A package that was scored, from a checkpoint in somebody's home."""
    home = tmp_path_factory.mktemp("home") / "annabelle"
    save_checkpoint(home / "reviews", "distilbert", "text-classification", has_fresh_norms=True)
    (home / "dev.tsv").write_text("a fine film\t1\na dull story\t0\nthe plot is not bad\t1\n" * 4)
    export(home / "reviews", home / "made", sequence_length=16, eval_dataset=str(home / "dev.tsv"), quiet=True)
    return card_package(home / "made")


def test_measured_numbers_are_those_of_the_report(package):
    report, psnr = package.report, package.report["package_psnr"]["logits"]
    card = make_card([package], repo_id="org/model")
    accuracy = report["accuracy"]
    original, own = numbers(row_of(card, "accuracy on dev.tsv, 12 rows"))
    assert original == pytest.approx(100 * accuracy["original"]["metrics"]["accuracy"], abs=0.005)
    assert own == pytest.approx(100 * accuracy["package"]["metrics"]["accuracy"], abs=0.005)
    drop, confidence, low, high = numbers(row_of(card, "drop in accuracy"))
    assert [drop, low, high] == pytest.approx([accuracy["drop"], *accuracy["drop_interval"]], abs=0.005)
    assert confidence == 95
    assert numbers(row_of(card, "same prediction")) == pytest.approx([100 * accuracy["agreement"]], abs=0.005)
    assert numbers(row_of(card, "PSNR of the logits on that")) == pytest.approx([accuracy["psnr"]], abs=0.05)
    assert numbers(row_of(card, "PSNR of logits against")) == pytest.approx([psnr], abs=0.05)
    size, weights = numbers(row_of(card, "size on disk"))
    assert [size, weights] == pytest.approx([report["sizes"][n] / 1e6 for n in ("package", "weights")], abs=0.05)
    assert row_of(card, "operations of the program") == str(sum(report["operations"].values()))
    assert report["machine"] in card.replace("\\", "")
    for name, version in package.manifest.versions.items():
        assert f"{name} {version}" in card
    assert "was not run on an Apple device" in card


def test_no_path_and_no_user_is_in_the_card(package):
    card = make_card([package], repo_id="org/model")
    assert "annabelle" not in card
    assert "dev.tsv" in card


def test_the_call_that_made_it_is_python_that_asks_for_the_same(package):
    block = blocks_of(make_card([package], repo_id=None))["python"]
    call = ast.parse(block.strip(), mode="eval").body
    assert ast.unparse(call.func) == "optimum_ane.export"
    assert [ast.literal_eval(value) for value in call.args] == ["reviews", "out"]
    settings = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    assert settings == {"task": "text-classification", "sequence_length": 16, "eval_dataset": "dev.tsv"}
