"""The files in which a sentence-transformers checkpoint says what it does beside the transformer.

`modules.json` and the files of the modules that it lists, as versions 1 to 6 of sentence-transformers write them. A
module, mode or option that an export cannot express is refused by name; nothing is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from optimum_ane.checkpoints.errors import checkpoint_errors
from optimum_ane.checkpoints.hub_files import find_file, read_json, read_json_object
from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.checkpoints.safetensors_files import WEIGHTS
from optimum_ane.checkpoints.sentence_transformers import ACTIVATIONS, Dense, SentenceTransformers
from optimum_ane.errors import CheckpointError, UnsupportedModelError
from optimum_ane.nn.pooling import PoolingMode

MODULES = "modules.json"
_OPTIONS = "config_sentence_transformers.json"
_PACKAGE = "sentence_transformers."
_TRANSFORMER_OPTIONS = (
    "sentence_bert_config.json",
    *(
        f"sentence_{name}_config.json"
        for name in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
    ),
)
"""One of them is there; before version 2 each architecture had its own."""
_POOLING_MODES: Mapping[str, str] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""The entries of older files, by what newer ones call them."""
_EXPRESSIBLE = ("mean", "cls", "lasttoken")
_WITHOUT_EFFECT = ("unpad_inputs", "cache_dir")
_WITHOUT_EFFECT_ON_THE_MODEL = ("attn_implementation", "torch_dtype", "dtype", "add_pooling_layer", "use_safetensors")
_KNOWN_OPTIONS = {
    *("__version__", "model_type", "requirements"),
    *("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim"),
}
_EMBEDDING = "sentence_embedding"
_MAX_WIDTH, _MAX_MODULES = 1 << 20, 16
_UNLIMITED = 1_000_000
"""A tokenizer that has no limit of its own says 1e30."""


def read_sentence_transformers(model: str, hub: HubOptions) -> SentenceTransformers | None:
    """Reads what a sentence-transformers checkpoint says beside its transformer.

    Args:
        model: Hub id or directory.
        hub: How to reach the Hub.

    Returns:
        None where there is no `modules.json`.

    Raises:
        CheckpointError: A file is damaged or missing.
        UnsupportedModelError: A module, mode or option cannot be expressed; the message names it.
    """
    with checkpoint_errors(model):
        listing = find_file(model, MODULES, hub)
        if listing is None:
            return None
        reader = _Reader(model, hub)
        settings = reader.read_modules(read_json(listing))
        return reader.read_options(reader.read_transformer(settings))


