"""The Python of a card runs."""

import pytest
from card_packages import blocks_of, card_package
from tiny_models import make_tokenizer

from optimum_ane.hub.card import make_card
from optimum_ane.hub.python import python_snippet

FORMS = {
    "text-classification": {},
    "token-classification": {},
    "fill-mask": {},
    "question-answering": {},
    "multiple-choice": {},
    "feature-extraction": {},
    "sentence embeddings": {"pooling": "mean", "normalize": True},
    "class labels": {"class_labels": True},
}
TASKS = {"sentence embeddings": "feature-extraction", "class labels": "text-classification"}


@pytest.fixture(scope="module", params=FORMS)
def directory(request, tiny_package):
    return tiny_package("bert", TASKS.get(request.param, request.param), **FORMS[request.param])


def test_the_snippet_beside_a_package_answers(directory, monkeypatch, capsys):
    monkeypatch.chdir(directory.parent)
    card = make_card([card_package(directory, path=directory.name)], repo_id=None)
    exec(compile(_python_of(card), "card", "exec"), {})
    assert capsys.readouterr().out


def _python_of(card):
    return card.split("## Use from Python")[1].split("```python\n")[1].split("```")[0]


def test_a_published_one_names_repository_and_folder(tiny_package):
    directory = tiny_package("bert", "text-classification")
    snippet = python_snippet(card_package(directory, path="s/128"), "org/model")
    assert 'ANEModelForSequenceClassification.from_pretrained("org/model", subfolder="s/128")' in snippet
    assert 'AutoTokenizer.from_pretrained("org/model", subfolder="s/128")' in snippet


def test_without_a_tokenizer_the_sources_is_taken(tiny_package):
    package = card_package(tiny_package("bert", "text-classification", tokenizer=None))
    assert f'AutoTokenizer.from_pretrained("{package.manifest.source.name}")' in python_snippet(package, "org/model")


def test_the_mask_of_the_example_is_the_tokenizers(tiny_package):
    card = make_card([card_package(tiny_package("bert", "fill-mask"))], repo_id="org/model")
    assert f'fill("The film was {make_tokenizer().mask_token}.")' in blocks_of(card)["swift"]
    assert f'fill("The film was {make_tokenizer().mask_token}.")' in _python_of(card)
