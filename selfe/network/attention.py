"""Joint attention over text and image tokens, with normalised and rotated queries and keys.

Shape suffixes: B batch, L tokens, H heads, K features of a head; 3 is (query, key, value).
"""

from __future__ import annotations

import torch
from torch import Tensor

from selfe.network.operations import PLAIN, Kernels


def joint_attention(
    qk_BL2HK: Tensor,
    v_BLHK: Tensor,
    qk_scale: Tensor,
    rotary: Tensor,
    mask: Tensor | None,
    first_query: int = 0,
    kernels: Kernels = PLAIN,
) -> Tensor:
    """RMS-normalise and rotate queries and keys, attend, merge heads: (B, L, H * K).

    Args:
        qk_BL2HK, v_BLHK: projections of all tokens.
        qk_scale: gains of the two norms, (2, H, K) or (L, 2, H, K).
        rotary: (L, 1, K / 2, 2), see `rotary_table`.
        mask: additive (B, 1, 1, L), -inf on padding; None where nothing is padded.
        first_query: tokens before it are attended to, but get no output.
        kernels: how the two operations are computed.
    """
    # The scale 1 / sqrt(K) of the scores rides on the queries' gains, which are few.
    head_dim = v_BLHK.shape[-1]
    gains = qk_scale.to(torch.promote_types(qk_scale.dtype, torch.float32))
    gains = torch.cat([gains[..., :1, :, :] * head_dim**-0.5, gains[..., 1:, :, :]], dim=-3)
    q_BHLK, k_BHLK = kernels.normalise_and_rotate(qk_BL2HK, gains, rotary[:, None])
    if first_query:
        q_BHLK = q_BHLK[:, :, first_query:]
    out = kernels.attend(q_BHLK, k_BHLK, v_BLHK.transpose(1, 2), mask)
    return out.transpose(1, 2).flatten(2)
