"""Products of computed values in the engine's layout: attention of all shapes."""

import pytest
import torch
from layout_programs import check, random, rewrite, seeded
from torch import nn


class Attention(nn.Module):
    """Self-attention as transformers writes it, with keys that heads may share."""

    def __init__(self, width=12, heads=3, key_heads=None, fused=False, packed=False):
        super().__init__()
        self.heads, self.key_heads, self.head = heads, key_heads or heads, width // heads
        self.fused, self.packed = fused, packed
        if packed:
            self.qkv = nn.Linear(width, 3 * width)
        else:
            self.query = nn.Linear(width, width)
            self.key = nn.Linear(width, self.key_heads * self.head)
            self.value = nn.Linear(width, self.key_heads * self.head)
        self.out = nn.Linear(width, width)

    def forward(self, x, mask=None):
        batch, length, _ = x.shape
        if self.packed:
            split = self.qkv(x).reshape(batch, length, 3, self.heads, self.head).permute(2, 0, 3, 1, 4)
            query, key, value = split.unbind(0)
        else:
            query, key, value = (
                layer(x).view(batch, length, -1, self.head).transpose(1, 2)
                for layer in (self.query, self.key, self.value)
            )
        if self.key_heads != self.heads:
            shape = (batch, self.key_heads, self.heads // self.key_heads, length, self.head)
            key, value = (
                each[:, :, None].expand(shape).reshape(batch, self.heads, length, -1) for each in (key, value)
            )
        if self.fused:
            mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        else:
            scores = query @ key.transpose(2, 3) * self.head**-0.5
            mixed = (scores if mask is None else scores + mask).softmax(-1) @ value
        return self.out(mixed.transpose(1, 2).reshape(batch, length, -1))


def padding(*kept, length=5):
    """An additive mask (B, 1, 1, K) that keeps so many of the keys of each row."""
    return torch.stack([torch.where(torch.arange(length) < n, 0.0, -1e4) for n in kept])[:, None, None]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("length", [1, 5])
def test_attention_is_computed_head_by_head(heads, length, fused):
    attention = seeded(lambda: Attention(heads=heads, fused=fused))
    rewritten = rewrite(attention, random(1, length, 12))
    check(rewritten, conv=4, einsum=2 * heads, softmax=heads, mul=0)
    # Into the layout, the keys, and out of it.
    assert rewritten.operations["transpose"] <= 3
    assert rewritten.operations["split"] == (3 if heads > 1 else 0)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_padding_mask(batch):
    mask = padding(*[3, 5][:batch])
    rewritten = rewrite(seeded(Attention), random(batch, 5, 12), mask)
    check(rewritten, einsum=6, softmax=3, add=3)


def test_a_mask_for_each_head():
    rewritten = rewrite(seeded(Attention), random(1, 5, 12), random(1, 3, 5, 5))
    check(rewritten, einsum=6, softmax=3, add=3)


def test_a_constant_bias_for_each_head():
    attention, bias = seeded(Attention), random(1, 3, 5, 5, seed=3)
    rewritten = rewrite(lambda x: attention(x, bias), random(1, 5, 12))
    check(rewritten, einsum=6, softmax=3, add=3)
    assert rewritten.operations["transpose"] <= 3


@pytest.mark.parametrize("fused", [False, True])
def test_keys_that_heads_share_are_transposed_once(fused):
    attention = seeded(lambda: Attention(heads=6, key_heads=2, fused=fused))
    rewritten = rewrite(attention, random(1, 5, 12))
    check(rewritten, conv=4, einsum=12, softmax=6, tile=0, mul=0)
    assert rewritten.operations["transpose"] <= 3


@pytest.mark.parametrize("batch", [1, 2])
def test_a_packed_projection(batch):
    rewritten = rewrite(seeded(lambda: Attention(packed=True)), random(batch, 5, 12))
    check(rewritten, conv=2, einsum=6, softmax=3)


def test_heads_in_the_batch():
    def function(x):
        heads = x.view(5, 3, 4).transpose(0, 1)
        return torch.bmm(torch.bmm(heads, heads.transpose(1, 2)).softmax(-1), heads).transpose(0, 1).reshape(1, 5, 12)

    layer = seeded(lambda: nn.Linear(12, 12))
    check(rewrite(lambda x: function(layer(x)), random(1, 5, 12)), softmax=3, einsum=6)


def test_windows_of_an_image():
    attention = seeded(Attention)

    def function(x):
        windows = x.view(1, 2, 2, 3, 2, 12).transpose(2, 3).reshape(6, 4, 12)
        return attention(windows).view(1, 2, 3, 2, 2, 12).transpose(2, 3).reshape(1, 4, 6, 12)

    check(rewrite(function, random(1, 4, 6, 12)), conv=4, einsum=6, softmax=3)


def test_products_that_sum_over_positions():
    def function(x, y):
        return x.transpose(1, 2) @ y

    check(rewrite(lambda x, y: function(x, y), random(1, 5, 6), random(1, 5, 4)), einsum=1)


@pytest.mark.parametrize("shapes", [((2, 3, 5, 4), (2, 3, 4, 6)), ((1, 3, 5, 4), (1, 1, 4, 6)), ((5, 4), (4, 6))])
def test_products_of_other_shapes(shapes):
    first, second = shapes
    check(rewrite(lambda x, y: x @ y, random(*first), random(*second)))


def test_a_softmax_over_the_queries():
    def function(x):
        heads = x.view(1, 5, 3, 4).transpose(1, 2)
        return (heads @ heads.transpose(2, 3)).softmax(2).transpose(2, 3) @ heads

    check(rewrite(function, random(1, 5, 12)), softmax=3, einsum=6)


def test_linear_attention():
    project = seeded(lambda: nn.Linear(12, 36))

    def function(x):
        query, key, value = project(x).view(1, 5, 3, 12).permute(2, 0, 1, 3).unbind(0)
        return query.softmax(-1) @ (key.softmax(1).transpose(1, 2) @ value)

    check(rewrite(function, random(1, 5, 12)), einsum=2)


def test_rotary_positions():
    angles = torch.outer(torch.arange(5.0), torch.tensor([1.0, 0.1]))
    cos, sin = (function(torch.cat((angles, angles), -1)) for function in (torch.cos, torch.sin))
    attention = seeded(Attention)

    def rotate(x):
        half = x.shape[-1] // 2
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin

    def function(x):
        query, key, value = (
            layer(x).view(1, 5, 3, 4).transpose(1, 2) for layer in (attention.query, attention.key, attention.value)
        )
        return ((rotate(query) @ rotate(key).transpose(2, 3)).softmax(-1) @ value).transpose(1, 2).reshape(1, 5, 12)

    # Of the queries, and of the keys: twice a table, a change of sign, the halves of all heads in their new order.
    check(rewrite(function, random(1, 5, 12)), einsum=6, softmax=3, mul=6, add=2, slice_by_index=0)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("mask", ["none", "added", "of flags", "for each head"])
def test_attention_as_one_operation(mask, batch):
    attention = seeded(lambda: Attention(fused=True))
    masks = {"added": padding(*[3, 5][:batch]), "of flags": padding(*[3, 5][:batch]) == 0}
    masks["for each head"] = random(batch, 3, 5, 5)
    if mask == "of flags":
        given = masks[mask].int()
        rewritten = rewrite(lambda x, m: attention(x, m > 0), random(batch, 5, 12), given, target="iOS18")
        check(rewritten, einsum=6, softmax=3, add=3)
        return
    inputs = [masks[mask]] if mask in masks else []
    rewritten = rewrite(attention, random(batch, 5, 12), *inputs, target="iOS18")
    check(rewritten, conv=4, einsum=6, softmax=3, add=3 if inputs else 0, mul=0)
    assert rewritten.operations["transpose"] <= 3 + len(inputs)


def test_attention_as_one_operation_of_one_token():
    check(rewrite(seeded(lambda: Attention(fused=True)), random(1, 1, 12), target="iOS18"), einsum=6)
