"""From a package that somebody else made to one in the engine's layout: rewritten, proven, written."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import coremltools as ct

from optimum_ane.analysis.inspection import Inspection, inspect
from optimum_ane.errors import OutputError, UnsupportedModelError, ValidationError
from optimum_ane.package.layout import MLPACKAGE_SUFFIX, find_mlpackage
from optimum_ane.package.staging import check_output, staged
from optimum_ane.progress import Stages
from optimum_ane.runtimes.arrays import read_arrays
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.runtimes.portable.graph import read_function
from optimum_ane.runtimes.portable.package import Package
from optimum_ane.targets.coreml.multifunction import functions_of
from optimum_ane.targets.coreml.passes import optimize_passes
from optimum_ane.targets.coreml.rewrite import check_target, flexible_feature, rewrite_package, target_of
from optimum_ane.validation.programs import (
    Examples,
    ProgramComparison,
    check_comparison,
    compare_programs,
    make_examples,
)

DEFAULT_PSNR = 60.0
"""dB, against the package before. Both round to float16, in other places: sound rewrites measured 62 to 84."""

_LOGIC_PSNR = 90.0
"""dB, without rounding. Anything below is an error of logic."""

_MOST_ROUNDS = 4
"""How often the passes are applied to what they have made; in what was tried they found nothing the second time."""

_SHARE_STEP = 0.001
"""A share of the arithmetic that is larger by less is the same."""


@dataclass(frozen=True)
class ProgramSummary:
    """What is predicted of one function.

    Attributes:
        operations: How many, constants left out.
        transposes: How many of them are transposes.
        share_on_ane: The share of the arithmetic that is predicted on the engine.
        share_conditional: The share that is there under a condition that the program does not show.
        regions: Into how many parts it falls, each on one device.
        weight_bytes: What its weights take in the package.
    """

    operations: int
    transposes: int
    share_on_ane: float
    share_conditional: float
    regions: int
    weight_bytes: int

    @classmethod
    def of(cls, inspection: Inspection) -> ProgramSummary:
        """Reads it off a prediction."""
        program = inspection.program
        return cls(
            operations=len(program.operations),
            transposes=sum(operation.type == "transpose" for operation in program.operations),
            share_on_ane=inspection.flops_share("ane"),
            share_conditional=inspection.flops_share("conditional"),
            regions=len(inspection.regions),
            weight_bytes=program.weight_bytes,
        )

    def is_better_than(self, other: ProgramSummary) -> bool:
        """Whether more of the arithmetic is surely on the engine, or as much with fewer operations."""
        gained = self.share_on_ane - other.share_on_ane
        return gained >= _SHARE_STEP or (abs(gained) < _SHARE_STEP and self.operations < other.operations)


@dataclass
class FunctionOptimization:
    """What became of one function.

    Attributes:
        before: Of the input package.
        after: Of the new one.
        psnr: dB of each output and state against the input package's, `inf` for equal ones.
        examples: On how many inputs they were compared.
        left: What is not surely on the engine afterwards, rule by rule: how many operations of which types, their
            share of the arithmetic, where they stand, and the reason.
    """

    before: ProgramSummary
    after: ProgramSummary
    psnr: Mapping[str, float]
    examples: int
    left: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class OptimizationResult:
    """What `optimize` leaves.

    Attributes:
        path: The new package.
        target: The oldest system that runs it.
        changed: Whether the passes made anything better; if not, the program is that of the input package.
        functions: By name.
        psnr_threshold: dB that each output had to reach.
        runtime: What answered.
        bytes_before: Of all files of the input package.
        bytes_after: Of all files of the new one.
    """

    path: Path
    target: str
    changed: bool
    functions: dict[str, FunctionOptimization]
    psnr_threshold: float
    runtime: str
    bytes_before: int
    bytes_after: int

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON holds it; a PSNR of equal outputs is `"equal"`."""
        result = asdict(self) | {"path": str(self.path)}
        for function in result["functions"].values():
            function["psnr"] = {k: v if v != float("inf") else "equal" for k, v in function["psnr"].items()}
        return result


