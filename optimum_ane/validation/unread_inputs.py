"""Inputs that a program takes and does not read, though the original's answer depends on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from optimum_ane.errors import ValidationError
from optimum_ane.exporters.variations import vary
from optimum_ane.runtimes.portable.graph import Graph, Node, Value, read_function, values_of
from optimum_ane.runtimes.portable.package import Package
from optimum_ane.validation.comparison import MODULE_PSNR, answer_examples, compare_fields

if TYPE_CHECKING:
    from torch import Tensor

    from optimum_ane.tasks import OutputField
    from optimum_ane.validation.comparison import Model

_MASK = "attention_mask"


def check_unread_inputs(
    packages: Mapping[str, Path],
    model: Model,
    examples: Sequence[Mapping[str, Tensor]],
    fields: Sequence[OutputField],
) -> tuple[str, ...]:
    """Refuses programs that a capture made blind to an input: one that it took for a constant, a mask say.

    Args:
        packages: The `.mlpackage`s by the program's name.
        model: The original; asked again with the input changed.
        examples: Batches of keyword arguments.
        fields: The fields of its output.

    Returns:
        Names of the inputs that are not read, and that the original's answer does not depend on either.

    Raises:
        ValidationError: The original's answer depends on one; the message names it and says how much.
    """
    given = {name for batch in examples for name in batch}
    unread = sorted({name for path in packages.values() for name in find_unread_inputs(path)} & given)
    for name in unread:
        for field, ratio in _dependence(name, model, examples, fields).items():
            if not ratio >= MODULE_PSNR:
                raise ValidationError(
                    f"the program does not read {name}, and the original's answer depends on it ({field} is "
                    f"{ratio:.1f} dB from what it was when {name} is changed): the capture made a constant of it"
                )
    return tuple(unread)


def find_unread_inputs(mlpackage: Path) -> tuple[str, ...]:
    """Names of the inputs that no output of a function depends on, of any function of the package; sorted."""
    package = Package(mlpackage)
    unread: set[str] = set()
    for name, description in package.spec.mlProgram.functions.items():
        graph = read_function(package, name)
        needed = _needed(graph)
        unread.update(value.name for value in graph.inputs if value not in needed)
        unread.update(_declared(package, name) - {value.name for value in description.inputs})
    return tuple(sorted(unread))


def _declared(package: Package, function: str) -> set[str]:
    """What the model's description says of a function's inputs."""
    description = package.spec.description
    own = [each for each in description.functions if each.name == function]
    return {value.name for value in (own[0].input if own else description.input)}


def _needed(graph: Graph) -> set[Value]:
    """The values that the outputs of a graph are computed from. An operation reads all that its blocks read."""
    needed = {value for value in graph.outputs if isinstance(value, Value)}
    for node in reversed(graph.nodes):
        if not node.outputs or not needed.isdisjoint(node.outputs):
            needed.update(_read(node))
    return needed


def _read(node: Node) -> Iterator[Value]:
    for operand in node.inputs.values():
        yield from values_of(operand)
    for block in node.blocks:
        yield from (value for value in block.outputs if isinstance(value, Value))
        for inner in block.nodes:
            yield from _read(inner)


def _dependence(
    name: str, model: Model, examples: Sequence[Mapping[str, Tensor]], fields: Sequence[OutputField]
) -> dict[str, float]:
    """How close the original's answers stay to what they were when one input is changed, dB by field."""
    changed = [{**batch, name: _changed(name, batch[name])} for batch in examples if name in batch]
    before = answer_examples(model, [batch for batch in examples if name in batch], fields)
    return compare_fields(before, answer_examples(model, changed, fields), changed, fields)


def _changed(name: str, value: Tensor) -> Tensor:
    """Other values of the same kind: a mask keeps half of its tokens, anything else is varied."""
    if name != _MASK:
        return vary(value, seed=0)
    place = value.cumsum(-1)
    return value * (place <= (place[..., -1:] + 1) // 2)
