"""What a decoder's package takes when it runs, function by function, and how fast it may be: estimates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimum_ane.analysis.chips import Chip
from optimum_ane.analysis.generation import GenerationSpeed, generation_speed
from optimum_ane.analysis.inspection import Inspection, inspect
from optimum_ane.analysis.operations import Program
from optimum_ane.errors import InputError
from optimum_ane.package.layout import MLPACKAGE_SUFFIX, find_mlpackage

INFER, PREFILL = "infer", "prefill"
"""The functions that are loaded to generate: for one token, and for a block of the prompt."""


@dataclass(frozen=True)
class DecoderFunction:
    """One function of a decoder, in all its programs.

    Attributes:
        name: `"infer"`, `"prefill"` or `"score"`.
        tokens: In one call.
        inspections: Of each program.
    """

    name: str
    tokens: int
    inspections: tuple[Inspection, ...]

    @property
    def weight_bytes(self) -> int:
        """Weights as they are stored: what the function holds when it is loaded, whatever else is."""
        return sum(inspection.memory.weight_bytes for inspection in self.inspections)

    @property
    def cache_bytes(self) -> int:
        """States, and caches that are passed in and out."""
        return sum(held.bytes for inspection in self.inspections for held in inspection.memory.held)

    @property
    def activation_bytes(self) -> int:
        """Activations that are alive at once, at most; programs run one after another."""
        return max(inspection.memory.padded_peak_bytes for inspection in self.inspections)

    @property
    def milliseconds(self) -> float | None:
        """What one call is estimated to take, typically; None where no chip was named."""
        costs = [inspection.cost for inspection in self.inspections]
        return None if any(cost is None for cost in costs) else sum(cost.typical_ms for cost in costs if cost)


@dataclass(frozen=True)
class DecoderInspection:
    """What is predicted of a decoder's package.

    Attributes:
        path: Of the package.
        chip: The chip; None where none was named.
        default: What is predicted of the default function of the first program.
        functions: By role: what generates first.
        speed: How fast it may be; None where no chip was named, or nothing reads one token at a time.
    """

    path: Path
    chip: Chip | None
    default: Inspection
    functions: tuple[DecoderFunction, ...]
    speed: GenerationSpeed | None

    @property
    def loaded(self) -> tuple[DecoderFunction, ...]:
        """The functions that are loaded to generate; all where they have other names."""
        return tuple(each for each in self.functions if each.name in (INFER, PREFILL)) or self.functions

    @property
    def loaded_bytes(self) -> int:
        """What generating takes: each loaded function's own copy of its weights, one cache, and activations."""
        weights = sum(function.weight_bytes for function in self.loaded)
        cache = max(function.cache_bytes for function in self.loaded)
        return weights + cache + max(function.activation_bytes for function in self.loaded)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "estimate": True,
            "chip": None if self.chip is None else self.chip.name,
            "functions": [
                {
                    "name": function.name,
                    "tokens": function.tokens,
                    "programs": [inspection.program.path.name for inspection in function.inspections],
                    "weight_bytes": function.weight_bytes,
                    "cache_bytes": function.cache_bytes,
                    "activation_bytes": function.activation_bytes,
                    "milliseconds": function.milliseconds,
                }
                for function in self.functions
            ],
            "loaded_functions": [function.name for function in self.loaded],
            "loaded_bytes": self.loaded_bytes,
            "speed": None if self.speed is None else _speed(self.speed),
        }


def inspect_decoder(
    package: str | Path, chip: str | None = None, prompt_length: int = 128
) -> DecoderInspection | None:
    """Predicts what the functions of a decoder's package take together.

    Args:
        package: An exported directory of one program or several, or an `.mlpackage`.
        chip: The chip's name; None estimates no speed.
        prompt_length: Tokens of the prompt that the time to the first token is for.

    Returns:
        None where no function keeps a cache.

    Raises:
        PackageError: The package is missing or damaged.
        InputError: No chip has this name, or the prompt is empty.
    """
    if prompt_length < 1:
        raise InputError(f"--prompt-length is {prompt_length}; a prompt has a token at least")
    found: dict[str, list[Inspection]] = {}
    defaults = []
    for path in program_paths(package):
        first = inspect(path, chip)
        defaults.append(first)
        rest = [inspect(path, chip, name) for name in first.program.others]
        for inspection in (first, *rest):
            if inspection.memory.held:
                found.setdefault(inspection.program.function, []).append(inspection)
    if not found:
        return None
    functions = tuple(
        sorted(
            (DecoderFunction(_role(name, own), _tokens(own[0].program), tuple(own)) for name, own in found.items()),
            key=lambda function: (INFER, PREFILL).index(function.name) if function.name in (INFER, PREFILL) else 2,
        )
    )
    speed = _speed_of(functions, prompt_length)
    return DecoderInspection(Path(package), defaults[0].chip, defaults[0], functions, speed)


def program_paths(package: str | Path) -> Sequence[Path]:
    """Finds the programs of a package: of a directory of several all of them.

    Raises:
        PackageError: There is none.
    """
    directory = Path(package).expanduser()
    several = sorted(directory.glob(f"*{MLPACKAGE_SUFFIX}")) if directory.is_dir() else []
    is_program = directory.suffix == MLPACKAGE_SUFFIX or (directory / "Manifest.json").is_file()
    return [find_mlpackage(package)] if is_program or len(several) < 2 else several


def _role(name: str, inspections: Sequence[Inspection]) -> str:
    """A function's name; a package of one function that reads one token, whatever its name, infers."""
    return INFER if name == "main" and _tokens(inspections[0].program) == 1 else name


def _tokens(program: Program) -> int:
    """How many tokens a call reads: the second axis of its ids, or of the hidden states that it is given."""
    for tensor in program.inputs:
        if "input" in tensor.name.lower() or "hidden" in tensor.name.lower():
            return (tensor.shape[1] or 1) if len(tensor.shape) > 1 else 1
    return 1


def _speed_of(functions: Sequence[DecoderFunction], prompt_length: int) -> GenerationSpeed | None:
    by_name = {function.name: function for function in functions}
    infer, prefill = by_name.get(INFER), by_name.get(PREFILL)
    if infer is None or infer.milliseconds is None or infer.tokens != 1:
        return None
    if prefill is None or prefill.milliseconds is None:
        return generation_speed(infer.milliseconds, prompt_length)
    return generation_speed(infer.milliseconds, prompt_length, prefill.milliseconds, prefill.tokens)


def _speed(speed: GenerationSpeed) -> dict[str, Any]:
    return {
        "prompt_length": speed.prompt_length,
        "prefill_length": speed.prefill_length,
        "prefill_calls": speed.prefill_calls,
        "first_token_ms": speed.first_token_ms.to_dict(),
        "tokens_per_second": speed.tokens_per_second.to_dict(),
    }
