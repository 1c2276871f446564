"""A checkpoint at the start of an export: what it is, its weights one by one, and the original beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, cached_property
from typing import TYPE_CHECKING

import optimum_ane.models  # noqa: F401 - registers the architectures, which say what weights their tasks do not use
from optimum_ane.checkpoints.adapter import (
    Adapter,
    base_of,
    check_peft_is_installed,
    find_adapter,
    load_adapter,
    merge_adapter,
    with_labels_of,
)
from optimum_ane.checkpoints.configuration import check_token_of, expand_home, infer_task, load_config, resolve_task
from optimum_ane.checkpoints.hub_files import is_unknown
from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.checkpoints.original import (
    as_original,
    check_is_plain,
    load_original,
    make_checked_empty_model,
    make_empty_model,
    unwrap,
)
from optimum_ane.checkpoints.processor import load_processor
from optimum_ane.checkpoints.sentence_transformers import SentenceTransformers
from optimum_ane.checkpoints.sentence_transformers_files import MODULES, read_sentence_transformers
from optimum_ane.checkpoints.source import Source, commit_of, describe_source
from optimum_ane.checkpoints.tokenizer import fetch_tokenizer, load_tokenizer
from optimum_ane.checkpoints.weights import CheckpointWeights, ModelWeights, open_stored_weights
from optimum_ane.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from optimum_ane.exporters.config import Processor
    from optimum_ane.tasks import Modality

_EMBEDDER = "feature-extraction"
"""The task whose checkpoints may be sentence-transformers'."""


class Checkpoint:
    """A checkpoint for one task. Everything but its configuration is loaded when it is asked for.

    Args:
        source: Where it comes from.
        task: Optimum's name.
        config: Its configuration.
        load: Loads the original; gives it with the names of the tensors that it has no use for.
        open_weights: Opens the weights without loading a model; None where that takes the original.
        load_tokenizer: Loads the tokenizer.
        load_processor: Loads what makes inputs of images or of sounds, the one or the other; None where there is none.
        read_sentence_transformers: Reads what a sentence-transformers checkpoint says beside the transformer.
        notes: Lines for the screen: what was decided that the user did not ask for.

    Attributes:
        source: See above.
        task: See above.
        config: See above.
        notes: See above. What is found later is added.
        processor: `load_processor` above.
    """

    def __init__(
        self,
        source: Source,
        task: str,
        config: PretrainedConfig,
        *,
        load: Callable[[], tuple[PreTrainedModel, tuple[str, ...]]],
        open_weights: Callable[[], CheckpointWeights | None] = lambda: None,
        load_tokenizer: Callable[[], PreTrainedTokenizerBase | None] = lambda: None,
        load_processor: Callable[[Modality], Processor | None] = lambda _: None,
        read_sentence_transformers: Callable[[list[str]], SentenceTransformers | None] = lambda _: None,
        notes: list[str] | None = None,
    ) -> None:
        self.source, self.task, self.config, self.notes = source, task, config, notes or []
        self._load, self._open_weights, self._load_tokenizer = load, open_weights, load_tokenizer
        self.processor = cache(load_processor)
        self._read_sentence_transformers = read_sentence_transformers
        self._original: PreTrainedModel | None = None
        self._left_out: tuple[str, ...] = ()

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer; None without one.

        Raises:
            CheckpointError: It cannot be read.
        """
        return self._load_tokenizer()

    @cached_property
    def sentence_transformers(self) -> SentenceTransformers | None:
        """What a sentence-transformers checkpoint says beside its transformer; None for others and for other tasks.

        Once it was asked for, the tokenizer lower-cases its text if the checkpoint wants that.

        Raises:
            CheckpointError: A file is damaged or missing.
            UnsupportedModelError: It does what an export cannot express.
        """
        settings = self._read_sentence_transformers(self.notes) if self.task == _EMBEDDER else None
        if settings is not None and settings.lower_case and self.tokenizer is not None:
            settings.prepare_tokenizer(self.tokenizer)
        return settings

    @property
    def weights(self) -> CheckpointWeights:
        """The weights under the names of the transformers model of the task, each made when it is asked for.

        Weights in safetensors files whose names transformers' own rules bring to the model's are read from the files,
        one tensor at a time. While the original is in memory its own tensors are given, so that a module that takes
        them shares them. Others, pickled ones, those that transformers makes of several tensors, GGUF files and
        weights that an adapter is merged into, are always those of the original, which is loaded for it.

        Raises:
            CheckpointError: A file is missing, truncated or corrupt, or weights and configuration contradict each
                other: some are missing, left over or of another shape.
        """
        stored = self._stored_weights
        if stored is not None and self._original is None:
            return stored
        original = self.original()
        return ModelWeights(original, self._left_out if stored is None else stored.left_out)

    @cached_property
    def _stored_weights(self) -> CheckpointWeights | None:
        return self._open_weights()

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names of the checkpoint's tensors that its task has no use for, sorted; see `CheckpointWeights`."""
        return self.weights.left_out

    def original(self) -> PreTrainedModel:
        """The transformers model in float32 and evaluation mode, without gradients. It stays until it is released.

        Raises:
            CheckpointError: See `weights`.
        """
        if self._original is None:
            self._original, self._left_out = self._load()
        return self._original

    def release_original(self) -> None:
        """Lets go of the original; it is loaded again when it is asked for."""
        self._original = None


