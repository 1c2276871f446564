"""Packages for tests of cards: read from disk, or one that was read with other entries."""

import dataclasses
import json
import re

from markdown_it import MarkdownIt

from optimum_ane.hub.card_package import CardPackage, read_card_package
from optimum_ane.package.form import ExportForm
from optimum_ane.package.manifest import (
    FunctionEntry,
    Manifest,
    ProgramEntry,
    SourceEntry,
    TensorEntry,
    TextEntry,
    TokenizerEntry,
)
from optimum_ane.tasks import TASKS


def read_json(directory, name):
    return json.loads((directory / name).read_text(encoding="utf-8"))


def card_package(directory, path=""):
    return read_card_package(path, directory)


def plain_package(task="text-classification", **form):
    """A package as an export of a BERT describes it, without any program; of several lengths it has several functions.

    Its tokenizer writes `<s> text </s>` and `<s> first </s> second </s>`.
    """
    form = ExportForm(task=task, **({"sequence_length": 16} | form))
    lengths = form.sequence_length
    functions = tuple(
        _function("main" if len(lengths) == 1 else f"seq_{length}", form, length) for length in reversed(lengths)
    )
    tokenizer = TokenizerEntry("TokenizersBackend", "WordLevel", 1, 1, 0, mask_token="<mask>", mask_id=4)
    manifest = Manifest(
        form=form,
        model_type="bert",
        source=SourceEntry("reviews", "reviews"),
        programs=(ProgramEntry("model", functions, form.precision, form.compute_units),),
        labels=("bad", "good") if TASKS[task].has_labels else (),
        text=TextEntry(padding_id=1, tokenizer=tokenizer),
        versions={"optimum-ane": "0.1.0"},
        files={"config.json": "0" * 64, "tokenizer.json": "1" * 64},
    )
    report = {"machine": "Linux x86_64", "runtime": "portable", "sizes": {"package": 2_000_000, "weights": 1_500_000}}
    return CardPackage("", manifest, report, {"pad_token_id": 1})


def _function(name, form, length):
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = tuple(TensorEntry(each, (form.batch_size, length), "int32", f"what {each} means") for each in names)
    extents = {"row": (2,), "token": (length, 2), "vocabulary": (length, 100)}
    outputs = tuple(
        TensorEntry(field.name, (form.batch_size, *extents[field.per]), form.precision)
        for field in TASKS[form.task].fields
    )
    return FunctionEntry(name, inputs, outputs)


def changed(package, path=None, report=None, model_config=None, form=None, source=None, text=None, **entries):
    """The same package with other entries of `ane_config.json`, and entries of the other files laid over its own.

    `form`, `source` and `text` hold entries of the objects of these names in `ane_config.json`.
    """
    manifest = package.manifest
    for name, values in (("form", form), ("source", source), ("text", text)):
        if values:
            entries[name] = dataclasses.replace(getattr(manifest, name), **values)
    return CardPackage(
        package.path if path is None else path,
        dataclasses.replace(manifest, **entries),
        {**package.report, **(report or {})},
        {**package.model_config, **(model_config or {})},
    )


ACCURACY = {
    "dataset": "dev.tsv",
    "rows": 872,
    "truncated": 3,
    "primary_metric": "accuracy",
    "runtime": "portable",
    "package": {"metrics": {"accuracy": 0.8876146789, "f1": 0.875}},
    "original": {"metrics": {"accuracy": 0.8899082569, "f1": 0.876}},
    "drop": 0.2293578,
    "drop_interval": [-0.11, 0.57],
    "confidence": 0.95,
    "agreement": 0.9977,
    "psnr": 61.25,
}
RESIDENCY = {
    "operations": {"ane": 391, "conditional": 6, "fallback": 3},
    "flops_share_on_ane": 0.9731,
    "regions": 5,
    "chip": "A15",
}


def tokens_of(card):
    """Markdown as an independent parser sees it, without the metadata."""
    body = card.split("\n---\n", 1)[1]
    return MarkdownIt("commonmark").enable("table").parse(body)


def tables_of(card):
    """Each table as rows of cells, in the words that a reader sees."""
    tables, tokens = [], tokens_of(card)
    for index, token in enumerate(tokens):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type == "inline" and tokens[index - 1].type in ("th_open", "td_open"):
            tables[-1][-1].append("".join(child.content for child in token.children))
    return tables


def blocks_of(card):
    """The fenced blocks by language."""
    return {token.info: token.content for token in tokens_of(card) if token.type == "fence"}


def row_of(card, start):
    """The second cell of the row that starts so."""
    found = [cells[1] for table in tables_of(card) for cells in table if cells[0].startswith(start)]
    assert len(found) == 1, (start, found)
    return found[0]


def tensor_table(card):
    """The table of inputs and outputs."""
    return next(table for table in tables_of(card) if table[0][1:2] == ["name"])


def numbers(text):
    return [float(number) for number in re.findall(r"[-+]?\d+\.?\d*", text)]
