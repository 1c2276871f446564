import gc
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test goes to the network; the client reads this when imported

import coremltools  # noqa: F401 - what is imported here is frozen below
import pytest
import torch
import transformers  # noqa: F401
from tiny_models import make_original, make_tokenizer


def pytest_configure():
    # More threads than cores slow PyTorch down tenfold when two workers run side by side.
    torch.set_num_threads(1)
    # coremltools collects garbage several times in each conversion: 0.2 s a time with all that is imported here.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared():
    """The folder of checkpoints and data beside the repository; what needs it is skipped where it is missing."""
    folder = Path(__file__).resolve().parents[1] / "../shared"
    if not folder.is_dir():
        pytest.skip(f"needs the checkpoints and data in {folder}, which are not part of the repository")
    return folder.resolve()


@pytest.fixture(scope="session")
def tiny_package(tmp_path_factory):
    """Exports a tiny random model, once for each set of arguments; returns the directory.

    `model` holds settings of the model's configuration; everything else is `export`'s.
    """
    from optimum_ane import export

    made = {}

    def make(name, task, model=None, **options):
        key = repr((name, task, sorted((model or {}).items()), sorted(options.items())))
        if key not in made:
            directory = tmp_path_factory.mktemp("tiny") / "package"
            options = {"validate": False, "sequence_length": 16, "tokenizer": make_tokenizer()} | options
            export(make_original(name, task, **(model or {})), directory, quiet=True, **options)
            made[key] = directory
        return made[key]

    return make


@pytest.fixture(scope="session")
def ctc_package(tmp_path_factory):
    """A tiny random wav2vec2 that writes text and takes masks, as a checkpoint and as a package: its originals."""
    from speech_packages import LAYER_NORMS, LENGTH, make_ctc_model, make_ctc_tokenizer, make_extractor

    from optimum_ane import export

    folder = tmp_path_factory.mktemp("ctc")
    checkpoint, package = folder / "checkpoint", folder / "package"
    original = make_ctc_model("wav2vec2", **LAYER_NORMS)
    original.save_pretrained(checkpoint)
    make_ctc_tokenizer(folder).save_pretrained(checkpoint)
    make_extractor(masks=True).save_pretrained(checkpoint)
    export(checkpoint, package, audio_length=LENGTH, quiet=True)
    return original, package, checkpoint
