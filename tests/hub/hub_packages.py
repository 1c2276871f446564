"""Packages to publish, and changes to them."""

from __future__ import annotations

import hashlib
import json

PUBLISH = ("optimum_ane.workflows.publish", "publish")
WEIGHTS = "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
LFS_FILES = {WEIGHTS, "model.mlpackage/Data/com.apple.CoreML/model.mlmodel"}
CARD_AND_REPORT = {"README.md", "card.svg", "export_report.html"}


def files_of(directory):
    """The content of each file below a directory, by relative path."""
    paths = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in paths}


def published_files_of(directory):
    """What goes to the Hub as it is: all but the card and its picture, which tell of the whole repository."""
    return {name: data for name, data in files_of(directory).items() if name not in ("README.md", "card.svg")}


def change(package, **settings):
    """Adds, changes or (None) removes files of a package, and writes down what it then consists of.

    `__` in a name stands for a dot: `change(package, vocab__txt=b"…")`.
    """
    for name, data in settings.items():
        path = package / name.replace("__", ".")
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)
    config = json.loads((package / "ane_config.json").read_text())
    files = {
        name: data for name, data in files_of(package).items() if name not in CARD_AND_REPORT | {"ane_config.json"}
    }
    config["files"] = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    (package / "ane_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return package
