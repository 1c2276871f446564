"""The card of a package: what it says is what the files say."""

import hashlib
import json
import re
from pathlib import Path

import coremltools as ct
import pytest
from card_packages import (
    ACCURACY,
    RESIDENCY,
    card_package,
    changed,
    numbers,
    read_json,
    row_of,
    tables_of,
    tensor_table,
    tokens_of,
)
from tiny_models import make_tokenizer, save_checkpoint

from optimum_ane import export
from optimum_ane.errors import CardError, PackageError
from optimum_ane.hub.card import make_card
from optimum_ane.package.card_marker import is_generated

VERSION_1 = Path(__file__).parents[1] / "package" / "fixtures" / "version-1"
LABELS = ["bad | worse", 'good "q" `x`', "🎉 très\n---\n<script>alert(1)</script>"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A validated package, from a checkpoint in somebody's home."""
    home = tmp_path_factory.mktemp("home") / "annabelle"
    save_checkpoint(home / "reviews", "distilbert", "text-classification", has_fresh_norms=True)
    (home / "reviews" / "README.md").write_text("---\nlicense: mit\nlanguage: en\ndatasets: glue\n---\n")
    export(home / "reviews", home / "made", sequence_length=16, quiet=True)
    return home / "made"


@pytest.fixture(scope="module")
def package(directory):
    return card_package(directory)


def test_the_export_wrote_this_card(directory, package):
    written = (directory / "README.md").read_text(encoding="utf-8")
    assert is_generated(written)
    assert 'from_pretrained("made")' in written
    assert make_card([changed(package, path="made")], repo_id=None) == written


def test_other_numbers_give_another_card(package):
    """No number is typed: each that is changed in the report changes in the card."""
    sizes = {"package": 45_258_080, "weights": 45_089_024}
    report = {"accuracy": ACCURACY, "residency": RESIDENCY, "sizes": sizes}
    card = make_card([changed(package, report=report)], repo_id="org/model")
    assert row_of(card, "size on disk") == "45.3 MB, of which weights 45.1 MB"
    assert row_of(card, "accuracy on dev.tsv, 872 rows") == "88.99% → 88.76%"
    assert row_of(card, "f1 on dev.tsv") == "87.60% → 87.50%"
    assert row_of(card, "drop in accuracy") == "+0.23 percentage points, 95% interval -0.11 to +0.57"
    assert row_of(card, "same prediction") == "99.77% of the rows"
    assert row_of(card, "rows cut at 16 tokens") == "3"
    assert numbers(row_of(card, "arithmetic predicted")) == [97.3]
    assert "a prediction from the program for A15" in card


def test_residency_is_called_a_prediction_and_counts_are_its_own(package):
    card = make_card([changed(package, report={"residency": RESIDENCY})], repo_id="org/model")
    predicted = {cells[0]: cells[1] for table in tables_of(card) for cells in table if "predicted" in cells[0]}
    assert list(predicted.values()) == ["391", "6", "3", "97.3%", "5"]


def test_compression_is_what_the_report_states(package):
    weights = [{"bytes_before": 90, "form": "int8"}, {"bytes_before": 10, "form": None}]
    report = {"compression": {"ratio_to_float16": 0.5021, "weights": weights}}
    card = make_card([changed(package, compression="linear-int8", report=report)], repo_id="org/model")
    expected = "linear-int8, weights at 50.2% of their size in float16, 90.0% of the weights' bytes covered"
    assert row_of(card, "compression") == expected
    assert row_of(make_card([package], repo_id="org/model"), "compression") == "none; weights in float16"


def test_equal_answers_and_undefined_metrics_are_said_so(package):
    accuracy = ACCURACY | {"psnr": "inf", "drop": None, "drop_interval": None}
    card = make_card([changed(package, report={"accuracy": accuracy})], repo_id="org/model")
    assert row_of(card, "PSNR of the logits on that") == "equal"
    assert row_of(card, "drop in accuracy") == "–"


def test_what_was_not_measured_is_said_plainly(tiny_package):
    card = make_card([card_package(tiny_package("bert", "feature-extraction"))], repo_id="org/model")
    assert "Nothing was compared with the original" in card
    assert "Accuracy on a dataset was not measured" in card
    assert "How closely it follows the original was not measured" in card
    assert "None" not in card
    assert "runtime on" not in card


def test_a_runtime_of_core_ml_is_named(package):
    card = make_card([changed(package, report={"runtime": "coreml", "accuracy": None})], repo_id="org/model")
    assert "coreml runtime" in card
    assert "was not run on an Apple device" not in card


def test_inputs_and_outputs_are_those_of_the_program(directory, package):
    description = ct.utils.load_spec(str(directory / "model.mlpackage")).description
    types = {65568: "float32", 65552: "float16", 131104: "int32"}
    expected = [
        [kind, feature.name, " × ".join(map(str, array.shape)), types[array.dataType], feature.shortDescription]
        for kind, features in (("input", description.input), ("output", description.output))
        for feature in features
        for array in [feature.type.multiArrayType]
    ]
    assert tensor_table(make_card([package], repo_id=None))[1:] == expected


def test_every_file_stands_with_its_digest(directory, package):
    card = make_card([package], repo_id="org/model")
    table = next(table for table in tables_of(card) if table[0] == ["file", "SHA-256"])
    present = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    assert {cells[0] for cells in table[1:]} == present - {
        "ane_config.json",
        "README.md",
        "card.svg",
        "export_report.html",
    }
    for name, digest in table[1:]:
        assert hashlib.sha256((directory / name).read_bytes()).hexdigest() == digest


def test_no_path_and_no_user_is_in_what_is_published(directory, package):
    for name in ("README.md", "export_report.json"):
        text = (directory / name).read_text()
        assert "annabelle" not in text
        assert str(directory.parent) not in text
    card = make_card([package], repo_id="org/model")
    assert "annabelle" not in card
    assert "reviews" in card


class TestSeveralPackages:
    @pytest.fixture
    def packages(self, package):
        scored = changed(package, report={"accuracy": ACCURACY})
        int8 = changed(scored, path="int8", compression="linear-int8", form={"sequence_length": (64,)})
        return [changed(int8, path="a/256", form={"minimum_deployment_target": "iOS18"}), int8, scored]

    def test_they_stand_in_one_table_and_the_root_is_described(self, packages):
        card = make_card(packages, repo_id="org/model")
        table = next(table for table in tables_of(card) if table[0][0] == "folder")
        assert [cells[0] for cells in table[1:]] == ["the root", "a/256", "int8"]
        by_folder = {cells[0]: dict(zip(table[0], cells, strict=True)) for cells in table[1:]}
        assert by_folder["int8"]["tokens"] == "64"
        assert by_folder["int8"]["weights"] == "linear-int8"
        assert by_folder["a/256"]["target"] == "iOS18"
        assert by_folder["the root"]["weights"] == "float16"
        assert by_folder["the root"]["score, original → package"] == "88.99% → 88.76%"
        assert by_folder["int8"]["drop"] == "+0.23 (-0.11 to +0.57)"
        assert "let length = 16" in card
        assert "subfolder" not in card
        assert "![" in card

    def test_without_a_root_the_first_by_name_is_described(self, packages):
        card = make_card(packages[:2], repo_id="org/model")
        assert 'from_pretrained("org/model", subfolder="a/256")' in card
        assert "What follows is of\n`a/256`" in card

    def test_their_order_does_not_matter(self, packages):
        assert make_card(packages, repo_id="org/model") == make_card(packages[::-1], repo_id="org/model")

    def test_one_alone_needs_no_table(self, package):
        card = make_card([package], repo_id="org/model")
        assert all(table[0][0] != "folder" for table in tables_of(card))

    def test_none_at_all_is_a_mistake(self):
        with pytest.raises(ValueError, match="at least one"):
            make_card([], repo_id="org/model")


class TestHostileFiles:
    @pytest.fixture
    def hostile(self, package):
        evil = "x|y`z\n\n# Owned\n<img src=x onerror=alert(1)> [a](javascript:b) --> {{ 7 * 7 }} \ud800 \u202e"
        report = {
            "machine": evil,
            "runtime": evil,
            "package_psnr": {evil: 50.0},
            "command": f"rm -rf /\n```\n{evil}",
            "accuracy": ACCURACY | {"dataset": evil, "runtime": evil, "primary_metric": evil},
            "residency": RESIDENCY | {"chip": evil},
            "compression": {},
        }
        return changed(
            package,
            labels=(*LABELS, evil),
            source={
                "name": evil,
                "license": evil,
                "license_name": evil,
                "languages": (evil, "de"),
                "datasets": (evil,),
            },
            compression=evil,
            versions={evil: evil},
            files={evil: evil},
            report=report,
        )

    @pytest.mark.parametrize("is_hub", [True, False])
    def test_no_text_leaves_its_place(self, hostile, package, is_hub):
        other = changed(hostile, path="x`|y", source={"is_hub": is_hub})
        card = make_card([changed(hostile, source={"is_hub": is_hub}), other], repo_id="org/model")
        card.encode("utf-8")
        plain = make_card([package, changed(package, path="b")], repo_id="org/model")

        def outline(text):
            tokens = tokens_of(text)
            return [tokens[n + 1].content for n, token in enumerate(tokens) if token.type == "heading_open"][1:]

        assert outline(card) == outline(plain)
        kinds = [child.type for token in tokens_of(card) for child in token.children or []]
        assert "html_inline" not in kinds
        blocks = [token.content for token in tokens_of(card) if token.type == "html_block"]
        assert [text.startswith("<!-- written by optimum-ane") for text in blocks] == [True]
        links = [child.attrGet("href") for token in tokens_of(card) for child in token.children or []]
        assert not [link for link in links if link and "javascript" in link]
        assert "49" not in card.split("## Integrity")[0].split("## How")[1]
        assert is_generated(card)

    def test_a_text_stays_in_its_cell(self, hostile):
        card = make_card([hostile], repo_id="org/model")
        assert row_of(card, "accuracy on x|y`z # Owned <img src=x") == "88.99% → 88.76%"
        assert row_of(card, "PSNR of x|y`z") == "50.0 dB"
        assert row_of(card, "compression").startswith("x|y`z # Owned <img")
        digests = next(table for table in tables_of(card) if table[0] == ["file", "SHA-256"])
        assert [cell[:5] for cell in digests[1]] == ["x|y`z", "x|y`z"]

    def test_labels_are_shown_as_they_are(self, package):
        card = make_card([changed(package, labels=tuple(LABELS))], repo_id="org/model")
        paragraphs = [token.children for token in tokens_of(card) if token.type == "inline"]
        shown = next(c for c in paragraphs if c and c[0].content.startswith("Labels"))
        text = "".join(child.content for child in shown)
        assert (
            text
            == 'Labels, in the order of the scores: bad | worse, good "q" `x`, ' + " ".join(LABELS[2].split()) + "."
        )

    @pytest.mark.parametrize(
        ("report", "place"),
        [
            ({"package_psnr": {"logits": "many"}}, r"package_psnr\.logits is 'many'"),
            ({"sizes": {"package": [1]}}, r"sizes\.package"),
            ({"accuracy": ACCURACY | {"rows": True}}, r"accuracy\.rows is True"),
            ({"accuracy": ACCURACY | {"drop_interval": "wide"}}, r"accuracy\.drop_interval"),
            ({"accuracy": ACCURACY | {"drop_interval": [0, 10**400]}}, r"accuracy\.drop_interval"),
            ({"sizes": {"package": 10**400}}, r"sizes\.package"),
            ({"residency": {"operations": {"ane": None, "fallback": "3"}}}, r"operations\.fallback"),
            ({"compression": {"weights": ["w"]}}, r"compression\.weights"),
        ],
    )
    def test_a_report_of_other_types_is_refused_by_name(self, package, report, place):
        with pytest.raises(PackageError, match=place):
            make_card([changed(package, compression="int8", report=report)], repo_id="org/model")

    def test_a_task_that_there_is_not_is_refused_by_name(self, package):
        with pytest.raises(PackageError, match=r"task 'dancing' is not one of .*text-classification"):
            make_card([changed(package, form={"task": "dancing"})], repo_id="org/model")

    def test_a_report_of_nothing_gives_a_card_of_no_numbers(self, package):
        bare = changed(package)
        card = make_card([type(bare)("", bare.manifest, {}, {})], repo_id="org/model")
        assert "by which command" in card
        assert row_of(card, "size on disk").startswith("–")


class TestTemplates:
    HEAD = "---\n{{ card_data }}\n---\n"

    def card(self, package, tmp_path, text):
        path = tmp_path / "mine.md"
        path.write_text(text, encoding="utf-8")
        return make_card([package], repo_id="org/model", template=path)

    def test_a_template_of_ones_own_is_used(self, package, tmp_path):
        card = self.card(
            package, tmp_path, self.HEAD + "\n# {{ title }}\n{% for t in tensors %}{{ t.name }} {% endfor %}\n"
        )
        assert "# reviews for the Apple Neural Engine\ninput_ids attention_mask logits" in card
        assert "license: mit" in card
        assert is_generated(card)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a\n{% if %}\n", r"mine\.md, line 5: Expected an expression"),
            ("a\n\n{{ licens }}\n", r"line 6: there is no 'licens'; a card has .*license"),
            ("a\n{{ tensors.more.most }}\n", r"line 5: .*has no attribute"),
            ("{{ 1 / 0 }}", r"line 4: .*division"),
            ("{% include 'other.md' %}", r"line 4: "),
        ],
    )
    def test_its_errors_are_one_line_that_names_theirs(self, package, tmp_path, text, message):
        with pytest.raises(CardError, match=message) as caught:
            self.card(package, tmp_path, self.HEAD + text)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("text", ["# no metadata\n", "---\nlicense: mit\n---\n", "a\n---\n{{ card_data }}\n---\n"])
    def test_it_must_begin_with_the_metadata(self, package, tmp_path, text):
        with pytest.raises(CardError, match=r"mine\.md, line 1: a template begins with"):
            self.card(package, tmp_path, text)

    def test_it_must_be_a_text(self, package, tmp_path):
        (tmp_path / "mine.md").write_bytes(b"\xff\xfe\x00")
        for path in (tmp_path / "mine.md", tmp_path / "missing.md", tmp_path):
            with pytest.raises(CardError, match="template cannot be read"):
                make_card([package], repo_id="org/model", template=path)


