"""Plans of decoders, against sizes computed by hand and against converted programs."""

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from optimum_ane.analysis.decoder_shape import LayerCache, read_decoder
from optimum_ane.analysis.decoder_steps import StoredWeight, as_float16, chunk_bytes, cut
from optimum_ane.analysis.devices import get_device
from optimum_ane.analysis.generation import generation_speed
from optimum_ane.analysis.plan import PlanRequest, make_plan
from optimum_ane.errors import ShapeError, UnsupportedModelError
from optimum_ane.package.form import AS_LIMITS_ALLOW

SMOLLM2 = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49_152, "max_position_embeddings": 8192, "tie_word_embeddings": True,
}  # fmt: skip
TINY = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 32,
    "num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 128,
}  # fmt: skip
TINY_LAYER = 64 * 128 + 2 * 64 * 64 + 128 * 64 + 3 * 64 * 96 + 2 * 64
"""Elements: queries, keys and values, the way out, the feed-forward network, two norms."""


def decoder(model_type="llama", **sizes):
    return read_decoder(AutoConfig.for_model(model_type, **sizes))


@pytest.fixture(scope="module")
def smollm2():
    return decoder(**SMOLLM2)


def request_for(device="iPhone 15 Pro", context=1024, **more):
    return PlanRequest(get_device(device), context, **more)


def plan_of(shape, *options, compress=as_float16, **more):
    return make_plan(shape, request_for(*options, **more), "float16", compress)


@pytest.mark.parametrize("tied", [True, False])
def test_the_shape_is_that_of_the_model(tied):
    shape = decoder(**TINY, tie_word_embeddings=tied)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **TINY, tie_word_embeddings=tied))
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (shape.layers, shape.is_tied, shape.query_heads, shape.width) == (3, tied, 4, 64)
    assert shape.caches == (LayerCache(2, 32, 32),) * 3
    assert shape.state_bytes(50) == 2 * 3 * 2 * 50 * 32 * 2
    assert sum(weight.elements for weight in shape.of_layer(1)) == TINY_LAYER
    (table,) = [weight for weight in shape.weights if "gather" in weight.op_types]
    assert table.op_types == (("gather", "conv") if tied else ("gather",))


def test_transposed_weights_and_learned_positions_are_as_the_program_holds_them():
    shape = decoder("gpt2", n_embd=64, n_head=2, n_layer=2, n_positions=40, vocab_size=100)
    by_name = {weight.name: weight for weight in shape.weights}
    assert by_name["transformer.h.0.attn.c_attn.weight"].shape == (192, 64)
    assert by_name["transformer.wpe.weight"].op_types == ("gather",)
    assert (shape.rotary_width, shape.positions) == (0, 40)


def test_experts_count_whole():
    sizes = TINY | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    shape = decoder("qwen3_moe", **sizes)
    experts = sum(weight.elements for weight in shape.of_layer(0) if "experts" in weight.name)
    assert experts == 4 * 3 * 64 * 32


@pytest.mark.parametrize(
    ("model_type", "sizes", "says"),
    [
        ("bert", {}, "keeps no keys and values"),
        ("t5", {}, "t5 is no causal language model"),
        ("qwen3_5_text", {"num_hidden_layers": 4, "hidden_size": 64}, "something else than keys and values"),
    ],
)
def test_what_has_no_cache_of_keys_and_values_has_no_plan(model_type, sizes, says):
    with pytest.raises(UnsupportedModelError, match=says):
        decoder(model_type, **sizes)


def test_smollm2_takes_two_bytes_a_parameter(smollm2):
    assert smollm2.parameters == 134_515_008
    plan = plan_of(smollm2, chunks=1)
    assert plan.disk_bytes == pytest.approx(2 * 134_515_008, rel=0.01)
    assert plan.disk_bytes - 2 * 134_515_008 == 1024 * 2 * 64 * 2  # cosines and sines
    assert plan.memory.state == 2 * 30 * 3 * 1024 * 64 * 2
    # A prefill has the table, 29 layers, and keys and values of the last.
    layer = 576 * (2 * 576 + 2 * 192 + 3 * 1536 + 2)
    assert plan.memory.prefill == 2 * (49_152 * 576 + 29 * layer + 2 * 192 * 576) + 1024 * 2 * 64 * 2


