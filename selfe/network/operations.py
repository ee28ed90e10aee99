"""The operations inside a block, as mathematics: what every device can compute.

`cpu_kernels` has the same operations written for processors; a forward pass chooses once
(`Kernels`). Shape suffixes: B batch, L tokens, H heads, K features of a head; 2 is (query, key).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NORM_EPS = 1e-6


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate neighbouring feature pairs of x (B, L, ..., K) by the table's angles."""
    cos, sin = table.unbind(-1)
    real, imaginary = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1)
    return turned.flatten(-2)


def inverse_rms(x: Tensor) -> Tensor:
    """1 / sqrt(mean of x^2 + eps) over the last dimension, which is kept with size 1.

    Taken from `vector_norm`, it costs one pass over memory forward and one backward, where an eager
    `rms_norm` costs several.
    """
    mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / x.shape[-1]
    return torch.rsqrt(mean_square + NORM_EPS)


def normalise_and_rotate(x_BL2HK: Tensor, gains: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """RMSNorm over the last dimension with `gains`, then `rotate`, in fp32 or better.

    The norm's factor commutes with the rotation and is applied last.

    Returns:
        Queries and keys, (B, H, L, K).
    """
    wide = x_BL2HK.to(torch.promote_types(x_BL2HK.dtype, torch.float32))
    normed = (rotate(wide * gains, table) * inverse_rms(wide)).to(x_BL2HK.dtype)
    q_BLHK, k_BLHK = normed.unbind(2)
    return q_BLHK.transpose(1, 2), k_BLHK.transpose(1, 2)


def attend(q_BHLK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k + mask) v: (B, H, L, K). Queries are already scaled."""
    return F.scaled_dot_product_attention(q_BHLK, k_BHLK, v_BHLK, attn_mask=mask, scale=1.0)


def gelu(x: Tensor) -> Tensor:
    """FLUX's activation, GELU in its tanh form: x / 2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
    return F.gelu(x, approximate="tanh")


def beside_gelu(left: Tensor, x: Tensor) -> Tensor:
    """[left, gelu(x)] along the last dimension."""
    return torch.cat([left, gelu(x)], dim=-1)


class Kernels(NamedTuple):
    """How a forward pass computes the operations that are written more than once."""

    normalise_and_rotate: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    attend: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
    gelu: Callable[[Tensor], Tensor]
    beside_gelu: Callable[[Tensor, Tensor], Tensor]


PLAIN = Kernels(normalise_and_rotate, attend, gelu, beside_gelu)
