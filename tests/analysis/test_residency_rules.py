"""Each rule of the table has a program that it decides."""

import tempfile

import coremltools as ct
import numpy as np
import pytest
import torch
from analysis_programs import edited, program_of
from coremltools.converters.mil import Builder as mb  # noqa: N813

from optimum_ane.analysis.chips import get_chip
from optimum_ane.analysis.operations import read_program
from optimum_ane.analysis.residency import place
from optimum_ane.analysis.rules import residency_rules

X = "fp16 1 8 1 64"
ROWS = "fp16 1 64 8"
MAP = "fp16 1 8 16 16"
INTS = "int32 1 64"


def half(*shape):
    return np.ones(shape, np.float16)


def on(build, inputs=X, target=ct.target.iOS17, **more):
    """A program of the input `x`, and of others by name."""
    return lambda: program_of(build, target, x=inputs, **more)


def conv(x, weight=(4, 8, 1, 1), **options):
    return mb.conv(x=x, weight=half(*weight), **options)


def doubled(x):
    return mb.add(x=x, y=x)


def in_a_branch(x):
    return mb.cond(
        pred=mb.greater(x=mb.reduce_max(x=x, axes=[0, 1, 2, 3], keep_dims=False), y=np.float16(0)),
        _true_fn=lambda: mb.mul(x=x, y=np.float16(2)),
        _false_fn=lambda: mb.mul(x=x, y=np.float16(3)),
    )


def a_list(x):
    items = mb.make_list(init_length=2, elem_shape=(1, 8, 1, 64), dtype="fp16")
    return mb.list_read(ls=mb.list_write(ls=items, index=0, value=x), index=0)


def choice(x, y):
    return mb.select(cond=mb.greater(x=x, y=y), a=x, b=y)


def constant_choice(x):
    return mb.select(cond=np.ones((1, 8, 1, 64), np.bool_), a=x, b=np.float16(0))


def behind_work(build):
    return lambda x, **others: build(mb.relu(x=x), **others)


def cache_write(x):
    return mb.slice_update(x=x, update=half(1, 8, 1, 2), begin=[0, 0, 0, 0], end=[1, 8, 1, 2])


def cached(x, cache):
    before = mb.read_state(input=cache)
    return mb.coreml_update_state(state=cache, value=mb.add(x=before, y=x))


def cache_of_many(x, **caches):
    return [write_into(cache, x) for cache in caches.values()]


def write_into(cache, x):
    after = mb.slice_update(x=mb.read_state(input=cache), update=x, begin=[0, 0, 0, 0], end=[1, 8, 1, 64])
    return mb.coreml_update_state(state=cache, value=after)


def written_again(x, **caches):
    return [*cache_of_many(x, **caches), write_into(next(iter(caches.values())), x)]


def stateful(count, build=cache_of_many):
    """A program that writes into so many states."""
    states = {f"cache_{index}": "fp16 1 8 1 128" for index in range(count)}
    return lambda: program_of(build, ct.target.iOS18, states, x=X)


def wide(x):
    return mb.relu(x=x)


def from_data(x):
    size = mb.reduce_max(x=mb.cast(x=x, dtype="int32"), axes=[0, 1, 2, 3], keep_dims=False)
    return mb.relu(x=mb.reshape(x=mb.relu(x=x), shape=mb.stack(values=(size, np.int32(-1)), axis=0)))


def of_type(name):
    def edit(operation):
        operation.type = name

    return edit


def of_rank_6(operation):
    declared = operation.outputs[0].type.tensorType
    declared.rank += 1
    declared.dimensions.add().constant.size = 1


def traced(module, shape, **options):
    """A converted module: only that states which shapes it takes, or returns a label."""

    def make():
        script = torch.jit.trace(module, torch.ones(1, 8, 1, 64))
        inputs = [ct.TensorType("x", shape, dtype=np.float16)]
        target = ct.target.iOS16
        model = ct.convert(script, inputs=inputs, minimum_deployment_target=target, skip_model_load=True, **options)
        with tempfile.TemporaryDirectory() as directory:
            model.save(f"{directory}/a.mlpackage")
            return read_program(f"{directory}/a.mlpackage")

    return make


