"""Operations that are computed together where nothing looks at what lies between.

A program for the Neural Engine states in many small operations what a CPU does in one. Which of them go together is
decided once, when a program is bound, by the graph alone: their values must be read by each other only, and be of one
type. A fusion rounds to fp16 where its operations do. Heads side by side give the same bits as one after the other;
norms and attentions differ from their operations by the rounding of a float32 sum.

They serve predictions of the declared shapes that nobody looks into: from the second prediction on, without an
observer.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from optimum_ane.runtimes.portable.fusions.attention import find_attentions
from optimum_ane.runtimes.portable.fusions.heads import find_heads
from optimum_ane.runtimes.portable.fusions.norm import find_norms
from optimum_ane.runtimes.portable.fusions.pattern import Fusion, Pattern
from optimum_ane.runtimes.portable.graph import Graph, Node

__all__ = ["Fusion", "find_fusions"]


def find_fusions(graph: Graph, *, rounds: bool) -> Iterator[Fusion]:
    """Yields what can be computed together in a graph, no operation twice.

    Args:
        graph: The graph; the blocks in it are not looked into.
        rounds: Whether a result of type fp16 is rounded to fp16.
    """
    pattern = Pattern(graph)
    taken: set[Node] = set()
    found = (find_heads(pattern, rounds=rounds), find_attentions(pattern, rounds=rounds), find_norms(pattern))
    for fusion in chain(*found):
        if taken.isdisjoint(fusion.nodes):
            taken.update(fusion.nodes)
            yield fusion
