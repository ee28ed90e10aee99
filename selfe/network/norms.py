"""What the norms of the network share."""

from __future__ import annotations

import torch
from torch import Tensor

NORM_EPS = 1e-6


def inverse_rms(x: Tensor) -> Tensor:
    """1 / sqrt(mean of x^2 + eps) over the last dimension, which is kept with size 1."""
    mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / x.shape[-1]
    return torch.rsqrt(mean_square + NORM_EPS)
