"""The direction of imports, and what light code loads."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from verification.row import REPOSITORY, Row

MOST_IGNORED = 2
_LIGHT = {
    "import optimum_ane, and building a card": "tests/hub/test_light_imports.py",
    "every --help": "tests/commands/test_help.py",
}


def measure(folder: Path) -> Iterator[Row]:
    """Runs the import linter, and the tests that look at what a fresh process has loaded."""
    del folder
    contract = _layers()
    named = {name for layer in contract["layers"] for name in re.split(r"\s*[:|]\s*", layer)}
    missing = {
        path.name for path in (REPOSITORY / "optimum_ane").iterdir() if (path / "__init__.py").is_file()
    } - named
    linter = Path(sys.executable).with_name("lint-imports")
    kept = subprocess.run([linter], cwd=REPOSITORY, capture_output=True, text=True, check=False).returncode == 0
    ignored = len(contract.get("ignore_imports", ()))
    yield Row(
        "import contract",
        f"kept, every folder named, {MOST_IGNORED} imports ignored",
        f"{'kept' if kept else 'broken'}, {len(missing)} folders missing, {ignored} ignored",
        kept and not missing and ignored <= MOST_IGNORED,
    )
    for what, path in _LIGHT.items():
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", path]
        run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        yield Row(
            f"{what}: no torch, transformers, coremltools",
            "all tests pass",
            run.stdout.strip().splitlines()[-1],
            run.returncode == 0,
        )


def _layers() -> dict[str, list[str]]:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    (layers,) = (contract for contract in contracts if contract["type"] == "layers")
    assert isinstance(layers, dict)
    return layers
