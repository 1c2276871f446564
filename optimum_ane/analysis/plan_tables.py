"""Prints plans on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from optimum_ane.analysis.decoder_shape import DecoderShape
from optimum_ane.analysis.generation import Range
from optimum_ane.analysis.plan import Plan, PlanRequest
from optimum_ane.screen import make_console


def print_plans(
    model: str, decoder: DecoderShape, request: PlanRequest, plans: Sequence[Plan], console: Console | None = None
) -> None:
    """Prints a table of plans, and the verdict of each with its reasons.

    Args:
        model: Hub id or directory.
        decoder: What it is made of.
        request: What was asked for.
        plans: One for each form of the weights.
        console: Where to; None is stdout.
    """
    console = console or make_console()
    device = request.device
    tied = ", the embedding is the head" if decoder.is_tied else ""
    console.print(
        f"{model}: {decoder.model_type}, {decoder.parameters / 1e6:.1f} M parameters, {decoder.layers} layers{tied}"
    )
    console.print(
        f"on {device.name} ({device.chip.name}, {device.memory.value:g} GiB), context {request.context_length}: from "
        "the configuration alone, nothing was run; memory and speed are estimates"
    )
    table = Table(title_justify="left")
    table.add_column("weights", overflow="fold")
    for heading in ("MB on disk", "programs", "MB in memory", "first token, ms", "tokens a second"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for plan in plans:
        table.add_row(
            plan.recipe,
            f"{plan.disk_bytes / 1e6:.1f}",
            str(len(plan.chunks)),
            f"{plan.memory.total / 1e6:.0f}",
            range_text(plan.speed.first_token_ms),
            range_text(plan.speed.tokens_per_second),
            plan.verdict,
        )
    console.print(table)
    console.print(
        f"first token: of a prompt of {request.prompt_length} tokens, in blocks of {request.prefill_length}; the "
        "estimate, and from the least to the most that is likely. docs/decoder-speed.md has such estimates beside "
        "published speeds, most of which were lower"
    )
    shared = [reason for reason in plans[0].reasons if all(reason in plan.reasons for plan in plans)]
    for plan in plans:
        console.print(f"\n{plan.recipe}: {plan.verdict}; most of a token's time goes to {plan.parts.bound}")
        _print_reasons([reason for reason in plan.reasons if len(plans) == 1 or reason not in shared], console)
    if len(plans) > 1:
        console.print("\nall of them")
        _print_reasons(shared, console)


def _print_reasons(reasons: Sequence[str], console: Console) -> None:
    for reason in reasons:
        console.print(Padding(Text(reason), (0, 0, 0, 2), expand=False))


def range_text(estimate: Range) -> str:
    """`"41 (26 to 71)"`."""
    return f"{_short(estimate.typical)} ({_short(estimate.low)} to {_short(estimate.high)})"


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 10 else f"{number:.1f}"
