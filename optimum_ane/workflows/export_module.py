"""From any module of PyTorch's, outside of transformers too, to a validated package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from optimum_ane.analysis.html_report import render_html
from optimum_ane.checkpoints.original import as_original
from optimum_ane.compression.recipes import Recipe, get_recipe
from optimum_ane.errors import InputError, UnsupportedModelError
from optimum_ane.exporters.plain_module import PlainModule, PlainModuleANEConfig
from optimum_ane.hub.card_package import CardPackage
from optimum_ane.package.deployment_targets import ios_target
from optimum_ane.package.environment import machine_kind, peak_memory, tool_versions
from optimum_ane.package.files import hash_files
from optimum_ane.package.form import CUSTOM, ExportForm
from optimum_ane.package.layout import EXPORT_REPORT, HTML_REPORT
from optimum_ane.package.manifest import Manifest, SourceEntry
from optimum_ane.package.report import ExportReport
from optimum_ane.package.staging import check_output, staged
from optimum_ane.progress import Stages
from optimum_ane.targets.coreml.metadata import Metadata
from optimum_ane.tasks import OutputField
from optimum_ane.validation.determinism import check_draws_nothing
from optimum_ane.version import __version__
from optimum_ane.workflows import graph
from optimum_ane.workflows import stages as stage
from optimum_ane.workflows.draft import PackageDraft, Stage, run_stages

if TYPE_CHECKING:
    from optimum_ane.validation.comparison import Answers, Model
    from optimum_ane.workflows.export import ExportChecks


@dataclass
class ModuleDraft(PackageDraft):
    """A package of a plain module under way; what a checkpoint gives elsewhere, the module itself gives here.

    Attributes:
        plain: The module behind the interface of ours.
    """

    plain: PlainModule | None = None

    @property
    def module(self) -> PlainModule:
        """The module, which is always there once the draft is made."""
        assert self.plain is not None
        return self.plain

    @property
    def fields(self) -> tuple[OutputField, ...]:
        """See `PackageDraft.fields`: all outputs, every number of them."""
        return tuple(OutputField(name, "row") for name in self.module.outputs)

    @property
    def compares_layers(self) -> bool:
        """See `PackageDraft.compares_layers`."""
        return False

    def reference_model(self) -> Model:
        """See `PackageDraft.reference_model`."""
        return lambda **inputs: self.module.answer(inputs)

    def release_original(self) -> None:
        """See `PackageDraft.release_original`: the module is the caller's."""

    def answers_in(self, dtype: torch.dtype) -> Answers | None:
        """See `PackageDraft.answers_in`; what a plain module computes in another type is not asked."""
        return None


