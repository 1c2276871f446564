"""Does it answer as the original does? The same keyword arguments through both, field by field of their outputs.

The original is a transformers model and the candidate a model class of ours, over modules in PyTorch or over the saved
package: nothing here knows which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from optimum_ane.errors import CheckpointError, ValidationError
from optimum_ane.validation.psnr import psnr
from optimum_ane.validation.queries import closest_queries

if TYPE_CHECKING:
    from torch import Tensor

    from optimum_ane.tasks import OutputField

MODULE_PSNR = 90.0
"""dB. The module computes in float32 as the original does; anything below is an error of logic, not of rounding."""

PACKAGE_PSNR = {"float16": 50.0, "float32": 90.0}
"""dB, by precision. Sound float16 packages of 2 to 12 layers measure 58 to 76; one that computes something else, a
mask that is not applied or a weight in the wrong place, measures below 40."""

ROUNDING_MARGIN = 20.0
"""dB. The same sums in another order round otherwise: where networks amplify the last bit, sound modules measured 12
to 18 dB below the original's own noise (layer norms over values that stand far from 0, whose mean PyTorch's own kernel
sums more exactly). Ten times that noise is still rounding; modules that compute something else lie far below."""

_ROWS_OF_LAYERS = 2
"""Rows of each batch whose hidden states are compared: these are many numbers each."""


class Model(Protocol):
    """A transformers model, or a model class of ours."""

    def __call__(self, **inputs: Any) -> Any:
        """Returns transformers' output class."""
        ...


@dataclass(frozen=True)
class Answers:
    """What a model answered to examples.

    Attributes:
        fields: For each field of its output one tensor for each batch.
        hidden_states: For each batch the embeddings and the output of each layer, (rows, S, C), of a few rows; empty
            where they were not asked for.
    """

    fields: Mapping[str, Sequence[Tensor]]
    hidden_states: Sequence[Sequence[Tensor]] = ()


def answer_examples(
    model: Model,
    examples: Sequence[Mapping[str, Tensor]],
    fields: Sequence[OutputField],
    *,
    with_hidden_states: bool = False,
) -> Answers:
    """Calls a model with each batch of examples.

    Args:
        model: The original or a candidate.
        examples: Keyword arguments, from `ANEConfig.examples`.
        fields: The fields of the output that are compared.
        with_hidden_states: Whether the hidden states of a few rows are wanted too.

    Raises:
        ValidationError: A field is not there.
    """
    collected: dict[str, list[Tensor]] = {field.name: [] for field in fields}
    hidden: list[Sequence[Tensor]] = []
    with torch.no_grad():
        for batch in examples:
            answer = model(**batch)
            for name, values in collected.items():
                if answer.get(name) is None:
                    raise ValidationError(f"{type(model).__name__} gives no {name}; it gives {', '.join(answer)}")
                values.append(answer[name].float())
            if with_hidden_states:
                few = {name: value[:_ROWS_OF_LAYERS] for name, value in batch.items()}
                hidden.append(tuple(model(**few, output_hidden_states=True).hidden_states or ()))
    return Answers(collected, hidden)


def compare_fields(
    reference: Answers, candidate: Answers, examples: Sequence[Mapping[str, Tensor]], fields: Sequence[OutputField]
) -> dict[str, float]:
    """The PSNR of each field in dB, by its name in the package, over the positions that count.

    What a model computes for padding is of no use to anybody, and differs between attention implementations. Of a set
    of queries those are compared that both answers have; see `closest_queries`.

    Args:
        reference: The original's answers.
        candidate: Ours, to the same examples.
        examples: What they answered.
        fields: What is compared.

    Raises:
        ValidationError: The shapes differ.
        CheckpointError: The original's outputs are not finite.
    """
    ratios = {}
    shared = _shared_queries(reference, candidate, fields)
    for field in fields:
        theirs, ours = [], []
        for index, (batch, expected, actual) in enumerate(
            zip(examples, reference.fields[field.name], candidate.fields[field.name], strict=True)
        ):
            _check_shape(field, expected, actual)
            if field.is_set:
                for row, (expected_places, actual_places) in enumerate(shared[index]):
                    theirs.append(expected[row, expected_places].reshape(-1))
                    ours.append(actual[row, actual_places].reshape(-1))
                continue
            tokens = ... if field.per == "row" else batch["attention_mask"].bool()
            theirs.append(expected[tokens].reshape(-1))
            ours.append(actual[tokens].reshape(-1))
        ratios[field.in_package] = _ratio(field.in_package, torch.cat(theirs), torch.cat(ours))
    return ratios


