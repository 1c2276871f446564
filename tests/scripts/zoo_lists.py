"""Lists of tiny models, with which an export takes seconds."""

import yaml


def make_entries(checkpoints):
    """Entries by name; the checkpoints are directories of a folder."""
    entries = {
        "classifier": {"architecture": "bert", "task": "text-classification", "compress": ["int8"]},
        "embedder": {"architecture": "distilbert", "task": "feature-extraction", "pooling": "mean"},
        "broken": {"architecture": "bert", "task": "text-classification"},
    }
    return {name: {"name": name, "model": str(checkpoints / name)} | entry for name, entry in entries.items()}


def write(path, *models, **root):
    defaults = {"sequence_lengths": [8], "psnr_threshold": 20, "license": "mit"} | root.pop("defaults", {})
    path.write_text(yaml.safe_dump({"defaults": defaults, "models": list(models)} | root, sort_keys=False))
    return path