def optimize(
    package: str | Path,
    output: str | Path,
    *,
    target: str | None = None,
    inputs: str | Path | None = None,
    psnr_threshold: float = DEFAULT_PSNR,
    overwrite: bool = False,
    quiet: bool = False,
) -> OptimizationResult:
    """Rewrites an ML Program for the engine, whoever made it, and proves that it answers as before.

    Graph passes bring it into the engine's layout. Names and types of inputs, outputs and states, what the package
    says of itself, a classifier's labels and compressed weights stay as they are. The new package appears when both
    have answered alike on seeded inputs of the declared types, in the portable runtime; before that, or if anything
    fails, nothing is there. The passes are applied until they find nothing more to gain, so that a second run changes
    nothing; a package of which they make nothing better is copied as it is.

    Args:
        package: An `.mlpackage` of an ML Program, of one function or several, with inputs of fixed shape; or an
            exported directory, whose program is taken.
        output: The `.mlpackage` to make.
        target: A newer system to need from now on, by coremltools' name, `"iOS18"`; None leaves it.
        inputs: An .npz or .json file of inputs to compare on besides, for the default function.
        psnr_threshold: dB that each output must reach against the input package's.
        overwrite: Replace an `.mlpackage` that is already there.
        quiet: Show no progress.

    Raises:
        PackageError: The package is missing or damaged, or holds no ML Program.
        UnsupportedModelError: Its inputs have flexible shapes, it has operations that cannot be run or read here, or
            the target is not possible.
        ValidationError: The rewritten program answers something else.
        OutputError: The output cannot be written, or is there already.
    """
    source, output = find_mlpackage(package), Path(output).expanduser()
    if output.suffix != MLPACKAGE_SUFFIX:
        raise OutputError(f"{output} is to be one package, whose name ends with {MLPACKAGE_SUFFIX}")
    check_output(output, overwrite, [source], is_mlpackage=True)
    given = [] if inputs is None else [read_arrays(inputs)]
    job = _Optimization(Package(source), target, given, psnr_threshold)
    job.check()
    stages: list[tuple[str, Callable[[Path], None]]] = [
        ("ask the input package", job.ask),
        ("rewrite the program", job.rewrite),
        ("compare with the input package", job.compare),
        ("predict residency", job.predict),
        ("write the package", job.write),
    ]
    with (
        Stages(len(stages), quiet) as progress,
        staged(output, overwrite, [source], is_mlpackage=True) as directory,
    ):
        for name, run in stages:
            with progress.stage(name):
                run(directory)
    return OptimizationResult(
        path=output,
        target=target or target_of(job.package),
        changed=job.changed,
        functions=job.functions,
        psnr_threshold=psnr_threshold,
        runtime=PortableSession.runtime,
        bytes_before=_bytes(source),
        bytes_after=_bytes(output),
    )


