"""The Python of a card, as far as its `ane_config.json` alone decides it; test_card_snippets.py runs it."""

import pytest
from card_packages import blocks_of, changed, plain_package

from optimum_ane.hub.card import make_card
from optimum_ane.hub.python import python_snippet
from optimum_ane.package.form import TEXT_TO_TEXT
from optimum_ane.tasks import TASKS


def test_a_published_one_names_repository_and_folder():
    snippet = python_snippet(changed(plain_package(), path="s/128"), "org/model")
    assert 'ANEModelForSequenceClassification.from_pretrained("org/model", subfolder="s/128")' in snippet
    assert 'AutoTokenizer.from_pretrained("org/model", subfolder="s/128")' in snippet


def test_without_a_tokenizer_the_sources_is_taken():
    package = changed(plain_package(), text={"tokenizer": None}, files={"config.json": "0" * 64})
    assert 'AutoTokenizer.from_pretrained("reviews")' in python_snippet(package, "org/model")


def test_the_mask_of_the_example_is_the_tokenizers():
    blocks = blocks_of(make_card([plain_package("fill-mask")], repo_id="org/model"))
    assert 'fill("The film was <mask>.")' in blocks["swift"]
    assert 'fill("The film was <mask>.")' in blocks["python"]


@pytest.mark.parametrize("task", sorted(TASKS.keys() - {TEXT_TO_TEXT}))  # a cache of a source has one
def test_several_lengths_change_nothing_for_whoever_calls_the_model(task):
    assert python_snippet(plain_package(task, sequence_length=(8, 16)), None) == python_snippet(
        plain_package(task), None
    )


def test_a_pipeline_is_imported_where_the_task_has_one():
    with_pipeline = {
        task for task in TASKS if "import AutoTokenizer, pipeline" in python_snippet(plain_package(task), None)
    }
    assert with_pipeline == {"text-classification", "token-classification", "fill-mask"}


class TestSentenceEmbeddings:
    @pytest.mark.parametrize(("normalize", "products"), [(True, "cosine similarities"), (False, "dot products")])
    def test_what_their_products_are(self, normalize, products):
        package = plain_package("feature-extraction", pooling="cls", normalize=normalize)
        assert f"embeddings @ embeddings.T)  # {products}" in python_snippet(package, None)

    def test_a_package_that_was_told_not_to_pool_gives_hidden_states(self):
        package = plain_package("feature-extraction", pooling="none")
        assert "last_hidden_state" in python_snippet(package, None)
        assert "encodeStates" in blocks_of(make_card([package], repo_id=None))["swift"]
        assert "one vector per text" not in make_card([package], repo_id=None)

    def test_the_default_prompt_goes_before_every_text(self):
        prompts = {"prompts": {"query": 'query "x": ', "passage": "passage: "}, "default_prompt": "query"}
        package = changed(plain_package("feature-extraction", pooling="mean"), text=prompts)
        card = make_card([package], repo_id=None)
        assert 'texts = ["query \\"x\\": a gripping, moving film", "query \\"x\\": a dull and' in card
        assert 'let prompt = "query \\"x\\": "\n' in card
        assert "encode(prompt + text)" in card
        assert '`query` is `query "x":`; `passage` is `passage:`.' in card
        plain = make_card([plain_package("feature-extraction", pooling="mean")], repo_id=None)
        assert "prompt" not in plain
