"""A tiny original with seeded weights, the inputs that it is asked, and what it answers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel

from coverage_sweep.catalogue import Case
from coverage_sweep.inputs import Examples, NoInputsError, candidates
from coverage_sweep.tiny import tiny_config
from coverage_sweep.weights import GAIN, redraw
from optimum_ane.tasks import OutputField

_MOST_PARAMETERS = 20_000_000

_LARGEST = 5_000.0
"""Float16 ends at 65,504, and sums and squares need room."""


class NotTinyError(Exception):
    """The architecture cannot be made small, or cannot be called; the message says why."""


@dataclass(frozen=True)
class Original:
    """What is converted and compared with.

    Attributes:
        model: In float32 and evaluation mode, with an answer that has names.
        examples: Three sets of inputs.
        field: The field of its answer that is compared.
    """

    model: nn.Module
    examples: Examples
    field: OutputField


class _Named(nn.Module):
    """Gives the one tensor that a model answers with a name."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        return {"output": _first_of(self.model(**inputs))}


def make_original(case: Case, *, seed: int, longer: bool) -> Original:
    """Makes the tiny original of a case.

    Args:
        case: What is tried.
        seed: Of weights and inputs.
        longer: Whether the inputs have another length than usual, where their form allows it.

    Raises:
        NotTinyError: The architecture has no tiny form that the rules of `tiny` and `inputs` find.
    """
    torch.manual_seed(seed)
    try:
        config = tiny_config(case.model_type)
        model = AutoModel.from_config(config).float()
    except Exception as error:  # a configuration's checks and a model's constructor raise whatever they like
        raise NotTinyError(f"no tiny configuration: {describe(error)}") from error
    if case.part != "model":
        model = model.get_encoder() if case.part == "encoder" else model.get_decoder()
        if model is None:
            raise NotTinyError(f"its {case.part} is no module of its own")
    check_size(model)
    redraw(model, seed)
    if getattr(config, "default_language", "") is None:
        model.set_default_language(config.languages[0])
    return _called(case, model.eval(), config, seed, longer)


def check_size(model: nn.Module) -> None:
    """Refuses models that the rules left large.

    Raises:
        NotTinyError: It has more parameters than a tiny one.
    """
    count = sum(parameter.numel() for parameter in model.parameters())
    if count > _MOST_PARAMETERS:
        raise NotTinyError(f"no tiny configuration: {count / 1e6:.0f} million parameters are left")


def _called(case: Case, model: nn.Module, config: Any, seed: int, longer: bool) -> Original:
    """Finds inputs that the model can be called with, and the field of its answer."""
    first: Exception | None = None
    try:
        for examples in candidates(case, model, config, seed, longer=longer):
            try:
                answers = _answers(model, examples)
            except Exception as error:  # noqa: BLE001 - a model raises whatever it stumbles over
                first = first or error
                continue
            keep_within_float16(model, examples, seed)
            return _with_field(model, examples, answers[0])
    except NoInputsError as error:
        raise NotTinyError(str(error)) from error
    raise NotTinyError(f"cannot be called: {describe(first) if first else 'no inputs are known'}") from first


def _answers(model: nn.Module, examples: Examples) -> list[Any]:
    with torch.no_grad():
        return [model(**_without_cache(model), **example) for example in examples]


def keep_within_float16(model: nn.Module, examples: Examples, seed: int) -> None:
    """Draws smaller weights where values grow from layer to layer, as no trained network's do."""
    gain = GAIN
    while _largest_value(model, examples) > _LARGEST and gain > GAIN / 4:
        gain *= 0.85
        redraw(model, seed, gain)


def _largest_value(model: nn.Module, examples: Examples) -> float:
    """The largest number that any module gives."""
    found = [0.0]

    def look(module: nn.Module, inputs: Any, answer: Any) -> None:
        if isinstance(answer, Tensor) and answer.is_floating_point() and answer.numel():
            found.append(float(answer.abs().max()))

    hooks = [module.register_forward_hook(look) for module in model.modules()]
    try:
        _answers(model, examples)
    finally:
        for hook in hooks:
            hook.remove()
    return max(found)


def _with_field(model: nn.Module, examples: Examples, answer: Any) -> Original:
    if isinstance(answer, Mapping):
        names = [name for name, value in answer.items() if isinstance(value, Tensor) and value.is_floating_point()]
        names.sort(key=lambda name: name != "last_hidden_state")
    else:
        names = []
    if names:
        name, value = names[0], answer[names[0]]
    else:
        model, name = _Named(model), "output"
        with torch.no_grad():
            value = model(**examples[0])["output"]
    if not value.isfinite().all():
        raise NotTinyError("its answer is not finite with random weights")
    mask = examples[0].get("attention_mask")
    is_per_token = mask is not None and mask.shape == value.shape[:2]
    return Original(model, examples, OutputField(name, "token" if is_per_token else "row"))


def _without_cache(model: nn.Module) -> dict[str, bool]:
    return {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}


def _first_of(answer: Any) -> Tensor:
    """The first tensor of numbers of an answer of any form."""
    if isinstance(answer, Tensor) and answer.is_floating_point():
        return answer
    values = answer.values() if isinstance(answer, Mapping) else answer
    for value in values if isinstance(answer, Mapping | tuple | list) else ():
        try:
            return _first_of(value)
        except NotTinyError:
            continue
    raise NotTinyError(f"its answer, {type(answer).__name__}, holds no tensor of numbers")


def describe(error: BaseException) -> str:
    """An error's kind and what it says, in a line."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:200] or 'no reason given'}"
