"""Sentence embeddings against the formula of sentence-transformers."""

import pytest
import torch
from tiny_models import make_inputs, make_original, psnr

from optimum_ane import convert_to_ane
from optimum_ane.nn import SentencePooling, first_position, first_token, mean_over_tokens, to_bc1s


def sentence_transformers(hidden, mask, mode, normalize):
    """`Pooling` and `Normalize` of sentence-transformers, on hidden states (B, S, C)."""
    if mode == "cls":
        pooled = hidden[:, 0]
    elif mode == "lasttoken":
        pooled = torch.stack([row[own.nonzero().max()] for row, own in zip(hidden, mask, strict=True)])
    else:
        expanded = mask.unsqueeze(-1).expand(hidden.size()).float()
        pooled = torch.sum(hidden * expanded, 1) / torch.clamp(expanded.sum(1), min=1e-9)
    return torch.nn.functional.normalize(pooled, p=2, dim=1) if normalize else pooled


FORMS = [(mode, normalize) for mode in ("mean", "cls", "lasttoken") for normalize in (False, True)]


@pytest.mark.parametrize(("mode", "normalize"), FORMS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_tiny_model_gives_the_sentence_embeddings_of_the_formula(mode, normalize, side):
    original = make_original("bert", "feature-extraction")
    inputs = make_inputs(original, side=side)
    module = convert_to_ane(original)
    module.sentence_pooling = SentencePooling(mode, normalize)
    ours = module(**inputs)
    assert ours.shape == (4, 48)
    if side == "left" and mode == "cls":  # the first position is padding, whose hidden state is nobody's business
        ours, inputs = ours[:1], {name: value[:1] for name, value in inputs.items()}
    hidden = original(**inputs).last_hidden_state
    assert psnr(sentence_transformers(hidden, inputs["attention_mask"], mode, normalize), ours) >= 90


@pytest.mark.parametrize(("mode", "normalize"), FORMS)
@pytest.mark.parametrize("size", [1e-3, 1.0, 300.0, 30000.0])
def test_small_and_large_hidden_states(mode, normalize, size):
    torch.manual_seed(0)
    hidden = torch.randn(3, 5, 8).clamp(-2, 2) * size
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    ours = SentencePooling(mode, normalize)(to_bc1s(hidden), mask)
    assert psnr(sentence_transformers(hidden, mask, mode, normalize), ours) >= 110


@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken"])
def test_the_norm_does_not_overflow_float16(mode):
    """The square of anything above 256 would."""
    torch.manual_seed(0)
    hidden = torch.randn(2, 5, 64) * 5000
    mask = torch.ones(2, 5, dtype=torch.long)
    ours = SentencePooling(mode, True)(to_bc1s(hidden).half(), mask)
    expected = sentence_transformers(hidden, mask, mode, True)
    assert ours.isfinite().all()
    torch.testing.assert_close(ours.float(), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_row_that_is_all_padding_pools_to_zero(normalize, dtype):
    hidden = torch.randn(2, 5, 8).to(dtype)
    mask = torch.tensor([[0, 0, 0, 0, 0], [1, 1, 0, 0, 0]])
    pooled = SentencePooling("mean", normalize)(to_bc1s(hidden), mask)
    assert torch.equal(pooled[0], torch.zeros(8, dtype=dtype))
    assert pooled[1].abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_hidden_state_of_zeros_normalises_to_zeros(dtype):
    pooled = SentencePooling("cls", True)(torch.zeros(1, 8, 1, 3, dtype=dtype), torch.ones(1, 3))
    assert torch.equal(pooled, torch.zeros(1, 8, dtype=dtype))


def test_padding_has_no_part_in_the_mean():
    hidden = torch.randn(1, 5, 8)
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    before = SentencePooling("mean", True)(to_bc1s(hidden), mask)
    hidden[:, 3:] = 1e6
    assert torch.equal(SentencePooling("mean", True)(to_bc1s(hidden), mask), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("length", [1, 5, 3000])
def test_the_first_token_is_found_wherever_padding_stands(dtype, length):
    """Counted past 2048, where float16 no longer counts by ones."""
    hidden = torch.randn(6, length, 8).to(dtype)
    mask = torch.ones(6, length, dtype=torch.int32)
    mask[1, : length // 2] = 0  # on the left
    mask[2, length // 2 + 1 :] = 0  # on the right
    mask[3, : length - 1] = 0
    mask[4, ::2] = 0
    mask[5, : length // 3] = 0
    mask[5, length // 2 + 1 :: 3] = 0
    pooled = first_token(to_bc1s(hidden), mask)
    assert pooled.shape == (6, 8, 1, 1)
    for row in range(6):
        places = mask[row].nonzero()
        expected = hidden[row, places[0, 0]] if len(places) else torch.zeros(8, dtype=dtype)
        assert torch.equal(pooled[row, :, 0, 0], expected)


def test_ways_to_pool_differ_where_the_first_position_is_padding():
    hidden = to_bc1s(torch.arange(10.0).view(1, 5, 2))
    mask = torch.tensor([[0, 1, 1, 0, 0]])
    pooled = [pool(hidden, mask).flatten().tolist() for pool in (first_position, first_token, mean_over_tokens)]
    assert pooled == [[0.0, 1.0], [2.0, 3.0], [3.0, 4.0]]
