"""Gets ready what takes part in one shape: the package, its stock-layout twin, the original, and their inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from optimum_ane.benchmark.timed_models import TimedModel
from optimum_ane.checkpoints.checkpoint import open_checkpoint
from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.compression.recipes import recipe_names
from optimum_ane.errors import CheckpointError, InputError, UnsupportedModelError
from optimum_ane.exporters.config import ANEConfig, ane_config_of
from optimum_ane.exporters.dual_encoder import DualEncoderANEConfig
from optimum_ane.exporters.stock_rows import StockRowsANEConfig
from optimum_ane.exporters.text import TextANEConfig
from optimum_ane.modeling.package_configuration import load_config
from optimum_ane.package.form import NO_POOLING
from optimum_ane.package.layout import ANE_CONFIG, MLPACKAGE, find_mlpackage
from optimum_ane.package.manifest import FunctionEntry, Manifest, ProgramEntry
from optimum_ane.package.report import measure_sizes
from optimum_ane.runtimes.arrays import random_arrays
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.targets.coreml.stock import convert_stock
from optimum_ane.targets.coreml.temporary_files import temporary_files_in
from optimum_ane.tasks import TASKS
from optimum_ane.workflows.export import ExportChecks, export_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from optimum_ane.benchmark.timed_models import Inputs
    from optimum_ane.checkpoints.checkpoint import Checkpoint
    from optimum_ane.package.form import ExportForm

_STOCK = "stock"
"""What the manifest of a stock-layout twin says of how its program came to be."""


@dataclass
class BenchmarkedPackage:
    """The package that a benchmark is of.

    Attributes:
        path: Its directory, or a bare `.mlpackage`.
        manifest: What `ane_config.json` says; None for a bare `.mlpackage`.
        checkpoint: Where the original is; None without a comparison.
    """

    path: Path
    manifest: Manifest | None
    checkpoint: Checkpoint | None

    @cached_property
    def original(self) -> PreTrainedModel:
        """The original in float32; there is a checkpoint."""
        assert self.checkpoint is not None
        return self.checkpoint.original()

    def forms(self, batch_sizes: Sequence[int], lengths: Sequence[int]) -> list[ExportForm | None]:
        """The forms to time, of one length each: every batch size with every length, the package's own by default.

        Raises:
            InputError: A shape is not the package's own and cannot be made.
        """
        if self.manifest is None:
            if batch_sizes or lengths:
                raise InputError(f"{self.path} does not say what it was made from; it has its own shape only")
            return [None]
        own = self.manifest.form
        if lengths and self.manifest.modality != "text":
            raise InputError(f"the rows of {self.path} are no texts; leave out --sequence-length")
        forms = [
            # A Core ML classifier takes one row, and so does a program of Core ML's images.
            replace(
                own,
                batch_size=rows,
                sequence_length=(length,),
                class_labels=own.class_labels and rows == 1,
                image_input="tensor" if own.image_input == "image" and rows > 1 else own.image_input,
            )
            for rows in (*batch_sizes,) or (own.batch_size,)
            for length in (*lengths,) or own.sequence_length
        ]
        other = next((form for form in forms if not self.has(form)), None)
        if other is not None:
            self._check_can_make(other, own)
        return [*forms]

    def has(self, form: ExportForm) -> bool:
        """Whether a function of the package has this shape."""
        assert self.manifest is not None
        own = self.manifest.form
        return form.batch_size == own.batch_size and form.longest in own.sequence_length

    def _check_can_make(self, other: ExportForm, own: ExportForm) -> None:
        assert self.manifest is not None
        has = f"the package has the shape {own.batch_size} × {' or '.join(map(str, own.sequence_length))}"
        if self.checkpoint is None:
            raise InputError(
                f"{has}; to time {shape_of(other)} it is exported anew, which needs the checkpoint: leave out "
                "--no-compare"
            )
        if self.manifest.compression not in (None, *recipe_names()):
            raise InputError(
                f"{has} and is compressed with {self.manifest.compression!r}, a recipe of its own; export it for "
                f"{shape_of(other)} with that recipe and time that one"
            )


def shape_of(form: ExportForm) -> str:
    """`"1 × 128"`, rows times tokens, or times the extents of an image or the length of a sound."""
    extents = form.image_size or (form.audio_length or form.longest,)
    return " × ".join(map(str, (form.batch_size, *extents)))


def open_package(package: str | Path, compare: str | None, is_compared: bool) -> BenchmarkedPackage:
    """Reads a package's description and finds the checkpoint that it is compared with.

    Args:
        package: A directory that `export` wrote, or a bare `.mlpackage`.
        compare: Directory or Hub id; None takes the source that the package names.
        is_compared: Whether to look for a checkpoint at all.

    Raises:
        PackageError: There is no package, or it is damaged.
        InputError: A bare `.mlpackage` cannot be compared.
        CheckpointError: The checkpoint cannot be loaded.
    """
    path = Path(package).expanduser()
    if not (path / ANE_CONFIG).is_file() and find_mlpackage(path) == path:
        if compare is not None:
            raise InputError(
                f"{package} does not say its task; name the directory that `optimum-cli export ane` wrote"
            )
        return BenchmarkedPackage(path, None, None)
    manifest = Manifest.read(path)
    if not is_compared:
        return BenchmarkedPackage(path, manifest, None)
    try:
        source, revision = (compare, None) if compare else manifest.original()
        checkpoint = open_checkpoint(source, task=manifest.form.task, hub=HubOptions(revision))
        opened = BenchmarkedPackage(path, manifest, checkpoint)
        _ = opened.original  # what cannot be loaded is said now, before anything is made
    except (CheckpointError, UnsupportedModelError) as error:
        raise CheckpointError(
            f"the original cannot be loaded: {error}; name it with --compare, or do without it with --no-compare"
        ) from error
    if checkpoint.config.model_type != manifest.model_type:
        raise CheckpointError(
            f"{source} is a {checkpoint.config.model_type}, the package was made from a {manifest.model_type}; name "
            "its checkpoint with --compare"
        )
    return opened


def make_inputs(package: BenchmarkedPackage, form: ExportForm | None, seed: int) -> Inputs:
    """Makes inputs that every model takes: random tokens, every row full.

    Full rows, for padding costs a package of fixed shape as much as tokens do.

    Args:
        package: The package.
        form: Rows and tokens; None for what the program declares.
        seed: Of the inputs.

    Returns:
        Keyword arguments of transformers' models, int64: (rows, tokens) each, or (rows, 1, tokens) for tasks with
        choices; of images and sounds float32, (rows, …). Of a bare `.mlpackage` its own inputs, as declared.
    """
    if package.manifest is None or form is None:
        arrays = random_arrays(PortableSession(package.path).inputs, seed)
        return {name: torch.from_numpy(value) for name, value in arrays.items()}
    checkpoint = package.checkpoint
    config = load_config(package.path) if checkpoint is None else checkpoint.config
    ane_config = ane_config_of(package.manifest, config)
    ane_config.check(form)
    rows = [_make_row(ane_config, form, seed + row) for row in range(form.batch_size)]
    joined = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    inputs = {name: value if value.is_floating_point() else value.long() for name, value in joined.items()}
    return {name: value.unsqueeze(1) for name, value in inputs.items()} if TASKS[form.task].has_choices else inputs


def _make_row(ane_config: ANEConfig, form: ExportForm, seed: int) -> dict[str, torch.Tensor]:
    if isinstance(ane_config, DualEncoderANEConfig):
        return _make_row(ane_config.texts, form, seed) | _make_row(ane_config.images, form, seed)
    if isinstance(ane_config, StockRowsANEConfig):
        return ane_config.make_rows(1, ane_config.input_shapes(form), seed)
    assert isinstance(ane_config, TextANEConfig)
    return ane_config.make_inputs(1, form.longest, seed)


def make_package(package: BenchmarkedPackage, form: ExportForm, folder: Path) -> Path:
    """The package in a shape: as it is, or one that is exported for the purpose.

    It is exported without validation: what is timed does not depend on it, and the report shows how far each answer
    is from the original's.

    Returns:
        Its directory.
    """
    assert package.manifest is not None
    if package.has(form):
        return package.path
    output = folder / f"package-{shape_of(form).replace(' × ', 'x')}"
    export_checkpoint(
        package.original,
        output,
        form,
        ExportChecks(validate=False),
        compress=package.manifest.compression,
        quiet=True,
    )
    return output


def make_stock(package: BenchmarkedPackage, form: ExportForm, inputs: Inputs, folder: Path) -> Path:
    """The checkpoint in the stock layout, in the same shape, precision and for the same systems.

    It becomes a directory with a manifest, so that it is loaded and called as a package of ours is. It gives hidden
    states also where the package pools.

    Returns:
        Its directory.

    Raises:
        UnsupportedModelError: It cannot be converted as it is.
    """
    assert package.manifest is not None
    assert package.checkpoint is not None
    if package.manifest.modality == "image-text":
        raise UnsupportedModelError("the original is one model of texts and images, and the package is two programs")
    image_input = None if form.image_input is None else "tensor"
    form = replace(form, pooling=NO_POOLING, normalize=False, class_labels=False, image_input=image_input)
    is_text = package.manifest.modality == "text"
    rows = {name: value.reshape(-1, value.shape[-1]) if is_text else value for name, value in inputs.items()}
    with temporary_files_in(folder):
        model = convert_stock(package.original, form, rows)
    output = folder / f"stock-{shape_of(form).replace(' × ', 'x')}"
    output.mkdir()
    model.save(str(output / MLPACKAGE))
    package.checkpoint.config.save_pretrained(output)
    program = ProgramEntry(Path(MLPACKAGE).stem, (FunctionEntry("main"),), form.precision, form.compute_units)
    image = package.manifest.image
    replace(
        package.manifest,
        form=form,
        programs=(program,),
        image=None if image is None else replace(image, normalization=None),
        compression=None,
        method=_STOCK,
        files={},
    ).write(output)
    return output


def list_models(
    package: BenchmarkedPackage, path: Path, stock: Path | None, form: ExportForm | None, units: Sequence[str]
) -> list[TimedModel]:
    """Everything that is timed in one shape: each package on each of the compute units, and the original.

    Args:
        package: What the benchmark is of.
        path: The package in that shape, or a bare `.mlpackage`.
        stock: Its stock-layout twin, if there is one.
        form: Rows and tokens; None for a bare `.mlpackage`.
        units: Core ML's compute units; none stands for the portable runtime.
    """
    models = [TimedModel("package", "portable", str(path), form)]
    if stock is not None:
        models.append(TimedModel("stock", "portable", str(stock), Manifest.read(stock).form))
    if units:
        models = [replace(each, engine="coreml", compute_units=unit) for each in models for unit in units]
    if package.checkpoint is None:
        return models
    source = package.checkpoint.source
    return [*models, TimedModel("original", "pytorch", source.model, form, revision=source.revision)]


def size_of(model: TimedModel) -> int:
    """Bytes of a package's programs on disk."""
    path = Path(model.path)
    if model.form is None:
        return measure_sizes(path)["package"]
    return measure_sizes(path / program.path for program in Manifest.read(path).programs)["package"]
