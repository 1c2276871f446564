"""Sets published speeds of decoders beside what a plan estimates for them, and writes docs/decoder-speed.md's tables.

    python scripts/decoder_speed.py            # show and write
    python scripts/decoder_speed.py --check    # show; write nothing

The published numbers are in decoder_speeds/published_speeds.yaml. Models are made of their sizes alone, without
weights, on the `meta` device: a minute on a laptop.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from decoder_speeds.table import docs_with_table, published_speeds, table

DOCS = Path(__file__).resolve().parents[1] / "docs" / "decoder-speed.md"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args()
    text = table(published_speeds())
    print(text)
    if not args.check:
        DOCS.write_text(docs_with_table(DOCS.read_text(encoding="utf-8"), text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
