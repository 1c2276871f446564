"""The model card: what a reader needs to decide and to start, each number from `export_report.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from optimum_ane.evaluation.report import AccuracyReport
from optimum_ane.exporters.conversion import DESCRIPTIONS
from optimum_ane.exporters.package import PackageConfig
from optimum_ane.exporters.report import ExportReport
from optimum_ane.exporters.source import Source

_PIPELINES = {
    "fill-mask": "The film was [MASK].",
    "text-classification": "a gripping, moving film",
    "token-classification": "Tim Cook spoke in Cupertino.",
}
_SWIFT_UNITS = {
    "cpu_and_ne": ".cpuAndNeuralEngine",
    "all": ".all",
    "cpu_and_gpu": ".cpuAndGPU",
    "cpu_only": ".cpuOnly",
}
_SWIFT_INPUTS = {
    "input_ids": '"input_ids": input { $0 < tokens.count ? tokens[$0] : PAD }',
    "attention_mask": '"attention_mask": input { $0 < tokens.count ? 1 : 0 }',
    "token_type_ids": '"token_type_ids": input { _ in 0 }',
}


def template_path() -> Path:
    """The card's template: beside this file in an installed package, in `model_cards/` in a checkout."""
    installed = Path(__file__).with_name("card_template.md")
    return installed if installed.is_file() else Path(__file__).parents[2] / "model_cards" / "template.md"


def make_card(
    ane_config: PackageConfig,
    report: ExportReport,
    source: Source,
    *,
    model_class: str,
    labels: list[str],
    padding_id: int,
    accuracy: AccuracyReport | None,
    location: str,
) -> ModelCard:
    """Renders the card of a package.

    Args:
        ane_config: What the package is.
        report: What was measured while it was made.
        source: The checkpoint.
        model_class: The class that loads it in Python.
        labels: The checkpoint's labels by id; empty where it has none.
        padding_id: The tokenizer's padding id, for the Swift snippet.
        accuracy: The accuracy report; None without a dataset.
        location: Directory or Hub id to load it from.
    """
    is_hub = source.author is not None
    data = ModelCardData(
        library_name="optimum-ane",
        pipeline_tag="sentence-similarity" if ane_config.pooling else ane_config.task,
        tags=["coreml", "ane", "apple-neural-engine", ane_config.model_type, ane_config.minimum_deployment_target],
        base_model=source.model if is_hub else None,
        license=source.license,
    )
    example = _PIPELINES.get(ane_config.task, "a gripping, moving film")
    output = "classLabel" if ane_config.class_labels else ane_config.outputs[0].name
    return ModelCard.from_template(
        data,
        template_path=str(template_path()),
        title=f"{source.name} for the Apple Neural Engine",
        source_link=f"[{source.model}](https://huggingface.co/{source.model})" if is_hub else f"`{source.name}`",
        task=ane_config.task,
        sequence_length=ane_config.sequence_length,
        batch_size=ane_config.batch_size,
        minimum_deployment_target=ane_config.minimum_deployment_target,
        inputs=[_tensor(tensor) for tensor in ane_config.inputs],
        outputs=[_tensor(tensor) for tensor in ane_config.outputs],
        labels=", ".join(f"`{label}`" for label in labels),
        parity={name: f"{ratio:.1f} dB" for name, ratio in report.package_psnr.items()},
        accuracy=None if accuracy is None else _accuracy(accuracy),
        size=f"{report.sizes['package'] / 1e6:.1f} MB",
        operations=sum(report.operations.values()),
        runtime=report.runtime,
        machine=report.machine,
        model_class=model_class,
        pipeline=ane_config.task if ane_config.task in _PIPELINES else None,
        location=location,
        example=example,
        swift_compute_units=_SWIFT_UNITS[ane_config.compute_units],
        swift_inputs=[_SWIFT_INPUTS[tensor.name].replace("PAD", str(padding_id)) for tensor in ane_config.inputs],
        swift_output=output,
        swift_value=".stringValue" if ane_config.class_labels else ".multiArrayValue!",
    )


def _tensor(tensor: Any) -> dict[str, str]:
    shape = " × ".join(map(str, tensor.shape)) or "–"
    return {"name": tensor.name, "shape": shape, "dtype": tensor.dtype, "meaning": DESCRIPTIONS[tensor.name]}


def _accuracy(report: AccuracyReport) -> dict[str, Any]:
    metric = report.primary_metric
    assert report.original is not None
    assert report.drop is not None
    low, high = report.drop_interval or (None, None)
    return {
        "metric": metric,
        "dataset": Path(report.dataset).name,
        "rows": report.rows,
        "original": f"{report.original.metrics[metric]:.4f}",
        "package": f"{report.package.metrics[metric]:.4f}",
        "drop": f"{report.drop:+.2f} points" + ("" if low is None else f" ({low:+.2f} to {high:+.2f})"),
        "agreement": "–" if report.agreement is None else f"{100 * report.agreement:.2f} %",
        "psnr": "–" if report.psnr is None else f"{report.psnr:.1f} dB",
    }
