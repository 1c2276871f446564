"""The counts of `docs/coverage.json`: how many architectures go by graph, how right they are, and where they run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from verification.row import REPOSITORY, MissingError, Row

LEAST = {"text": 0.92, "decoders": 0.92, "vision": 0.90, "audio": 0.88, "seq2seq": 0.85}
"""Accepted of the tried."""
LEAST_SHARE = {"text": 0.99, "decoders": 0.97, "vision": 0.99, "audio": 0.93, "seq2seq": 0.97}
"""Median of the predicted shares on the engine."""


def measure(folder: Path) -> Iterator[Row]:
    """Reads the records of the last sweep, which takes hours: `python scripts/coverage.py` makes them anew."""
    del folder
    path = REPOSITORY / "docs/coverage.json"
    if not path.exists():
        raise MissingError(f"needs {path}, which `python scripts/coverage.py --page` writes")
    values = json.loads(path.read_text(encoding="utf-8"))
    made_of = values["made_of"]
    date = f"of {made_of['date']}, transformers {made_of['transformers']}"
    for name, least in LEAST.items():
        own = values["groups"][name]
        rate = own["accepted"] / max(1, own["tried"])
        yield Row(
            f"architectures by graph, {name}: accepted ({date})",
            f"≥ {least:.0%}",
            f"{rate:.1%}: {own['accepted']} of {own['tried']} tried, median {own['median_psnr']:.1f} dB",
            rate >= least,
        )
        yield Row(
            f"architectures by graph, {name}: median share of the arithmetic predicted on the engine",
            f"≥ {LEAST_SHARE[name]}",
            f"{own['median_share']:.4f}, {own['mostly']} of {own['accepted']} at 0.9 or more",
            own["median_share"] >= LEAST_SHARE[name],
        )
    checked = sum(own["checked"] for own in values["groups"].values())
    below = sum(own["below"] for own in values["groups"].values())
    wrong = sum(own["wrong"] for own in values["groups"].values())
    again = "accepted architectures, converted again with other weights, inputs and lengths"
    yield Row(f"{again}: wrong in float32 too", "0", f"{wrong} of {checked} checked", wrong == 0 and checked > 0)
    yield Row(
        f"{again}: below 50 dB in float16",
        "0",
        f"{below + wrong} of {checked} checked",
        below + wrong == 0 and checked > 0,
    )
    installed = version("transformers")
    yield Row(
        "the page of architectures: version of transformers",
        installed,
        made_of["transformers"],
        made_of["transformers"] == installed,
    )
