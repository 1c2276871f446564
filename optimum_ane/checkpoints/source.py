"""Where a checkpoint comes from, as its package's metadata and card say."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

from optimum_ane.access_tokens import tokens_hidden
from optimum_ane.checkpoints.hub_answers import answers_checked
from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.checkpoints.source_card import SourceCard, read_source_card
from optimum_ane.errors import CheckpointError


@dataclass(frozen=True)
class Source:
    """Where a package comes from, as its metadata and its card say.

    Attributes:
        model: The Hub id, or the directory as the user gave it.
        revision: The commit on the Hub; None for a directory.
        author: The Hub's user or organisation; None for a directory.
        card: What the checkpoint's own card says that is carried over.
        adapter: The Hub id or directory of the PEFT adapter that was merged into it; None without one.
        gguf_file: The GGUF file of it that was read; None for weights in transformers' own formats.
    """

    model: str
    revision: str | None
    author: str | None
    card: SourceCard = field(default_factory=SourceCard)
    adapter: str | None = None
    gguf_file: str | None = None

    @property
    def is_hub(self) -> bool:
        """Whether `model` is a Hub id."""
        return self.author is not None

    @property
    def license(self) -> str | None:
        """The Hub's id of the licence; None if the checkpoint's own card states none."""
        return self.card.license

    @property
    def name(self) -> str:
        """The Hub id, or the directory's own name, without the path that leads to it."""
        return self.model if self.is_hub else Path(self.model).resolve().name


def describe_source(model: str, hub: HubOptions, adapter: str | None = None, gguf_file: str | None = None) -> Source:
    """Describes a checkpoint whose configuration was loaded."""
    if Path(model).is_dir():
        card = read_source_card(Path(model) / "README.md")
        return Source(model, None, None, card, adapter, gguf_file)
    revision = commit_of(model, hub)
    author = model.split("/")[0] if "/" in model else "Hugging Face"
    return Source(model, revision, author, read_source_card(find_card(model, revision, hub)), adapter, gguf_file)


def commit_of(model: str, hub: HubOptions) -> str | None:
    """The commit that the configuration was loaded from, by its place in the Hub's cache; None for a directory."""
    if Path(model).is_dir():
        return None
    for name in ("config.json", "adapter_config.json"):
        path = try_to_load_from_cache(model, name, cache_dir=hub.cache_dir, revision=hub.revision)
        if isinstance(path, str):
            return Path(path).parent.name
    return None


@tokens_hidden()
def find_card(model: str, revision: str | None, hub: HubOptions) -> Path | None:
    """The card of the very revision; None without one, or if the Hub is out of reach while the weights are cached."""
    if Path(model).is_dir():
        return Path(model) / "README.md"
    try:
        revision = revision or hub.revision
        with answers_checked(model, CheckpointError):
            return Path(
                hf_hub_download(model, "README.md", revision=revision, cache_dir=hub.cache_dir, token=hub.token)
            )
    except (HfHubHTTPError, OSError):
        return None
