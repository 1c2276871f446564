"""What to say of a program of which less is predicted on the Neural Engine than a program for it should have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optimum_ane.analysis.wording import some_names

if TYPE_CHECKING:
    from optimum_ane.analysis.inspection import Inspection

LEAST_SHARE = 0.9
"""Of the arithmetic; what is written for the engine has 0.97 and more."""
_CAUSES = 3


def low_residency_warning(inspection: Inspection, least: float = LEAST_SHARE) -> str | None:
    """A sentence with the share, the operations that cause it, and where in the model they come from.

    Operations of packages of ours are named by their module, `encoder_layer_0_attention_query`; others by whatever
    made them.

    Args:
        inspection: Of one function.
        least: The share of the arithmetic from which on nothing is said.

    Returns:
        None where the share is high enough.
    """
    share = inspection.flops_share("ane")
    if share >= least:
        return None
    groups: dict[str, list[tuple[int, str]]] = {}
    for placement in inspection.placements:
        operation = placement.operation
        if placement.verdict != "ane" and operation.flops:
            groups.setdefault(operation.type, []).append((operation.flops, operation.name))
    causes = sorted(groups.items(), key=lambda item: -sum(flops for flops, _ in item[1]))[:_CAUSES]
    described = "; ".join(
        f"{len(own)} {kind} ({some_names([name for _, name in sorted(own, key=lambda each: -each[0])])})"
        for kind, own in causes
    )
    return (
        f"{share:.1%} of the arithmetic is predicted to run on the Neural Engine for sure, and {least:.0%} are to be "
        f"expected. Not surely there: {described or 'operations without arithmetic'}"
    )