def compare_layers(
    reference: Answers, candidate: Answers, examples: Sequence[Mapping[str, Tensor]]
) -> dict[str, float]:
    """The PSNR of each layer's output against the original's, over the positions of tokens.

    A norm's output stands in a float16 package scaled by the rounding of the norm's weight, which the next layers take
    back (`passes.carry_layer_norm_rounding`): by up to 2⁻¹¹ per channel, which is below the rounding of the values.

    Returns:
        dB, in the order of the model: `"embeddings"`, what enters the first layer, then `"layer.0"`, `"layer.1"` … Of
        layers that share their weights, each use counts.

    Raises:
        ValidationError: There are no hidden states, or not as many as the original's, or of another shape.
        CheckpointError: The original's hidden states are not finite.
    """
    theirs: list[list[Tensor]] = []
    ours: list[list[Tensor]] = []
    for batch, expected, actual in zip(examples, reference.hidden_states, candidate.hidden_states, strict=True):
        if not expected or len(expected) != len(actual):
            raise ValidationError(
                f"the original has {len(expected)} hidden states and {len(actual)} were found in the program: the "
                "module's layer_stack() does not declare what the original's layers are"
            )
        tokens = _tokens_of(batch, expected[0])
        theirs.append([state[tokens].reshape(-1) for state in expected])
        ours.append([])
        for index, (state, original) in enumerate(zip(actual, expected, strict=True)):
            if state.shape != original.shape:
                raise ValidationError(
                    f"{_layer_name(index)} has shape {tuple(state.shape)}, the original's {tuple(original.shape)}"
                )
            ours[-1].append(state[tokens].reshape(-1))
    return {
        _layer_name(index): _ratio(_layer_name(index), torch.cat(expected), torch.cat(actual))
        for index, (expected, actual) in enumerate(
            zip(zip(*theirs, strict=True), zip(*ours, strict=True), strict=True)
        )
    }


def find_bad_layer(ratios: Mapping[str, float], limit: float) -> str:
    """Says in a few words where a package leaves the original.

    Args:
        ratios: From `compare_layers`; empty where they were not measured.
        limit: dB that a sound layer reaches.
    """
    if not ratios:
        return ""
    for name, ratio in ratios.items():
        if not ratio >= limit:
            return f"first bad layer: {name}, {ratio:.1f} dB"
    name, ratio = min(ratios.items(), key=lambda item: item[1])
    return f"no layer is bad, the worst is {name} with {ratio:.1f} dB"


def check_ratios(ratios: Mapping[str, float], threshold: float, what: str, place: str = "", advice: str = "") -> None:
    """Refuses answers that are too far from the original's.

    Args:
        ratios: dB by field, from `compare_fields`.
        threshold: dB that each must reach.
        what: What answered.
        place: Where it leaves the original, in a few words, if that is known; see `find_bad_layer`.
        advice: A sentence: why that may be, and what can be done.

    Raises:
        ValidationError: A PSNR is below the threshold, the message holds both numbers; or nothing was compared.
    """
    if not ratios:
        raise ValidationError(f"nothing of the {what} was compared with the original")
    where = f" ({place})" if place else ""
    for name, ratio in ratios.items():
        if not ratio >= threshold:
            raise ValidationError(
                f"the {what} does not answer as the original does: PSNR of {name} is {ratio:.1f} dB, "
                f"{threshold:.1f} are asked for{where}; nothing was written. {advice}".strip()
            )


def is_rounding(ratios: Mapping[str, float], noise: Mapping[str, float]) -> bool:
    """Whether answers in float32 are as close to the exact ones as rounding lets the original itself be.

    A network that amplifies the last bit, by a softmax that is nearly a tie say, answers anyhow within its own noise.

    Args:
        ratios: dB by field, the candidate against the original in float64.
        noise: dB by field, the original in float32 against itself in float64.
    """
    return all(ratio >= min(MODULE_PSNR, noise[name] - ROUNDING_MARGIN) for name, ratio in ratios.items())


def _ratio(name: str, expected: Tensor, actual: Tensor) -> float:
    _check_finite(name, expected)
    return psnr(expected, actual)


def _shared_queries(
    reference: Answers, candidate: Answers, fields: Sequence[OutputField]
) -> list[list[tuple[Any, Any]]]:
    """For each batch and each of its rows the queries that both answers have; empty where there are no sets.

    Raises:
        ValidationError: The shapes differ.
    """
    sets = [field for field in fields if field.is_set]
    if not sets:
        return []
    shared: list[list[tuple[Any, Any]]] = []
    for expected, actual in zip(
        zip(*(reference.fields[field.name] for field in sets), strict=True),
        zip(*(candidate.fields[field.name] for field in sets), strict=True),
        strict=True,
    ):
        for field, theirs, ours in zip(sets, expected, actual, strict=True):
            _check_shape(field, theirs, ours)
            _check_finite(field.in_package, theirs)
        shared.append(
            [
                closest_queries([each[row].numpy() for each in expected], [each[row].numpy() for each in actual])
                for row in range(len(expected[0]))
            ]
        )
    return shared


def _check_shape(field: OutputField, expected: Tensor, actual: Tensor) -> None:
    if actual.shape != expected.shape:
        raise ValidationError(
            f"{field.in_package} has shape {tuple(actual.shape)}, the original's {tuple(expected.shape)}"
        )


def _check_finite(name: str, expected: Tensor) -> None:
    if not expected.isfinite().all():
        raise CheckpointError(f"the original's own {name} holds NaN or infinity; its weights are damaged")


def _tokens_of(batch: Mapping[str, Tensor], state: Tensor) -> Any:
    """The positions that count in hidden states, (rows, S): all where no mask has a number for each."""
    mask = batch.get("attention_mask")
    if mask is None or mask.shape[-1] != state.shape[1]:
        return ...
    return mask[:_ROWS_OF_LAYERS].reshape(-1, mask.shape[-1]).bool()


def _layer_name(index: int) -> str:
    return "embeddings" if index == 0 else f"layer.{index - 1}"
