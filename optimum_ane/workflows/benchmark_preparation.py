"""Gets ready what takes part in one shape: the package, its stock-layout twin, the original, and their inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch

from optimum_ane.benchmark.timed_models import Subject, hub_options
from optimum_ane.checkpoints.checkpoint import open_checkpoint
from optimum_ane.compression import recipe_names
from optimum_ane.errors import CheckpointError, InputError, UnsupportedModelError
from optimum_ane.exporters.config import get_ane_config_class
from optimum_ane.package.form import ExportSpec, Precision
from optimum_ane.package.layout import MLPACKAGE
from optimum_ane.package.manifest import Manifest
from optimum_ane.runtimes.arrays import random_arrays
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.targets.coreml.stock import convert_stock
from optimum_ane.workflows.export import export

if TYPE_CHECKING:
    from optimum_ane.checkpoints.checkpoint import Checkpoint

Shape = tuple[int, int]
"""Rows per prediction and tokens per row."""


@dataclass(frozen=True)
class Target:
    """The package that a benchmark is of.

    Attributes:
        mlpackage: The ML Program.
        config: What `ane_config.json` says; None for a bare `.mlpackage`.
        checkpoint: The original; None without a comparison.
    """

    mlpackage: Path
    config: Manifest | None
    checkpoint: Checkpoint | None

    def shapes(self, batch_sizes: Sequence[int], lengths: Sequence[int]) -> list[Shape | None]:
        """The shapes to time: every batch size with every length, the package's own where none is named.

        Raises:
            InputError: A shape is not the package's own and cannot be made.
        """
        if self.config is None:
            if batch_sizes or lengths:
                raise InputError(f"{self.mlpackage} does not say what it was made from; it has its own shape only")
            return [None]
        own = (self.config.batch_size, self.config.sequence_length)
        shapes = [(b, s) for b in (*batch_sizes,) or own[:1] for s in (*lengths,) or own[1:]]
        other = next((shape for shape in shapes if shape != own), None)
        if other is not None and self.checkpoint is None:
            raise InputError(
                f"the package has the shape {own[0]} × {own[1]}; to time {other[0]} × {other[1]} it is exported anew, "
                "which needs the checkpoint: leave out --no-compare"
            )
        if other is not None and self.config.compression not in (None, *recipe_names()):
            raise InputError(
                f"the package has the shape {own[0]} × {own[1]} and is compressed with {self.config.compression!r}, a "
                f"recipe of its own; export it for {other[0]} × {other[1]} with that recipe and time that one"
            )
        return [*shapes]

    def spec(self, shape: Shape) -> ExportSpec:
        """The form of the package in that shape."""
        config = self.config
        assert config is not None
        return ExportSpec(
            task=config.task,
            sequence_length=shape[1],
            batch_size=shape[0],
            precision=cast(Precision, config.precision),
            minimum_deployment_target=config.minimum_deployment_target,
            compute_units=config.compute_units,
            class_labels=config.class_labels and shape[0] == 1,  # a Core ML classifier takes one row
            pooling=cast(Literal["mean", "cls"] | None, config.pooling),
            normalize=config.normalize,
        )


def open_target(package: str | Path, mlpackage: Path, compare: str | None, is_compared: bool) -> Target:
    """Reads a package's description and loads the checkpoint that it is compared with.

    Args:
        package: As the user named it.
        mlpackage: The ML Program in it.
        compare: Directory or Hub id; None takes the source that the package names.
        is_compared: Whether to load a checkpoint at all.

    Raises:
        PackageError: The package is damaged.
        InputError: A bare `.mlpackage` cannot be compared.
        CheckpointError: The checkpoint cannot be loaded.
    """
    if mlpackage == Path(package).expanduser():
        if compare is not None:
            raise InputError(
                f"{package} does not say its task; name the directory that `optimum-cli export ane` wrote"
            )
        return Target(mlpackage, None, None)
    config = Manifest.read(mlpackage.parent)
    if not is_compared:
        return Target(mlpackage, config, None)
    try:
        source, revision = (compare, None) if compare else config.original()
        checkpoint = open_checkpoint(source, task=config.task, hub=hub_options(source, revision))
        checkpoint.original()
    except (CheckpointError, UnsupportedModelError) as error:
        raise CheckpointError(
            f"the original cannot be loaded: {error}; name it with --compare, or time the package alone with "
            "--no-compare"
        ) from error
    if checkpoint.config.model_type != config.model_type:
        raise CheckpointError(
            f"{source} is a {checkpoint.config.model_type}, the package was made from a {config.model_type}; name "
            "its checkpoint with --compare"
        )
    return Target(mlpackage, config, checkpoint)


def make_inputs(target: Target, shape: Shape | None, seed: int) -> dict[str, np.ndarray]:
    """Makes inputs that every contender takes: random tokens, every row full, int32.

    Full rows, for padding costs a package of fixed shape as much as tokens do.

    Args:
        target: The package.
        shape: Rows and tokens; None for what the program declares.
        seed: Of the inputs.
    """
    if shape is None or target.config is None:
        return random_arrays(PortableSession(target.mlpackage).inputs, seed)
    rows, length = shape
    config = target.config
    if target.checkpoint is None:
        generator = np.random.default_rng(seed)
        # Ids that every vocabulary has: how large this one is stands in no package.
        return {
            entry.name: generator.integers(0, 2, (rows, length), dtype=np.int32)
            if entry.name == "input_ids"
            else np.full((rows, length), int(entry.name == "attention_mask"), np.int32)
            for entry in config.inputs
        }
    ane_config = get_ane_config_class(config.model_type, config.task)(target.checkpoint.config, config.task)
    ane_config.check(length)
    each = [ane_config.make_inputs(1, length, seed + row) for row in range(rows)]
    return {name: torch.cat([values[name] for values in each]).numpy() for name in each[0]}


def make_package(target: Target, shape: Shape, folder: Path) -> Path:
    """The ML Program in a shape: the package's own, or one that is exported for the purpose.

    It is exported without validation: what is timed does not depend on it, and the report shows how far each answer
    is from the original's.
    """
    config = target.config
    if config is None or shape == (config.batch_size, config.sequence_length):
        return target.mlpackage
    assert target.checkpoint is not None
    spec = target.spec(shape)
    output = folder / f"package-{shape[0]}x{shape[1]}"
    export(
        target.checkpoint.original(),
        output,
        task=spec.task,
        sequence_length=spec.sequence_length,
        batch_size=spec.batch_size,
        precision=spec.precision,
        minimum_deployment_target=spec.minimum_deployment_target,
        compute_units=spec.compute_units,
        class_labels=spec.class_labels,
        pooling=spec.pooling,
        normalize=spec.normalize,
        compress=config.compression,
        validate=False,
        quiet=True,
    )
    return output / MLPACKAGE


def make_stock(target: Target, shape: Shape, inputs: dict[str, np.ndarray], folder: Path) -> Path:
    """The checkpoint in the stock layout, in the same shape, precision and for the same systems.

    Raises:
        UnsupportedModelError: It cannot be converted as it is.
    """
    assert target.checkpoint is not None
    spec = target.spec(shape)
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    model = convert_stock(
        target.checkpoint.original(),
        spec.task,
        tensors,
        precision=spec.precision,
        minimum_deployment_target=spec.minimum_deployment_target,
    )
    path = folder / f"stock-{shape[0]}x{shape[1]}.mlpackage"
    model.save(str(path))
    return path


def list_subjects(
    package: Path, stock: Path | None, target: Target, shape: Shape | None, units: Sequence[str]
) -> list[Subject]:
    """Everything that is timed in one shape: each program on each of the compute units, and the original.

    Args:
        package: The ML Program.
        stock: The stock-layout program, if there is one.
        target: What they belong to.
        shape: Rows and tokens.
        units: Core ML's compute units; none stands for the portable runtime.
    """
    spec = None if shape is None or target.config is None else target.spec(shape)
    ours = Subject("package", "portable", str(package), spec)
    programs = [ours] if stock is None else [ours, replace(ours, kind="stock", path=str(stock))]
    if units:
        programs = [replace(each, engine="coreml", compute_units=unit) for each in programs for unit in units]
    if target.checkpoint is None:
        return programs
    source = target.checkpoint.source
    return [*programs, Subject("original", "pytorch", source.model, spec, revision=source.revision)]
