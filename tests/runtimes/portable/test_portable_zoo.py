"""Small modules as people write them, traced, converted by coremltools for several targets, and run, against eager
PyTorch.
"""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from portable_programs import save_module
from torch import nn

from optimum_ane.runtimes.portable import PortableSession

TARGETS = [ct.target.iOS15, ct.target.iOS16, ct.target.iOS17, ct.target.iOS18, ct.target.iOS26]
HEADS, WIDTH, LENGTH = 2, 8, 6


class ConvNet(nn.Module):
    """Convolutions plain, grouped, dilated and depthwise; batch norm; pooling with ceil and without the padding."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2), nn.BatchNorm2d(8), nn.SiLU())
        self.depthwise = nn.Conv2d(8, 8, (3, 5), stride=(1, 2), padding="valid", groups=8)
        self.head = nn.Linear(8 * 4, 5)
        for norm in (self.first[1], self.second[1]):
            norm.running_mean.uniform_(-0.5, 0.5)
            norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        x = F.max_pool2d(self.first(x), 3, 2, 1, ceil_mode=True)
        x = F.avg_pool2d(self.second(x), 2, 1, 1, count_include_pad=False)
        x = F.adaptive_avg_pool2d(F.hardswish(self.depthwise(x)), (2, 2))
        return self.head(x.flatten(1)).log_softmax(-1)


class Attention(nn.Module):
    """Self-attention in one of its spellings, causal."""

    def __init__(self, spelling):
        super().__init__()
        self.spelling = spelling
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.register_buffer("mask", torch.full((LENGTH, LENGTH), -1e4).triu(1))

    def forward(self, x):
        q, k, v = (
            part.view(2, LENGTH, HEADS, WIDTH // HEADS).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1)
        )
        scale = (WIDTH // HEADS) ** -0.5
        if self.spelling == "matmul":
            mixed = ((q @ k.transpose(-1, -2)) * scale + self.mask).softmax(-1) @ v
        elif self.spelling == "einsum":
            scores = torch.einsum("bhqd,bhkd->bhqk", q, k) * scale + self.mask
            mixed = torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), v)
        elif self.spelling == "baddbmm":
            flat = [part.reshape(2 * HEADS, LENGTH, WIDTH // HEADS) for part in (q, k, v)]
            scores = torch.baddbmm(self.mask, flat[0], flat[1].transpose(1, 2), beta=1.0, alpha=scale)
            mixed = torch.bmm(scores.softmax(-1), flat[2]).view(2, HEADS, LENGTH, -1)
        elif self.spelling == "masked":
            scores = (q @ k.transpose(-1, -2) * scale).masked_fill(self.mask < 0, float("-inf"))
            mixed = scores.softmax(-1) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        return self.out(mixed.transpose(1, 2).reshape(2, LENGTH, WIDTH))


class Rotary(nn.Module):
    """RMS norm, rotary position embeddings and a gated layer, as in Llama."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(WIDTH) + 0.5)
        self.gate, self.up, self.down = nn.Linear(WIDTH, 16), nn.Linear(WIDTH, 16), nn.Linear(16, WIDTH)
        angles = torch.outer(torch.arange(LENGTH), 100.0 ** -torch.linspace(0, 1, WIDTH // 2))
        self.register_buffer("cos", torch.cat([angles, angles], -1).cos())
        self.register_buffer("sin", torch.cat([angles, angles], -1).sin())

    def forward(self, x):
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight
        half = WIDTH // 2
        x = x * self.cos + torch.cat([-x[..., half:], x[..., :half]], -1) * self.sin
        return x + self.down(F.silu(self.gate(x)) * self.up(x))


class Gelus(nn.Module):
    """GELU exact, by tanh, by sigmoid, and spelled out."""

    def forward(self, x):
        spelled = 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
        by_erf = x * 0.5 * (1.0 + torch.erf(x / 2**0.5))
        return torch.stack([F.gelu(x), F.gelu(x, approximate="tanh"), x * torch.sigmoid(1.702 * x), spelled, by_erf])


class Upsampling(nn.Module):
    """Interpolation, transposed convolution, pixel shuffle, and padding in its modes."""

    def __init__(self):
        super().__init__()
        self.transposed = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.squeeze = nn.Conv2d(6, 8, 1)

    def forward(self, x):
        up = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        up = up + F.interpolate(x, size=(10, 12), mode="nearest")
        up = up + F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)
        wide = F.pad(self.transposed(up), (1, 2, 0, 1), mode="reflect")
        wide = F.pad(wide, (0, 1, 2, 0), mode="replicate")
        return F.pixel_shuffle(self.squeeze(F.pad(wide, (1, 0, 0, 0), value=0.5)), 2)


class Norms(nn.Module):
    """Norms over groups, instances, layers and channels."""

    def __init__(self):
        super().__init__()
        self.group, self.instance = nn.GroupNorm(2, 4, eps=1e-3), nn.InstanceNorm2d(4, eps=1e-3, affine=True)
        self.layer, self.response = nn.LayerNorm([5, 6], eps=1e-3), nn.LocalResponseNorm(3, alpha=0.1)
        for norm in (self.group, self.instance, self.layer):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)

    def forward(self, x):
        return self.layer(self.instance(self.response(self.group(x)))) + F.normalize(x, dim=1)


