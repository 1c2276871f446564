"""Compressed weights, decoded bit for bit as coremltools decompresses them."""

from __future__ import annotations

import collections
import itertools

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import pytest
import torch
from portable_programs import save_module

from optimum_ane.runtimes.portable import PortableSession, constexpr
from optimum_ane.runtimes.portable.graph import read_function
from optimum_ane.runtimes.portable.package import Package
from optimum_ane.runtimes.portable.values import Constant

IDS = torch.tensor([[1, 5, 63, 0, 7, 7, 30, 2]], dtype=torch.int32)


class Net(torch.nn.Module):
    """A table to gather from, a linear layer and two convolutions: what transformers keep their weights in."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(64, 32)
        self.linear = torch.nn.Linear(32, 64)
        self.point = torch.nn.Conv2d(64, 32, 1)
        self.conv = torch.nn.Conv2d(32, 16, (1, 3), padding=(0, 1))

    def forward(self, ids):
        x = self.linear(self.table(ids)).permute(0, 2, 1)[:, :, None]
        return self.conv(self.point(x))


@pytest.fixture(scope="module")
def models():
    """The same net for each target and precision, converted once."""
    made = {}

    def model(target, precision="FLOAT16"):
        if (target, precision) not in made:
            torch.manual_seed(11)
            made[target, precision] = ct.convert(
                torch.jit.trace(Net().eval(), (IDS,)),
                inputs=[ct.TensorType("ids", IDS.shape, dtype=np.int32)],
                minimum_deployment_target=getattr(ct.target, target),
                compute_precision=getattr(ct.precision, precision),
                skip_model_load=True,
            )
        return made[target, precision]

    return model


def quantized(**options):
    return cto.OpLinearQuantizerConfig(weight_threshold=64, **options)


def palettized(nbits, **options):
    mode = "kmeans" if "cluster_dim" in options else "uniform"
    return cto.OpPalettizerConfig(mode=mode, nbits=nbits, weight_threshold=64, **options)


def pruned(**options):
    if "threshold" in options:
        return cto.OpThresholdPrunerConfig(minimum_sparsity_percentile=0.01, weight_threshold=64, **options)
    return cto.OpMagnitudePrunerConfig(weight_threshold=64, **options)


COMPRESS = {
    cto.OpLinearQuantizerConfig: cto.linear_quantize_weights,
    cto.OpPalettizerConfig: cto.palettize_weights,
    cto.OpThresholdPrunerConfig: cto.prune_weights,
    cto.OpMagnitudePrunerConfig: cto.prune_weights,
}


def compress(model, *steps):
    """Compresses all weights, in as many steps as there are configurations."""
    for number, step in enumerate(steps):
        joint = {"joint_compression": True} if number else {}
        model = COMPRESS[type(step)](model, cto.OptimizationConfig(global_config=step), **joint)
    return model


def compress_each(model, steps):
    """Compresses each weight in its own way; the forms of one model cost the time of one conversion."""
    names = list(cto.get_weights_metadata(model, weight_threshold=65))  # biases have 64 and less
    assert len(names) == 4
    config = cto.OptimizationConfig(op_name_configs=dict(zip(names, itertools.cycle(steps), strict=False)))
    return COMPRESS[type(steps[0])](model, config)


def in_fours(items):
    items = list(items)
    return [items[i : i + 4] for i in range(0, len(items), 4)]


def operations(model):
    block = model._mil_program.functions["main"]
    return collections.Counter(o.op_type for o in block.operations if o.op_type.startswith("constexpr_"))


def weights(path):
    """Returns what the runtime holds as weights of rank 2 and more, in order."""
    nodes = read_function(Package(path), "main").nodes
    constants = [c for node in nodes for c in node.inputs.values() if isinstance(c, Constant)]
    return [c for c in constants if c.type is not None and len(c.type.shape) > 1]


def assert_decodes_as_coremltools(model, tmp_path, *expected_operations):
    """Compares the arrays, and what the program computes, of a package and of the one coremltools decompressed."""
    assert operations(model) == dict.fromkeys(expected_operations, 4)
    compressed, plain = tmp_path / "compressed.mlpackage", tmp_path / "plain.mlpackage"
    model.save(str(compressed))
    decompressed = cto.decompress_weights(model)
    assert not operations(decompressed)
    decompressed.save(str(plain))
    ours, theirs = weights(compressed), weights(plain)
    assert len(ours) == len(theirs) == 4
    for own, other in zip(ours, theirs, strict=True):
        assert own.type == other.type
        assert own.array().tobytes() == other.array().tobytes()
    (result,) = PortableSession(compressed).predict({"ids": IDS}).values()
    (wanted,) = PortableSession(plain).predict({"ids": IDS}).values()
    np.testing.assert_array_equal(result, wanted)


TENSOR_OR_CHANNEL = ("per_tensor", "per_channel")


@pytest.mark.parametrize("precision", ["FLOAT16", "FLOAT32"])
@pytest.mark.parametrize("mode", ["linear", "linear_symmetric"])
def test_affine_of_ios16(models, tmp_path, precision, mode):
    steps = [quantized(mode=mode, granularity=g, dtype=d) for g in TENSOR_OR_CHANNEL for d in ("int8", "uint8")]
    model = compress_each(models("iOS16", precision), steps)
    assert_decodes_as_coremltools(model, tmp_path, "constexpr_affine_dequantize")


@pytest.mark.parametrize("mode", ["linear", "linear_symmetric"])
@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel", "per_block"])
def test_blocks_of_ios18(models, tmp_path, mode, granularity):
    dtypes = ["int8", "uint8", "int4", "uint4"]
    steps = [quantized(mode=mode, granularity=granularity, dtype=dtype, block_size=8) for dtype in dtypes]
    model = compress_each(models("iOS18"), steps)
    assert_decodes_as_coremltools(model, tmp_path, "constexpr_blockwise_shift_scale")


@pytest.mark.parametrize("bits", [(1, 2, 4, 6), (8,)])
def test_palettes_of_ios16(models, tmp_path, bits):
    model = compress_each(models("iOS16"), [palettized(n) for n in bits])
    assert_decodes_as_coremltools(model, tmp_path, "constexpr_lut_to_dense")


PALETTES = [
    {},
    {"granularity": "per_grouped_channel", "group_size": 8},
    {"granularity": "per_grouped_channel", "group_size": 4, "channel_axis": 1},
    {"cluster_dim": 2},
]


@pytest.mark.parametrize(
    "steps", in_fours(itertools.product((1, 2, 3, 4, 6, 8), PALETTES)), ids=lambda s: str(s[0][0])
)
@pytest.mark.parametrize("turned", [0, 1])
def test_palettes_of_ios18(models, tmp_path, steps, turned):
    steps = steps[turned:] + steps[:turned]
    model = compress_each(models("iOS18"), [palettized(nbits, **options) for nbits, options in steps])
    assert_decodes_as_coremltools(model, tmp_path, "constexpr_lut_to_dense")


@pytest.mark.parametrize("bits", [(1, 2, 3, 4), (6, 8)])
def test_palettes_with_a_scale_for_each_channel(models, tmp_path, bits):
    options = {"granularity": "per_grouped_channel", "group_size": 4, "enable_per_channel_scale": True}
    model = compress_each(models("iOS18"), [palettized(n, **options) for n in bits])
    assert_decodes_as_coremltools(model, tmp_path, "constexpr_lut_to_dense", "constexpr_blockwise_shift_scale")


def test_palettes_of_vectors_in_groups(models, tmp_path):
    options = {"cluster_dim": 4, "granularity": "per_grouped_channel", "group_size": 8}
    model = compress(models("iOS18", "FLOAT32"), palettized(3, **options))
    assert_decodes_as_coremltools(model, tmp_path, "constexpr_lut_to_dense")


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
def test_sparse(models, tmp_path, target):
    model = compress_each(models(target), [pruned(target_sparsity=share) for share in (0.0, 0.3, 0.6, 1.0)])
    assert_decodes_as_coremltools(model, tmp_path, "constexpr_sparse_to_dense")
    model = compress_each(models(target), [pruned(threshold=least) for least in (0.02, 0.05, 0.1, 0.5)])
    assert_decodes_as_coremltools(model, tmp_path, "constexpr_sparse_to_dense")


CHANNELS = {"mode": "linear", "granularity": "per_channel", "dtype": "int8"}
SMALL = {"mode": "linear", "granularity": "per_tensor"}
JOINT = {
    "sparse palettes": ([pruned(threshold=0.05), palettized(4)], "lut_to_sparse sparse_to_dense"),
    "sparse palettes in groups": (
        [pruned(target_sparsity=0.5), palettized(3, granularity="per_grouped_channel", group_size=8)],
        "lut_to_sparse sparse_to_dense",
    ),
    "sparse and quantized": (
        [pruned(threshold=0.05), quantized(**CHANNELS)],
        "sparse_blockwise_shift_scale sparse_to_dense",
    ),
    "sparse and quantized in blocks": (
        [pruned(threshold=0.05), quantized(granularity="per_block", block_size=8, dtype="int4")],
        "sparse_blockwise_shift_scale sparse_to_dense",
    ),
    "palettes of quantized values": (
        [palettized(4), cto.OpLinearQuantizerConfig(weight_threshold=4, **SMALL)],
        "blockwise_shift_scale lut_to_dense",
    ),
    "quantized, then palettes of the integers": (
        [quantized(**CHANNELS), palettized(4)],
        "blockwise_shift_scale lut_to_dense",
    ),
    "all three": (
        [pruned(threshold=0.05), palettized(4), cto.OpLinearQuantizerConfig(weight_threshold=4, **SMALL)],
        "blockwise_shift_scale lut_to_sparse sparse_to_dense",
    ),
}


@pytest.mark.parametrize("name", JOINT)
def test_joint(models, tmp_path, name):
    steps, expected = JOINT[name]
    model = compress(models("iOS18"), *steps)
    assert_decodes_as_coremltools(model, tmp_path, *(f"constexpr_{form}" for form in expected.split()))


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
@pytest.mark.parametrize("kind", ["palette", "sparse", "integers"])
def test_arrays_that_compression_keeps_come_back(tmp_path, rng, target, kind):
    if kind == "palette":
        array = rng.standard_normal(16).astype(np.float16)[rng.integers(0, 16, (32, 64))]
        step = cto.OpPalettizerConfig(mode="unique", weight_threshold=64)
    elif kind == "sparse":
        array = np.where(rng.random((32, 64)) < 0.5, 0, rng.standard_normal((32, 64))).astype(np.float16)
        step = pruned(threshold=1e-9)
    else:
        # Each channel reaches 127 steps, so that its scale is its own power of two and nothing is lost.
        steps = rng.integers(-127, 128, (32, 64))
        steps[:, 0] = 127
        array = (steps * 2.0 ** rng.integers(-9, -6, (32, 1))).astype(np.float16)
        step = quantized(mode="linear_symmetric", granularity="per_channel", dtype="int8")
    net = torch.nn.Linear(64, 32, bias=False)
    net.weight.data = torch.from_numpy(array.astype(np.float32))
    path = tmp_path / "m.mlpackage"
    save_module(path, net, {"x": torch.zeros(1, 64)}, minimum_deployment_target=getattr(ct.target, target))
    model = compress(ct.models.MLModel(str(path), skip_model_load=True), step)
    assert operations(model)
    model.save(str(path))
    (weight,) = weights(path)
    assert weight.array().tobytes() == array.tobytes()


def test_a_compressed_table_is_held_once(tmp_path, monkeypatch):
    """Two gathers from one table hold the same fp16 array, and it is decoded once."""
    decodings = []
    round_into = constexpr._round_into

    def counting(target, values):
        decodings.append(target.shape)
        round_into(target, values)

    monkeypatch.setattr(constexpr, "_round_into", counting)

    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(64, 32)

        def forward(self, ids):
            return self.table(ids) * self.table(ids + 1)

    ids = torch.tensor([[1, 2, 3]], dtype=torch.int32)
    path = save_module(tmp_path / "m.mlpackage", Twice(), {"ids": ids}, minimum_deployment_target=ct.target.iOS18)
    step = quantized(mode="linear", granularity="per_channel", dtype="int8")
    compress(ct.models.MLModel(str(path), skip_model_load=True), step).save(str(path))
    seen = []
    session = PortableSession(path)
    session.predict({"ids": ids}, observer=lambda taken, _: seen.append(taken.node.op))
    assert seen.count("gather") == 2
    assert decodings == [(64, 32)]