@dataclass
class _Optimization:
    """What the stages share."""

    package: Package
    target: str | None
    given: list[dict[str, Any]]
    psnr_threshold: float
    changed: bool = False
    examples: dict[str, Examples] = field(default_factory=dict)
    comparisons: dict[str, ProgramComparison] = field(default_factory=dict)
    functions: dict[str, FunctionOptimization] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.made = self.package
        self.before: Mapping[str, ProgramSummary] = {}
        self.after: Mapping[str, ProgramSummary] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The functions, the default one first."""
        return functions_of(self.package.spec)

    def check(self) -> None:
        """Refuses what cannot be rewritten, before any work.

        Raises:
            UnsupportedModelError: See `optimize`.
        """
        flexible = flexible_feature(self.package.spec)
        if flexible is not None:
            raise UnsupportedModelError(
                f"{self.package.path} takes {flexible!r} in several shapes, and the passes need one: on the engine "
                "shapes are fixed. Convert the model with one shape, or with a function for each"
            )
        target_of(self.package)
        if self.target is not None:
            check_target(self.package, self.target)

    def ask(self, directory: Path) -> None:
        """Makes inputs, and has the input package answer them."""
        for name in self.names:
            session, graph = PortableSession(self.package, name), read_function(self.package, name)
            self.examples[name] = make_examples(session, graph, self.given if name == self.names[0] else [])

    def rewrite(self, directory: Path) -> None:
        """Applies the passes as long as a function gains by it and none loses."""
        self.before = self.after = self._summaries(self.package)
        for number in range(_MOST_ROUNDS):
            path = directory.parent / f"{number}{MLPACKAGE_SUFFIX}"
            rewrite_package(self.made, optimize_passes, path, target=self.target)
            found = self._summaries(Package(path))
            if not _is_better(found, self.after):
                break
            self.made, self.after = Package(path), found
        self.changed = self.made is not self.package
        if not self.changed and self.target is not None:
            path = directory.parent / f"target{MLPACKAGE_SUFFIX}"
            rewrite_package(self.package, lambda: ct.PassPipeline.EMPTY, path, target=self.target)
            self.made, self.after = Package(path), self._summaries(Package(path))

    def _summaries(self, package: Package) -> dict[str, ProgramSummary]:
        return {name: ProgramSummary.of(inspect(package.path, function=name)) for name in self.names}

    def compare(self, directory: Path) -> None:
        """Runs the new program on the same inputs.

        Raises:
            ValidationError: It answers something else.
        """
        for name in self.names:
            self.comparisons[name] = compare_programs(self.examples[name], PortableSession(self.made, name))
            what = "rewritten program" if len(self.names) == 1 else f"rewritten function {name!r}"
            try:
                check_comparison(self.comparisons[name], self.psnr_threshold, what)
            except ValidationError:
                check_comparison(self.comparisons[name], self.psnr_threshold, what, self._cause(name))
                raise

    def _cause(self, name: str) -> str:
        """Says whether a difference comes of rounding, by the same comparison without any."""
        before, graph = PortableSession(self.package, name, "float32"), read_function(self.package, name)
        try:
            examples = make_examples(before, graph, self.given if name == self.names[0] else [])
            exact = compare_programs(examples, PortableSession(self.made, name, "float32"))
        except (UnsupportedModelError, ValidationError) as error:
            return f"Without rounding they cannot be compared: {error}"
        if exact.differing or exact.worst < _LOGIC_PSNR:
            return (
                f"It is no matter of rounding: without any they agree to {exact.worst:.1f} dB. A pass took the "
                "program for another; please report it with the package"
            )
        return (
            f"It comes of rounding to float16 in other places: without any they agree to {exact.worst:.1f} dB. "
            "--psnr-threshold sets what is asked for"
        )

    def predict(self, directory: Path) -> None:
        """Says what is left off the engine."""
        for name in self.names:
            inspection = inspect(self.made.path, function=name)
            self.functions[name] = FunctionOptimization(
                before=self.before[name],
                after=self.after[name],
                psnr=self.comparisons[name].psnr,
                examples=len(self.examples[name].inputs),
                left=[
                    {
                        "rule": group.rule.id,
                        "verdict": group.rule.verdict,
                        "operations": len(group.operations),
                        "types": sorted({operation.type for operation in group.operations}),
                        "positions": sorted(set(group.positions)),
                        "flops_share": group.flops / max(1, inspection.program.flops),
                        "reason": group.rule.reason,
                    }
                    for group in inspection.groups()
                ],
            )

    def write(self, directory: Path) -> None:
        """Puts the package where it becomes the output."""
        for item in sorted(self.made.path.iterdir()):
            if self.made is not self.package:
                item.rename(directory / item.name)
            elif item.is_dir():
                shutil.copytree(item, directory / item.name)
            else:
                shutil.copyfile(item, directory / item.name)


def _is_better(found: Mapping[str, ProgramSummary], before: Mapping[str, ProgramSummary]) -> bool:
    """Whether one function is better and none is worse."""
    pairs = [(found[name], before[name]) for name in before]
    return any(new.is_better_than(old) for new, old in pairs) and not any(
        old.is_better_than(new) for new, old in pairs
    )


def _bytes(package: Path) -> int:
    return sum(file.stat().st_size for file in package.rglob("*") if file.is_file())
