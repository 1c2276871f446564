"""The counts of `docs/coverage.json`: how many architectures go by graph, how right they are, and where they run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from verification.row import REPOSITORY, MissingError, Row

LEAST = {"text": 0.92, "decoders": 0.92, "vision": 0.90, "audio": 0.88, "seq2seq": 0.85}
"""Accepted of the tried."""
LEAST_SHARE = {"text": 0.99, "decoders": 0.97, "vision": 0.99, "audio": 0.93, "seq2seq": 0.97}
"""Median of the predicted shares on the engine."""
LEAST_CACHED = 0.88
"""Accepted of the decoders whose original keeps keys and values."""


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
    yield from _with_cache(values, date)
    groups = [values["groups"][name] for name in LEAST]
    checked, below, wrong = (sum(own[name] for own in groups) for name in ("checked", "below", "wrong"))
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


def _with_cache(values: dict[str, Any], date: str) -> Iterator[Row]:
    own, without = values["groups"]["cached"], len(values["no_cache"])
    rate = own["accepted"] / max(1, own["tried"])
    yield Row(
        f"decoder model types with cache: accepted ({date})",
        f"≥ {LEAST_CACHED:.0%} of those that keep keys and values",
        f"{rate:.1%}: {own['accepted']} of {own['tried']} tried, median {own['median_psnr']:.1f} dB; {without} more "
        f"keep something else of a text: {own['accepted'] / max(1, own['tried'] + without):.1%} of all",
        rate >= LEAST_CACHED,
    )
    yield Row(
        "decoder model types with cache, exported again with other weights, texts and lengths: wrong",
        "0",
        f"{own['wrong']} of {own['checked']} checked; {own['below']} below 50 dB in float16 and right in float32",
        own["wrong"] == 0 and own["checked"] == own["accepted"] > 0,
    )
