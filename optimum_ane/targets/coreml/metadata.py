"""What a program says of itself: Xcode shows it, and code can read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PREVIEW_TYPE = "com.apple.coreml.model.preview.type"
"""The entry that tells Xcode how to let a person try a model.

Source: coremltools' guide, Xcode Model Preview Types,
https://apple.github.io/coremltools/docs-guides/source/xcode-model-preview-types.html
"""


PREVIEW_PARAMETERS = "com.apple.coreml.model.preview.params"
"""What the preview of a segmenter needs to know: JSON with `labels`, and `colors` as hexadecimal numbers."""


@dataclass(frozen=True)
class Metadata:
    """What a program says of itself.

    Attributes:
        short_description: One sentence.
        author: Who made the model.
        license: Its licence, by the Hub's id.
        version: Of the model.
        entries: Anything else, by name; None is left out.
    """

    short_description: str
    author: str
    license: str
    version: str
    entries: Mapping[str, Any] = field(default_factory=dict)


def write_metadata(specification: Any, metadata: Metadata) -> None:
    """Writes metadata into a `Model` protobuf; entries of other names, as coremltools makes them, stay."""
    written = specification.description.metadata
    written.shortDescription = metadata.short_description
    written.author = metadata.author
    written.license = metadata.license
    written.versionString = metadata.version
    entries = {name: str(value) for name, value in metadata.entries.items() if value is not None}
    written.userDefined.update(entries)


def write_meanings(description: Any, meanings: Mapping[str, str]) -> None:
    """Writes what inputs, outputs and states mean into a `ModelDescription` or `FunctionDescription` protobuf."""
    for features in (description.input, description.output, description.state):
        for feature in features:
            if feature.name in meanings:
                feature.shortDescription = meanings[feature.name]
