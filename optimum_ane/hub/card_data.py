"""A card's metadata: what the Hub filters, links and shows by."""

from __future__ import annotations

import re
from collections.abc import Sequence

from huggingface_hub import EvalResult, ModelCardData

from optimum_ane.checkpoints.source_card import DATASET, LANGUAGE
from optimum_ane.hub.card_package import CardPackage
from optimum_ane.hub.markdown import plain
from optimum_ane.package.layout import EXPORT_REPORT

HUB = "https://huggingface.co"
LIBRARY = "optimum-ane"
_NOT_IN_DATASET_ID = re.compile(r"[^\w.-]+", re.ASCII)


def card_data(packages: Sequence[CardPackage], *, repo_id: str | None, license: str | None) -> ModelCardData:
    """Makes the metadata of a repository's card.

    Args:
        packages: The packages, the one that the card details first.
        repo_id: The repository; None for a card beside a package on disk.
        license: The Hub's id of the licence; None carries the source's own over.

    Raises:
        PackageError: The task of a package is none that packages are made for.
    """
    manifest = packages[0].manifest
    is_carried = license in (None, manifest.source.license)
    results = [result for package in packages for result in _results(package, repo_id, len(packages) > 1)]
    return ModelCardData(
        library_name=LIBRARY,
        pipeline_tag=packages[0].task.pipeline_tag,
        tags=_tags(packages),
        base_model=packages[0].source_id,
        base_model_relation=None if packages[0].source_id is None else _relation(packages),
        license=plain(license or manifest.source.license or "") or None,
        license_name=(plain(manifest.source.license_name or "") or None) if is_carried else None,
        license_link=license_link(packages[0]) if is_carried else None,
        language=list(filter(LANGUAGE.fullmatch, manifest.source.languages)) or None,
        datasets=list(filter(DATASET.fullmatch, manifest.source.datasets)) or None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=(repo_id or plain(manifest.source.name)).split("/")[-1] if results else None,
        eval_results=results or None,
    )


def license_link(package: CardPackage) -> str | None:
    """Where the text of a licence without an id is; a file of the source's repository becomes an address."""
    manifest = package.manifest
    link = plain(manifest.source.license_link or "")
    if not link or "://" in link or package.source_id is None:
        return link or None
    return f"{HUB}/{package.source_id}/blob/{manifest.source.revision or 'main'}/{link}"


def _tags(packages: Sequence[CardPackage]) -> list[str]:
    tags = ["coreml", "ane", "apple-neural-engine", "mlprogram"]
    for package in packages:
        manifest = package.manifest
        tags += [manifest.model_type, manifest.form.target, manifest.form.precision]
        if manifest.compression is not None:
            tags.append(plain(manifest.compression))
    if packages[0].manifest.form.pools:
        tags += [packages[0].task.name, "sentence-embedding"]
    return list(dict.fromkeys(tags))


def _relation(packages: Sequence[CardPackage]) -> str | None:
    """How the Hub's model tree shows the package below its source.

    The tree knows `finetune`, `adapter`, `merge` and `quantized`
    (https://huggingface.co/docs/hub/model-cards#specifying-a-base-model), none for a mere conversion. Weights rounded
    to float16 or fewer bits are quantized. A package in float32 says nothing.
    """
    is_rounded = any(
        package.manifest.compression or package.manifest.form.precision != "float32" for package in packages
    )
    return "quantized" if is_rounded else None


def _results(package: CardPackage, repo_id: str | None, is_one_of_several: bool) -> list[EvalResult]:
    """What the package scored, as the Hub's model-index states it; the original's score is in the card's text."""
    accuracy = package.accuracy
    if accuracy is None:
        return []
    dataset = plain(accuracy.get("dataset", ""))
    dataset_id, dataset_config, split = _dataset(dataset)
    folder = f"{package.path}/" if package.path else ""
    source = None if repo_id is None else f"{HUB}/{repo_id}/blob/main/{folder}{EXPORT_REPORT}"
    return [
        EvalResult(
            task_type=package.task.pipeline_tag,
            dataset_type=dataset_id,
            dataset_name=dataset or "unnamed",
            dataset_config=dataset_config,
            dataset_split=split,
            metric_type=plain(metric),
            metric_name=f"{plain(metric)} of {package.path or 'the root'}" if is_one_of_several else None,
            metric_value=round(value, 6),
            source_name=None if source is None else EXPORT_REPORT,
            source_url=source,
        )
        for metric, value in package.numbers("accuracy", "package", "metrics").items()
        if abs(value) != float("inf")
    ]


def _dataset(name: str) -> tuple[str, str | None, str | None]:
    """The id, the config and the split in a report's name of a dataset; a file's name becomes an id.

    A dataset of the Hub is called `owner/name/config, split validation`, where owner and config may be missing.
    """
    whole, _, split = name.partition(", split ")
    parts = [_NOT_IN_DATASET_ID.sub("-", part).strip("-.") for part in whole.split("/")]
    parts = [part for part in parts if part]
    if parts[:1] == ["glue"]:  # the name that GLUE had before datasets had owners
        parts.insert(0, "nyu-mll")
    config = parts[2] if len(parts) > 2 and split else None
    return "/".join(parts[:2]) or "unnamed", config, split or None