def open_checkpoint(
    model: str,
    *,
    task: str = "auto",
    hub: HubOptions | None = None,
    adapter: str | None = None,
    gguf_file: str | None = None,
) -> Checkpoint:
    """Opens a checkpoint: reads its configuration, and the rest when it is asked for.

    Args:
        model: Hub id or directory. That of an adapter stands for its base with the adapter merged into it.
        task: Optimum's name or a synonym; `"auto"` takes what the checkpoint was trained for.
        hub: How to reach the Hub.
        adapter: Hub id or directory of a PEFT adapter to merge into the weights.
        gguf_file: Name of a GGUF file of the checkpoint to read in place of its other files.

    Raises:
        CheckpointError: It is not there, or damaged.
        UnsupportedModelError: Its weights are quantised, its architecture is not known to transformers, or it does not
            tell its task.
    """
    hub = hub or HubOptions()
    model, adapter = expand_home(model), None if adapter is None else expand_home(adapter)
    if adapter is not None:
        if gguf_file is not None:
            raise CheckpointError("an adapter is not merged into a GGUF file; give the base that it was trained on")
        adapters_hub = replace(hub, revision=None)
        return _open_with_adapter(model, hub, load_adapter(adapter, adapters_hub), adapters_hub, task)
    check_token_of(model, hub)
    own = None if gguf_file is not None else find_adapter(model, hub)
    if own is not None:
        base = base_of(own)
        return _open_with_adapter(base, replace(hub, revision=own.base_revision), own, hub, task)
    config = load_config(model, hub, gguf_file)
    task, hub = resolve_task(task, config), _pinned(model, hub)
    return Checkpoint(
        describe_source(model, hub, gguf_file=gguf_file),
        task,
        config,
        load=lambda: load_original(model, task, config, hub, gguf_file),
        open_weights=lambda: None if gguf_file is not None else open_stored_weights(model, task, config, hub),
        load_tokenizer=lambda: load_tokenizer(model, hub, gguf_file),
        load_processor=lambda modality: load_processor(model, modality, hub),
        read_sentence_transformers=lambda notes: _read_sentence_transformers(model, hub, notes),
    )


def _open_with_adapter(
    model: str, hub: HubOptions, adapter: Adapter, adapters_hub: HubOptions, task: str
) -> Checkpoint:
    check_peft_is_installed(adapter)
    config = load_config(model, hub)
    if task == "auto" and adapter.task is not None:
        task = adapter.task
    task, hub = resolve_task(task, config), _pinned(model, hub)
    config = with_labels_of(config, task, make_checked_empty_model(model, task, config, hub), adapter)
    adapters_hub = _pinned(adapter.name, adapters_hub)

    def load() -> tuple[PreTrainedModel, tuple[str, ...]]:
        supplied = adapter.supplied(make_empty_model(task, config, hub))
        base, left_out = load_original(model, task, config, hub, supplied=supplied)
        return merge_adapter(base, adapter), left_out

    def load_its_tokenizer() -> PreTrainedTokenizerBase | None:
        is_its_own = fetch_tokenizer(adapter.name, adapters_hub)
        return load_tokenizer(str(adapter.directory) if is_its_own else model, hub)

    def read(notes: list[str]) -> SentenceTransformers | None:
        settings = _read_sentence_transformers(adapter.name, adapters_hub, [])
        return settings or _read_sentence_transformers(model, hub, notes)

    return Checkpoint(
        describe_source(model, hub, adapter=adapter.name),
        task,
        config,
        load=load,
        load_tokenizer=load_its_tokenizer,
        load_processor=lambda modality: load_processor(model, modality, hub),
        read_sentence_transformers=read,
        notes=[f"the adapter {adapter.name} ({adapter.method}) is merged into the weights of {model}"],
    )


def _pinned(model: str, hub: HubOptions) -> HubOptions:
    """The same at the commit that the configuration was read from, so that all files are of one commit."""
    return replace(hub, revision=commit_of(model, hub) or hub.revision)


def _read_sentence_transformers(model: str, hub: HubOptions, notes: list[str]) -> SentenceTransformers | None:
    settings = read_sentence_transformers(model, hub)
    if settings is None and is_unknown(model, MODULES, hub):
        notes.append(
            f"the Hub is out of reach, and its cache does not say whether {model} has a {MODULES}: it is taken for a "
            "checkpoint that is none of sentence-transformers"
        )
    return settings


def checkpoint_of_model(
    model: PreTrainedModel,
    task: str = "auto",
    tokenizer: PreTrainedTokenizerBase | None = None,
    processor: Processor | None = None,
) -> Checkpoint:
    """The same for a model in memory. It is copied only if it is not in float32 and evaluation mode.

    Args:
        model: A transformers model, compiled by `torch.compile` or in a `DataParallel` or not.
        task: Optimum's name or a synonym; `"auto"` takes that of its class.
        tokenizer: Its tokenizer.
        processor: Its image processor or feature extractor.

    Raises:
        UnsupportedModelError: It is no transformers model, its weights are quantised, adapters are not merged into
            them, or it does not tell its task.
    """
    model = unwrap(model)
    check_is_plain(model)
    task = infer_task(type(model)) if task == "auto" else resolve_task(task, model.config)
    name = model.name_or_path or type(model).__name__
    source = Source(model=name, revision=getattr(model.config, "_commit_hash", None), author=None)
    return Checkpoint(
        source,
        task,
        model.config,
        load=lambda: (as_original(model), ()),
        open_weights=lambda: ModelWeights(model),
        load_tokenizer=lambda: tokenizer,
        load_processor=lambda _: processor,
    )
