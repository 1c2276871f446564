"""Sets published latencies of vision models beside the cost model's estimates, and writes docs/cost-model.md's table.

    python scripts/vision_speed.py            # show and write
    python scripts/vision_speed.py --check    # show; write nothing

The published numbers are in vision_speeds/published_latencies.yaml. Models are made of their sizes, with random
weights, and converted by their graph: some minutes, and 4 GB for the largest.
"""

from __future__ import annotations

import argparse
import gc
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml

from optimum_ane.analysis.chips import get_chip
from optimum_ane.analysis.cost import CostEstimate, estimate
from optimum_ane.analysis.inspection import inspect
from optimum_ane.analysis.operations import Program
from optimum_ane.analysis.partition import partition
from optimum_ane.analysis.residency import place
from optimum_ane.exporters.stock_module import StockModule
from optimum_ane.targets.coreml.build import ConvertibleFunction, build_program
from optimum_ane.targets.coreml.conversion import GRAPH_CONVERSIONS
from optimum_ane.targets.coreml.metadata import Metadata

PUBLISHED = Path(__file__).with_name("vision_speeds") / "published_latencies.yaml"
DOCS = Path(__file__).resolve().parents[1] / "docs/cost-model.md"
BEGIN = "<!-- made by scripts/vision_speed.py: begin -->"
END = "<!-- made by scripts/vision_speed.py: end -->"
_METADATA = Metadata("vision", "a model of published sizes with random weights", "apache-2.0", "0", {})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args()
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    values = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    text = "\n".join(table(values["rows"], values["models"], values["sources"]))
    print(text)
    if not args.check:
        before, rest = DOCS.read_text(encoding="utf-8").split(BEGIN)
        DOCS.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}", encoding="utf-8")
    return 0


def table(rows: Sequence[Mapping[str, Any]], models: Mapping[str, Any], sources: Mapping[str, str]) -> Iterator[str]:
    """Yields the table's lines; each model is made once."""
    yield "| model | device | published, ms | estimated, ms (range) | error | what is estimated | source |"
    yield "|---|---|---|---|---|---|---|"
    programs = {name: program(models[name]) for name in models}
    for row in rows:
        end = f"{sources[row['source']]} [{row['trust']}] |"
        start = f"| {row['name']} | {row['device']} ({row['chip']}) | {row['ms']} |"
        if "left_out" in row:
            yield f"{start} – | – | nothing: {row['left_out']} | {end}"
            continue
        found = estimated(programs[row["model"]], row["chip"])
        error = f"{100 * (found.typical_ms / row['ms'] - 1):+.0f} %"
        numbers = f"{found.typical_ms:.1f} ({found.low_ms:.1f} to {found.high_ms:.1f})"
        yield f"{start} {numbers} | {error} | {models[row['model']]['what']} | {end}"


def estimated(found: Program, chip: str) -> CostEstimate:
    """The estimate on a chip, each operation where the rules place it there."""
    return estimate(found, partition(place(found, get_chip(chip))), get_chip(chip))


def program(model: Mapping[str, Any]) -> Program:
    """The program of a model of given sizes, in float16 and the engine's layout."""
    torch.manual_seed(0)
    settings = dict(model["config"])
    config = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
    model_class = getattr(transformers, model["class"])
    make = getattr(model_class, "from_config", None) or model_class._from_config
    original = make(config).eval().requires_grad_(False)
    inputs = {"pixel_values": torch.randn(1, 3, *model["image"])}
    function = ConvertibleFunction(
        "main", lambda: StockModule(original, [*inputs], model["outputs"]).eval(), inputs, model["outputs"]
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.mlpackage"
        build_program(
            [function],
            path,
            precision="float16",
            minimum_deployment_target="iOS17",
            class_labels=None,
            metadata=_METADATA,
            conversion=GRAPH_CONVERSIONS[0],
        )
        found = inspect(path).program
    gc.collect()  # coremltools holds a model in circles of references
    return found


if __name__ == "__main__":
    raise SystemExit(main())