# By rule: a program with an operation that it decides, and the chip where one is needed.
PROGRAMS = {
    "control-flow": on(in_a_branch),
    "inside-control-flow": on(in_a_branch),
    "list-operations": on(a_list),
    "no-tensor": traced(torch.nn.Flatten(), (1, 8, 1, 64), classifier_config=ct.ClassifierConfig(list(range(512)))),
    "shape-of-a-tensor": on(lambda x: mb.shape(x=x)),
    "made-of-numbers": on(lambda x: mb.fill(shape=mb.shape(x=x), value=np.float16(1))),
    "random-numbers": on(lambda x: mb.add(x=x, y=mb.random_normal(shape=[64])), "fp32 64"),
    "gather-at-start": on(lambda x: mb.gather(x=half(9, 8), indices=x, axis=0), INTS),
    "gather": on(behind_work(lambda x: mb.gather(x=x, indices=[1, 2], axis=1))),
    "gather-by-coordinates": on(lambda x: mb.gather_nd(x=x, indices=[[0, 1]])),
    "scatter": on(lambda x: mb.scatter_nd(data=x, indices=[[0, 1]], updates=half(1, 1, 64))),
    "topk": on(lambda x: mb.topk(x=x, k=5, axis=3)),
    "sort": on(lambda x: mb.argsort(x=x, axis=3)),
    "argmax": on(lambda x: mb.reduce_argmax(x=x, axis=3)),
    "cumsum": on(lambda x: mb.cumsum(x=x, axis=3)),
    "recurrent": on(
        lambda x: mb.rnn(x=x, initial_h=half(1, 4), weight_ih=half(4, 8), weight_hh=half(4, 4)), "fp16 6 1 8"
    ),
    "triangular-mask": on(lambda x: mb.band_part(x=x, lower=-1, upper=0), "fp16 1 1 64 64"),
    "logic": on(lambda x: mb.logical_and(x=x, y=x), "bool 1 64"),
    "rare-functions": on(lambda x: mb.tan(x=x)),
    "custom-layer": lambda: edited(wide, of_type("custom_layer"), x=X),
    "slice-at-a-computed-place": on(lambda x, at: mb.slice_by_size(x=x, begin=at, size=[1, 8, 1, 4]), X, at="int32 4"),
    "shape-from-a-computed-value": on(lambda x, to: mb.reshape(x=x, shape=to), X, to="int32 2"),
    "write-into-many-states": stateful(3, written_again),
    "write-into-a-state": stateful(3),
    "write-at-a-place": on(cache_write, X, ct.target.iOS18),
    "choice-of-integers-at-start": on(choice, INTS, y=INTS),
    "mask-by-choice": on(choice, X, y=X),
    "cast-of-integers-at-start": on(lambda x: mb.cast(x=x, dtype="fp16"), INTS),
    "cast-of-integers": on(behind_work(lambda x: mb.cast(x=x, dtype="int32"))),
    "cast-of-truth-values": on(lambda x: mb.cast(x=x, dtype="bool")),
    "cast-of-float32": on(lambda x: mb.cast(x=x, dtype="fp32")),
    "softmax-in-float32": on(lambda x: mb.softmax(x=x, axis=1), "fp32 1 8 1 64"),
    "float32": on(doubled, "fp32 1 8 1 64"),
    "integers-at-start": on(doubled, INTS),
    "integers": on(behind_work(lambda x: doubled(mb.cast(x=x, dtype="int32")))),
    "comparison": on(lambda x: mb.greater(x=x, y=np.float16(0))),
    "choice-by-a-constant": on(constant_choice),
    "truth-values": on(lambda x: mb.expand_dims(x=mb.greater(x=x, y=np.float16(0)), axes=[0])),
    "rank-above-5": lambda: edited(wide, of_rank_6, x="fp16 1 2 2 2 4"),
    "shape-in-a-range": traced(torch.nn.ReLU(), ct.Shape((1, 8, 1, ct.RangeDim(16, 64, 64)))),
    "enumerated-shape": traced(
        torch.nn.ReLU(), ct.EnumeratedShapes([(1, 8, 1, 16), (1, 8, 1, 64)], default=(1, 8, 1, 64))
    ),
    "shape-from-data": on(from_data),
    "axis-above-16384": (on(wide, "fp16 1 30522 1 1"), "A15"),
    "axis-above-65536": on(wide, "fp16 1 262144 1 1"),
    "axis-above-16384-on-some": on(wide, "fp16 1 30522 1 1"),
    "conv-with-computed-weights-in-a-batch": on(
        lambda x, w: mb.conv(x=x, weight=w), "fp16 2 8 1 64", w="fp16 4 8 1 1"
    ),
    "conv-with-computed-weights": on(lambda x, w: mb.conv(x=x, weight=w), X, w="fp16 4 8 1 1"),
    "conv-3d": on(lambda x: conv(x, (4, 8, 1, 1, 1)), "fp16 1 8 4 4 4"),
    "conv-1d": on(lambda x: conv(x, (4, 8, 3)), "fp16 1 8 64"),
    "conv-transposed": on(lambda x: mb.conv_transpose(x=x, weight=half(8, 4, 2, 2)), MAP),
    "conv-dilated": on(lambda x: conv(x, (4, 8, 3, 3), dilations=[2, 2]), MAP),
    "conv-stride": on(lambda x: conv(x, (4, 8, 5, 5), strides=[5, 5]), MAP),
    "conv-mixed-stride": on(lambda x: conv(x, (4, 8, 2, 2), strides=[1, 2]), MAP),
    "conv-depthwise-wide": on(lambda x: conv(x, (1024, 1, 1, 3), groups=1024), "fp16 1 1024 1 64"),
    "conv-wide-kernel": on(lambda x: conv(x, (4, 8, 1, 16))),
    "conv": on(conv),
    "linear": on(lambda x: mb.linear(x=x, weight=half(4, 8)), ROWS),
    "matmul-with-weights": on(lambda x: mb.matmul(x=x, y=half(8, 4)), ROWS),
    "matmul-over-a-state": lambda: program_of(
        lambda x, cache: mb.matmul(x=x, y=cached(x, cache), transpose_y=True), ct.target.iOS18, {"cache": X}, x=X
    ),
    "matmul-of-heads": on(lambda x: mb.matmul(x=x, y=x, transpose_y=True), "fp16 1 2 64 8"),
    "matmul": on(lambda x: mb.matmul(x=x, y=x, transpose_y=True), ROWS),
    "einsum-of-other-rank": on(
        lambda x, y: mb.einsum(values=(x, y), equation="chw,whu->chu"), "fp16 8 4 16", y="fp16 16 4 8"
    ),
    "einsum": on(lambda x, y: mb.einsum(values=(x, y), equation="bkhc,bchq->bkhq"), "fp16 1 64 1 8", y=X),
    "fused-attention": on(
        lambda x: mb.scaled_dot_product_attention(query=x, key=x, value=x), "fp16 1 2 64 8", ct.target.iOS18
    ),
    "softmax": on(lambda x: mb.softmax(x=x, axis=1)),
    "layer-norm-of-other-rank": on(lambda x: mb.layer_norm(x=x, axes=[-1]), ROWS),
    "layer-norm": on(lambda x: mb.layer_norm(x=x, axes=[1])),
    "batch-norm": on(lambda x: mb.batch_norm(x=x, mean=half(8), variance=half(8))),
    "other-norms": on(lambda x: mb.instance_norm(x=x), MAP),
    "pooling-stride": on(lambda x: mb.max_pool(x=x, kernel_sizes=[3, 3], strides=[3, 3], pad_type="valid"), MAP),
    "pooling-window": on(lambda x: mb.max_pool(x=x, kernel_sizes=[14, 14], strides=[2, 2], pad_type="valid"), MAP),
    "pooling": on(lambda x: mb.max_pool(x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid"), MAP),
    "reductions": on(lambda x: mb.reduce_mean(x=x, axes=[3])),
    "rare-reductions": on(lambda x: mb.reduce_l2_norm(x=x, axes=[3])),
    "activations": on(lambda x: mb.gelu(x=x)),
    "arithmetic": on(doubled),
    "rounding": on(lambda x: mb.floor(x=x)),
    "sine-on-new-chips": (on(lambda x: mb.sin(x=x)), "M3"),
    "sine": (on(lambda x: mb.sin(x=x)), "M2"),
    "resize-on-new-chips": (on(lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2), MAP), "A15"),
    "resize": (on(lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2), MAP), "M1"),
    "sampling-on-old-chips": (on(lambda x: mb.crop_resize(x=x, boxes=half(1, 4)), MAP), "A14"),
    "sampling": on(lambda x: mb.crop_resize(x=x, boxes=half(1, 4)), MAP),
    "channels-and-space": on(lambda x: mb.space_to_depth(x=x, block_size=2), MAP),
    "batch-and-space": on(lambda x: mb.reverse(x=x, axes=[3])),
    "static-slice": on(lambda x: mb.slice_by_size(x=x, begin=[0, 0, 0, 0], size=[1, 8, 1, 1])),
    "joining": on(lambda x: mb.concat(values=(x, x), axis=1)),
    "reshaping": on(lambda x: mb.expand_dims(x=x, axes=[0])),
    "transpose": on(lambda x: mb.transpose(x=x, perm=[0, 3, 2, 1])),
    "repeating-by-odd-factors": on(lambda x: mb.tile(x=x, reps=[1, 5, 1, 1])),
    "repeating": on(lambda x: mb.tile(x=x, reps=[1, 2, 1, 1])),
    "padding-by-content": on(lambda x: mb.pad(x=x, pad=[1, 1], mode="replicate")),
    "padding-at-start": on(lambda x: mb.pad(x=x, pad=[1, 1])),
    "padding": on(behind_work(lambda x: mb.pad(x=x, pad=[1, 1]))),
    "states-above-two": stateful(3, written_again),
    "states": lambda: program_of(cached, ct.target.iOS18, {"cache": X}, x=X),
    "quantised-activations": on(lambda x: mb.quantize(input=x, scale=np.float16(0.1), output_dtype="int8")),
    "cast-of-nothing": on(lambda x: mb.cast(x=x, dtype="fp16")),
    "nothing-known": lambda: edited(wide, of_type("novel_operation"), x=X),
}


