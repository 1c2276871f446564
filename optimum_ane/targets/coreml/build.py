"""One `.mlpackage` from the modules of its functions."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_ane.targets.coreml.capture import capture
from optimum_ane.targets.coreml.conversion import HANDWRITTEN, Conversion
from optimum_ane.targets.coreml.convert import convert
from optimum_ane.targets.coreml.garbage import what_is_new_collected
from optimum_ane.targets.coreml.metadata import Metadata, write_meanings, write_metadata
from optimum_ane.targets.coreml.multifunction import MAIN, check_several_functions, merge_functions
from optimum_ane.targets.coreml.package_files import write_specification
from optimum_ane.targets.coreml.temporary_files import temporary_files_in

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class ConvertibleFunction:
    """What one function of a program is made of.

    Attributes:
        name: In the program; `"main"` where it is the only one.
        make_module: Gives the module to trace, in float32; what it makes is dropped after the conversion.
        inputs: Example inputs by name, in the order of the module's arguments. The program's have their shapes and
            types; integers become int32.
        outputs: The names of what the module returns, in order.
        states: What the function keeps between predictions, float16: shapes by the names of the module's buffers.
        other_shapes: Further shapes that inputs may have, by name.
        images: Colour layouts of the inputs and outputs that are Core ML's images, by name: (1, channels, height,
            width) each.
        float32_outputs: Those of the outputs that leave the program as float32 whatever it computes in.
        float16_outputs: The same of float16.
        meanings: A sentence for each input, output and state, and for `classLabel` and `classLabel_probs` of a
            classifier; names that are not there are passed by.
    """

    name: str
    make_module: Callable[[], nn.Module]
    inputs: Mapping[str, Tensor]
    outputs: Sequence[str]
    states: Mapping[str, Sequence[int]] = field(default_factory=dict)
    other_shapes: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    float32_outputs: Collection[str] = ()
    float16_outputs: Collection[str] = ()
    meanings: Mapping[str, str] = field(default_factory=dict)


def build_program(
    functions: Sequence[ConvertibleFunction],
    path: Path,
    *,
    precision: str,
    minimum_deployment_target: str,
    class_labels: Sequence[str] | None,
    metadata: Metadata,
    conversion: Conversion = HANDWRITTEN,
) -> None:
    """Converts functions, merges them over one copy of the weights where there are several, and saves the program.

    The functions are converted one after another, so that no more than one of them is in memory.

    Args:
        functions: One at least; the first is the default.
        path: The `.mlpackage` to write; its directory exists, it does not.
        precision: Of weights and arithmetic, `"float16"` or `"float32"`.
        minimum_deployment_target: Oldest system that runs the program, by coremltools' name; iOS 18 or later where
            there are several functions.
        class_labels: Makes it a Core ML classifier with these labels, by the first output.
        metadata: What the program says of itself.
        conversion: How modules become functions; a stock module needs one of `GRAPH_CONVERSIONS`.

    Raises:
        UnsupportedModelError: Several functions for an older target, or a module that does not declare its layers, or
            a stock module that cannot be captured or converted in this way; the message says why.
        OSError: The package could not be written.
    """
    if [function.name for function in functions] != [MAIN]:
        check_several_functions(minimum_deployment_target)
    with (
        tempfile.TemporaryDirectory(dir=path.parent, prefix="functions-") as folder,
        temporary_files_in(Path(folder)),
    ):
        saved = {}
        for function in functions:
            saved[function.name] = Path(folder) / f"{function.name}.mlpackage"
            with what_is_new_collected():
                specification = _convert(
                    function, saved[function.name], precision, minimum_deployment_target, class_labels, conversion
                )
            write_metadata(specification, metadata)
            write_meanings(specification.description, function.meanings)
            write_specification(specification, saved[function.name])
        if list(saved) == [MAIN]:
            saved[MAIN].rename(path)
        else:
            merge_functions(saved, path, default=functions[0].name)


def _convert(
    function: ConvertibleFunction,
    path: Path,
    precision: str,
    minimum_deployment_target: str,
    class_labels: Sequence[str] | None,
    conversion: Conversion,
) -> Any:
    """Converts one function; module and graph are gone when it returns."""
    captured = capture(
        function.make_module(),
        function.inputs,
        precision=precision,
        conversion=conversion,
        with_probabilities=class_labels is not None,
    )
    return convert(
        captured,
        function.inputs,
        function.outputs,
        path,
        precision=precision,
        minimum_deployment_target=minimum_deployment_target,
        class_labels=class_labels,
        states=function.states,
        other_shapes=function.other_shapes,
        images=function.images,
        float32_outputs=function.float32_outputs,
        float16_outputs=function.float16_outputs,
        conversion=conversion,
    )
