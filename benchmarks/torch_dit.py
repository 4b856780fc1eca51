"""A DiT (Peebles & Xie 2023) in PyTorch, layer for layer that of ``diffusion/nets/dit.py``, for the contest."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class DiT(nn.Module):
    """x [b c h w], t f32[b], label i64[b] in [0, classes] (the last is the null) -> [b c h w]."""

    def __init__(self, image: tuple[int, int, int], classes: int, patch: int, d: int, depth: int, heads: int):
        super().__init__()
        h, w, c = image
        self.patch, self.grid, self.channels = patch, (h // patch, w // patch), c
        self.tokens = nn.Linear(patch * patch * c, d)
        self.noise = nn.Sequential(nn.Linear(256, d), nn.SiLU(), nn.Linear(d, d))
        self.label = nn.Embedding(classes + 1, d)
        self.register_buffer("positions", torch.randn(1, self.grid[0] * self.grid[1], d))  # fixed; values do not matter
        self.blocks = nn.ModuleList(Block(d, heads) for _ in range(depth))
        self.out_emb, self.out = nn.Linear(d, 2 * d), nn.Linear(d, patch * patch * c)

    def forward(self, x: torch.Tensor, t: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        b, c, (h, w), p = x.shape[0], self.channels, self.grid, self.patch
        x = x.reshape(b, c, h, p, w, p).permute(0, 2, 4, 3, 5, 1).reshape(b, h * w, p * p * c)
        x = self.tokens(x) + self.positions
        emb = F.silu(self.noise(embedded(t, 256)) + self.label(label))
        for block in self.blocks:
            x = block(x, emb)
        shift, scale = self.out_emb(emb)[:, None].chunk(2, dim=-1)
        x = self.out(modulated(x, shift, scale))
        return x.reshape(b, h, w, p, p, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h * p, w * p)


class Block(nn.Module):
    def __init__(self, d: int, heads: int):
        super().__init__()
        self.heads, self.emb = heads, nn.Linear(d, 6 * d)
        self.qkv, self.out = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(approximate="tanh"), nn.Linear(4 * d, d))

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        b, l, d = x.shape
        shift1, scale1, gate1, shift2, scale2, gate2 = self.emb(emb)[:, None].chunk(6, dim=-1)
        qkv = self.qkv(modulated(x, shift1, scale1)).reshape(b, l, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, l, d)
        x = x + gate1 * self.out(h)
        return x + gate2 * self.mlp(modulated(x, shift2, scale2))


def modulated(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def embedded(t: torch.Tensor, d: int) -> torch.Tensor:
    frequencies = torch.exp(-math.log(10_000) * torch.arange(d // 2, device=t.device) / (d // 2))
    angles = t[:, None].float() * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
