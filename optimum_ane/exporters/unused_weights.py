"""Tensors of a checkpoint that an export may leave out, each with the reason; any other one left over is an error."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from optimum_ane.errors import CheckpointError

UNUSED_WEIGHTS: Mapping[str, str] = {
    r"(\w+\.)?pooler": "pools the first token; heads that do not ask for it never see it",
    r"classifier": "a classifier of sequences, tokens or choices",
    r"pre_classifier": "DistilBERT's classifier of sequences, its first layer",
    r"sequence_summary": "ELECTRA's classifier of choices, its first layer",
    r"qa_outputs": "question answering",
    r"cls\.predictions": "masked language modelling",
    r"cls\.seq_relationship": "next sentence prediction",
    r"lm_head": "masked language modelling",
    r"predictions": "ALBERT's masked language modelling",
    r"sop_classifier": "ALBERT's prediction of the order of sentences",
    r"vocab_(transform|layer_norm|projector)": "DistilBERT's masked language modelling",
    r"(generator|discriminator)_predictions": "ELECTRA's pre-training",
    r"generator_lm_head": "ELECTRA's pre-training",
    r"(lm|mask)_predictions": "DeBERTa's pre-training",
    r"(.+\.)?position_ids": "the numbers 0, 1, 2, …, which transformers stored before 4.31",
}
"""Of every architecture: modules of other tasks, and tensors that hold nothing learned. By regular expressions that
must match the whole path of a module, or of a tensor."""


def check_unused(
    unused: Iterable[str], modules: Collection[str], allowed: Mapping[str, str], described: str
) -> tuple[str, ...]:
    """Refuses tensors that nothing uses, unless they are known to be of no use.

    A module that the model itself has is none of another task: what is left over below it is an error, whatever it is
    called.

    Args:
        unused: Names of the tensors that are left over.
        modules: Paths of all modules of the model.
        allowed: More entries like those of `UNUSED_WEIGHTS`, the architecture's own.
        described: What has no place for them, for the message.

    Returns:
        Their names, sorted.

    Raises:
        CheckpointError: One is not on the list; the message names the first and counts them.
    """
    names = sorted(unused)
    patterns = [re.compile(pattern) for pattern in (*UNUSED_WEIGHTS, *allowed)]
    surplus = [name for name in names if not _is_allowed(name, modules, patterns)]
    if surplus:
        raise CheckpointError(
            f"config.json contradicts the weights: {described} has no place for {len(surplus)} of them, {surplus[0]} "
            "first; correct config.json (its number of layers?), or save the checkpoint without what is of no use"
        )
    return tuple(names)


def _is_allowed(name: str, modules: Collection[str], patterns: list[re.Pattern[str]]) -> bool:
    parts = name.split(".")
    paths = [".".join(parts[: end + 1]) for end in range(len(parts))]
    return any(pattern.fullmatch(path) for path in paths if path not in modules for pattern in patterns)
