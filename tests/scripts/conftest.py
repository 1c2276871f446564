import sys
from pathlib import Path

import pytest
from tiny_models import save_checkpoint

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from zoo_lists import make_entries, write


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Tiny checkpoints by name; `broken` has a truncated file of weights."""
    folder = tmp_path_factory.mktemp("checkpoints")
    save_checkpoint(folder / "classifier", "bert", "text-classification")
    save_checkpoint(folder / "embedder", "distilbert", "feature-extraction")
    save_checkpoint(folder / "broken", "bert", "text-classification", seed=1)
    weights = folder / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    return folder


@pytest.fixture
def entries(checkpoints):
    return make_entries(checkpoints)


@pytest.fixture
def write_list(tmp_path):
    """Writes a list of these entries into the test's folder; `defaults` are added to those of tiny models."""
    return lambda *models, **root: write(tmp_path / "list.yaml", *models, **root)
