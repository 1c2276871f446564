"""What the programs of a package say of themselves: for people, for Xcode, and for code that reads it."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from optimum_ane.exporters.swift_transformers import EXPORTERS, NAME_ENTRY
from optimum_ane.targets.coreml.metadata import PREVIEW_PARAMETERS, PREVIEW_TYPE, Metadata
from optimum_ane.tasks import task_row
from optimum_ane.version import __version__

if TYPE_CHECKING:
    from optimum_ane.package.manifest import Manifest
    from optimum_ane.tasks import Task
    from optimum_ane.workflows.draft import PackageDraft

_GOLDEN = 0.618034
"""Hues that are so far from one to the next stay apart, however many there are."""


def describe_program(draft: PackageDraft) -> Metadata:
    """What every program of a package under way says of itself."""
    checkpoint, form, manifest = draft.checkpoint, draft.form, draft.manifest
    source, labels = checkpoint.source, manifest.labels
    made = "written for" if draft.ane_config.METHOD == "handwritten" else "made by graph for"
    return Metadata(
        short_description=f"{checkpoint.config.model_type} for {form.task}, {made} the Apple Neural Engine; "
        f"converted from {source.name} by optimum-ane.",
        author=source.author or "unknown",
        license=source.license or "unknown",
        version=source.revision or "1.0",
        entries={
            "source_model": source.name,
            "source_revision": source.revision,
            "task": form.task,
            "sequence_length": ",".join(map(str, form.sequence_length)) or None,
            "context_length": form.context_length,
            "prefill_length": form.prefill_length,
            "image_size": " × ".join(map(str, form.image_size)) if form.image_size else None,
            "audio_length": form.audio_length,
            "batch_size": form.batch_size,
            "pooling": form.pooling,
            "tokenizer_class": None if draft.tokenizer is None else type(draft.tokenizer).__name__,
            "processor_class": None if draft.processor is None else type(draft.processor).__name__,
            "labels": json.dumps(list(labels), ensure_ascii=False) if labels else None,
            "optimum_ane_version": __version__,
            NAME_ENTRY: source.name if form.layout == "swift-transformers" and source.is_hub else None,
            **_of_exporters(draft),
            **preview_entries(manifest),
        },
    )


def _of_exporters(draft: PackageDraft) -> dict[str, str]:
    """The entries that huggingface/exporters writes, which apps for its models of images read."""
    if draft.manifest.image is None:
        return {}
    checkpoint = draft.checkpoint
    # A model in memory that was never saved has none.
    architectures = checkpoint.config.architectures or [type(checkpoint.original()).__name__]
    return {
        NAME_ENTRY: checkpoint.source.name,
        f"{EXPORTERS}.task": draft.form.task,
        f"{EXPORTERS}.architecture": architectures[0],
        f"{EXPORTERS}.framework": "pytorch",
        f"{EXPORTERS}.precision": draft.form.precision,
    }


def preview_entries(manifest: Manifest) -> dict[str, str | None]:
    """What lets a person try a program in Xcode, where there is a preview of its task and of what it takes."""
    form = manifest.form
    task = task_row(form.task, form.pools, manifest.modality)
    if manifest.image is None:
        return {PREVIEW_TYPE: task.xcode_previews.get(manifest.model_type)}
    if not _is_previewed(task, manifest):
        return {}
    parameters = {"labels": list(manifest.labels), "colors": _colors(manifest.labels)}
    takes_parameters = task.image_preview == "imageSegmenter"
    return {
        PREVIEW_TYPE: task.image_preview,
        PREVIEW_PARAMETERS: json.dumps(parameters, ensure_ascii=False) if takes_parameters else None,
    }


def _is_previewed(task: Task, manifest: Manifest) -> bool:
    """Whether a program is what Xcode's preview of its task takes: an image in, and labels, a map or an image out."""
    takes_images = manifest.image is not None and manifest.image.normalization is not None
    gives_it = manifest.form.class_labels if task.image_preview == "imageClassifier" else manifest.form.postprocess
    return bool(task.image_preview) and takes_images and gives_it


def _colors(labels: Sequence[str]) -> list[str]:
    """A colour for each label, `"#RRGGBB"`."""
    colors = []
    for index in range(len(labels)):
        red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(index * _GOLDEN % 1, 0.7, 0.95))
        colors.append(f"#{red:02X}{green:02X}{blue:02X}")
    return colors
