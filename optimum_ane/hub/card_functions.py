"""The functions of a package in a card's tables: what they take and give, and where their operations will run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from optimum_ane.hub.card_package import CardPackage
from optimum_ane.hub.markdown import escape
from optimum_ane.package.manifest import FunctionEntry, Manifest, TensorEntry

VERDICTS = {"ane": "Neural Engine", "conditional": "Neural Engine, under a condition", "fallback": "CPU or GPU"}
"""What a reader calls the verdicts of the prediction."""

_KINDS = ("input", "output", "state")


def named_functions(manifest: Manifest) -> list[tuple[str, FunctionEntry]]:
    """The functions of all programs, by the names that tell them apart.

    Those of one program stand in the order of their inputs' sizes.
    """
    return [
        (manifest.function_name(program, function), function)
        for program in manifest.programs
        for function in sorted(program.functions, key=lambda function: [tensor.shape for tensor in function.inputs])
    ]


def tensors(package: CardPackage) -> list[dict[str, str]]:
    """The inputs, outputs and states, a row each.

    Functions that differ in nothing but extents share their rows, as those of several lengths do: where they differ,
    all extents are shown. `function` names whose row it is, and is empty where all functions share it.
    """
    alike: dict[tuple[tuple[str, str, str, int], ...], list[tuple[str, FunctionEntry]]] = {}
    for name, function in named_functions(package.manifest):
        alike.setdefault(tuple((k, t.name, t.dtype, len(t.shape)) for k, t in _tensors(function)), []).append(
            (name, function)
        )
    return [
        {
            "function": "" if len(alike) == 1 else ", ".join(escape(name) for name, _ in group),
            "kind": kind,
            "name": tensor.name,
            "shape": _shape([entry.shape for entry in same]),
            "dtype": tensor.dtype,
            "meaning": escape(tensor.meaning),
        }
        for group in alike.values()
        for column in zip(*(_tensors(function) for _, function in group), strict=True)
        for kind, tensor in column[:1]
        for same in [[entry for _, entry in column]]
    ]


def _tensors(function: FunctionEntry) -> Iterator[tuple[str, TensorEntry]]:
    for kind, entries in zip(_KINDS, (function.inputs, function.outputs, function.states), strict=True):
        yield from ((kind, entry) for entry in entries)


def _shape(shapes: Sequence[tuple[int, ...]]) -> str:
    """`"1 × 128"`, or `"1 × 32/64/128"` of several shapes of one rank."""
    axes = ("/".join(map(str, sorted(set(extents)))) for extents in zip(*shapes, strict=True))
    return " × ".join(axes) or "–"


def function_rows(package: CardPackage, show: Callable[[object], str] = escape) -> list[dict[str, str]]:
    """Each function with its first input's shape, its operations, and where these are predicted to run.

    Args:
        package: What the package says of itself.
        show: Makes the names fit for where they stand; Markdown, unless another is given.

    Returns:
        One row for each; none for a package with one function, of which the report speaks as a whole.
    """
    functions = named_functions(package.manifest)
    if len(functions) == 1:
        return []
    rows = []
    for name, function in functions:
        counts = operations_by_verdict(package, name)
        share = package.number("functions", name, "flops_share_on_ane")
        regions = package.number("functions", name, "regions")
        is_default = function is package.default_function
        rows.append(
            {
                "name": show(name) + (", the default" if is_default else ""),
                "shape": _shape([tensor.shape for tensor in function.inputs[:1]]),
                "operations": f"{sum(counts.values()):.0f}" if counts else "–",
                **{verdict: f"{counts[verdict]:.0f}" if verdict in counts else "–" for verdict in VERDICTS},
                "share": "–" if share is None else f"{share:.1%}",
                "regions": "–" if regions is None else f"{regions:.0f}",
            }
        )
    return rows


def operations_by_verdict(package: CardPackage, function: str | None = None) -> dict[str, float]:
    """How many operations are predicted to run where, by `VERDICTS`; empty where nothing was predicted.

    Args:
        package: The package.
        function: A function, by its name among those of the package; None takes the default one.
    """
    place = ("residency",) if function is None else ("functions", function)
    counts = package.numbers(*place, "operations")
    return {verdict: counts[verdict] for verdict in VERDICTS if verdict in counts}
