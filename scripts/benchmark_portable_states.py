"""Times a decoder with a key-value cache as state in the portable runtime, beside the original in PyTorch.

    python scripts/benchmark_portable_states.py --json result.json
    python scripts/benchmark_portable_states.py --model SmolLM2-135M-Instruct/

The decoder is a checkpoint, or has the shape of SmolLM2-135M (30 layers of 576, 9 heads on 3 of keys and values,
49,152 words) and seeded random weights. Its programs are those that the export makes: one state (2 · layers, heads of
keys, context, width of a head) holds all keys and values; `infer` takes one token, `prefill` a block of 64. One thread
each, all in one process and in turn: the runtime as it is; with each operation by itself and its values in float32;
copying states as well; transformers' model with its cache; and its linear layers alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from optimum_ane.exporters.cached_decoder import CachedDecoder
from optimum_ane.exporters.cached_decoder.inputs import causal_mask
from optimum_ane.exporters.cached_decoder.module import STATE, View
from optimum_ane.runtimes.portable import PortableSession, kernels, program
from optimum_ane.runtimes.portable.in_place import Updates
from optimum_ane.targets.coreml.build import ConvertibleFunction, build_program
from optimum_ane.targets.coreml.conversion import Conversion
from optimum_ane.targets.coreml.metadata import Metadata

BLOCK = 64
EAGER, PRODUCTS = "transformers, eager, its cache", "its linear layers alone"
PORTABLE, APART, COPYING = "portable", "portable, each operation by itself", "portable, by itself, copying states"


def main() -> int:
    args = parse_arguments()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(args, Path(folder))
    for name, entry in result.items():
        print(f"{name}: {entry['milliseconds']:.1f} ms (least {entry['least']:.1f}), {entry['speed']:.2f} × eager")
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", metavar="PATH", help="a checkpoint (default: seeded random weights)")
    parser.add_argument("--repeats", type=int, default=25, metavar="N", help="turns (default: %(default)s)")
    parser.add_argument(
        "--layers", type=int, default=30, metavar="N", help="layers of random weights (default: %(default)s)"
    )
    parser.add_argument(
        "--context", type=int, default=512, metavar="N", help="rows of the state (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers as JSON")
    return parser.parse_args()


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Takes all measurements, and checks that the answers agree."""
    model = load_model(args) if args.model else random_model(args.layers)
    for parameter in model.parameters():  # rounded, so that original and package hold the same
        parameter.copy_(parameter.half())
    save(model, args.context, "infer", 1, folder)
    save(model, args.context, "prefill", BLOCK, folder)
    sessions = {name: load(folder, changes) for name, changes in CHANGES.items()}
    return decoding(args, model, sessions) | blocks(args, model, sessions)


def load_model(args: argparse.Namespace) -> PreTrainedModel:
    """Loads a checkpoint in float32."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        args.model, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval().requires_grad_(False)


def random_model(layers: int) -> PreTrainedModel:
    """Makes a decoder of SmolLM2-135M's shape, of so many layers."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=layers, num_attention_heads=9,
        num_key_value_heads=3, head_dim=64, tie_word_embeddings=True, attn_implementation="eager",
        initializer_range=0.05,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def save(model: PreTrainedModel, context: int, name: str, tokens: int, folder: Path) -> None:
    """Converts the decoder for so many tokens at once, as the export does."""
    answers: View = "logits" if name == "infer" else "position"
    make_module = partial(CachedDecoder, model, context, answers)
    inputs = {"input_ids": torch.zeros(1, tokens, dtype=torch.int32)}
    inputs |= {key: torch.from_numpy(value) for key, value in beside_tokens(3, tokens, context).items()}
    function = ConvertibleFunction(
        "main", make_module, inputs, ["answer"], states={STATE: getattr(make_module(), STATE).shape}
    )
    build_program(
        [function], folder / f"{name}.mlpackage", precision="float16", minimum_deployment_target="iOS18",
        class_labels=None, metadata=Metadata("A decoder.", "", "", "1"),
        conversion=Conversion("trace", is_stock=True, engine_layout=True),
    )  # fmt: skip


def beside_tokens(position: int, tokens: int, context: int) -> dict[str, np.ndarray]:
    """What a function takes beside its tokens."""
    return {"position": np.array([position], np.int32), "causal_mask": causal_mask(position, tokens, context)}


Sessions = dict[str, PortableSession]


