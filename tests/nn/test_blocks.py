"""Each building block against torch.nn."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import ACT2FN

import optimum_ane.nn.projection as projection_module
from optimum_ane.nn import (
    LayerNorm,
    PackedProjection,
    Projection,
    TextEmbeddings,
    VocabularyProjection,
    add_submodule,
    additive_mask,
    from_bc1s,
    get_activation,
    raise_epsilons_for_float16,
    skew,
    split_head_attention,
    to_bc1s,
    window_mask,
)
from optimum_ane.nn.activations import _ACTIVATIONS
from optimum_ane.nn.embeddings import position_ids_after_padding

close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def randomise(module):
    for parameter in module.parameters():
        parameter.copy_(torch.randn_like(parameter))
    return module


def test_the_layout_is_crossed_and_crossed_back():
    x = torch.randn(2, 5, 3)
    crossed = to_bc1s(x)
    assert crossed.shape == (2, 3, 1, 5)
    assert torch.equal(crossed[1, 2, 0], x[1, :, 2])
    assert torch.equal(from_bc1s(crossed), x)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("scale", [1.0, 0.25, -3.0])
def test_a_projection_loads_and_answers_as_a_linear_layer(has_bias, scale):
    linear = randomise(nn.Linear(6, 4, bias=has_bias))
    ours = Projection(6, 4, bias=has_bias, scale=scale)
    weights = linear.state_dict()
    ours.load_state_dict(weights, strict=True)
    x = torch.randn(2, 5, 6)
    close(from_bc1s(ours(to_bc1s(x))), linear(x) * scale)
    assert all(torch.equal(weights[name], value) for name, value in linear.state_dict().items())


def test_a_projection_without_a_scale_shares_its_weights():
    linear = nn.Linear(6, 4)
    ours = Projection(6, 4)
    ours.load_state_dict(linear.state_dict(), assign=True)
    assert ours.weight.data_ptr() == linear.weight.data_ptr()


@pytest.mark.parametrize(
    "weights", [{"weight": torch.ones(4, 6)}, {"weight": torch.ones(4, 5), "bias": torch.ones(4)}, {}]
)
def test_a_projection_refuses_weights_that_do_not_fit(weights):
    with pytest.raises(RuntimeError, match=r"weight|bias"):
        Projection(6, 4).load_state_dict(weights, strict=True)


def test_a_scaled_projection_survives_a_copy():
    ours = Projection(6, 4, scale=0.5)
    ours.load_state_dict(nn.Linear(6, 4).state_dict())
    x = torch.randn(1, 6, 1, 3)
    assert torch.equal(copy.deepcopy(ours)(x), ours(x))


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(("rows", "scales"), [((4, 4, 4), (0.25, 1.0, 1.0)), ((5, 2), None), ((3,), (-2.0,))])
def test_a_packed_projection_loads_and_answers_as_one_linear_layer(has_bias, rows, scales):
    linear = randomise(nn.Linear(6, sum(rows), bias=has_bias))
    names = ("query", "key", "value")[: len(rows)]
    factors = dict(zip(names, scales or [1.0] * len(rows), strict=True))
    ours = PackedProjection(6, dict(zip(names, rows, strict=True)), has_bias, factors if scales else {})
    weights = linear.state_dict()
    ours.load_state_dict(weights, strict=True)
    x = torch.randn(2, 5, 6)
    expected = linear(x).split(rows, dim=2)
    for part, theirs, scale in zip(ours(to_bc1s(x)), expected, factors.values(), strict=True):
        close(from_bc1s(part), theirs * scale)
    assert all(torch.equal(weights[name], value) for name, value in linear.state_dict().items())


def test_a_packed_projection_shares_the_weights_that_it_does_not_scale():
    linear = nn.Linear(6, 8)
    ours = PackedProjection(6, {"input": 4, "gate": 4}, scales={"input": 0.5})
    ours.load_state_dict(linear.state_dict(), assign=True)
    assert ours.gate.weight.untyped_storage().data_ptr() == linear.weight.untyped_storage().data_ptr()
    assert ours.input.weight.untyped_storage().data_ptr() != linear.weight.untyped_storage().data_ptr()


@pytest.mark.parametrize(
    ("weights", "named"),
    [
        ({"weight": torch.ones(9, 6), "bias": torch.ones(8)}, r"\bweight\b"),
        ({"weight": torch.ones(8, 5), "bias": torch.ones(8)}, "weight"),
        ({"weight": torch.ones(8, 6)}, "bias"),
        ({}, "weight"),
    ],
)
def test_a_packed_projection_refuses_weights_that_do_not_fit(weights, named):
    with pytest.raises(RuntimeError, match=named):
        PackedProjection(6, {"input": 4, "gate": 4}).load_state_dict(weights, strict=True)


def test_a_scale_for_no_part_is_refused():
    with pytest.raises(ValueError, match=r"\['output'\], and the parts are \['input', 'gate'\]"):
        PackedProjection(6, {"input": 4, "gate": 4}, scales={"output": 1.0})


@pytest.mark.parametrize("vocabulary", [7, 8, 9, 16, 17, 23, 24, 25])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_vocabulary_in_pieces_gives_the_same_logits(monkeypatch, vocabulary, has_bias):
    monkeypatch.setattr(projection_module, "MAX_AXIS", 8)
    linear = randomise(nn.Linear(6, vocabulary, bias=has_bias))
    ours = VocabularyProjection(6, vocabulary, has_bias)
    ours.load_state_dict(linear.state_dict(), strict=True)
    x = torch.randn(2, 5, 6)
    close(ours(to_bc1s(x)), linear(x))


@pytest.mark.parametrize("vocabulary", [16384, 16385, 30522, 50265, 128100, 250002])
def test_no_piece_of_a_vocabulary_is_above_what_every_engine_takes(monkeypatch, vocabulary):
    sizes = []
    convolve = F.conv2d

    def recorded(x, weight, bias):
        sizes.append((weight.shape[0], bias.shape[0]))
        return convolve(x, weight, bias)

    monkeypatch.setattr(projection_module.F, "conv2d", recorded)
    logits = VocabularyProjection.project(
        torch.randn(1, 2, 1, 3), torch.randn(vocabulary, 2, 1, 1), torch.randn(vocabulary)
    )
    assert logits.shape == (1, 3, vocabulary)
    assert sum(size for size, _ in sizes) == vocabulary
    assert all(size == bias <= 16384 for size, bias in sizes)
    assert len(sizes) == -(-vocabulary // 16384)


@pytest.mark.parametrize("eps", [1e-12, 1e-5, 0.5])
@pytest.mark.parametrize("spread", [1e-4, 1.0, 1e3])
@pytest.mark.parametrize("has_bias", [True, False])
def test_the_layer_norm_is_torchs(eps, spread, has_bias):
    theirs = randomise(nn.LayerNorm(12, eps=eps, bias=has_bias))
    ours = LayerNorm(12, eps, has_bias)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 5, 12) * spread + 3 * spread
    torch.testing.assert_close(from_bc1s(ours(to_bc1s(x))), theirs(x), rtol=1e-4, atol=1e-4)


def test_the_layer_norm_of_equal_channels_is_its_bias():
    ours = randomise(LayerNorm(12, 1e-12))
    close(ours(torch.full((1, 12, 1, 2), 5.0))[0, :, 0, 0], ours.bias)


def test_epsilons_that_float16_would_round_to_zero_are_raised_and_others_are_not():
    module = nn.Sequential(LayerNorm(2, 1e-12), nn.Sequential(LayerNorm(2, 1e-5)), nn.LayerNorm(2, eps=1e-12))
    raise_epsilons_for_float16(module)
    assert torch.tensor(module[0].eps).half() > 0
    assert module[0].eps < 1e-6
    assert module[1][0].eps == 1e-5


@pytest.mark.parametrize("heads", [1, 3, 12])
@pytest.mark.parametrize("keys", [1, 7, 9])
def test_attention_is_scaled_dot_product_attention(heads, keys):
    query, key, value = (torch.randn(2, n, 12) for n in (7, keys, keys))
    attention_mask = torch.randint(0, 2, (2, keys))
    attention_mask[:, 0] = 1

    def split(x):
        return x.view(2, x.shape[1], heads, 12 // heads).transpose(1, 2)

    expected = F.scaled_dot_product_attention(
        split(query), split(key), split(value), attn_mask=attention_mask.bool()[:, None, None]
    )
    scale = (12 // heads) ** -0.5
    ours = split_head_attention(
        to_bc1s(query) * scale, to_bc1s(key), to_bc1s(value), additive_mask(attention_mask), heads
    )
    close(from_bc1s(ours), expected.transpose(1, 2).reshape(2, 7, 12))


def test_attention_takes_a_mask_for_each_head_and_each_query():
    query, key, value = (torch.randn(2, 6, 8) for _ in range(3))
    bias = torch.randn(2, 4, 6, 6)  # row, head, query, key

    def split(x):
        return x.view(2, 6, 4, 2).transpose(1, 2)

    expected = F.scaled_dot_product_attention(split(query), split(key), split(value), attn_mask=bias)
    masks = [bias[:, head].transpose(1, 2).unsqueeze(2) for head in range(4)]
    ours = split_head_attention(to_bc1s(query) * 2**-0.5, to_bc1s(key), to_bc1s(value), masks, 4)
    close(from_bc1s(ours), expected.transpose(1, 2).reshape(2, 6, 8))


def test_attention_refuses_masks_of_another_number_than_heads():
    x = torch.randn(1, 8, 1, 3)
    with pytest.raises(ValueError, match="argument"):
        split_head_attention(x, x, x, [torch.zeros(1, 3, 1, 1)] * 3, 4)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.bool, torch.float32])
def test_the_mask_adds_nothing_to_tokens_and_enough_to_padding(dtype):
    mask = additive_mask(torch.tensor([[1, 1, 0]]).to(dtype) if dtype != torch.bool else torch.tensor([[1, 1, 0]]))
    assert mask.shape == (1, 3, 1, 1)
    assert mask.flatten().tolist() == [0.0, 0.0, -1e4]
    assert (2 * mask).half().isfinite().all()
    assert (mask + torch.randn(3, 1, 1)).half().softmax(1)[0, 2] == 0


@pytest.mark.parametrize(("length", "radius"), [(1, 0), (1, 3), (7, 0), (7, 2), (7, 6), (7, 9), (30, 4)])
def test_a_window_hides_the_keys_beyond_its_radius(length, radius):
    mask = window_mask(length, radius)
    assert mask.shape == (1, length, 1, length)
    for key in range(length):
        for query in range(length):
            assert mask[0, key, 0, query] == (0.0 if abs(key - query) <= radius else -1e4)


def test_a_window_and_padding_together_stay_in_float16():
    both = additive_mask(torch.tensor([[0, 1, 1, 0]])) + window_mask(4, 1)
    assert both.shape == (1, 4, 1, 4)
    assert both[0, :, 0, 1].tolist() == [-1e4, 0.0, 0.0, -2e4]
    assert both.half().isfinite().all()


def test_a_module_stands_under_the_name_of_the_checkpoint():
    root = nn.Module()
    for name in ("cls.predictions.transform.dense", "cls.predictions.decoder", "classifier"):
        add_submodule(root, name, nn.Linear(1, 1, bias=False))
    assert list(root.state_dict()) == [
        "cls.predictions.transform.dense.weight",
        "cls.predictions.decoder.weight",
        "classifier.weight",
    ]
    for taken in ("classifier", "cls.predictions", "cls.predictions.decoder"):
        with pytest.raises(KeyError, match=taken):
            add_submodule(root, taken, nn.Linear(1, 1))


@pytest.mark.parametrize(("length", "distances"), [(4, 6), (4, 8), (1, 2)])
def test_scores_of_another_number_of_distances_are_refused(length, distances):
    with pytest.raises(ValueError, match=f"{distances} distances are not those of {length} positions"):
        skew(torch.zeros(1, 1, length, distances))


@pytest.mark.parametrize("length", [1, 2, 3, 8])
def test_skewed_scores_are_the_gathered_ones(length):
    scores = torch.randn(2, 3, length, 2 * length - 1)
    query, key = torch.arange(length)[:, None], torch.arange(length)[None]
    index = (key - query + length - 1).expand(2, 3, length, length)
    assert torch.equal(skew(scores), scores.gather(3, index))


@pytest.mark.parametrize("name", sorted(_ACTIVATIONS))
def test_activations_are_those_of_transformers(name):
    x = torch.linspace(-6, 6, 101)
    torch.testing.assert_close(get_activation(name)(x), ACT2FN[name](x), rtol=1e-5, atol=1e-6)


def test_an_unknown_activation_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'gelu_10' is not supported; known: gelu, .*tanh"):
        get_activation("gelu_10")


def embedded(module, ids, positions, types=None):
    """What BERT's embeddings compute, with torch's own blocks."""
    x = F.embedding(ids, module.word_embeddings.weight) + F.embedding(positions, module.position_embeddings.weight)
    if types is not None:
        x = x + F.embedding(types, module.token_type_embeddings.weight)
    return F.layer_norm(x, (x.shape[-1],), module.LayerNorm.weight, module.LayerNorm.bias, module.LayerNorm.eps)


@pytest.mark.parametrize("length", [1, 6, 10])
def test_embeddings_of_words_positions_and_types(length):
    module = randomise(TextEmbeddings(20, 8, 10, 2, 1e-5))
    ids, types = torch.randint(0, 20, (3, length)), torch.randint(0, 2, (3, length))
    positions = torch.arange(length).expand(3, -1)
    close(from_bc1s(module(ids, types)), embedded(module, ids, positions, types))
    close(from_bc1s(module(ids)), embedded(module, ids, positions, torch.zeros_like(types)))


def test_embeddings_without_token_types_have_no_table_of_them():
    module = randomise(TextEmbeddings(20, 8, 10, 0, 1e-5))
    ids = torch.randint(0, 20, (3, 6))
    assert not any("token_type" in name for name in module.state_dict())
    close(from_bc1s(module(ids)), embedded(module, ids, torch.arange(6).expand(3, -1)))


def test_embeddings_whose_positions_are_counted_after_the_padding_id():
    module = randomise(TextEmbeddings(20, 8, 12, 1, 1e-5, padding_id=2))
    ids = torch.tensor([[2, 2, 5, 6], [5, 2, 6, 7], [5, 6, 7, 2], [2, 2, 2, 2]])
    positions = torch.tensor([[2, 2, 3, 4], [3, 2, 4, 5], [3, 4, 5, 2], [2, 2, 2, 2]])
    assert torch.equal(position_ids_after_padding(ids, 2), positions)
    assert torch.equal(position_ids_after_padding(ids.int(), 2).long(), positions)
    close(from_bc1s(module(ids)), embedded(module, ids, positions, torch.zeros_like(ids)))
