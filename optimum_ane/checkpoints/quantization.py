"""Quantised checkpoints are refused, by name and with the way out, before anything of them is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.checkpoints.source import find_card
from optimum_ane.checkpoints.source_card import read_base_models
from optimum_ane.errors import UnsupportedModelError

_ENTRIES = ("quantization_config", "compression_config")
"""Where `config.json` says it; the second is the old name of compressed-tensors."""
_MAX_DETAIL = 40


def check_is_not_quantized(model: str, entries: Mapping[str, Any], hub: HubOptions) -> None:
    """Refuses a checkpoint whose configuration says that its weights are quantised.

    Args:
        model: Hub id or directory.
        entries: What its `config.json` holds; the configurations of its parts are looked at as well.
        hub: How to reach the Hub, for the card that names the original.

    Raises:
        UnsupportedModelError: It is quantised; the message names the method and the way out.
    """
    method = quantization_of(entries)
    if method is None:
        return
    bases = read_base_models(find_card(model, None, hub))
    original = f"give the original that it was made from, {bases[0]}" if bases else "give the original without it"
    raise UnsupportedModelError(
        f"{model}: its weights are quantised ({method}), which cannot be exported; {original}, or on a machine where "
        "transformers loads it, save what `model.dequantize()` gives with `save_pretrained` and export that"
    )


def quantization_of(entries: Mapping[str, Any]) -> str | None:
    """The method that a `config.json` says the weights are quantised with; None for weights as usual."""
    for part in (entries, *(value for value in entries.values() if isinstance(value, Mapping))):
        for name in _ENTRIES:
            entry = part.get(name)
            if entry:
                return _method(entry if isinstance(entry, Mapping) else {"quant_method": entry})
    return None


def _method(entry: Mapping[str, Any]) -> str:
    """`"gptq, 4 bits"` and the like: what `quant_method` says, or what older files say in its place."""
    method = entry.get("quant_method")
    method = getattr(method, "value", method)
    if method is None and any(entry.get(name) for name in ("load_in_4bit", "load_in_8bit")):
        method = "bitsandbytes"
    details = [f"{bits} bits" for bits in (entry.get("bits"), entry.get("w_bit")) if isinstance(bits, int)]
    details += [name.removeprefix("load_in_") for name in ("load_in_4bit", "load_in_8bit") if entry.get(name) is True]
    details += [str(entry[name]) for name in ("format", "quant_type", "fmt") if isinstance(entry.get(name), str)]
    return ", ".join(text[:_MAX_DETAIL] for text in (str(method or "method not named"), *details[:2]))
