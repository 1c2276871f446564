"""Rotary positions against transformers' own, and against the rotation of complex numbers."""

import pytest
import torch
from transformers import ModernBertConfig
from transformers.models.modernbert.modeling_modernbert import ModernBertRotaryEmbedding, apply_rotary_pos_emb

from optimum_ane.nn import apply_rotary, from_bc1s, rotary_tables, to_bc1s


def rotated(x, heads, base):
    tables = rotary_tables(x.shape[1], heads, x.shape[2] // heads, base)
    return from_bc1s(apply_rotary(to_bc1s(x), tables, heads))


@pytest.mark.parametrize("heads", [1, 3, 12])
@pytest.mark.parametrize("base", [10_000.0, 160_000.0])
@pytest.mark.parametrize("length", [1, 7, 200])
def test_queries_are_rotated_as_transformers_rotates_them(heads, base, length):
    torch.manual_seed(0)
    x = torch.randn(2, length, 24)
    config = ModernBertConfig(
        hidden_size=24, num_attention_heads=heads, num_hidden_layers=1, global_rope_theta=base, vocab_size=60000
    )
    positions = torch.arange(length)[None]
    cosine, sine = ModernBertRotaryEmbedding(config)(x, positions, "full_attention")
    split = x.view(2, length, heads, 24 // heads).transpose(1, 2)
    expected, _ = apply_rotary_pos_emb(split, split, cosine, sine)
    torch.testing.assert_close(
        rotated(x, heads, base), expected.transpose(1, 2).reshape(2, length, 24), rtol=1e-5, atol=1e-5
    )


def test_pairs_of_channels_turn_as_complex_numbers():
    """By equation 34 of the paper, in float64 and in halves: channel i with channel i + D / 2."""
    torch.manual_seed(0)
    heads, width, length, base = 2, 6, 11, 50.0
    x = torch.randn(1, length, heads * width)
    numbers = x.double().view(length, heads, 2, width // 2)
    numbers = torch.complex(numbers[:, :, 0], numbers[:, :, 1])
    angles = torch.arange(length)[:, None, None] * base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    turned = numbers * torch.polar(torch.ones_like(angles), angles)
    expected = torch.stack([turned.real, turned.imag], dim=2).reshape(1, length, heads * width)
    torch.testing.assert_close(rotated(x, heads, base).double(), expected, rtol=1e-5, atol=1e-5)


def test_scores_depend_on_the_distance_alone():
    torch.manual_seed(0)
    query, key = (torch.randn(1, 1, 8).expand(1, 20, 8) for _ in range(2))
    scores = rotated(query, 1, 100.0) @ rotated(key, 1, 100.0).transpose(1, 2)
    for distance in range(-19, 20):
        diagonal = scores[0].diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-4)
    assert scores[0, 0].std() > 0.1


def test_the_tables_are_values_whatever_device_a_module_is_made_on():
    with torch.device("meta"):
        layer = torch.nn.Linear(2, 2)
    assert layer.weight.is_meta
    cosine, sine = rotary_tables(3, 2, 4, 10_000.0)
    assert cosine.shape == sine.shape == (1, 8, 1, 3)
    assert not cosine.is_meta
    assert torch.equal(cosine[0, :, 0, 0], torch.ones(8))
    assert (sine[0, :2, 0, 1] < 0).all()
    assert torch.equal(sine[0, :4], sine[0, 4:])
