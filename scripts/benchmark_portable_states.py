"""Times a decoder with a key-value cache as state in the portable runtime, beside the original in PyTorch.

    python scripts/benchmark_portable_states.py --json result.json

The decoder has the shape of SmolLM2-135M (30 layers of 576, 9 heads on 3 of keys and values, 49,152 words) and seeded
random weights. One state (2 · layers, heads of keys, context, width of a head) holds all keys and values; a function
takes one token, another a block of 64. One thread each, all in one process and in turn: the runtime as it is, without
updates in place, and without those and weights of fp16, as it was; transformers' model with its cache; and its linear
layers alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from optimum_ane.runtimes.portable import PortableSession, kernels, program
from optimum_ane.runtimes.portable.in_place import Updates
from optimum_ane.targets.coreml.conversion import Conversion
from optimum_ane.targets.coreml.convert import convert

BLOCK = 64
CLOSED = -3e4
EAGER, PRODUCTS = "transformers, eager, its cache", "its linear layers alone"
PORTABLE, COPYING, BEFORE = "portable", "portable, copying states", "portable, copying, weights in float32"


class Decoder(nn.Module):
    """A Llama over a state: writes the keys and values of its tokens, and attends to the whole state with a mask."""

    def __init__(self, model: LlamaForCausalLM, context: int, tokens: int) -> None:
        super().__init__()
        config = model.config
        self.model, self.head, self.tokens = model.model, model.lm_head, tokens
        self.heads, self.groups, self.width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        shape = (2 * config.num_hidden_layers, self.groups, context, self.width)
        self.register_buffer("kv_cache", torch.zeros(shape))
        self.register_buffer("places", torch.arange(context, dtype=torch.int32))
        cos, sin = self.model.rotary_emb(torch.zeros(1), torch.arange(context)[None])
        self.register_buffer("cos", cos[0])
        self.register_buffer("sin", sin[0])

    def forward(self, input_ids: Tensor, position: Tensor) -> Tensor:
        """Takes (1, tokens) ids, int32, and the place of the first, (1,) int32; returns logits, or hidden states."""
        tokens, heads, groups, width = self.tokens, self.heads, self.groups, self.width
        end = position + tokens
        rows = position + torch.arange(tokens, dtype=torch.int32)
        cos, sin = self.cos[rows.long()], self.sin[rows.long()]
        mask = torch.where(self.places[None, :] <= rows[:, None], 0.0, CLOSED).repeat(1, 1, heads // groups, 1)
        x = self.model.embed_tokens(input_ids)
        for index, layer in enumerate(self.model.layers):
            attention, y = layer.self_attn, layer.input_layernorm(x)
            q, k, v = (
                project(y).view(1, tokens, -1, width).transpose(1, 2)
                for project in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            q, k = rotated(q, cos, sin), rotated(k, cos, sin)
            self.kv_cache[2 * index : 2 * index + 2, :, position:end] = torch.cat([k, v])
            keys, values = self.kv_cache[2 * index : 2 * index + 1], self.kv_cache[2 * index + 1 : 2 * index + 2]
            q = q.reshape(1, groups, heads // groups * tokens, width) * width**-0.5
            weights = (q @ keys.transpose(2, 3) + mask).softmax(-1)
            attended = (weights @ values).reshape(1, heads, tokens, width).transpose(1, 2)
            x = x + attention.o_proj(attended.reshape(1, tokens, heads * width))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        x = self.model.norm(x)
        return self.head(x) if tokens == 1 else x


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: x (1, heads, tokens, width), cos and sin (tokens, width)."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


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
    parser.add_argument("--repeats", type=int, default=25, metavar="N", help="turns (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=30, metavar="N", help="layers (default: %(default)s)")
    parser.add_argument(
        "--context", type=int, default=512, metavar="N", help="rows of the state (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers as JSON")
    return parser.parse_args()


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Takes all measurements, and checks that the answers agree."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=args.layers,
            num_attention_heads=9, num_key_value_heads=3, head_dim=64, tie_word_embeddings=True,
            attn_implementation="eager", initializer_range=0.05,
        )
    ).eval().requires_grad_(False)  # fmt: skip
    for parameter in model.parameters():  # rounded, so that original and package hold the same
        parameter.copy_(parameter.half())
    for name, tokens in (("token", 1), ("block", BLOCK)):
        save(model, args.context, tokens, folder / f"{name}.mlpackage")
    sessions = {name: load(folder) for name, load in LOADERS.items()}
    return decoding(args, model, sessions) | blocks(args, model, sessions)


def save(model: LlamaForCausalLM, context: int, tokens: int, path: Path) -> None:
    """Converts the decoder for so many tokens at once."""
    decoder = Decoder(model, context, tokens).eval()
    inputs = {
        "input_ids": torch.zeros(1, tokens, dtype=torch.int32),
        "position": torch.tensor([context - tokens], dtype=torch.int32),
    }
    traced = torch.jit.trace(decoder, tuple(inputs.values()), check_trace=False)
    states = {"kv_cache": decoder.kv_cache.shape}
    way = Conversion("trace", is_stock=True)
    convert(
        traced, inputs, ["answer"], path,
        precision="float16", minimum_deployment_target="iOS18", states=states, conversion=way,
    )  # fmt: skip


Sessions = dict[str, PortableSession]


def load(folder: Path) -> Sessions:
    return {name: PortableSession(folder / f"{name}.mlpackage") for name in ("token", "block")}


def load_copying(folder: Path) -> Sessions:
    with mock.patch.object(program, "find_updates", return_value=Updates()):
        return load(folder)


def load_as_before(folder: Path) -> Sessions:
    with mock.patch.object(kernels, "_HAS_FBGEMM", False):
        return load_copying(folder)


LOADERS: dict[str, Callable[[Path], Sessions]] = {PORTABLE: load, COPYING: load_copying, BEFORE: load_as_before}


@torch.inference_mode()
def decoding(args: argparse.Namespace, model: LlamaForCausalLM, sessions: dict[str, Sessions]) -> dict[str, Any]:
    """Times one token after the other."""
    ids = torch.randint(49152, (args.repeats,), generator=torch.Generator().manual_seed(1))
    cache = DynamicCache()
    states = {name: both["token"].make_state() for name, both in sessions.items()}
    linears = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    rows = {layer.in_features: torch.randn(1, layer.in_features) for layer in linears}
    clock = Clock()
    for place, token in enumerate(ids):
        with clock.timing(EAGER):
            expected = model(token[None, None], past_key_values=cache, use_cache=True).logits.numpy()
        with clock.timing(PRODUCTS):
            for layer in linears:
                layer(rows[layer.in_features])
        inputs = {"input_ids": np.array([[token]], np.int32), "position": np.array([place], np.int32)}
        answers = {}
        for name, state in states.items():
            with clock.timing(name):
                answers[name] = sessions[name]["token"].predict(inputs, state)["answer"]
        check(answers, expected)
    if not np.array_equal(states[PORTABLE].read("kv_cache"), states[COPYING].read("kv_cache")):
        raise AssertionError("the states differ from those that are copied")
    return clock.summary("a token, ")


@torch.inference_mode()
def blocks(args: argparse.Namespace, model: LlamaForCausalLM, sessions: dict[str, Sessions]) -> dict[str, Any]:
    """Times blocks of tokens, each at the beginning of a context and without a head."""
    ids = torch.randint(49152, (1, BLOCK), generator=torch.Generator().manual_seed(2))
    inputs = {"input_ids": ids.int().numpy(), "position": np.zeros(1, np.int32)}
    states = {name: both["block"].make_state() for name, both in sessions.items()}
    clock = Clock()
    for _ in range(args.repeats):
        with clock.timing(EAGER):
            expected = model.model(ids, past_key_values=DynamicCache(), use_cache=True).last_hidden_state.numpy()
        answers = {}
        for name, state in states.items():
            with clock.timing(name):
                answers[name] = sessions[name]["block"].predict(inputs, state)["answer"]
        check(answers, expected)
    return clock.summary(f"a block of {BLOCK}, ")


def check(answers: dict[str, np.ndarray], expected: np.ndarray) -> None:
    """Holds answers against those without updates in place, to the bit, and against the original."""
    if not np.array_equal(answers[PORTABLE], answers[COPYING]):
        raise AssertionError("the answer differs from that of copied states")
    for name, answer in answers.items():
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
