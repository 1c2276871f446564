"""Tiny random originals, one for each architecture and task, and the measures that tests take of them."""

from __future__ import annotations

import math

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, PreTrainedTokenizerFast

AUTO_CLASSES = {
    "feature-extraction": "AutoModel",
    "fill-mask": "AutoModelForMaskedLM",
    "multiple-choice": "AutoModelForMultipleChoice",
    "question-answering": "AutoModelForQuestionAnswering",
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
}
TASKS = tuple(AUTO_CLASSES)

_COMMON = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "vocab_size": 100,
    "max_position_embeddings": 40,
}
_DEBERTA = {"relative_attention": True, "position_buckets": 8}

# "model_type" or "model_type:what is particular about it".
ARCHITECTURES = {
    "albert": {"embedding_size": 24, "num_hidden_layers": 3, "num_hidden_groups": 2, "inner_group_num": 2},
    "bert": {},
    "camembert": {},
    "deberta-v2": _DEBERTA  # as v3's published checkpoints
    | {
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
    },
    "deberta-v2:convolution": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "type_vocab_size": 2,
        "embedding_size": 24,
        "conv_kernel_size": 3,
        "conv_act": "gelu",
    },
    "deberta-v2:keys": _DEBERTA | {"pos_att_type": ["c2p"], "legacy": False},
    "deberta-v2:queries": _DEBERTA | {"share_att_key": True, "pos_att_type": ["p2c"]},
    "deberta-v2:absolute": {"pos_att_type": ["c2p"]},
    "distilbert": {},
    "electra": {"embedding_size": 24},
    "electra:wide": {"embedding_size": 48},
    # Two tokens to either side in the second layer, and all in the first.
    "modernbert": {"local_attention": 4},
    "mpnet": {},
    "roberta": {},
    "xlm-roberta": {},
}
# What architectures call BERT's settings.
_NAMES = {
    "distilbert": {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
    },
    "modernbert": {"layer_norm_eps": "norm_eps", "hidden_act": "hidden_activation"},
}

WORDS = "the a film was is not very and but story of plot fine dull gripping moving bad good great poor"
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def make_config(name, leave_out=None, **settings):
    """The configuration of a tiny model; `settings` go by BERT's names, `leave_out` is one of its own settings."""
    model_type = name.split(":")[0]
    names = _NAMES.get(model_type, {})
    # The padding id of the tokenizer below, and RoBERTa's own.
    own = {key: value for key, value in ARCHITECTURES[name].items() if key != leave_out}
    settings = _COMMON | {"pad_token_id": 1} | own | settings
    return AutoConfig.for_model(model_type, **{names.get(key, key): value for key, value in settings.items()})


def make_original(name, task, seed=0, has_fresh_norms=False, **settings):
    """A transformers model in float32 and evaluation mode.

    Every parameter is made random, those of the norms included: at ones and zeros, as fresh norms have them, no test
    would see them.
    """
    torch.manual_seed(seed)
    model = getattr(transformers, AUTO_CLASSES[task]).from_config(make_config(name, **settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        for module in model.modules():
            if has_fresh_norms and isinstance(module, torch.nn.LayerNorm):
                module.reset_parameters()
    return model.requires_grad_(False)


def make_inputs(original, rows=4, length=37, seed=0, side="right"):
    """Token ids, mask and, where the model has them, token types: the first row full, the others padded."""
    generator = torch.Generator().manual_seed(seed)
    padding = original.config.pad_token_id
    ids = torch.randint(5, original.config.vocab_size, (rows, length), generator=generator)
    lengths = torch.linspace(length, 1, rows).round().long()
    mask = (torch.arange(length)[None, :] < lengths[:, None]).long()
    mask = mask.flip(1) if side == "left" else mask
    inputs = {"input_ids": torch.where(mask.bool(), ids, padding), "attention_mask": mask}
    if takes_token_types(original.config):
        inputs["token_type_ids"] = torch.randint(0, 2, (rows, length), generator=generator) * mask
    return inputs


def takes_token_types(config):
    """A table of one row, as RoBERTa's published checkpoints have, leaves nothing to choose."""
    return getattr(config, "type_vocab_size", 0) > 1


def answer(original, inputs):
    """The original's outputs as a tuple, in the order in which ours come."""
    if type(original).__name__.endswith("ForMultipleChoice"):
        inputs = {name: value[:, None] for name, value in inputs.items()}
    with torch.no_grad():
        outputs = original(**inputs)
    if "start_logits" in outputs:
        return outputs.start_logits, outputs.end_logits
    return (outputs.logits if "logits" in outputs else outputs.last_hidden_state,)


def psnr(reference, candidate):
    """20·log10(max|reference| / RMSE), as ml-ane-transformers defines it."""
    error = (reference.double() - candidate.double()).pow(2).mean().sqrt().item()
    return math.inf if error == 0 else 20 * math.log10(reference.abs().max().item() / error)


def least_psnr(references, candidates, mask):
    """The worst PSNR of several outputs, over token positions where an output has any."""
    ratios = []
    for reference, candidate in zip(references, as_tuple(candidates), strict=True):
        assert candidate.shape == reference.shape
        if reference.shape[:2] == mask.shape and reference.shape[1] > 1:
            reference, candidate = reference[mask.bool()], candidate[mask.bool()]
        ratios.append(psnr(reference, candidate))
    return min(ratios)


def as_tuple(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)


def make_tokenizer(**settings):
    """A tokenizer of whole words, in the way of RoBERTa: `<s> first </s> second </s>`."""
    vocabulary = {word: index for index, word in enumerate(SPECIAL + WORDS.split())}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos_token": "<s>", "cls_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", mask_token="<mask>", **(names | settings)
    )


def save_checkpoint(directory, name, task, seed=0, **settings):
    """Saves a tiny original with its tokenizer, and returns the original."""
    original = make_original(name, task, seed, **settings)
    original.save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return original
