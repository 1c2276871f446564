"""Small packages in the stock layout, made with coremltools alone, as somebody else would make them."""

from __future__ import annotations

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import types
from torch import nn

from optimum_ane.targets.coreml.quiet import quiet

TOKENS, WIDTH, HEADS, WORDS = 12, 32, 4, 50
LABELS = ["bad", "fair", "good"]


class Encoder(nn.Module):
    """A transformer of one layer as textbooks have it: (B, S, C), heads by reshape and transpose."""

    def __init__(self, tokens=TOKENS, with_hidden=True):
        super().__init__()
        self.tokens, self.with_hidden = tokens, with_hidden
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(tokens, WIDTH)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm, self.last_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.up, self.down, self.head = nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH), nn.Linear(WIDTH, len(LABELS))

    def forward(self, ids, mask):
        x = self.words(ids) + self.places.weight
        split = [
            layer(x).reshape(1, self.tokens, HEADS, WIDTH // HEADS).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        ]
        scores = split[0] @ split[1].transpose(2, 3) / 3 + (1 - mask[:, None, None, :].float()) * -1e4
        context = (torch.softmax(scores, -1) @ split[2]).transpose(1, 2).reshape(1, self.tokens, WIDTH)
        x = self.norm(x + self.out(context))
        x = self.last_norm(x + self.down(nn.functional.gelu(self.up(x))))
        probabilities = torch.softmax(4 * self.head(x[:, 0]), -1)
        return (probabilities, x) if self.with_hidden else probabilities


def convert_encoder(target=ct.target.iOS17, *, classifier=False, tokens=TOKENS, **options):
    """Converts the encoder; with metadata of every kind."""
    torch.manual_seed(0)
    # coremltools makes no classifier of a module with two outputs.
    module = Encoder(tokens, with_hidden=not classifier).eval()
    outputs = ["probabilities"] if classifier else ["probabilities", "hidden"]
    example = (torch.randint(0, WORDS, (1, tokens)), torch.ones(1, tokens, dtype=torch.long))
    with torch.no_grad(), quiet():
        model = ct.convert(
            torch.jit.trace(module, example),
            inputs=[ct.TensorType(name=name, shape=(1, tokens), dtype=np.int32) for name in ("ids", "mask")],
            outputs=[ct.TensorType(name=name) for name in outputs],
            minimum_deployment_target=target,
            classifier_config=ct.ClassifierConfig(LABELS) if classifier else None,
            skip_model_load=True,
            **options,
        )
    model.author, model.license, model.version = "Somebody", "MIT", "3.1"
    model.short_description = "How good it is"
    model.user_defined_metadata["made.with"] = "care"
    model.input_description["ids"] = "Words"
    return model


def save(model, path):
    model.save(str(path))
    return path


def compressed(kind):
    """The encoder compressed by coremltools in one of its ways."""
    old, new = ct.target.iOS16, ct.target.iOS18

    def quantize(target, **settings):
        config = cto.OpLinearQuantizerConfig(weight_threshold=100, **settings)
        return cto.linear_quantize_weights(convert_encoder(target), cto.OptimizationConfig(config))

    def palettize(target, model=None, **settings):
        config = cto.OptimizationConfig(cto.OpPalettizerConfig(weight_threshold=100, **settings))
        return cto.palettize_weights(model or convert_encoder(target), config, joint_compression=model is not None)

    def prune(target):
        config = cto.OpMagnitudePrunerConfig(target_sparsity=0.5, weight_threshold=100)
        return cto.prune_weights(convert_encoder(target), cto.OptimizationConfig(config))

    makers = {
        "int8": lambda: quantize(old),
        "palette": lambda: palettize(old, nbits=6),
        "sparse": lambda: prune(old),
        "int4 blocks": lambda: quantize(new, dtype="int4", granularity="per_block", block_size=16),
        "palettes": lambda: palettize(new, nbits=4, granularity="per_grouped_channel", group_size=8),
        "palettes of pairs": lambda: palettize(new, nbits=4, cluster_dim=2),
        "sparse palettes": lambda: palettize(new, model=prune(new), nbits=4),
    }
    with quiet():
        return makers[kind]()


KINDS = ("int8", "palette", "sparse", "int4 blocks", "palettes", "palettes of pairs", "sparse palettes")


def counting_program():
    """A program that adds what it is given to a state, and returns a product of the sum."""
    weight = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float16)

    @mb.program(
        input_specs=[
            mb.TensorSpec(shape=(1, 8), dtype=types.fp16),
            mb.StateTensorSpec(shape=(1, 8), dtype=types.fp16),
        ],
        opset_version=ct.target.iOS18,
    )
    def program(x, total):
        kept = mb.coreml_update_state(state=total, value=mb.add(x=mb.read_state(input=total), y=x))
        return mb.linear(x=kept, weight=weight, name="y")

    return convert_program(program, ct.target.iOS18)


def convert_program(program, target, **options):
    with quiet():
        return ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=target,
            compute_precision=ct.precision.FLOAT32,
            pass_pipeline=ct.PassPipeline.EMPTY,
            skip_model_load=True,
            **options,
        )