def test_programs_hold_fifteen_layers_at_most_and_a_tied_table_twice(smollm2):
    assert [(chunk.first, chunk.last) for chunk in plan_of(smollm2).chunks] == [(0, 30)]
    plan = plan_of(smollm2, chunks=AS_LIMITS_ALLOW)
    assert [(chunk.first, chunk.last) for chunk in plan.chunks] == [(0, 15), (15, 30)]
    table, angles = 2 * 49_152 * 576, 1024 * 2 * 64 * 2
    assert plan.disk_bytes == 2 * smollm2.parameters + table + 2 * angles
    assert any("stands twice" in reason for reason in plan.reasons)
    assert any("A program has 30 layers." in reason for reason in plan_of(smollm2, chunks=1).reasons)


def test_programs_are_cut_where_they_would_grow_too_large():
    shape = decoder(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
                    num_key_value_heads=8, vocab_size=128_256, tie_word_embeddings=True)  # fmt: skip
    chunks = cut(shape)
    sizes = [chunk_bytes(shape, chunk, 512, as_float16) for chunk in chunks]
    assert len(chunks) == 4
    assert max(sizes) <= 950e6
    # A layer takes 121.6 MB, and the first and the last program have the table of 525 MB besides.
    assert [chunk.last - chunk.first for chunk in chunks] == [2, 6, 6, 2]
    assert [chunk.last - chunk.first for chunk in cut(shape, 3)] == [4, 8, 4]


@pytest.mark.parametrize(("layers", "verdict"), [(4, "fits"), (8, "fits with the entitlement"), (24, "does not fit")])
def test_the_verdict_follows_from_what_an_app_may_take(layers, verdict):
    shape = decoder(hidden_size=2048, intermediate_size=8192, num_hidden_layers=layers, num_attention_heads=32,
                    num_key_value_heads=8, vocab_size=32_000, tie_word_embeddings=True)  # fmt: skip
    # 4 layers: 1.1 GB in two functions; of 3.12 GB, four fifths are the model's. 8: 2.2. 24: 6.1 of 4.2 GB.
    plan = plan_of(shape, "iPhone 13 Pro", 16_384 if layers == 8 else 1024)
    assert plan.verdict == verdict


def test_what_stands_against_an_export_or_costs_speed_is_said():
    shape = decoder("gemma4_text", num_hidden_layers=6, hidden_size=64, intermediate_size=64, vocab_size=70_000,
                    vocab_size_per_layer_input=100, hidden_size_per_layer_input=16)  # fmt: skip
    plan = plan_of(shape)
    assert any("several shapes" in reason for reason in plan.reasons)
    # As many rows of the largest shape, keys and values in float16.
    shapes = [(cache.heads, max(cache.key_width, cache.value_width)) for cache in shape.caches]
    assert len(set(shapes)) > 1
    assert shape.state_bytes(10) == len(shapes) * 2 * 2 * 10 * max(h for h, _ in shapes) * max(w for _, w in shapes)
    assert any("70000 tokens" in reason for reason in plan.reasons)
    narrow = plan_of(decoder(**TINY | {"head_dim": 80}), context=512)
    assert any("Keys have 80 features" in reason for reason in narrow.reasons)
    assert any("longer than the 128 positions" in reason for reason in narrow.reasons)


def test_integers_are_unfolded_on_old_chips(smollm2):
    def int8(weight):
        return StoredWeight(weight.elements, "int8")

    old, new = (plan_of(smollm2, device, compress=int8) for device in ("iPhone 12", "iPhone 13"))
    assert old.disk_bytes == new.disk_bytes
    assert old.memory.infer == pytest.approx(2 * new.memory.infer, rel=0.01)
    assert any("A14 takes such weights in float16 only" in reason for reason in old.reasons)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"context": 0}, "--context-length is 0|context_length is 0"),
        ({"prompt_length": 1024}, "1024 leaves no row of .*1024"),
        ({"chunks": 31}, "is 31; the model has 30 layers"),
    ],
)
def test_numbers_that_cannot_be_are_refused(smollm2, options, says):
    with pytest.raises(ShapeError, match=says):
        make_plan(smollm2, request_for(**options), "float16", as_float16)


def test_a_prompt_is_read_in_blocks_and_its_last_token_alone():
    speed = generation_speed(10.0, 130, 30.0, 64)
    assert (speed.prefill_calls, speed.first_token_ms.typical) == (3, 100.0)
    assert generation_speed(10.0, 129, 30.0, 64).prefill_calls == 2
    assert generation_speed(10.0, 1, 30.0, 64).first_token_ms.typical == 10.0
    assert generation_speed(10.0, 5).first_token_ms.typical == 50.0
    rate = speed.tokens_per_second
    assert rate.low < rate.typical == 100.0 < rate.high
