"""The checkpoint at the start of the road: configuration, weights, tokenizer and what its card says of it."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from optimum.exporters.tasks import TasksManager
from safetensors import SafetensorError

from optimum_ane.checkpoints.source_card import SourceCard, read_source_card
from optimum_ane.errors import CheckpointError, UnsupportedModelError
from optimum_ane.exporters.config import supported_tasks

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_LAYER_WEIGHT = re.compile(r"\.(layer|albert_layers|albert_layer_groups)\.\d+\.")
_UNUSED_WITHOUT_HEAD = re.compile(r"^pooler\.")


@dataclass(frozen=True)
class HubOptions:
    """How to reach the Hugging Face Hub.

    Attributes:
        revision: Branch, tag or commit; None is the default branch.
        cache_dir: Where downloads are kept; None is the Hub client's own cache.
        token: Access token; None uses the one that `hf auth login` stored. Never printed.
        trust_remote_code: Whether Python code of the repository may be run.
    """

    revision: str | None = None
    cache_dir: str | None = None
    token: str | None = None
    trust_remote_code: bool = False

    def __repr__(self) -> str:
        token = None if self.token is None else "***"
        return f"HubOptions({self.revision!r}, {self.cache_dir!r}, token={token}, {self.trust_remote_code})"

    def as_arguments(self) -> dict[str, Any]:
        """The same under the names of transformers' `from_pretrained`."""
        return {
            "revision": self.revision or "main",
            "cache_dir": self.cache_dir,
            "token": self.token,
            "trust_remote_code": self.trust_remote_code,
        }


@dataclass(frozen=True)
class Source:
    """Where a package comes from, as its metadata and its card say.

    Attributes:
        model: The Hub id, or the directory as the user gave it.
        revision: The commit on the Hub; None for a directory.
        author: The Hub's user or organisation; None for a directory.
        card: What the checkpoint's own card says that is carried over.
    """

    model: str
    revision: str | None
    author: str | None
    card: SourceCard = field(default_factory=SourceCard)

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


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint, in float32 and evaluation mode."""

    source: Source
    task: str
    config: PretrainedConfig
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None


def load_config(model: str, hub: HubOptions) -> PretrainedConfig:
    """Reads the configuration of a directory or a Hub id.

    Raises:
        CheckpointError: It is missing or unreadable.
        UnsupportedModelError: transformers does not know the architecture.
    """
    directory = Path(model)
    if directory.is_dir() and not (directory / "config.json").is_file():
        raise CheckpointError(f"{model} holds no config.json; give a transformers checkpoint or a Hub id")
    if not directory.exists() and (model.startswith((".", "/", "~")) or model.endswith("/") or model.count("/") > 1):
        raise CheckpointError(f"there is no directory {model}")
    if directory.is_file():
        raise CheckpointError(f"{model} is a file; give the directory that holds it")
    with _checkpoint_errors(model):
        try:
            return transformers.AutoConfig.from_pretrained(model, **hub.as_arguments())
        except (TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(
                f"{model}: config.json is damaged ({_first_line(error)}); download it again"
            ) from error
        except ValueError as error:
            known = ", ".join(supported_tasks())
            raise UnsupportedModelError(f"{model}: {_first_line(error)}; supported architectures: {known}") from error


def resolve_task(task: str, config: PretrainedConfig) -> str:
    """Turns `"auto"` into the task of the checkpoint's own class, and a synonym into Optimum's name.

    Raises:
        UnsupportedModelError: `"auto"` was asked for and the configuration does not tell.
    """
    if task != "auto":
        return TasksManager.map_from_synonym(task)
    architectures = getattr(config, "architectures", None) or []
    model_class = getattr(transformers, architectures[0], None) if architectures else None
    if model_class is None:
        raise UnsupportedModelError(f"config.json names no known class (architectures: {architectures}); give --task")
    return infer_task(model_class)


def load_checkpoint(model: str, task: str, config: PretrainedConfig, hub: HubOptions) -> Checkpoint:
    """Loads weights and tokenizer.

    Raises:
        CheckpointError: A file is missing, truncated or corrupt, or weights and configuration contradict each other.
    """
    with _checkpoint_errors(model):
        weights = _load_weights(model, task, config, hub)
        source = _describe(model, hub)
        return Checkpoint(source, task, config, weights, _load_tokenizer(model, hub))


def _load_weights(model: str, task: str, config: PretrainedConfig, hub: HubOptions) -> PreTrainedModel:
    model_class = TasksManager.get_model_class_for_task(task, model_type=config.model_type)
    # Mismatches are let through so that they can be named; transformers' own report is many lines long.
    try:
        loaded, info = model_class.from_pretrained(
            model,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **hub.as_arguments(),
        )
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise CheckpointError(f"{model}: the weights cannot be read ({_first_line(error)})") from error
    for key, found, expected in sorted(info["mismatched_keys"]):
        raise CheckpointError(
            f"{model}: config.json contradicts the weights: {key} is {list(found)} in the weights and "
            f"{list(expected)} by the configuration"
        )
    missing = sorted(key for key in info["missing_keys"] if not _UNUSED_WITHOUT_HEAD.match(key))
    if missing:
        raise CheckpointError(
            f"{model}: {len(missing)} weights that the task {task} needs are missing, {missing[0]} first; the "
            "checkpoint was trained for another task (see --task), or config.json contradicts it"
        )
    surplus = sorted(key for key in info["unexpected_keys"] if _LAYER_WEIGHT.search(key))
    if surplus:
        raise CheckpointError(
            f"{model}: config.json contradicts the weights: it has no place for {len(surplus)} of them, {surplus[0]} "
            "first"
        )
    return loaded.eval().requires_grad_(False)


def _load_tokenizer(model: str, hub: HubOptions) -> PreTrainedTokenizerBase | None:
    names = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model")
    if Path(model).is_dir() and not any((Path(model) / name).is_file() for name in names):
        return None
    try:
        return transformers.AutoTokenizer.from_pretrained(model, **hub.as_arguments())
    except OSError:
        raise
    except Exception as error:  # the tokenizers library raises no class of its own
        raise CheckpointError(
            f"{model}: the tokenizer cannot be read ({_first_line(error)}); download the checkpoint again"
        ) from error


def _describe(model: str, hub: HubOptions) -> Source:
    if Path(model).is_dir():
        return Source(model, None, None, read_source_card(Path(model) / "README.md"))
    revision = _commit_of(model, hub)
    author = model.split("/")[0] if "/" in model else "Hugging Face"
    return Source(model, revision, author, read_source_card(_fetch_card(model, revision, hub)))


def _commit_of(model: str, hub: HubOptions) -> str | None:
    """The commit that the configuration was loaded from, by its place in the Hub's cache."""
    path = try_to_load_from_cache(model, "config.json", cache_dir=hub.cache_dir, revision=hub.revision)
    return Path(path).parent.name if isinstance(path, str) else None


