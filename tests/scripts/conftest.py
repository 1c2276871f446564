import sys
from pathlib import Path

import pytest
import yaml
from tiny_models import save_checkpoint

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))


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
    """Entries of a list by name, with which an export takes seconds."""
    return {
        "classifier": {
            "name": "classifier",
            "model": str(checkpoints / "classifier"),
            "architecture": "bert",
            "task": "text-classification",
        },
        "embedder": {
            "name": "embedder",
            "model": str(checkpoints / "embedder"),
            "architecture": "distilbert",
            "task": "feature-extraction",
            "pooling": "mean",
        },
        "broken": {
            "name": "broken",
            "model": str(checkpoints / "broken"),
            "architecture": "bert",
            "task": "text-classification",
        },
    }


@pytest.fixture
def write_list(tmp_path):
    def write(*models, name="list.yaml", **root):
        defaults = {"sequence_lengths": [8], "psnr_threshold": 20, "license": "mit"} | root.pop("defaults", {})
        path = tmp_path / name
        path.write_text(yaml.safe_dump({"defaults": defaults, "models": list(models)} | root, sort_keys=False))
        return path

    return write
