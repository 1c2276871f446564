"""Whether a program names the states between its layers."""

from __future__ import annotations

from pathlib import Path

from optimum_ane.runtimes.portable.graph import read_function
from optimum_ane.runtimes.portable.package import Package
from optimum_ane.runtimes.session import HIDDEN_STATE


def names_hidden_states(mlpackage: Path) -> bool:
    """Whether every function of a program names hidden states.

    Those of stock modules need not: what their layers are could not be told, or a pass has merged them with others.
    """
    package = Package(mlpackage)
    functions = (read_function(package, name) for name in package.spec.mlProgram.functions)
    return all(
        any(value.name.startswith(HIDDEN_STATE) for node in graph.nodes for value in node.outputs)
        for graph in functions
    )