def _fetch_card(model: str, revision: str | None, hub: HubOptions) -> Path | None:
    """The card of the very revision; None without one, or if the Hub is out of reach while the weights are cached."""
    try:
        revision = revision or hub.revision
        return Path(hf_hub_download(model, "README.md", revision=revision, cache_dir=hub.cache_dir, token=hub.token))
    except (HfHubHTTPError, OSError):
        return None


@contextmanager
def _checkpoint_errors(model: str) -> Iterator[None]:
    """Turns what transformers and safetensors raise into one line, and keeps transformers' report off the screen."""
    logging = transformers.logging
    verbosity, shows_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except SafetensorError as error:
        raise CheckpointError(
            f"{model}: the weights are truncated or corrupt ({error}); download the checkpoint again"
        ) from error
    except OSError as error:
        if isinstance(error, CheckpointError):
            raise
        remedy = "" if Path(model).is_dir() else "; check the id, the token and the network, or give a directory"
        raise CheckpointError(f"{model}: {_first_line(error)}{remedy}") from error
    except KeyError as error:
        raise UnsupportedModelError(f"{model}: {error.args[0]}") from error
    finally:
        logging.set_verbosity(verbosity)
        if shows_bar:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0].rstrip(".") if text else type(error).__name__


def infer_task(model_class: type) -> str:
    """Tells the task of a transformers model class.

    Raises:
        UnsupportedModelError: Optimum knows no task for it.
    """
    try:
        return TasksManager.infer_task_from_model(model_class, library_name="transformers")
    except ValueError as error:
        raise UnsupportedModelError(f"no task is known for {model_class.__name__}; give it with --task") from error