BOMB = "\n".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))
"""Metadata of a few lines that stands for 2**60 values."""


class TestWhoWroteIt:
    @pytest.fixture(scope="class")
    def card(self, package):
        return make_card([changed(package, report={"accuracy": ACCURACY})], repo_id="org/model")

    @pytest.mark.parametrize(
        "change",
        [
            lambda card: card,
            lambda card: card.replace("\n", "\r\n"),
            lambda card: "\ufeff" + card,
            lambda card: card.rstrip("\n"),
            lambda card: card + "\n\n",
            lambda card: card.replace(".\n", ".  \n"),
            lambda card: card.replace("license: mit", 'license: "mit"'),
            lambda card: card.replace("license: mit\n", "", 1).replace("---\n", "---\nlicense: mit\n", 1),
        ],
        ids=["same", "crlf", "bom", "no last newline", "more newlines", "spaces", "quotes", "order"],
    )
    def test_what_git_and_the_hub_do_to_a_file_does_not_matter(self, card, change):
        assert is_generated(change(card))

    def test_a_card_that_the_client_read_and_wrote_is_still_ours(self, card, tmp_path):
        from huggingface_hub import ModelCard

        ModelCard(card).save(tmp_path / "README.md")
        assert is_generated((tmp_path / "README.md").read_text(encoding="utf-8"))

    @pytest.mark.parametrize(
        "change",
        [
            lambda card: card.replace("Limits", "Limitations"),
            lambda card: card.replace("88.76%", "98.76%"),
            lambda card: card.replace("license: mit", "license: apache-2.0"),
            lambda card: card.replace("- coreml\n", "- coreml\n- mine\n"),
            lambda card: card + "I wrote this.\n",
            lambda card: card.replace("\n## Limits", "\nMy words.\n\n## Limits"),
            lambda card: card.replace("sha256:", "sha256:0", 1),
            lambda card: re.sub(r"<!--.*-->", "", card),
            lambda card: card + card[card.index("<!--") :],
            lambda card: "# Mine\n",
            lambda card: "",
            lambda card: card.replace("license: mit", "license: [mit"),
            lambda card: card.replace("license: mit", "license: &a [*a]"),
            lambda card: card.replace("license: mit", "a0: &a0 [1, 1]\n" + BOMB),
        ],
    )
    def test_what_a_person_does_to_it_is_seen(self, card, change):
        assert change(card) != card
        assert not is_generated(change(card))


