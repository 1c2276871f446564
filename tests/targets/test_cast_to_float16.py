"""The cast to float16 against coremltools' own: the same program and the same weight file, in less memory."""

import tracemalloc

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the spelling of coremltools' documentation
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.passes.defs.quantization import add_fp16_cast
from torch import nn

from optimum_ane.targets.coreml.passes import stock_pass_pipeline
from optimum_ane.targets.coreml.passes.cast_to_float16 import exceeds_float16

SHAPE = (2, 6)
WEIGHT = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def with_values(*values):
    """A weight with these values among ordinary ones."""
    weight = WEIGHT.copy()
    weight.reshape(-1)[: len(values)] = values
    return weight


WEIGHTS = {
    "ordinary": with_values(),
    "largest": with_values(65504, -65504),
    "rounded up to infinity": with_values(65519.9),
    "just beyond": with_values(np.nextafter(np.float32(65504), np.float32(1e9))),
    "beyond, negative": with_values(-70000),
    "infinite": with_values(np.inf, -np.inf),
    "infinite and beyond": with_values(np.inf, -70000),
    "least of float32": with_values(np.finfo(np.float32).min),
    "below coremltools' infinity": with_values(9.9e37),
    "not a number": with_values(np.nan),
    "not a number and beyond": with_values(np.nan, 1e5),
    "not a number and infinite": with_values(np.nan, -np.inf),
    "tiny": with_values(1e-8, -1e-8, 6e-8, 1e-45, -1e-45, 0.0, -0.0),
    "one number": np.float32(1e-12),
    "one number beyond": np.float32(1e9),
    "integers": None,
}


def program_of(weight):
    """A product with the weight, a look-up by constant integers, and a sum that can always be cast."""

    def body(x):
        y = x if weight is None else mb.mul(x=x, y=weight)
        y = mb.gather(x=y, indices=np.array([1, 0, 1], np.int32), axis=0)
        return mb.add(x=y, y=np.float32(0.25), name="out")

    return mb.program(input_specs=[mb.TensorSpec(shape=SHAPE, dtype=types.fp32)], opset_version=ct.target.iOS16)(body)


def files_of(model, tmp_path):
    """The specification, written in one order, and the weight file."""
    path = tmp_path / "model.mlpackage"
    model.save(str(path))
    weights = path / "Data/com.apple.CoreML/weights/weight.bin"
    specification = model.get_spec().SerializeToString(deterministic=True)
    return specification, weights.read_bytes() if weights.exists() else b""


def convert(source, pipeline, **options):
    options = {"minimum_deployment_target": ct.target.iOS16} | options
    return ct.convert(
        source,
        convert_to="mlprogram",
        compute_precision=ct.precision.FLOAT16,
        pass_pipeline=pipeline,
        skip_model_load=True,
        **options,
    )


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_program_becomes_what_coremltools_makes_of_it(name, tmp_path):
    ours = convert(program_of(WEIGHTS[name]), stock_pass_pipeline("float16"))
    theirs = convert(program_of(WEIGHTS[name]), ct.PassPipeline.DEFAULT)
    assert files_of(ours, tmp_path) == files_of(theirs, tmp_path)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.attention = nn.Linear(16, 48)
        self.norm = nn.LayerNorm(16)
        self.hidden = nn.Linear(16, 32)
        self.out = nn.Linear(32, 16)

    def forward(self, ids, mask):
        x = self.embedding(ids)
        query, key, value = self.attention(x).chunk(3, dim=-1)
        scores = query @ key.transpose(1, 2) / 4 + (1 - mask[:, None].float()) * torch.finfo(torch.float32).min
        x = self.norm(x + scores.softmax(-1) @ value)
        return self.out(nn.functional.gelu(self.hidden(x))) + 1e-12


@pytest.mark.parametrize("target", [ct.target.iOS16, ct.target.iOS18])
def test_a_traced_module_becomes_what_coremltools_makes_of_it(target, tmp_path):
    torch.manual_seed(0)
    inputs = (torch.randint(0, 50, (1, 8)), torch.ones(1, 8, dtype=torch.long))
    traced = torch.jit.trace(Layer().eval(), inputs)
    described = [ct.TensorType(name=name, shape=(1, 8), dtype=np.int32) for name in ("ids", "mask")]
    options = {"inputs": described, "minimum_deployment_target": target}
    ours = convert(traced, stock_pass_pipeline("float16"), **options)
    theirs = convert(traced, ct.PassPipeline.DEFAULT, **options)
    assert files_of(ours, tmp_path) == files_of(theirs, tmp_path)


def test_the_test_would_see_a_wrong_answer(tmp_path):
    """A weight beyond float16's range keeps its product in float32: not so if the check saw nothing."""
    model = convert(program_of(WEIGHTS["beyond, negative"]), stock_pass_pipeline("float16"))
    function = model.get_spec().mlProgram.functions["main"]
    types_ = [operation.type for operation in function.block_specializations[function.opset].operations]
    assert types_.count("cast") > 0
    plain = convert(program_of(WEIGHTS["ordinary"]), stock_pass_pipeline("float16"))
    assert files_of(model, tmp_path) != files_of(plain, tmp_path)


def test_pieces_of_a_long_weight_are_all_looked_at():
    weight = np.zeros(3_000_000, np.float32)
    weight[0] = np.nan  # no shortcut
    assert not exceeds_float16(weight)
    weight[-1] = 70000
    assert exceeds_float16(weight)


def test_an_empty_constant_does_not_exceed():
    assert not exceeds_float16(np.zeros((0, 4), np.float32))


@pytest.mark.parametrize("first", [0.0, np.nan])
def test_the_check_takes_little_memory(first):
    weight = np.zeros((2000, 1000, 1, 1), np.float32)
    weight[0, 0] = first

    def peak(check):
        tracemalloc.start()
        try:
            assert not check()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    ours = peak(lambda: exceeds_float16(weight))
    assert ours <= 8 * 2**20
    program = mb.program(
        input_specs=[mb.TensorSpec(shape=(1, 1000, 1, 1), dtype=types.fp32)], opset_version=ct.target.iOS16
    )(lambda x: mb.conv(x=x, weight=weight))
    (conv,) = program.functions["main"].find_ops(op_type="conv")
    assert peak(lambda: add_fp16_cast.fp16_overflow(conv)) > 10 * ours
