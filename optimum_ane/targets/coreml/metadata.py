"""SHIM"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metadata:
    short_description: str
    author: str
    license: str
    version: str
    entries: Mapping[str, Any]