class _Reader:
    """Reads the files of one checkpoint."""

    def __init__(self, model: str, hub: HubOptions) -> None:
        self.model, self.hub = model, hub

    def refuse(self, what: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"{self.model}: {what}, which an export of a sentence-transformers checkpoint cannot express; export its "
            "hidden states with --pooling none and do the rest in your own code"
        )

    def damaged(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.model}: {what}; download the checkpoint again")

    def read_modules(self, listing: Any) -> SentenceTransformers:
        """The pipeline after the transformer, from `modules.json`."""
        kinds = [(self.kind(entry), entry) for entry in self.entries(listing)]
        if kinds[0][0] != "Transformer":
            raise self.refuse(f"its first module is {kinds[0][0]}")
        if kinds[0][1].get("path"):
            raise self.refuse(f"its transformer is in the folder {str(kinds[0][1]['path'])!r:.60}")
        settings: SentenceTransformers | None = None
        for kind, entry in kinds[1:]:
            settings = self.add(settings, kind, str(entry.get("path", "")))
        if settings is None:
            raise self.refuse(f"its {MODULES} names no Pooling")
        return settings

    def entries(self, listing: Any) -> list[Mapping[str, Any]]:
        if not isinstance(listing, list) or not 0 < len(listing) <= _MAX_MODULES:
            raise self.damaged(f"{MODULES} holds no list of 1 to {_MAX_MODULES} modules")
        for entry in listing:
            if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
                raise self.damaged(f"an entry of {MODULES} names no type")
            if entry.get("kwargs"):
                raise self.refuse(f"its module {entry['type']:.80} takes arguments of its own")
        return listing

    def kind(self, entry: Mapping[str, Any]) -> str:
        """`"Pooling"` for `sentence_transformers.models.Pooling` or where newer versions have it."""
        dotted = entry["type"]
        if not dotted.startswith(_PACKAGE) or dotted.startswith(f"{_PACKAGE}sparse_encoder"):
            raise self.refuse(f"it has a module {dotted!r:.100}")
        return dotted.rsplit(".", 1)[1]

    def add(self, settings: SentenceTransformers | None, kind: str, path: str) -> SentenceTransformers:
        """One more module after those so far."""
        if kind == "Pooling" and settings is None:
            return SentenceTransformers(self.pooling(path))
        if settings is None or kind not in ("Dense", "Dropout", "Normalize"):
            raise self.refuse(
                f"it has a module {kind!r:.60} " + ("before the pooling" if settings is None else "after it")
            )
        if kind == "Normalize":
            self.check_name(self.config(path, optional=True), kind)
            return replace(settings, normalize=True)
        if kind == "Dense":
            if settings.normalize:
                raise self.refuse("it has a module 'Dense' after its 'Normalize'")
            return replace(settings, dense=(*settings.dense, self.dense(path)))
        return settings  # dropout does nothing outside training

    def config(self, path: str, optional: bool = False) -> dict[str, Any]:
        name = f"{path}/config.json" if path else "config.json"
        file = find_file(self.model, name, self.hub) if path else None
        if file is None and not optional:
            raise self.damaged(f"{MODULES} names {name}, which is missing")
        return {} if file is None else read_json_object(file)

    def pooling(self, path: str) -> PoolingMode:
        entries = self.config(path)
        known = {*_POOLING_MODES, "pooling_mode", "include_prompt", "word_embedding_dimension", "embedding_dimension"}
        self.check_known(entries, known, "Pooling")
        older = [mode for name, mode in _POOLING_MODES.items() if entries.get(name)]
        modes = entries.get("pooling_mode", older or "mean")
        modes = [modes] if isinstance(modes, str) else modes
        if not isinstance(modes, list) or len(modes) != 1 or modes[0] not in _EXPRESSIBLE:
            raise self.refuse(f"its pooling is {modes!r:.80}")
        if entries.get("include_prompt", True) is not True:
            raise self.refuse("its pooling leaves out the prompt (include_prompt is false)")
        return cast(PoolingMode, modes[0])

    def dense(self, path: str) -> Dense:
        entries = self.config(path)
        widths = [width for width in (entries.get("in_features"), entries.get("out_features")) if type(width) is int]
        if len(widths) != 2 or not 0 < min(widths) <= max(widths) <= _MAX_WIDTH:
            raise self.damaged(f"{path}/config.json gives no widths that can be (in_features, out_features)")
        known = {
            "in_features",
            "out_features",
            "bias",
            "activation_function",
            "module_input_name",
            "module_output_name",
        }
        self.check_known(entries, {*known, "use_residual"}, "Dense")
        self.check_name(entries, "Dense")
        if entries.get("use_residual"):
            raise self.refuse("its module 'Dense' has a residual")
        dotted = str(entries.get("activation_function", "torch.nn.modules.activation.Tanh"))
        activation = ACTIVATIONS.get(dotted.rsplit(".", 1)[-1]) if dotted.startswith("torch.nn.") else None
        if activation is None:
            raise self.refuse(f"its module 'Dense' has the activation {dotted!r:.80}")
        weights = find_file(self.model, f"{path}/{WEIGHTS}", self.hub)
        if weights is None:
            raise self.refuse(f"its module 'Dense' has no {path}/{WEIGHTS} but weights of another format")
        return Dense(widths[0], widths[1], bool(entries.get("bias", True)), activation, weights)

    def check_name(self, entries: Mapping[str, Any], kind: str) -> None:
        names = {entries.get(name) or _EMBEDDING for name in ("module_input_name", "module_output_name")}
        if names != {_EMBEDDING}:
            raise self.refuse(f"its module {kind!r} works on {sorted(names - {_EMBEDDING})[0]!r:.60}")

    def check_known(self, entries: Mapping[str, Any], known: set[str], kind: str) -> None:
        unknown = sorted(entries.keys() - known)
        if unknown:
            raise self.refuse(f"its module {kind!r} has the option {unknown[0]!r:.60}")

    def read_transformer(self, settings: SentenceTransformers) -> SentenceTransformers:
        """The options of the first module."""
        files = (find_file(self.model, name, self.hub) for name in _TRANSFORMER_OPTIONS)
        file = next((file for file in files if file is not None), None)
        entries = {} if file is None else read_json_object(file)
        asked = {name: value for name, value in entries.items() if value and name not in _WITHOUT_EFFECT}
        length = asked.pop("max_seq_length", None)
        lower_case = asked.pop("do_lower_case", False) is True
        expected = {
            "transformer_task": "feature-extraction",
            "module_output_name": "token_embeddings",
            "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        }
        for name, value in asked.items():
            arguments = {*value} if isinstance(value, dict) else {name}
            is_harmless = name in ("model_args", "model_kwargs") and arguments <= {*_WITHOUT_EFFECT_ON_THE_MODEL}
            if value != expected.get(name) and not is_harmless:
                raise self.refuse(f"its transformer has the option {name!r:.60}: {value!r:.60}")
        return replace(settings, max_seq_length=self.length(length), lower_case=lower_case)

    def length(self, length: Any) -> int | None:
        """From the module's own file; newer versions leave it to the tokenizer."""
        if length is None:
            file = find_file(self.model, "tokenizer_config.json", self.hub)
            length = None if file is None else read_json_object(file).get("model_max_length")
            if isinstance(length, float) or (isinstance(length, int) and length > _UNLIMITED):
                return None
        if length is not None and not (type(length) is int and length > 0):
            raise self.damaged(f"max_seq_length is {length!r:.60}")
        return length

    def read_options(self, settings: SentenceTransformers) -> SentenceTransformers:
        """Prompts and what else is said of the whole."""
        file = find_file(self.model, _OPTIONS, self.hub)
        entries = {} if file is None else read_json_object(file)
        unknown = sorted(entries.keys() - _KNOWN_OPTIONS)
        if unknown:
            raise self.refuse(f"{_OPTIONS} has the option {unknown[0]!r:.60}")
        kind = entries.get("model_type", "SentenceTransformer")
        if kind != "SentenceTransformer":
            raise self.refuse(f"it is a {kind!r:.60}")
        if entries.get("truncate_dim") is not None:
            raise self.refuse(f"its embeddings are cut to {entries['truncate_dim']!r:.20} numbers (truncate_dim)")
        prompts = entries.get("prompts") or {}
        if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
            raise self.damaged(f"the prompts of {_OPTIONS} are no texts")
        name = entries.get("default_prompt_name")
        if name is not None and not (isinstance(name, str) and name in prompts):
            raise self.damaged(f"the default prompt {name!r:.60} of {_OPTIONS} is none of its prompts")
        similarity = entries.get("similarity_fn_name")
        return replace(
            settings,
            prompts={key: text or "" for key, text in prompts.items()},
            default_prompt_name=name,
            similarity=similarity if isinstance(similarity, str) else None,
        )
