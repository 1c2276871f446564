"""From a configuration to plans: what a decoder takes on a device and how fast it may be, before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optimum_ane.analysis.decoder_shape import DecoderShape, DecoderWeight, read_decoder
from optimum_ane.analysis.decoder_steps import Compression, StoredWeight, as_float16
from optimum_ane.analysis.plan import Plan, PlanRequest, make_plan
from optimum_ane.checkpoints.configuration import expand_home, load_config
from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.compression.planned_size import planned_weight
from optimum_ane.compression.recipes import Recipe, get_recipe

FLOAT16 = "float16"
RECIPES = (FLOAT16, "int8", "palette6", "palette4-g16-feed-forward", "palette4-g16")
"""What is planned where no recipe is asked for: the forms that stay on the Neural Engine and are no experiments."""


@dataclass(frozen=True)
class Plans:
    """Plans of one model.

    Attributes:
        model: Hub id or directory.
        decoder: What it is made of.
        request: What was asked for.
        plans: One for each form of the weights.
    """

    model: str
    decoder: DecoderShape
    request: PlanRequest
    plans: tuple[Plan, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        decoder, request = self.decoder, self.request
        return {
            "estimate": True,
            "model": self.model,
            "model_type": decoder.model_type,
            "parameters": decoder.parameters,
            "layers": decoder.layers,
            "device": request.device.name,
            "chip": request.device.chip.name,
            "context_length": request.context_length,
            "prefill_length": request.prefill_length,
            "prompt_length": request.prompt_length,
            "plans": [plan.to_dict() for plan in self.plans],
        }


def make_plans(model: str, request: PlanRequest, compress: str | None = None, hub: HubOptions | None = None) -> Plans:
    """Plans a model in one form, or in several.

    Args:
        model: Hub id or directory; its configuration alone is read.
        request: The device and the form.
        compress: A recipe's name, a YAML file, or `"float16"`; None plans `RECIPES`.
        hub: How to reach the Hub.

    Raises:
        CheckpointError: The configuration is missing or damaged.
        UnsupportedModelError: The model is no decoder of transformers.
        CompressionError: There is no such recipe.
        ShapeError: A number of the request that cannot be.
    """
    names = RECIPES if compress is None else (compress,)
    forms = {name: as_float16 if name == FLOAT16 else _compression(get_recipe(name)) for name in names}
    decoder = read_decoder(load_config(expand_home(model), hub or HubOptions()))
    plans = tuple(make_plan(decoder, request, name, form) for name, form in forms.items())
    return Plans(model, decoder, request, plans)


def _compression(recipe: Recipe) -> Compression:
    def compress(weight: DecoderWeight) -> StoredWeight:
        planned = planned_weight(recipe, weight.name.replace(".", "_"), weight.shape, weight.op_types)
        return StoredWeight(planned.bytes, planned.dtype)

    return compress