class TestVersion1:
    """A package of before there were several programs and functions."""

    def test_it_still_gets_a_card(self):
        package = card_package(VERSION_1)
        card = make_card([package], repo_id="org/model")
        assert "on rows of 16 tokens, in float16" in card
        assert "`NEGATIVE`, `POSITIVE`" in card
        assert "padding: 1)" in card
        assert "## Functions" not in card
        names = [cells[1] for cells in tensor_table(card)[1:]]
        assert names == ["input_ids", "attention_mask", "token_type_ids", "logits"]
        sizes = package.report["sizes"]
        assert row_of(card, "size on disk") == "–" if not sizes else numbers(row_of(card, "size on disk"))

    def test_one_that_knew_less_of_itself_does_too(self, tmp_path):
        entries = read_json(VERSION_1, "ane_config.json")
        new = [
            name for name in entries if name.startswith("source_") and name not in ("source_model", "source_revision")
        ]
        for name in [*new, "labels", "padding_id", "tokenizer"]:
            del entries[name]
        for name in ("export_report.json", "config.json"):
            (tmp_path / name).write_bytes((VERSION_1 / name).read_bytes())
        (tmp_path / "ane_config.json").write_text(json.dumps(entries | {"source_model": "/home/annabelle/reviews"}))
        card = make_card([card_package(tmp_path)], repo_id="org/model")
        assert "`reviews`" in card
        assert "annabelle" not in card
        assert "padding: 1)" in card  # of config.json
        assert make_tokenizer().pad_token_id == 1
