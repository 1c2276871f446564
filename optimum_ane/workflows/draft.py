"""A package that is being made: what each stage of a workflow leaves for the next."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from transformers import GenerationMixin

from optimum_ane.modeling import ANEModel, model_class_of
from optimum_ane.package.report import ExportReport
from optimum_ane.progress import Stages
from optimum_ane.tasks import OutputField, compared_fields
from optimum_ane.validation.comparison import answer_examples
from optimum_ane.validation.pooled_original import as_reference
from optimum_ane.workflows.freed_memory import give_back_freed_memory

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase

    from optimum_ane.analysis.inspection import Inspection
    from optimum_ane.checkpoints.checkpoint import Checkpoint
    from optimum_ane.evaluation.report import AccuracyReport
    from optimum_ane.exporters.config import ANEConfig, Processor
    from optimum_ane.exporters.programs import ProgramSpec
    from optimum_ane.package.form import ExportForm
    from optimum_ane.package.manifest import Manifest
    from optimum_ane.runtimes import Session
    from optimum_ane.validation.comparison import Answers, Model


@dataclass
class PackageDraft:
    """One package under way.

    Attributes:
        directory: Where it is being written.
        name: Of the directory that it will be.
        manifest: What `ane_config.json` will say; stages replace it as they learn more.
        config: The checkpoint's configuration.
        ane_config: What the architecture states.
        open_checkpoint: Opens the checkpoint that the package is made from, for its weights and for the original.
        report: What was measured so far.
        tokenizer: The checkpoint's; None without one.
        processor: What makes inputs of images or sounds; None for text, or without one.
        generation_config: How a language model writes by default; None for packages that do not write.
        programs: What is converted; empty where programs exist already.
        modules: The Neural Engine modules, by program, until they are converted.
        reference: The original's answers to the examples; None where it was not asked.
        sessions: The saved programs, loaded, by name.
        inspections: What is predicted of each function, the default one first.
        accuracy: The accuracy report; None without a dataset.
        notes: Lines for the screen that the stage under way has written; shown when it ends.
    """

    directory: Path
    name: str
    manifest: Manifest
    config: PretrainedConfig
    ane_config: ANEConfig
    open_checkpoint: Callable[[], Checkpoint]
    report: ExportReport
    tokenizer: PreTrainedTokenizerBase | None = None
    processor: Processor | None = None
    generation_config: GenerationConfig | None = None
    programs: tuple[ProgramSpec, ...] = ()
    modules: dict[str, nn.Module] = field(default_factory=dict)
    reference: Answers | None = None
    sessions: Mapping[str, Session] = field(default_factory=dict)
    inspections: Sequence[Inspection] = ()
    accuracy: AccuracyReport | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def form(self) -> ExportForm:
        """What was asked for."""
        return self.manifest.form

    @cached_property
    def examples(self) -> tuple[dict[str, Tensor], ...]:
        """What the original and the package are compared on."""
        return self.ane_config.examples(self.form)

    @property
    def fields(self) -> tuple[OutputField, ...]:
        """The fields of the output that are compared."""
        return compared_fields(self.form.task, self.form.pools, self.manifest.modality)

    def driver(self, sessions: Mapping[str, Session]) -> ANEModel:
        """The model class of the task over sessions of any engine."""
        driver = model_class_of(self.form.task, self.manifest.modality)(sessions, self.config, self.manifest)
        if self.generation_config is not None and isinstance(driver, GenerationMixin):
            driver.generation_config = self.generation_config
        return driver

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint, opened when it is first asked for.

        Raises:
            CheckpointError: It is not here, or damaged.
        """
        return self.open_checkpoint()

    @property
    def compares_layers(self) -> bool:
        """Whether the states between layers are compared too; caches and pairs of encoders give none."""
        return not self.form.has_cache and self.manifest.modality != "image-text"

    def release_original(self) -> None:
        """Lets go of the original; it is loaded again when it is asked for."""
        self.checkpoint.release_original()

    def reference_model(self) -> Model:
        """The original as a package of this form is compared with it; loaded if it is not."""
        return self._as_reference(self.original_part())

    def original_part(self) -> nn.Module:
        """What of the original the package is made of; loaded if it is not."""
        return self.ane_config.part_of(self.checkpoint.original())

    @property
    def is_by_graph(self) -> bool:
        """Whether the programs are made of the original's own graph."""
        return self.ane_config.METHOD == "graph"

    def warn(self, text: str) -> None:
        """Writes a warning into the report and onto the screen."""
        self.report.warnings = (*self.report.warnings, text)
        self.notes.append(f"warning: {text}")

    def answers_in(self, dtype: torch.dtype) -> Answers | None:
        """What the original answers to the examples where it computes in another type.

        Returns:
            None where PyTorch cannot compute it in that type on a CPU.
        """
        # A copy: a model in memory is the caller's own.
        model = self._as_reference(copy.deepcopy(self.original_part()).to(dtype=dtype))
        self.checkpoint.release_original()
        try:
            return answer_examples(model, self.examples, self.fields)
        except RuntimeError:
            return None

    def _as_reference(self, original: nn.Module) -> Model:
        embedding = self.checkpoint.sentence_transformers if self.form.pools else None
        return as_reference(original, self.form, embedding)


class Stage(NamedTuple):
    """One step of a workflow.

    Attributes:
        name: What the screen and the report call it.
        run: Does it.
    """

    name: str
    run: Callable[[PackageDraft], None]


def run_stages(stages: Sequence[Stage], draft: PackageDraft, progress: Stages) -> None:
    """Runs stages in order; whatever one raises ends the workflow."""
    for stage in stages:
        with progress.stage(stage.name):
            stage.run(draft)
            give_back_freed_memory()
        for note in draft.notes:
            progress.note(note)
        draft.notes.clear()
        draft.report.seconds = dict(progress.seconds)
