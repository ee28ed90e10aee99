"""Joint attention over text and image tokens, with normalised and rotated queries and keys.

Shape suffixes: B batch, L tokens, H heads, K features of a head; 3 is (query, key, value).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from selfe.network.cpu_kernels import NormaliseAndRotate, eager_on_cpu, inverse_rms

FEW_TOKENS = 96
"""Up to here plain matmuls beat the CPU's fused attention kernel."""


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate neighbouring feature pairs of x (B, L, ..., K) by the table's angles."""
    cos, sin = table.unbind(-1)
    real, imaginary = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1)
    return turned.flatten(-2)


def normalise_and_rotate(x_BL2HK: Tensor, gains: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """RMSNorm over the last dimension with `gains`, then `rotate`, in fp32 or better.

    The norm's factor commutes with the rotation and is applied last; taken from `vector_norm`, it
    costs one pass forward and one backward, where an eager `rms_norm` costs several.

    Returns:
        Queries and keys, (B, H, L, K).
    """
    if eager_on_cpu(x_BL2HK) and x_BL2HK.dtype != torch.float64:
        return NormaliseAndRotate.apply(x_BL2HK, gains, table)
    wide = x_BL2HK.to(torch.promote_types(x_BL2HK.dtype, torch.float32))
    normed = (rotate(wide * gains, table) * inverse_rms(wide)).to(x_BL2HK.dtype)
    q_BLHK, k_BLHK = normed.unbind(2)
    return q_BLHK.transpose(1, 2), k_BLHK.transpose(1, 2)


def attend(q_BHLK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k + mask) v: (B, H, L, K). Queries are already scaled."""
    if k_BHLK.shape[2] <= FEW_TOKENS and eager_on_cpu(k_BHLK):
        scores = q_BHLK @ k_BHLK.transpose(-1, -2)
        if mask is not None:
            scores = scores + mask
        # Processors take several times as long for it in bf16, conversions to fp32 included.
        wide = torch.promote_types(scores.dtype, torch.float32)
        return scores.softmax(dim=-1, dtype=wide).to(v_BHLK.dtype) @ v_BHLK
    return F.scaled_dot_product_attention(q_BHLK, k_BHLK, v_BHLK, attn_mask=mask, scale=1.0)


def joint_attention(
    qk_BL2HK: Tensor,
    v_BLHK: Tensor,
    qk_scale: Tensor,
    rotary: Tensor,
    mask: Tensor | None,
    first_query: int = 0,
) -> Tensor:
    """RMS-normalise and rotate queries and keys, attend, merge heads: (B, L, H * K).

    Args:
        qk_BL2HK, v_BLHK: projections of all tokens.
        qk_scale: gains of the two norms, (2, H, K) or (L, 2, H, K).
        rotary: (L, 1, K / 2, 2), see `rotary_table`.
        mask: additive (B, 1, 1, L), -inf on padding; None where nothing is padded.
        first_query: tokens before it are attended to, but get no output.
    """
    # The scale 1 / sqrt(K) of the scores rides on the queries' gains, which are few.
    head_dim = v_BLHK.shape[-1]
    gains = qk_scale.to(torch.promote_types(qk_scale.dtype, torch.float32))
    gains = torch.cat([gains[..., :1, :, :] * head_dim**-0.5, gains[..., 1:, :, :]], dim=-3)
    q_BHLK, k_BHLK = normalise_and_rotate(qk_BL2HK, gains, rotary[:, None])
    if first_query:
        q_BHLK = q_BHLK[:, :, first_query:]
    out = attend(q_BHLK, k_BHLK, v_BLHK.transpose(1, 2), mask)
    return out.transpose(1, 2).flatten(2)
