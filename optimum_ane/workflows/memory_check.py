"""Refuses a batch that this machine cannot hold, before its kernel stops the export without a word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optimum_ane.errors import ShapeError
from optimum_ane.tasks import TASKS
from optimum_ane.workflows.available_memory import available_memory

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from optimum_ane.package.form import ExportForm

MARGIN = 10**9
"""Bytes for what is not estimated: the converter's graph, example inputs, what was freed and not given back."""
_BYTES = 4
"""Of a float32 number: modules run in float32, and so does the portable runtime."""
_RESIDUAL_COPIES = 4
"""The residual stream, what is added to it, and query, key or value beside them."""
_WIDE_COPIES = 2
"""Of the widest value: before and after the activation, or the logits in the module and in the trace."""


def check_memory(config: PretrainedConfig, form: ExportForm) -> None:
    """Refuses a form of several rows at once whose export needs more memory than there is.

    Raises:
        ShapeError: The estimate and the margin exceed what is available; the message has both numbers.
    """
    available = available_memory()
    if form.batch_size == 1 or available is None:
        return
    weights, row = weight_bytes(config), bytes_of_a_row(config, form.task, form.longest)
    needed = weights + form.batch_size * row + MARGIN
    if needed > available:
        rows = max(1, (available - weights - MARGIN) // row)
        raise ShapeError(
            f"batch size {form.batch_size} at {form.longest} tokens takes an estimated {needed / 1e9:.1f} GB of "
            f"memory to export, and {available / 1e9:.1f} GB are available; take a batch size of {rows} or less: a "
            "package loops over more rows by itself"
        )


def weight_bytes(config: PretrainedConfig) -> int:
    """Bytes of one float32 copy of the weights, from a configuration with BERT's entries."""
    width, wide = config.hidden_size, _wide(config)
    layer = width * (4 * width + 2 * wide)
    layers = getattr(config, "num_hidden_groups", config.num_hidden_layers)  # ALBERT's layers share their weights
    table = config.vocab_size * (getattr(config, "embedding_size", None) or width)
    return _BYTES * (table + layers * layer)


def bytes_of_a_row(config: PretrainedConfig, task: str, length: int) -> int:
    """Bytes that one row of the batch takes at the peak: all hidden states, and the widest value of a layer or head.

    Measured on DistilBERTs of 2 layers of 256 at 128 tokens, the peak grew by 2.7 MB a row in text classification
    and by 34 MB in masked language modelling; this gives 2.0 and 32 MB.
    """
    widest = max(length, _wide(config))  # one head's scores, or the feed-forward layer
    if any(field.per == "vocabulary" for field in TASKS[task].fields):
        widest = config.vocab_size
    states = config.num_hidden_layers + 1 + _RESIDUAL_COPIES
    return _BYTES * length * (states * config.hidden_size + _WIDE_COPIES * widest)


def _wide(config: PretrainedConfig) -> int:
    """Width of the feed-forward layers, by whichever name; four times that of the model where it has none."""
    return getattr(config, "intermediate_size", None) or getattr(config, "hidden_dim", 4 * config.hidden_size)
