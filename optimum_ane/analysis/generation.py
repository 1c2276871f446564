"""How fast a decoder generates, from what its calls cost: estimates with their range, never measurements.

A prompt of n tokens takes a prefill for each block of its first n − 1, the last block padded, and one call for its
last token, which gives the first logits. Where there is no prefill, every token takes a call. What the host does
between calls, picking a token above all, is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from optimum_ane.analysis.cost_parameters import cost_parameters


@dataclass(frozen=True)
class Range:
    """An estimate: nine in ten published latencies were above its low end, nine in ten below its high end.

    Attributes:
        low: The least that is likely.
        typical: The estimate.
        high: The most that is likely.
    """

    low: float
    typical: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """As JSON holds it."""
        return {"low": self.low, "typical": self.typical, "high": self.high}


@dataclass(frozen=True)
class GenerationSpeed:
    """How fast a decoder reads a prompt and writes on.

    Attributes:
        prompt_length: Tokens of the prompt.
        prefill_length: Tokens of one prefill; 1 where there is none.
        prefill_calls: How many prefills the prompt takes.
        infer_ms: One token, typically.
        prefill_ms: One prefill, typically; 0 where there is none.
    """

    prompt_length: int
    prefill_length: int
    prefill_calls: int
    infer_ms: float
    prefill_ms: float

    @property
    def first_token_ms(self) -> Range:
        """From the prompt to the first token's logits, milliseconds."""
        return _range(self.prefill_calls * self.prefill_ms + self.infer_ms)

    @property
    def tokens_per_second(self) -> Range:
        """Tokens written a second, once the prompt is read."""
        times = _range(self.infer_ms)
        return Range(1e3 / times.high, 1e3 / times.typical, 1e3 / times.low)


def generation_speed(
    infer_ms: float, prompt_length: int, prefill_ms: float | None = None, prefill_length: int = 1
) -> GenerationSpeed:
    """Describes the speed of a decoder.

    Args:
        infer_ms: What the call for one token takes, typically.
        prompt_length: Tokens of the prompt, at least 1.
        prefill_ms: What the call for a block takes, typically; None where there is no such function.
        prefill_length: Tokens of a block.
    """
    if prefill_ms is None:
        return GenerationSpeed(prompt_length, 1, prompt_length - 1, infer_ms, infer_ms)
    calls = -(-(prompt_length - 1) // prefill_length)
    return GenerationSpeed(prompt_length, prefill_length, calls, infer_ms, prefill_ms)


def _range(milliseconds: float) -> Range:
    parameters = cost_parameters()
    return Range(milliseconds * parameters.low, milliseconds, milliseconds * parameters.high)
