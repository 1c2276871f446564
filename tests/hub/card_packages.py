"""Packages for tests of cards: read from disk, or one that was read with other entries."""

import dataclasses
import json

from markdown_it import MarkdownIt

from optimum_ane.hub.card import CardPackage
from optimum_ane.package.manifest import Manifest


def read_json(directory, name):
    return json.loads((directory / name).read_text(encoding="utf-8"))


def card_package(directory, path=""):
    report, model_config = read_json(directory, "export_report.json"), read_json(directory, "config.json")
    return CardPackage(path, Manifest.read(directory), report, model_config)


def changed(package, path=None, report=None, model_config=None, **entries):
    """The same package with other entries of `ane_config.json`, and entries of the other files laid over its own."""
    return CardPackage(
        package.path if path is None else path,
        dataclasses.replace(package.config, **entries),
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
