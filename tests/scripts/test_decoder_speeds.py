"""The page of decoders' speeds is what its script writes."""

from pathlib import Path

import pytest
from decoder_speeds.table import PUBLISHED, SpeedTableError, published_speeds

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "decoder-speed.md").read_text(encoding="utf-8")


def test_the_page_holds_what_is_estimated_today():
    lines = [line for line in PAGE.splitlines() if line.startswith("| Llama 3.2 1B | iPhone 15 Pro")]
    rows = [row for row in published_speeds() if row.entry["model"] == "Llama 3.2 1B" and row.sizes is not None]
    assert len(lines) == len(rows) == 2
    for line, row in zip(lines, rows, strict=True):
        estimate, cells = row.estimate(), [cell.strip() for cell in line.split("|")]
        assert float(cells[7]) == row.published
        assert float(cells[8]) == pytest.approx(estimate.typical, rel=0.01)
        assert cells[10] == f"{estimate.typical / row.published - 1:+.0%}"
        # Weights bound a token: 1.24 billion numbers of 4 bits at 89 % of 51.2 GB/s, and the rest takes its time too.
        if row.entry["what"] == "decode":
            assert estimate.typical < 45.6e9 / (1.236e9 / 2)


def test_every_row_is_told():
    rows = published_speeds()
    used = [row for row in rows if row.sizes is not None]
    assert f"| all | {len(used)} |" in PAGE
    assert sum(line.count("; ") > 0 and line.startswith("| ") for line in PAGE.splitlines()) >= len(rows)
    for row in rows:
        if row.sizes is None:
            assert f"| {row.entry['left_out']} |" in PAGE


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("what: decode", "what: dream", "'dream' or the model"),
        ("trust: claimed", "trust: hearsay", "trust 'hearsay'"),
        ("context: 1024, ", "", "missing or unknown: context"),
    ],
)
def test_a_row_that_cannot_be_right_is_refused(old, new, says):
    with pytest.raises(SpeedTableError, match=says):
        published_speeds(PUBLISHED.read_text(encoding="utf-8").replace(old, new, 1))
