"""What `/api/validate-yaml` refuses in a card's metadata, as far as the Hub documents it.

Sources: the Hub's documentation of model cards and of licences, its specification of `model-index`
(github.com/huggingface/hub-docs, modelcard.md), and error messages that users have reported.
"""

from __future__ import annotations

import re

import yaml

_LICENSES = (
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m "
    "afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 "
    "cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 "
    "cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 "
    "cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl "
    "gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr "
    "mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr "
    "deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 "
    "grok2-community gemma unknown other"
)
LICENSES = tuple(_LICENSES.split())
RELATIONS = ("adapter", "finetune", "merge", "quantized")
_PIPELINES = (
    "text-classification token-classification table-question-answering question-answering zero-shot-classification "
    "translation summarization feature-extraction text-generation fill-mask sentence-similarity multiple-choice "
    "text-ranking image-classification automatic-speech-recognition audio-classification text-to-speech"
)
PIPELINES = tuple(_PIPELINES.split())
_FRONT = re.compile(r"^(\s*---[\r\n]+)([\S\s]*?)([\r\n]+---(\r\n|\n|$))")
_REPO = re.compile(r"[\w.\-]+(/[\w.\-]+)?")


def read_metadata(content):
    """The mapping at the top of a card; None where there is none.

    Raises:
        yaml.YAMLError: It is no YAML.
    """
    match = _FRONT.search(content)
    return None if match is None else yaml.safe_load(match[2])


def validate_card(content):
    """Lists of errors and of warnings."""
    try:
        metadata = read_metadata(content)
    except yaml.YAMLError as error:
        return [f"Invalid YAML: {error}"], []
    if not metadata:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(metadata, dict):
        return ["metadata must be an object"], []
    errors, warnings = [], []
    _check_types(metadata, errors)
    for value in _as_list(metadata.get("license")):
        if value not in LICENSES:
            errors.append(f'"license" must be one of [{", ".join(LICENSES)}]')
    for value in _as_list(metadata.get("base_model")):
        if not (isinstance(value, str) and _REPO.fullmatch(value)):
            errors.append(f'"base_model" with value "{value}" is not valid. Use a model id from https://hf.co/models.')
    if metadata.get("base_model_relation", "merge") not in RELATIONS:
        errors.append(f'"base_model_relation" must be one of [{", ".join(RELATIONS)}]')
    for value in _as_list(metadata.get("datasets")):
        if not (isinstance(value, str) and _REPO.fullmatch(value)):
            errors.append(
                f'"datasets" with value "{value}" is not valid. Use a dataset id from https://hf.co/datasets.'
            )
    for value in _as_list(metadata.get("language")):
        if not (isinstance(value, str) and re.fullmatch(r"[a-z]{2,3}(-[A-Za-z]+)?|code|multilingual", value)):
            errors.append(
                f'"language" with value "{value}" is not valid. It must be an ISO 639-1, 639-2 or 639-3 code'
            )
    if metadata.get("pipeline_tag", "fill-mask") not in PIPELINES:
        warnings.append(f'"pipeline_tag" with value "{metadata["pipeline_tag"]}" is not an official pipeline')
    if "model-index" in metadata:
        _check_index(metadata["model-index"], errors)
    return errors, warnings


def _check_types(metadata, errors):
    for name in ("tags", "datasets", "widget", "metrics", "model-index"):
        if name in metadata and not isinstance(metadata[name], list):
            errors.append(f'"{name}" must be an array')
    for name in ("tags", "metrics"):
        for index, value in enumerate(_as_list(metadata.get(name))):
            if not isinstance(value, str):
                errors.append(f'"{name}[{index}]" must be a string')
    for name in ("library_name", "pipeline_tag", "license_name", "license_link"):
        if name in metadata and not isinstance(metadata[name], str):
            errors.append(f'"{name}" must be a string')


def _check_index(index, errors):
    for i, model in enumerate(_as_list(index)):
        place = f"model-index[{i}]"
        if not _is_object(model, place, errors):
            continue
        _require(model, "name", place, errors)
        if not isinstance(model.get("results"), list):
            errors.append(f'"{place}.results" must be an array')
            continue
        for j, result in enumerate(model["results"]):
            _check_result(result, f"{place}.results[{j}]", errors)


def _check_result(result, place, errors):
    if not _is_object(result, place, errors):
        return
    for part, names in (("task", ("type",)), ("dataset", ("type", "name"))):
        if _is_object(result.get(part), f"{place}.{part}", errors):
            for name in names:
                _require(result[part], name, f"{place}.{part}", errors)
    if not isinstance(result.get("metrics"), list) or not result["metrics"]:
        errors.append(f'"{place}.metrics" must be an array of at least one')
        return
    for k, metric in enumerate(result["metrics"]):
        if _is_object(metric, f"{place}.metrics[{k}]", errors):
            _require(metric, "type", f"{place}.metrics[{k}]", errors)
            if metric.get("value") is None:
                errors.append(f'"{place}.metrics[{k}].value" is required')


def _require(mapping, name, place, errors):
    if name not in mapping:
        errors.append(f'"{place}.{name}" is required')
    elif not isinstance(mapping[name], str) or not mapping[name]:
        errors.append(f'"{place}.{name}" must be a string')


def _is_object(value, place, errors):
    if isinstance(value, dict):
        return True
    errors.append(f'"{place}" is required' if value is None else f'"{place}" must be of type object')
    return False


def _as_list(value):
    return [] if value is None else value if isinstance(value, list) else [value]
