"""The texts of a card's snippets, and the snippet for Python."""

from __future__ import annotations

from optimum_ane.errors import PackageError
from optimum_ane.hub.card_values import CardPackage
from optimum_ane.hub.markdown import python_string
from optimum_ane.tasks import TASKS

EXAMPLE_TEXT = "a gripping, moving film"

_CALLS = {
    "text-classification": """\
classify = pipeline("text-classification", model=model, tokenizer=tokenizer, truncation=True)
print(classify({text}))""",
    "token-classification": """\
label = pipeline("token-classification", model=model, tokenizer=tokenizer)
print(label("Ada Lovelace was born in London."))""",
    "fill-mask": """\
fill = pipeline("fill-mask", model=model, tokenizer=tokenizer)
print(fill({masked}))""",
    "question-answering": """\
question, context = "Where was she born?", "Ada Lovelace was born in London."
inputs = tokenizer(question, context, truncation="only_second", return_tensors="pt")
outputs = model(**inputs)
start, end = int(outputs.start_logits.argmax()), int(outputs.end_logits.argmax())
print(tokenizer.decode(inputs["input_ids"][0, start : end + 1]))""",
    "multiple-choice": """\
prompt, choices = "It rained, so she", ["took an umbrella.", "watered the garden."]
inputs = tokenizer([prompt] * len(choices), choices, truncation=True, padding=True, return_tensors="pt")
scores = model(**{{name: value[None] for name, value in inputs.items()}}).logits  # (1, choices)
print(choices[int(scores.argmax())])""",
    "feature-extraction": """\
inputs = tokenizer([{text}], truncation=True, return_tensors="pt")
print(model(**inputs).last_hidden_state.shape)  # (texts, tokens, width)""",
    "sentence-embedding": """\
texts = [{text}, "a dull and lifeless mess"]
inputs = tokenizer(texts, truncation=True, padding=True, return_tensors="pt")
embeddings = model(**inputs).pooler_output  # (texts, width)
print(embeddings @ embeddings.T)  # {products}""",
}
_PIPELINES = ("text-classification", "token-classification", "fill-mask")
"""Of our tasks, those that transformers 5 has a pipeline for and that give more there than a call of the model."""


def example_with_mask(package: CardPackage) -> str:
    """A sentence with the checkpoint's own mask token."""
    entry = package.config.tokenizer
    return f"The film was {'[MASK]' if entry is None or entry.mask_token is None else entry.mask_token}."


def model_class(package: CardPackage) -> str:
    """The class of ours that loads the package.

    Raises:
        PackageError: The task is none that packages are made for.
    """
    found = TASKS.get(package.config.form.task)
    if found is None:
        known = ", ".join(TASKS)
        raise PackageError(
            f"ane_config.json: task {package.config.form.task!r} is not one of {known}; export it again"
        )
    return found.model_class


def python_snippet(package: CardPackage, repo_id: str | None) -> str:
    """Writes the Python that uses a package.

    Args:
        package: The package.
        repo_id: Where it is published; None loads it from a directory of its name.

    Raises:
        PackageError: The task is none that packages are made for.
    """
    config, loader = package.config, model_class(package)
    location = python_string(repo_id or package.path or "package")
    arguments = location
    if repo_id is not None and package.path:
        arguments += f", subfolder={python_string(package.path)}"
    tokenizer = arguments if package.has_tokenizer else python_string(config.source.name)
    call = "sentence-embedding" if config.form.pooling else config.form.task
    products = "cosine similarities" if config.form.normalize else "dot products"
    body = _CALLS[call].format(
        text=python_string(EXAMPLE_TEXT), masked=python_string(example_with_mask(package)), products=products
    )
    imported = "AutoTokenizer, pipeline" if config.form.task in _PIPELINES else "AutoTokenizer"
    return f"""\
from optimum_ane import {loader}
from transformers import {imported}

model = {loader}.from_pretrained({arguments})
tokenizer = AutoTokenizer.from_pretrained({tokenizer})
{body}"""