def export_module(
    module: nn.Module,
    output: str | Path,
    form: ExportForm,
    checks: ExportChecks,
    *,
    example_inputs: Mapping[str, Any],
    outputs: Sequence[str] | None = None,
    compress: str | Path | Recipe | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> ModuleDraft:
    """Exports a plain module; see `export`, whose arguments these are.

    Args:
        module: The module.
        output: Directory to make.
        form: Precision, deployment target and compute units count; the shapes are those of the example inputs.
        checks: What the package must pass; without a dataset.
        example_inputs: Arguments of the module's `forward` by name. Tensors are inputs of the program, of these
            shapes; anything else goes into every call as it is.
        outputs: Names of what the module returns; see `PlainModule`.
        compress: The recipe.
        overwrite: Whether to replace a package.
        quiet: Whether to show no progress.

    Returns:
        What was made, with its report.

    Raises:
        ANEError: What was wrong, where, and what to do.
    """
    output = Path(output).expanduser()
    check_output(output, overwrite, [])
    form = _checked_form(form, checks)
    original = as_original(module)
    tensors = {name: value for name, value in example_inputs.items() if isinstance(value, Tensor)}
    if not tensors:
        raise InputError("no tensor is among the example inputs; give each argument of the module's forward by name")
    tensors = {name: value.detach().float() if value.is_floating_point() else value for name, value in tensors.items()}
    constants = {name: value for name, value in example_inputs.items() if name not in tensors}
    plain = PlainModule(original, tuple(tensors), outputs, constants)
    ane_config = PlainModuleANEConfig(plain, tensors)
    ane_config.check(form)
    _learn_outputs(plain, tensors)
    ane_config.check(form)
    recipe = compress if compress is None or isinstance(compress, Recipe) else get_recipe(compress)
    if recipe is not None:
        recipe.check_target(ios_target(form.target), "the export")
    name = type(original).__name__
    draft = ModuleDraft(
        directory=output,
        name=output.name,
        manifest=Manifest(
            form=form,
            model_type=name,
            source=SourceEntry(model=f"{type(original).__module__}.{name}", name=name),
            programs=(),
            method=ane_config.METHOD,
            versions={"optimum-ane": __version__} | tool_versions(),
        ),
        config=PretrainedConfig(),
        ane_config=ane_config,
        open_checkpoint=_no_checkpoint,
        report=ExportReport(machine=machine_kind(), versions=tool_versions()),
        programs=ane_config.programs(form),
        plain=plain,
    )
    draft.report.command = _command(form, tensors, constants, outputs)
    stages = _list_stages(checks, recipe)
    with Stages(len(stages), quiet) as progress, staged(output, overwrite, []) as directory, torch.no_grad():
        draft.directory = directory
        progress.note(f"method: graph, of the module {name}")
        run_stages(stages, draft, progress)
    return draft


def _checked_form(form: ExportForm, checks: ExportChecks) -> ExportForm:
    """The form as a plain module has it.

    Raises:
        UnsupportedModelError: It asks for what belongs to a checkpoint.
    """
    asked = form.differences().keys() - {"precision", "minimum_deployment_target", "compute_units", "method"}
    if checks.dataset is not None:
        asked |= {"eval_dataset"}
    if asked:
        raise UnsupportedModelError(
            f"{', '.join(sorted(asked))}: options of checkpoints of transformers, and this is a plain module; its "
            "shapes are those of its example inputs"
        )
    if form.method == "handwritten":
        raise UnsupportedModelError("a plain module goes by its graph; leave out --method handwritten")
    return replace(form, task=CUSTOM, method="graph").pinned()


def _learn_outputs(plain: PlainModule, tensors: Mapping[str, Tensor]) -> None:
    """Runs the module once, which tells its outputs.

    Raises:
        InputError: It cannot be run on the example inputs.
    """
    try:
        with torch.no_grad():
            plain.answer(tensors)
    except InputError:
        raise
    except Exception as error:  # a module raises whatever it stumbles over
        raise InputError(graph.cannot_be_run(error, plain.model, tensors)) from error


def _list_stages(checks: ExportChecks, recipe: Recipe | None) -> list[Stage]:
    stages = [Stage("run the module", _ask_module)] if checks.validate else []
    name = "convert, compare with module" if checks.validate else "convert"
    stages.append(Stage(name, partial(_convert, checks=checks)))
    if recipe is not None:
        stages.append(Stage(f"compress ({recipe.name})", partial(_compress, recipe=recipe)))
    stages.append(Stage("predict residency", partial(stage.predict_residency, chip=checks.chip, gates=checks.gates)))
    if checks.validate and recipe is not None:
        compare = partial(stage.compare_package, threshold=checks.psnr_threshold, recipe=recipe)
        stages.append(Stage("compare package with module", compare))
    return [*stages, Stage("write the package", _write)]


def _ask_module(draft: PackageDraft) -> None:
    model = draft.reference_model()
    check_draws_nothing(model, draft.examples, draft.fields)
    draft.reference = stage.answer_examples(model, draft.examples, draft.fields)


def _convert(draft: PackageDraft, checks: ExportChecks) -> None:
    assert isinstance(draft, ModuleDraft)
    for program in draft.programs:
        stage.keep_module(draft, program, draft.module)
    kind = draft.manifest.model_type
    metadata = Metadata(
        short_description=f"{kind}, made by graph for the Apple Neural Engine by optimum-ane.",
        author="unknown",
        license="unknown",
        version="1.0",
        entries={"source_model": draft.manifest.source.model, "task": CUSTOM, "optimum_ane_version": __version__},
    )
    compare = graph.compare_with_original if checks.validate else None
    graph.convert(draft, metadata, checks.psnr_threshold, compare)


def _compress(draft: PackageDraft, recipe: Recipe) -> None:
    stage.compress(draft, recipe)
    stage.load_back(draft)


def _write(draft: PackageDraft) -> None:
    """Writes the report, the manifest with the hash of each file, and the report as a page."""
    draft.report.peak_memory_bytes = peak_memory()
    draft.report.write(draft.directory / EXPORT_REPORT)
    draft.manifest = replace(draft.manifest, files=hash_files(draft.directory))
    draft.manifest.write(draft.directory)
    package = CardPackage(draft.name, draft.manifest, draft.report.to_dict(), {})
    (draft.directory / HTML_REPORT).write_text(render_html(draft.inspections[0], package), encoding="utf-8")


def _no_checkpoint() -> Any:
    raise UnsupportedModelError("a plain module has no checkpoint")


def _command(
    form: ExportForm, tensors: Mapping[str, Tensor], constants: Mapping[str, Any], outputs: Sequence[str] | None
) -> str:
    """The call, with the shapes in place of the tensors."""
    inputs = [f"{name!r}: {_described(value)}" for name, value in tensors.items()]
    inputs += [f"{name!r}: {value!r}" for name, value in constants.items()]
    arguments = ["module", "'out'", f"example_inputs={{{', '.join(inputs)}}}"]
    if outputs is not None:
        arguments.append(f"outputs={list(outputs)!r}")
    asked = {name: value for name, value in form.differences().items() if name not in ("task", "method")}
    arguments += [f"{name}={value!r}" for name, value in asked.items()]
    return f"optimum_ane.export({', '.join(arguments)})"


def _described(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
