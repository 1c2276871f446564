"""The architectures that are written by hand, made by hand and by graph, and what the layout pass costs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PreTrainedModel

from optimum_ane import export
from optimum_ane.package.report import ExportReport
from optimum_ane.package.working_folders import WorkingFolder
from verification.row import REPOSITORY, Row

MOST_OPERATIONS, MORE_TRANSPOSES, MOST_DECIBELS = 1.03, 1, 0.5
MOST_SECONDS, MOST_MEMORY = 10.0, 10**9
RECORDS = REPOSITORY / "out/both_ways.json"
"""Where the rows are kept for the page of `scripts/coverage.py`."""

_METHODS = ("handwritten", "graph")
_LIKE_BERT = ("bert", "distilbert", "roberta", "electra")
_TOKENS = 128
_SIZES = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "vocab_size": 2000,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
_ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
    "albert": {"embedding_size": 64},
    "bert": {},
    "camembert": {},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 32,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "position_biased_input": False,
    },
    "distilbert": {"dim": 256, "n_layers": 4, "n_heads": 4, "hidden_dim": 1024},
    "electra": {"embedding_size": 64},
    "modernbert": {
        "local_attention": 32, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2
    },
    "mpnet": {},
    "roberta": {},
    "xlm-roberta": {},
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """One export.

    Attributes:
        operations: Of the program.
        transposes: Among them.
        share: Predicted share of the arithmetic on the engine.
        psnr: dB, the worst output.
        seconds: Of the processor, for the whole export.
    """

    operations: int
    transposes: int
    share: float
    psnr: float
    seconds: float


def measure(folder: Path) -> Iterator[Row]:
    """Makes each architecture both ways, and times the pass on a BERT-base."""
    pairs = {name: tuple(_make(name, method, folder) for method in _METHODS) for name in _ARCHITECTURES}
    RECORDS.parent.mkdir(exist_ok=True)
    rows = [
        {"architecture": name, "hand": asdict(hand), "graph": asdict(graph)} for name, (hand, graph) in pairs.items()
    ]
    RECORDS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    for name, (hand, graph) in pairs.items():
        yield from _rows(name, hand, graph)
    yield from _cost_of_the_pass()


def _rows(name: str, hand: Made, graph: Made) -> Iterator[Row]:
    """Rows with limits for what is built as BERT is; of the others what was found."""
    ratio = graph.operations / hand.operations
    if name not in _LIKE_BERT:
        yield Row(
            f"{name} by graph, by hand in brackets",
            "stated",
            f"{graph.operations} ({hand.operations}) operations, {graph.transposes} ({hand.transposes}) transposes, "
            f"share {graph.share:.4f} ({hand.share:.4f}), {graph.psnr:.1f} ({hand.psnr:.1f}) dB",
            True,
        )
        return
    yield Row(
        f"{name} by graph: operations over those by hand",
        f"≤ {MOST_OPERATIONS}",
        f"{ratio:.3f} ({graph.operations} and {hand.operations})",
        ratio <= MOST_OPERATIONS,
    )
    yield Row(
        f"{name} by graph: transposes",
        f"≤ {hand.transposes} by hand + {MORE_TRANSPOSES}",
        str(graph.transposes),
        graph.transposes <= hand.transposes + MORE_TRANSPOSES,
    )
    yield Row(
        f"{name} by graph: PSNR against the original",
        f"≥ {hand.psnr:.1f} dB by hand − {MOST_DECIBELS}",
        f"{graph.psnr:.1f} dB",
        graph.psnr >= hand.psnr - MOST_DECIBELS,
    )


def _make(name: str, method: str, folder: Path) -> Made:
    start = time.process_time()
    report = export(
        _original(name),
        folder / f"{name}-{method}",
        task="feature-extraction",
        sequence_length=_TOKENS,
        method=method,
        psnr_threshold=0.0,
        quiet=True,
    ).report
    return _made(report, time.process_time() - start)


def _made(report: ExportReport, seconds: float) -> Made:
    return Made(
        sum(report.operations.values()),
        report.operations.get("transpose", 0),
        report.residency["flops_share_on_ane"],
        min(report.package_psnr.values()),
        seconds,
    )


def _original(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **{**_SIZES, **_ARCHITECTURES[name]})
    return transformers.AutoModel.from_config(config).eval()


_BASE = """
import json, resource, sys, time
import torch, transformers
from pathlib import Path
from optimum_ane.exporters.stock_module import StockModule
from optimum_ane.targets.coreml.build import ConvertibleFunction, build_program
from optimum_ane.targets.coreml.conversion import Conversion
from optimum_ane.targets.coreml.metadata import Metadata
from optimum_ane.targets.coreml.passes import to_engine_layout

folder, with_layout = Path(sys.argv[1]), sys.argv[2] == "with"
seconds = []
own = to_engine_layout.apply

def timed(self, program):
    start = time.perf_counter()
    own(self, program)
    seconds.append(time.perf_counter() - start)

to_engine_layout.apply = timed
torch.manual_seed(0)
model = transformers.BertModel(transformers.BertConfig()).eval()
ids = torch.randint(5, 30000, (1, 128))
mask = (torch.arange(128) < 90).long()[None]
build_program(
    [ConvertibleFunction(
        "main", lambda: StockModule(model, ["input_ids", "attention_mask"], ["last_hidden_state"]).eval(),
        {"input_ids": ids, "attention_mask": mask}, ["last_hidden_state"])],
    folder / f"{sys.argv[2]}.mlpackage",
    precision="float16", minimum_deployment_target="iOS17", class_labels=None,
    metadata=Metadata("", "", "", "", {}), conversion=Conversion("trace", is_stock=True, engine_layout=with_layout),
)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"seconds": sum(seconds), "runs": len(seconds), "peak": peak}))
"""


def _cost_of_the_pass() -> Iterator[Row]:
    """Converts a BERT-base of 128 tokens without the pass and with it, each in a process of its own."""
    found = {}
    with WorkingFolder.temporary() as folder:
        for kind in ("without", "with"):
            command = [sys.executable, "-W", "ignore", "-c", _BASE, str(folder), kind]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"the conversion of BERT-base failed:\n{done.stderr[-2000:]}")
            found[kind] = json.loads(done.stdout.strip().splitlines()[-1])
    seconds = found["with"]["seconds"]
    yield Row(
        "the layout pass on a BERT-base program: time",
        f"≤ {MOST_SECONDS:.0f} s",
        f"{seconds:.1f} s",
        found["with"]["runs"] > 0 and seconds <= MOST_SECONDS,
    )
    more = found["with"]["peak"] - found["without"]["peak"]
    yield Row(
        "the layout pass on a BERT-base program: peak memory above the conversion's without it",
        f"≤ {MOST_MEMORY / 1e9:.0f} GB",
        f"{more / 1e9:.2f} GB ({found['with']['peak'] / 1e9:.2f} GB)",
        more <= MOST_MEMORY,
    )