def load(folder: Path, changes: list[Callable[[], Any]]) -> Sessions:
    """Loads both functions with changes to the runtime."""
    with ExitStack() as stack:
        for change in changes:
            stack.enter_context(change())
        return {name: PortableSession(folder / f"{name}.mlpackage") for name in ("infer", "prefill")}


def without_fusions() -> Any:
    """Lets no operations go together."""
    return mock.patch.object(program, "find_fusions", return_value=[])


def without_halves() -> Any:
    """Lets values be rounded and carried in float32."""
    return mock.patch.object(program.Program, "_with_halves", lambda self, steps, raw: (steps, self._outputs))


def without_products_of_halves() -> Any:
    """Lets weights be multiplied in float32."""
    return mock.patch.object(kernels, "_HAS_HALF", False)


def without_updates() -> Any:
    """Lets states be copied at each update."""
    return mock.patch.object(program, "find_updates", return_value=Updates())


_APART = [without_fusions, without_halves, without_products_of_halves]
CHANGES: dict[str, list[Callable[[], Any]]] = {PORTABLE: [], APART: _APART, COPYING: [*_APART, without_updates]}


@torch.inference_mode()
def decoding(args: argparse.Namespace, model: PreTrainedModel, sessions: dict[str, Sessions]) -> dict[str, Any]:
    """Times one token after the other."""
    ids = torch.randint(model.config.vocab_size, (args.repeats,), generator=torch.Generator().manual_seed(1))
    cache = DynamicCache()
    states = {name: both["infer"].make_state() for name, both in sessions.items()}
    linears = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    rows = {layer.in_features: torch.randn(1, layer.in_features) for layer in linears}
    clock = Clock()
    for place, token in enumerate(ids):
        with clock.timing(EAGER):
            expected = model(token[None, None], past_key_values=cache, use_cache=True).logits.numpy()
        with clock.timing(PRODUCTS):
            for layer in linears:
                layer(rows[layer.in_features])
        inputs = {"input_ids": np.array([[token]], np.int32), **beside_tokens(place, 1, args.context)}
        for name, state in states.items():
            with clock.timing(name):
                answer = sessions[name]["infer"].predict(inputs, state)["answer"]
            check(name, answer, expected)
    if not np.array_equal(states[APART].read(STATE), states[COPYING].read(STATE)):
        raise AssertionError("the states differ from those that are copied")
    return clock.summary("a token, ")


@torch.inference_mode()
def blocks(args: argparse.Namespace, model: PreTrainedModel, sessions: dict[str, Sessions]) -> dict[str, Any]:
    """Times blocks of tokens, each at the beginning of a context and without a head."""
    ids = torch.randint(model.config.vocab_size, (1, BLOCK), generator=torch.Generator().manual_seed(2))
    inputs = {"input_ids": ids.int().numpy(), **beside_tokens(0, BLOCK, args.context)}
    states = {name: both["prefill"].make_state() for name, both in sessions.items()}
    clock = Clock()
    cache: Any = None
    for _ in range(args.repeats):
        cache = DynamicCache()
        with clock.timing(EAGER):
            model.base_model(ids, past_key_values=cache, use_cache=True)
        for name, state in states.items():
            with clock.timing(name):
                sessions[name]["prefill"].predict(inputs, state)
    expected = np.concatenate([part.numpy() for layer in cache.layers for part in (layer.keys, layer.values)])
    for name, state in states.items():
        check(name, state.read(STATE)[:, :, :BLOCK], expected)
    return clock.summary(f"a block of {BLOCK}, ")


def check(name: str, answer: np.ndarray, expected: np.ndarray) -> None:
    """Holds an answer against the original."""
    error = np.square(answer.astype(np.float64) - expected).mean()
    decibels = 10 * np.log10(np.square(expected).max() / error)
    if decibels < 40:
        raise AssertionError(f"{name} is {decibels:.0f} dB from the original")


class Clock:
    """Takes times by name, of the processor: what else the machine does counts less."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {}

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Times what happens inside."""
        start = time.thread_time()
        yield
        self._seconds.setdefault(name, []).append(time.thread_time() - start)

    def summary(self, prefix: str) -> dict[str, Any]:
        """Returns medians, leasts and medians of the ratios within a turn, the first two turns left out."""
        warm = {name: seconds[2:] for name, seconds in self._seconds.items()}
        return {
            prefix + name: {
                "milliseconds": 1e3 * statistics.median(seconds),
                "least": 1e3 * min(seconds),
                "speed": statistics.median(a / b for a, b in zip(warm[EAGER], seconds, strict=True)),
            }
            for name, seconds in warm.items()
        }


if __name__ == "__main__":
    sys.exit(main())
