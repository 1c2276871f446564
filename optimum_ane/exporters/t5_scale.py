"""T5's residual streams, made smaller by a power of two that the weights carry, exactly.

What is added to a stream (embeddings, and the results of the layers `o` and `wo`) is multiplied by α, and each norm
that reads it gives the same again: a root-mean-square norm of α·x with ε·α² is that of x with ε. A table that words
are also scored with is multiplied too, and the last norm before it divided. With α a power of two nothing is rounded.

T5's `wo` and its stream go beyond float16 (huggingface/transformers, issue 10956).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import ExitStack

from torch import nn

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.exporters.residual_scale import FLOAT16_MAX

T5_TYPES = ("mt5", "t5", "umt5")
"""Model types whose modules have T5's names."""

TARGET_PEAK = 16384.0
"""What a stream may reach on the texts that were looked at: on others it may become four times as large."""

_ADDED = re.compile(r".*\.(o|wo)")
_BLOCK = re.compile(r".*\.block\.\d+|.*\.block\.\d+\.layer\.\d+(\.DenseReluDense|\.(Self|EncDec)Attention)?")
_TABLE = re.compile(r"(.*\.)?(shared|embed_tokens|dropout)")
_NORM = re.compile(r".*\.(layer_norm|final_layer_norm)")


def choose_power(model_type: str, peaks: Mapping[str, float]) -> float:
    """The power of two that a model's streams need.

    Args:
        model_type: As transformers names it.
        peaks: The largest absolute values on texts; see `validation.activations`.

    Returns:
        1 where float16 holds all of it as it is.

    Raises:
        UnsupportedModelError: It does not, and what is too large is no stream of a T5; the message has module and
            number.
    """
    scaled = {name: peak for name, peak in peaks.items() if model_type in T5_TYPES and _is_of_stream(name)}
    for name, peak in peaks.items():
        if peak >= FLOAT16_MAX and name not in scaled and name:
            raise UnsupportedModelError(
                f"activations reach {peak:,.0f} in {name}, float16 ends at {FLOAT16_MAX:,.0f}, and nothing is known "
                f"that makes them smaller in {model_type}; export with --precision float32, for CPU and GPU"
            )
    largest = max(scaled.values(), default=0.0)
    if not math.isfinite(largest):
        raise UnsupportedModelError("activations are infinite in float32 already; the weights are damaged")
    return 1.0 if largest <= TARGET_PEAK else 2.0 ** -math.ceil(math.log2(largest / TARGET_PEAK))


def _is_of_stream(name: str) -> bool:
    return any(each.fullmatch(name) for each in (_ADDED, _BLOCK, _TABLE))


def scale_streams(model: nn.Module, power: float) -> ExitStack:
    """Lets the weights of a T5 carry a power of two.

    Args:
        model: The whole model in float32; it is changed.
        power: α, a power of two.

    Returns:
        What gives the weights back: at the end of a `with` block, or by `close`.
    """
    undo = ExitStack()
    if power == 1:
        return undo
    head = model.get_output_embeddings()
    tables = {id(module.weight): module.weight for path, module in model.named_modules() if _is_table(path, module)}
    scaled = {key: nn.Parameter(table.detach() * power, requires_grad=False) for key, table in tables.items()}
    if id(head.weight) in scaled:
        _put(model.get_submodule("decoder.final_layer_norm"), power, divide=True, undo=undo)
    for path, module in model.named_modules():
        own = module._parameters.get("weight")
        if own is not None and id(own) in scaled:
            undo.callback(module._parameters.__setitem__, "weight", own)
            module._parameters["weight"] = scaled[id(own)]
        elif _ADDED.fullmatch(path) and isinstance(module, nn.Linear):
            _put(module, power, divide=False, undo=undo)
        if _NORM.fullmatch(path):
            undo.callback(setattr, module, "variance_epsilon", module.variance_epsilon)
            module.variance_epsilon = module.variance_epsilon * power**2
    return undo


def _is_table(path: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding) and _TABLE.fullmatch(path) is not None


def _put(module: nn.Module, power: float, *, divide: bool, undo: ExitStack) -> None:
    before = module._parameters["weight"]
    assert before is not None
    undo.callback(module._parameters.__setitem__, "weight", before)
    value = before.detach() / power if divide else before.detach() * power
    module._parameters["weight"] = nn.Parameter(value, requires_grad=False)
