"""The Python of a card: it loads the package and its tokenizer, and calls them."""

from __future__ import annotations

from optimum_ane.hub.card_package import CardPackage
from optimum_ane.hub.example_texts import EXAMPLE_TEXT, OTHER_TEXT, example_with_mask
from optimum_ane.hub.markdown import python_string
from optimum_ane.hub.python_tasks import CACHED_TEXT_GENERATION, CHAT
from optimum_ane.package.form import GENERATION
from optimum_ane.tasks import resolve

_READERS = {
    "text": ("AutoTokenizer", "tokenizer"),
    "image": ("AutoImageProcessor", "processor"),
    "image-text": ("AutoTokenizer", "tokenizer"),
    "audio": ("AutoFeatureExtractor", "processor"),
    "audio-text": ("AutoFeatureExtractor", "processor"),
}
"""What makes inputs: its class in transformers, and what the snippet calls it."""


def python_snippet(package: CardPackage, repo_id: str | None) -> str:
    """Writes the Python that uses a package.

    Args:
        package: The package.
        repo_id: Where it is published; None loads it from a directory of its name.

    Raises:
        PackageError: The task is none that packages are made for.
    """
    manifest, task = package.manifest, package.task
    location = python_string(repo_id or package.path or "package")
    arguments = location
    if repo_id is not None and package.path:
        arguments += f", subfolder={python_string(package.path)}"
    place = arguments if package.has_tokenizer else python_string(manifest.source.name)
    reader, name = _READERS[task.modality]
    prompt = package.default_prompt
    is_cached = manifest.form.has_cache and manifest.form.task == GENERATION
    lines = CACHED_TEXT_GENERATION if is_cached else resolve(task.python)
    if is_cached and "chat_template.jinja" in manifest.files:
        lines = CHAT
    body = lines.format(
        place=place,
        text=python_string(prompt + EXAMPLE_TEXT),
        other=python_string(prompt + OTHER_TEXT),
        masked=python_string(example_with_mask(package)),
        products="cosine similarities" if manifest.form.normalize else "dot products",
    )
    names = [reader, "AutoImageProcessor"] if task.modality == "image-text" else [reader]
    if task.has_tokenizer and "AutoTokenizer" not in names:
        names.append("AutoTokenizer")
    if task.has_pipeline or is_cached:
        names.append("pipeline")
    return f"""\
from optimum_ane import {task.model_class}
from transformers import {", ".join(sorted(names))}

model = {task.model_class}.from_pretrained({arguments})
{name} = {reader}.from_pretrained({place})
{body}"""
