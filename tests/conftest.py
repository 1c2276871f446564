from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared():
    """The folder of checkpoints and data beside the repository; what needs it is skipped where it is missing."""
    folder = Path(__file__).resolve().parents[1] / "../shared"
    if not folder.is_dir():
        pytest.skip(f"needs the checkpoints and data in {folder}, which are not part of the repository")
    return folder.resolve()
