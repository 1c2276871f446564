"""The graph pass that rewrites a program into the Neural Engine's layout."""

from __future__ import annotations

from coremltools.converters.mil.mil import Block, Program
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.helper import block_context_manager
from coremltools.converters.mil.mil.passes.pass_registry import register_pass

# Each registers what it rewrites.
from optimum_ane.targets.coreml.passes.to_engine_layout import (  # noqa: F401
    elementwise,
    images,
    normalization,
    products,
    projections,
    shaping,
    slicing,
)
from optimum_ane.targets.coreml.passes.to_engine_layout.rewriting import Rewriting


@register_pass(namespace="optimum_ane")
class to_engine_layout(AbstractGraphPass):  # noqa: N801 - passes are named by their class
    """Rewrites a program into the layout that the Neural Engine computes best: (B, C, 1, S), a head at a time.

        x (B, S, C) ─► linear ─► reshape ─► transpose ─► matmul ─► softmax ─► matmul ─► transpose ─► reshape ─►

    becomes

        x (B, C, 1, S) ─► conv 1×1 ─► split ─► for each head: einsum ─► softmax over channels ─► einsum ─► concat ─►

    It is an abstract interpretation of each block, in one walk in order, and not a search for patterns. A value may
    have a *form*, which says by which tensors of rank 4 it is represented and where each of its axes is in them. An
    operation whose operands' forms are understood is made again on them; many need no operation at all then, such as a
    transpose. Any other reads the original's layout, which is made for it once. Outputs keep their layout, names and
    types. What is no longer read is left for dead code elimination.

    Sources: Apple, "Deploying Transformers on the Apple Neural Engine", for the layout; the residency rules of
    `optimum_ane.analysis` for what each operation's rank and layout mean.
    """

    def apply(self, prog: Program) -> None:
        """Rewrites every function of a program, in place."""
        for function in prog.functions.values():
            _rewrite(function)


@block_context_manager
def _rewrite(block: Block) -> None:
    Rewriting(block).run()
