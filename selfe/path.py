"""The noise path, stated once: t = 1 is noise, t = 0 is data.

x_t = alpha_t x_0 + sigma_t eps with alpha_t = 1 - t, sigma_t = t (Self-E Eq. 1-2). Every other
module relies on this file for the convention. Times are (B,) tensors in fp32 or better, whatever
the dtype of the samples; samples are (B, ...) tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor


def expand_time(t: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, ..., 1) with the number of dimensions of `like`; keeps t's dtype."""
    return t.reshape(-1, *[1] * (like.ndim - 1))


def add_noise(x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """x_t = (1 - t) x_0 + t eps (Eq. 1)."""
    t_ = expand_time(t, x_0)
    return ((1 - t_) * x_0 + t_ * eps).to(x_0.dtype)


def sample_head(x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """x0_hat = G = x_t - t V (Eq. 6)."""
    return x_t - expand_time(t, x_t) * v


def noise_head(x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """eps_hat = x_t + (1 - t) V: the noise that, with `sample_head`, makes up x_t again."""
    return x_t + (1 - expand_time(t, x_t)) * v


def scale_input(x_t: Tensor, t: Tensor, sigma: float) -> Tensor:
    """c_in x_t = x_t / (sigma sqrt((1 - t)^2 + t^2)): unit variance at every t where the data have
    deviation sigma = 1, and the same shape of the curve elsewhere (IMM, arXiv 2503.07565)."""
    c_in = 1 / (sigma * torch.sqrt((1 - t) ** 2 + t**2))
    return (x_t * expand_time(c_in, x_t)).to(x_t.dtype)


def sample_norm(x: Tensor) -> Tensor:
    """(B,) Euclidean norms over all non-batch dimensions, in fp32 or better."""
    x = x if x.dtype == torch.float64 else x.float()
    return x.flatten(1).norm(dim=1)
