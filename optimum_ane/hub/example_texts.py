"""The texts that a card's snippets are run on."""

from __future__ import annotations

from optimum_ane.hub.card_package import CardPackage

EXAMPLE_TEXT, OTHER_TEXT = "a gripping, moving film", "a dull and lifeless mess"


def example_with_mask(package: CardPackage) -> str:
    """A sentence with the checkpoint's own mask token."""
    entry = package.manifest.tokenizer
    return f"The film was {'[MASK]' if entry is None or entry.mask_token is None else entry.mask_token}."
