"""Whether a decoder will do on a device, from its configuration alone: size, memory, programs, speed, and a verdict.

Nothing is measured here. Sizes follow from the shapes of the weights; memory and speed are estimates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from optimum_ane.analysis.chips import Chip
from optimum_ane.analysis.cost import Parts, unfolded_bytes
from optimum_ane.analysis.decoder_shape import DecoderShape
from optimum_ane.analysis.decoder_steps import (
    Compression,
    call_cost,
    chunk_bytes,
    cut,
    peak_bytes,
    weights_of,
)
from optimum_ane.analysis.devices import Device
from optimum_ane.analysis.generation import GenerationSpeed, generation_speed
from optimum_ane.analysis.lint import StateRule, state_rules
from optimum_ane.errors import ShapeError
from optimum_ane.exporters.cached_decoder.chunk_plan import MOST_BYTES, MOST_LAYERS
from optimum_ane.exporters.cached_decoder.chunks import Chunk

Verdict = Literal["fits", "fits with the entitlement", "does not fit"]

ENTITLEMENT = "com.apple.developer.kernel.increased-memory-limit"
_LEFT_TO_APP, _LEFT_TO_MAC = 0.2, 0.5
"""Shares of a limit that are not the model's: the app's own, and on a Mac the system's and other apps'."""


@dataclass(frozen=True)
class PlanRequest:
    """What is asked of a plan.

    Attributes:
        device: The device.
        context_length: Rows of the cache.
        prefill_length: Tokens of one prefill.
        prompt_length: Tokens of the prompt that the time to the first token is for.
        chunks: Programs, as `cut_layers` takes them.
    """

    device: Device
    context_length: int
    prefill_length: int = 64
    prompt_length: int = 128
    chunks: int | None = None

    def check(self, decoder: DecoderShape) -> None:
        """Refuses numbers that cannot be.

        Raises:
            ShapeError: The message has both numbers.
        """
        for name in ("context_length", "prefill_length", "prompt_length"):
            if getattr(self, name) < 1:
                raise ShapeError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 1")
        if self.prompt_length >= self.context_length:
            raise ShapeError(
                f"--prompt-length {self.prompt_length} leaves no row of --context-length {self.context_length} for "
                "an answer; take a shorter prompt or a longer context"
            )
        if self.chunks and not 1 <= self.chunks <= decoder.layers:
            raise ShapeError(f"--chunks is {self.chunks}; the model has {decoder.layers} layers, so 1 to that many")


@dataclass(frozen=True)
class PlannedMemory:
    """What a running decoder takes, bytes; an estimate.

    Attributes:
        infer: Weights of the function for one token, in all programs.
        prefill: Weights of the prefill: each function that is loaded holds a copy of its own.
        state: The cache.
        activations: Alive at once, at most.
    """

    infer: int
    prefill: int
    state: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.infer + self.prefill + self.state + self.activations


@dataclass(frozen=True)
class Plan:
    """What is to be expected of a decoder in one form on one device.

    Attributes:
        recipe: How weights are stored, `"float16"` or a recipe's name.
        request: What was asked for.
        chunks: The programs.
        chunk_bytes: What the weights of each take in the package.
        memory: What it takes when it runs.
        speed: How fast it is, estimated.
        parts: What one token's time goes to.
        verdict: Whether it will do.
        reasons: Why, a sentence each.
    """

    recipe: str
    request: PlanRequest
    chunks: tuple[Chunk, ...]
    chunk_bytes: tuple[int, ...]
    memory: PlannedMemory
    speed: GenerationSpeed
    parts: Parts
    verdict: Verdict
    reasons: tuple[str, ...]

    @property
    def disk_bytes(self) -> int:
        """What the weights take in the package."""
        return sum(self.chunk_bytes)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        memory = self.memory
        return {
            "recipe": self.recipe,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "weight_bytes": self.disk_bytes,
            "programs": [
                {"layers": chunk.last - chunk.first, "weight_bytes": size}
                for chunk, size in zip(self.chunks, self.chunk_bytes, strict=True)
            ],
            "memory_bytes": {
                "infer": memory.infer,
                "prefill": memory.prefill,
                "state": memory.state,
                "activations": memory.activations,
                "total": memory.total,
            },
            "estimates": {
                "first_token_ms": self.speed.first_token_ms.to_dict(),
                "tokens_per_second": self.speed.tokens_per_second.to_dict(),
                "bound": self.parts.bound,
            },
        }


def make_plan(decoder: DecoderShape, request: PlanRequest, recipe: str, compress: Compression) -> Plan:
    """Makes a plan.

    Args:
        decoder: From `read_decoder`.
        request: The device and the form.
        recipe: What the compression is called.
        compress: How each weight is stored.

    Raises:
        ShapeError: A number of the request that cannot be.
    """
    request.check(decoder)
    context = request.context_length
    chunks = cut(decoder, request.chunks)
    chip = request.device.chip

    def cost(tokens: int, *, is_prefill: bool) -> Parts:
        return call_cost(decoder, chunks, tokens, context, compress, chip, is_prefill=is_prefill)

    infer, prefill = cost(1, is_prefill=False), cost(request.prefill_length, is_prefill=True)
    memory = PlannedMemory(
        infer=_loaded_bytes(decoder, chunks, request, compress, is_prefill=False),
        prefill=_loaded_bytes(decoder, chunks, request, compress, is_prefill=True),
        state=decoder.state_bytes(context),
        activations=max(
            peak_bytes(decoder, 1, context),
            peak_bytes(decoder, request.prefill_length, context, is_prefill=True),
        ),
    )
    sizes = tuple(chunk_bytes(decoder, chunk, context, compress) for chunk in chunks)
    return Plan(
        recipe=recipe,
        request=request,
        chunks=chunks,
        chunk_bytes=sizes,
        memory=memory,
        speed=generation_speed(infer.total, request.prompt_length, prefill.total, request.prefill_length),
        parts=infer,
        verdict=_judge_memory(memory, request.device),
        reasons=(
            _memory_needed(memory),
            _memory_there(request.device),
            *_of_programs(decoder, request, chunks, sizes),
            *_of_rules(decoder, context),
            *_of_compression(decoder, compress, chip),
        ),
    )


def _loaded_bytes(
    decoder: DecoderShape, chunks: tuple[Chunk, ...], request: PlanRequest, compress: Compression, *, is_prefill: bool
) -> int:
    """What the weights of one function take when it is loaded, in all programs."""
    context, chip = request.context_length, request.device.chip
    total = 0
    for chunk in chunks:
        total += chunk_bytes(decoder, chunk, context, compress, is_prefill=is_prefill)
        for weight in weights_of(decoder, chunk, is_prefill=is_prefill):
            stored = compress(weight)
            total += unfolded_bytes(weight.dense_bytes, stored.bytes, stored.dtype, chip)
    return total


def _judge_memory(memory: PlannedMemory, device: Device) -> Verdict:
    """Compares what it takes with what an app may take."""
    if device.limit is None:
        return "fits" if memory.total <= (1 - _LEFT_TO_MAC) * device.app_bytes else "does not fit"
    if memory.total <= (1 - _LEFT_TO_APP) * device.app_bytes:
        return "fits"
    return (
        "fits with the entitlement" if memory.total <= (1 - _LEFT_TO_APP) * device.entitled_bytes else "does not fit"
    )


def _memory_needed(memory: PlannedMemory) -> str:
    return (
        f"It takes an estimated {_gb(memory.total)}: weights {_gb(memory.infer)} for tokens and "
        f"{_gb(memory.prefill)} for prompts, as each function that is loaded holds a copy of its own, cache "
        f"{_gb(memory.state)}, activations {_gb(memory.activations)}."
    )


def _memory_there(device: Device) -> str:
    if device.limit is None:
        return (
            f"{device.name} has {device.memory.value:g} GiB at least, of which {_LEFT_TO_MAC:.0%} are left to the "
            "system and other apps."
        )
    limit = device.limit
    where = "inferred" if limit.read_on is None else f"read on {limit.read_on}"
    return (
        f"One app may take {limit.app.value:g} GB of {device.name}'s {device.memory.value:g} GiB, and "
        f"{limit.entitled.value:g} GB with {ENTITLEMENT}, {where}; {_LEFT_TO_APP:.0%} of that are left to the app. "
        f"Source ({limit.app.trust}): {limit.app.source}"
    )


def _of_programs(
    decoder: DecoderShape, request: PlanRequest, chunks: tuple[Chunk, ...], sizes: tuple[int, ...]
) -> list[str]:
    reasons = []
    if len(chunks) > 1 and not request.chunks:
        reasons.append(
            f"{len(chunks)} programs: {MOST_LAYERS} layers and {MOST_BYTES / 1e6:.0f} MB of float16 at most in "
            "one, or more where a layer and a table take more; --chunks asks for another number."
        )
    most = max(chunk.last - chunk.first for chunk in chunks)
    if most > MOST_LAYERS:
        reasons.append(f"A program has {most} layers. {_rule('layers-above-15').reason}")
    if max(sizes) > _rule("program-above-1400-mb").limit:
        reasons.append(f"A program takes {_gb(max(sizes))}. {_rule('program-above-1400-mb').reason}")
    elif max(sizes) > MOST_BYTES:
        reasons.append(f"A program takes {_gb(max(sizes))}, more than the {MOST_BYTES / 1e6:.0f} MB that ship.")
    if decoder.is_tied and len(chunks) > 1:
        table = 2 * decoder.vocabulary * decoder.width
        reasons.append(
            f"The table of the embedding ({_gb(table)} in float16) is the head as well, and stands twice: in the "
            "first program and in the last."
        )
    return reasons


def _of_rules(decoder: DecoderShape, context: int) -> list[str]:
    reasons = []
    shapes = {(cache.heads, width) for cache in decoder.caches for width in (cache.key_width, cache.value_width)}
    if len(shapes) > 1:
        several = " and ".join(f"{heads} × {width}" for heads, width in sorted(shapes))
        reasons.append(
            f"Its layers keep keys and values of several shapes ({several}), and the state has room for the largest "
            "heads and width in all."
        )
    width = _rule("state-width")
    off = sorted({cache.key_width for cache in decoder.caches if cache.key_width % width.limit})
    if off:
        reasons.append(f"Keys have {off[0]} features. {width.reason}")
    look_up = _rule("vocabulary-above-65535")
    if decoder.vocabulary > look_up.limit:
        reasons.append(f"The vocabulary has {decoder.vocabulary} tokens. {look_up.reason}")
    if decoder.positions is not None and context > decoder.positions:
        reasons.append(
            f"A context of {context} is longer than the {decoder.positions} positions that the model was made for."
        )
    return reasons


def _of_compression(decoder: DecoderShape, compress: Compression, chip: Chip) -> list[str]:
    stored = [(weight, compress(weight)) for weight in decoder.weights]
    grown = sum(unfolded_bytes(weight.dense_bytes, each.bytes, each.dtype, chip) for weight, each in stored)
    if not grown:
        return []
    return [f"{chip.name} takes such weights in float16 only: {_gb(grown)} more in memory, and no faster for it."]


def _rule(name: str) -> StateRule:
    return next(rule for rule in state_rules() if rule.id == name)


def _gb(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
