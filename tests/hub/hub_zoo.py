"""`scripts/zoo.py` in the process that holds the Hub client."""

import sys
from pathlib import Path


def main(arguments):
    folder = str(Path(__file__).resolve().parents[2] / "scripts")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    import zoo

    return zoo.main(arguments)
