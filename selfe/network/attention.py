"""Joint attention over text and image tokens, with normalised and rotated queries and keys.

Shape suffixes: B batch, L tokens, H heads, K features of a head; 3 is (query, key, value).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NORM_EPS = 1e-6


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate neighbouring feature pairs of x (B, L, ..., K) by the table's angles.

    Multiplying complex numbers is one pass over memory where the written-out form needs six, but
    compilers for accelerators, and half precisions, only know the latter.
    """
    pairs = x.unflatten(-1, (-1, 2))
    if x.device.type == "cpu" and x.dtype == torch.float32 and not torch.compiler.is_compiling():
        turned = torch.view_as_complex(pairs) * torch.view_as_complex(table)
        return torch.view_as_real(turned).flatten(-2)
    cos, sin = table.unbind(-1)
    real, imaginary = pairs.to(torch.promote_types(x.dtype, torch.float32)).unbind(-1)
    turned = torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1)
    return turned.flatten(-2).to(x.dtype)


def joint_attention(
    qkv_BL3HK: Tensor, qk_scale: Tensor, rotary: Tensor, mask: Tensor | None
) -> Tensor:
    """RMS-normalise and rotate queries and keys, attend, merge heads: (B, L, H * K).

    Args:
        qkv_BL3HK: fused projections of all tokens.
        qk_scale: gains of the two norms, broadcastable to (B, L, 2, H, K).
        rotary: (L, 1, K / 2, 2), see `rotary_table`.
        mask: additive (B, 1, 1, L), -inf on padding; None where nothing is padded.
    """
    qk, v = qkv_BL3HK[:, :, :2], qkv_BL3HK[:, :, 2]
    qk = rotate(F.rms_norm(qk, qk.shape[-1:], eps=NORM_EPS) * qk_scale, rotary[:, None])
    q, k = qk.to(v.dtype).unbind(2)
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask
    )
    return out.transpose(1, 2).flatten(2)