class Indexing(nn.Module):
    """Embeddings, gather, scatter, index_select, advanced indexing, cumsum, topk, where."""

    def __init__(self):
        super().__init__()
        self.table, self.bag = nn.Embedding(11, WIDTH), nn.Embedding(5, WIDTH)
        self.register_buffer("order", torch.tensor([3, 0, 5, 1, 4, 2]))

    def forward(self, ids):
        x = self.table(ids) + self.bag(ids % 5)
        places = ids.long().unsqueeze(-1) % WIDTH
        picked = x.gather(2, places)
        x = x.scatter(2, places, picked * 2 + 1).scatter_add(2, (places + 1) % WIDTH, picked)
        x = x.index_select(1, self.order)[:, [4, 1, 1, 0, 5]]
        best = x.topk(3, dim=-1)[0].sum(-1, keepdim=True)
        counts = torch.cumsum((ids[:, :5] > 4).float(), 1).unsqueeze(-1)
        return torch.where(x > best, x, best - counts) + F.one_hot(ids.long()[:, :5] % WIDTH, WIDTH)


class Slices(nn.Module):
    """Strided slices, in-place assignment, flips, rolls, repeats, tril and stacking."""

    def forward(self, x):
        y = x.clone()
        y[:, 1:4, ::2] = x[:, :3, 1::2] * 2
        y[:, -1] = 0.5
        z = torch.cat([y[:, ::2], y.flip(1)[:, 1::2]], 1).roll(1, 2)
        pairs = torch.stack([z[..., ::2], z[..., 1::2]], -1).flatten(-2)
        left, right = pairs.split([3, 5], -1)
        lower = torch.tril(torch.cat([right, left], -1)[:, :, :LENGTH])
        return (
            lower.unsqueeze(1).expand(-1, 2, -1, -1).repeat(1, 1, 1, 2) - lower.amax((1, 2))[:, None, None, None]
        ) / 2


class Sampled(nn.Module):
    """Images sampled on a computed grid."""

    def forward(self, x):
        grid = torch.tanh(x[:, :2].permute(0, 2, 3, 1)) * 1.2
        return F.grid_sample(x, grid, align_corners=False) + F.grid_sample(
            x, grid, padding_mode="border", align_corners=True
        )


ROWS, IMAGE = (2, LENGTH, WIDTH), (2, 4, 5, 6)
MODELS = {
    "conv net": (ConvNet, (2, 3, 13, 14)),
    **{
        f"attention by {name}": (lambda name=name: Attention(name), ROWS)
        for name in ("matmul", "einsum", "baddbmm", "masked", "sdpa")
    },
    "rotary": (Rotary, ROWS),
    "gelus": (Gelus, ROWS),
    "upsampling": (Upsampling, IMAGE),
    "norms": (Norms, IMAGE),
    "indexing": (Indexing, None),
    "slices": (Slices, ROWS),
    "sampled": (Sampled, IMAGE),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_model(tmp_path, name, target):
    torch.manual_seed(5)
    make, shape = MODELS[name]
    module = make().eval()
    if shape is None:
        inputs = {"x": torch.randint(0, 11, (2, LENGTH), dtype=torch.int32)}
    else:
        inputs = {"x": torch.randn(shape)}
    with torch.no_grad():
        expected = module(inputs["x"]).numpy()
    scale = np.abs(expected).max()
    for precision in ("FLOAT32", "FLOAT16"):
        path = save_module(
            tmp_path / f"{precision}.mlpackage",
            module,
            inputs,
            minimum_deployment_target=target,
            compute_precision=getattr(ct.precision, precision),
        )
        for mode in ("program", "float32"):
            (result,) = PortableSession(path, precision=mode).predict(inputs).values()
            assert result.shape == expected.shape
            tolerance = 2e-5 if precision == "FLOAT32" else 6e-3 if mode == "program" else 3e-3
            assert np.abs(result - expected).max() <= tolerance * scale, (precision, mode)