def test_every_rule_has_a_program_and_every_program_a_rule():
    assert PROGRAMS.keys() == {rule.id for rule in residency_rules()}


@pytest.mark.parametrize("rule", PROGRAMS)
def test_the_rule_decides_an_operation_of_its_program(rule):
    made = PROGRAMS[rule]
    make, chip = made if isinstance(made, tuple) else (made, None)
    placements = place(make(), None if chip is None else get_chip(chip))
    assert rule in [placement.rule.id for placement in placements]


def test_a_write_stays_on_the_engine_only_between_a_state_and_itself():
    def verdicts(program):
        return {p.operation.name: (p.operation.type, p.verdict) for p in place(program)}

    def half_way(x, cache):
        """Read from a state, but what is written goes out and not back."""
        return mb.slice_update(x=mb.read_state(input=cache), update=x, begin=[0, 0, 0, 0], end=[1, 8, 1, 64])

    def twice(x, cache):
        once = mb.slice_update(x=mb.read_state(input=cache), update=x, begin=[0, 0, 0, 0], end=[1, 8, 1, 64])
        again = mb.slice_update(x=once, update=x, begin=[0, 0, 0, 64], end=[1, 8, 1, 128])
        return mb.coreml_update_state(state=cache, value=again)

    def of(build):
        return program_of(build, ct.target.iOS18, {"cache": "fp16 1 8 1 128"}, x=X)

    assert [v for kind, v in verdicts(of(half_way)).values() if kind == "slice_update"] == ["fallback"]
    assert [v for kind, v in verdicts(of(twice)).values() if kind == "slice_update"] == ["ane", "ane"]
