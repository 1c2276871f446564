"""What is carried over from the source's own card, and what a malformed one cannot do."""

import json

import pytest
from tiny_models import save_checkpoint

from optimum_ane import export
from optimum_ane.checkpoints.source_card import SourceCard, read_source_card
from optimum_ane.package.manifest import Manifest


def read(tmp_path, text):
    path = tmp_path / "README.md"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_source_card(path)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("license: mit\nlanguage: en", SourceCard(license="mit", languages=("en",))),
        ("license: [mit]\nlanguage: [de, en, de]", SourceCard(license="mit", languages=("de", "en"))),
        ("license: [mit, apache-2.0]", SourceCard()),
        ("license: 1.0\nlanguage: 5\ndatasets: {a: b}", SourceCard()),
        ("license:\nlanguage:\ndatasets:\n- null", SourceCard()),
        ("language: no", SourceCard(languages=("no",))),
        ("language: [sv, no, true]", SourceCard(languages=("sv", "no"))),
        ("language: [zh-CN, code, multilingual, noinfo]", SourceCard(languages=("code", "multilingual"))),
        (
            "datasets: [glue, stanfordnlp/sst2, librispeech 960h, a/b/c]",
            SourceCard(datasets=("glue", "stanfordnlp/sst2")),
        ),
        (
            "license: other\nlicense_name: mine-1.0\nlicense_link: LICENSE",
            SourceCard(license="other", license_name="mine-1.0", license_link="LICENSE"),
        ),
        ("license: mit\nlicense_name: x\nlicense_link: y", SourceCard(license="mit")),
        ('license: other\nlicense_name: "a\\nb"\nlicense_link: [1]', SourceCard(license="other")),
        (f"license: other\nlicense_name: {'x' * 400}", SourceCard(license="other")),
        ('license: "mit\\n# Owned"', SourceCard()),
    ],
)
def test_what_the_hub_takes_is_carried_over(tmp_path, metadata, expected):
    assert read(tmp_path, f"---\n{metadata}\n---\n# Card\n") == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# no metadata",
        "---\n- a\n- list\n---\n",
        "---\nlicense: [mit\n---\n",
        "---\nlicense: !!python/object/apply:os.system ['true']\n---\n",
        "---\n" + "[" * 5000 + "\n---\n",
        "---\n\x00: 1\n---\n",
        b"\xff\xfe\x00\x01",
        b"---\nlicense: mit\n---\n" + b"x" * 3_000_000,
    ],
    ids=["empty", "text", "list", "cut", "object", "deep", "null", "no utf-8", "huge"],
)
def test_a_malformed_card_says_nothing_and_stops_nothing(tmp_path, text):
    assert read(tmp_path, text) == SourceCard()


def test_no_card_says_nothing(tmp_path):
    assert (
        read_source_card(None)
        == read_source_card(tmp_path / "README.md")
        == read_source_card(tmp_path)
        == SourceCard()
    )


def test_windows_line_ends_and_a_byte_order_mark(tmp_path):
    assert read(tmp_path, "\ufeff---\r\nlicense: mit\r\n---\r\n") == SourceCard(license="mit")


def test_an_export_records_it(tmp_path):
    save_checkpoint(tmp_path / "in", "distilbert", "fill-mask")
    metadata = "license: other\nlicense_name: mine\nlicense_link: LICENSE\nlanguage: [en, de]\ndatasets: glue"
    (tmp_path / "in" / "README.md").write_text(f"---\n{metadata}\n---\n")
    export(tmp_path / "in", tmp_path / "out", sequence_length=16, validate=False, quiet=True)
    manifest = Manifest.read(tmp_path / "out")
    source = manifest.source
    assert (source.name, source.is_hub, source.revision) == ("in", False, None)
    assert (source.license, source.license_name, source.license_link) == ("other", "mine", "LICENSE")
    assert (source.languages, source.datasets) == (("en", "de"), ("glue",))
    assert manifest.text.padding_id == 1
    tokenizer = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert manifest.tokenizer.tokenizer_class == tokenizer["tokenizer_class"]
    assert manifest.tokenizer.model == "WordLevel"
    assert (manifest.tokenizer.leading, manifest.tokenizer.trailing, manifest.tokenizer.separators) == (1, 1, 0)
    assert (manifest.tokenizer.mask_token, manifest.tokenizer.mask_id) == ("<mask>", 4)
