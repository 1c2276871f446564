"""The script that a Mac runs once, for clients that load compiled models only."""

from __future__ import annotations

import re
from collections.abc import Sequence

COMPILE_SH = "compile.sh"


def compile_script(packages: Sequence[str], folder: str = ".", files: Sequence[str] = ()) -> str:
    """Returns the text of a script that compiles packages.

    Args:
        packages: Their names, with the suffix.
        folder: Where the compiled models go, beside the script; it is made where it is missing.
        files: What is copied there beside them.
    """
    names = " ".join(f"'{name}'" for name in packages)
    lines = [
        "#!/bin/sh",
        "# To be run once on a Mac with Xcode: clients load compiled models only.",
        "set -e",
        'cd "$(dirname "$0")"',
        *([] if folder == "." else [f"mkdir -p '{folder}'"]),
        f"for package in {names}; do",
        f'    xcrun coremlcompiler compile "$package" {folder if folder == "." else repr(folder)}',
        "done",
        *([f"cp {' '.join(files)} '{folder}'"] if files else []),
    ]
    return "\n".join(lines) + "\n"


def whisperkit_folder(source: str) -> str:
    """The name that WhisperKit's folders have: `openai/whisper-tiny.en` → `openai_whisper-tiny.en`.

    Args:
        source: The checkpoint's name.
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "_", source).strip("._") or "whisper"
