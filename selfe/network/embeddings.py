"""Patches, positions, times: everything that turns inputs into what the blocks work on.

Shape suffixes: B batch, L tokens, D features.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 2
TIME_FEATURES = 256
TIME_FACTOR = 1000.0
ROPE_THETA = 10_000.0


def patchify(x_BCHW: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, (h/2)(w/2), 4C): row-major 2x2 patches, features as (channel, y, x)."""
    batch, channels, height, width = x_BCHW.shape
    grid = x_BCHW.reshape(batch, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * PATCH * PATCH)


def unpatchify(tokens_BLD: Tensor, height: int, width: int) -> Tensor:
    """Inverse of `patchify`; `height` and `width` are those of the latent."""
    batch, _, features = tokens_BLD.shape
    channels = features // (PATCH * PATCH)
    grid = tokens_BLD.reshape(batch, height // PATCH, width // PATCH, channels, PATCH, PATCH)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, height, width)


@lru_cache(maxsize=64)
def rotary_table(
    text_tokens: int,
    rows: int,
    columns: int,
    axes: tuple[int, int, int],
    device: torch.device,
) -> Tensor:
    """Cosines and sines of FLUX's positions, (text_tokens + rows * columns, 1, K / 2, 2) in fp32.

    Text sits at (0, 0, 0), so its rotation is the identity; image tokens at (0, row, column). One
    table is kept per shape: it depends on nothing else.
    """
    # A table first made while sampling (inference mode) must remain usable in training.
    with torch.inference_mode(False), torch.no_grad():
        grid = torch.zeros(rows, columns, 3, dtype=torch.float64)
        grid[..., 1] = torch.arange(rows, dtype=torch.float64)[:, None]
        grid[..., 2] = torch.arange(columns, dtype=torch.float64)
        positions = torch.cat([grid.new_zeros(text_tokens, 3), grid.reshape(-1, 3)])
        angles = []
        for axis, size in enumerate(axes):
            exponents = torch.arange(0, size, 2, dtype=torch.float64) / size
            angles.append(positions[:, axis, None] * ROPE_THETA**-exponents)
        angle = torch.cat(angles, dim=-1)
        table = torch.stack([angle.cos(), angle.sin()], dim=-1).float()
        return table[:, None].to(device)


def time_features(t: Tensor, factor: float = TIME_FACTOR) -> Tensor:
    """(B,) times in [0, 1] -> (B, 256) sinusoids of factor x t at frequencies from 1 down to 1e-4,
    cosines first; fp32 or better."""
    t = t.to(torch.promote_types(t.dtype, torch.float32))
    half = TIME_FEATURES // 2
    exponents = torch.arange(half, dtype=torch.float32, device=t.device) / half
    frequencies = torch.exp(-math.log(10_000) * exponents)
    angles = (factor * t)[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class VectorEmbedder(nn.Module):
    """Two linear layers with SiLU between them: for time features and for the pooled text."""

    def __init__(self, in_features: int, width: int):
        super().__init__()
        self.linear_1 = nn.Linear(in_features, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x.to(self.linear_1.weight.dtype))))
