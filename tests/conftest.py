import gc
import hashlib
import os
import shutil
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test goes to the network; the client reads this when imported

import coremltools  # noqa: F401 - what is imported here is frozen below
import pytest
import torch
import transformers  # noqa: F401
from filelock import FileLock
from tiny_models import make_original, make_tokenizer

from optimum_ane.analysis.html_report import figures

DRAWINGS = {name: getattr(figures, name) for name in ("strip", "bars", "ranges")}
"""What draws the figures of reports: a quarter of the time of a tiny export, and of no interest but to their tests."""


def pytest_configure():
    for name in DRAWINGS:
        setattr(figures, name, lambda *_, **__: '<svg role="img" aria-label="not drawn in this test"></svg>')
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


@pytest.fixture(scope="module")
def drawn_figures():
    """Lets the figures of reports be drawn, as they are outside of the tests."""
    stand_ins = {name: getattr(figures, name) for name in DRAWINGS}
    for name, draw in DRAWINGS.items():
        setattr(figures, name, draw)
    yield
    for name, stand_in in stand_ins.items():
        setattr(figures, name, stand_in)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory, worker_id):
    """Gives the folder of what tests share, made once for a key by whichever worker of the run needs it first."""
    root = tmp_path_factory.getbasetemp()
    folder = (root if worker_id == "master" else root.parent) / "shared"
    folder.mkdir(exist_ok=True)

    def find(key, make):
        made = folder / hashlib.sha256(key.encode()).hexdigest()[:16]
        whole = made.with_suffix(".whole")
        with FileLock(made.with_suffix(".lock")):
            if not whole.exists():
                shutil.rmtree(made, ignore_errors=True)  # of a worker that was stopped
                made.mkdir()
                make(made)
                whole.touch()
        return made

    return find


@pytest.fixture(scope="session")
def tiny_package(made_once):
    """Exports a tiny random model, once for each set of arguments; returns the directory, which nobody may change.

    `model` holds settings of the model's configuration; everything else is `export`'s.
    """
    from optimum_ane import export

    def make(name, task, model=None, **options):
        def write(folder):
            arguments = {"validate": False, "sequence_length": 16, "tokenizer": make_tokenizer()} | options
            export(make_original(name, task, **(model or {})), folder / "package", quiet=True, **arguments)

        key = repr((name, task, sorted((model or {}).items()), sorted(options.items())))
        return made_once(key, write) / "package"

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


@pytest.fixture(scope="session")
def whisper_package(tmp_path_factory):
    """A tiny random Whisper of two seconds and several languages: the original, its package, and its checkpoint."""
    from whisper_models import make_extractor, make_tokenizer, make_whisper

    from optimum_ane import export

    folder = tmp_path_factory.mktemp("whisper")
    checkpoint, package = folder / "checkpoint", folder / "package"
    tokenizer = make_tokenizer()
    original = make_whisper(tokenizer)
    original.save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    make_extractor().save_pretrained(checkpoint)
    export(checkpoint, package, quiet=True)
    return original, package, checkpoint
