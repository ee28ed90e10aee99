"""FLUX's two kinds of transformer block, with fused projections.

Shape suffixes: B batch, L tokens, D width, H heads, K features of a head. Blocks see tensors of
static shape and hold no data-dependent control flow, so that each compiles into one graph.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfe.network.attention import joint_attention
from selfe.network.operations import NORM_EPS, PLAIN, Kernels

MLP_RATIO = 4


def modulate(x_BLD: Tensor, shift_BD: Tensor, scale_BD: Tensor) -> Tensor:
    """LayerNorm without affine, then (1 + scale) and shift per sample (adaLN)."""
    normed = F.layer_norm(x_BLD, x_BLD.shape[-1:], eps=NORM_EPS)
    shift, scale = shift_BD.to(normed.dtype), scale_BD.to(normed.dtype)
    return torch.addcmul(shift[:, None], normed, 1 + scale[:, None])


def add_gated(x_BLD: Tensor, gate_BD: Tensor, update_BLD: Tensor) -> Tensor:
    """x + gate * update, the residual connection of adaLN-Zero."""
    return torch.addcmul(x_BLD, gate_BD[:, None], update_BLD)


class Stream(nn.Module):
    """One modality's weights in a double-stream block."""

    def __init__(self, width: int, head_dim: int):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.qk_scale = nn.Parameter(torch.ones(2, head_dim))
        self.out = nn.Linear(width, width)
        self.mlp_in = nn.Linear(width, MLP_RATIO * width)
        self.mlp_out = nn.Linear(MLP_RATIO * width, width)

    def project(self, x_BLD: Tensor, shift_BD: Tensor, scale_BD: Tensor) -> Tensor:
        """Queries, keys and values of this stream: (B, L, 3 * D)."""
        return self.qkv(modulate(x_BLD, shift_BD, scale_BD))

    def update(
        self,
        x_BLD: Tensor,
        attended_BLD: Tensor,
        modulation: tuple[Tensor, ...],
        kernels: Kernels,
    ) -> Tensor:
        """Residual update from the attention's output, then from the MLP."""
        _, _, gate, mlp_shift, mlp_scale, mlp_gate = modulation
        x_BLD = add_gated(x_BLD, gate, self.out(attended_BLD))
        hidden = kernels.gelu(self.mlp_in(modulate(x_BLD, mlp_shift, mlp_scale)))
        return add_gated(x_BLD, mlp_gate, self.mlp_out(hidden))


class DoubleStreamBlock(nn.Module):
    """Text and image tokens with their own weights, attending to each other."""

    def __init__(self, width: int, head_dim: int):
        super().__init__()
        self.heads, self.head_dim = width // head_dim, head_dim
        self.modulation = nn.Linear(width, 12 * width)
        self.image = Stream(width, head_dim)
        self.text = Stream(width, head_dim)

    def forward(
        self,
        image_BLD: Tensor,
        text_BLD: Tensor,
        vector_BD: Tensor,
        rotary: Tensor,
        mask: Tensor | None,
        kernels: Kernels = PLAIN,
    ) -> tuple[Tensor, Tensor]:
        """`vector_BD` is the conditioning after SiLU; returns (image, text)."""
        parts = self.modulation(vector_BD).chunk(12, dim=-1)
        image_parts, text_parts = parts[:6], parts[6:]
        lengths = [text_BLD.shape[1], image_BLD.shape[1]]
        qkv = torch.cat(
            [
                self.text.project(text_BLD, *text_parts[:2]),
                self.image.project(image_BLD, *image_parts[:2]),
            ],
            dim=1,
        ).unflatten(-1, (3, self.heads, self.head_dim))
        qk, v = qkv.split([2, 1], dim=2)
        qk_scale = torch.cat(
            [
                stream.qk_scale[:, None].expand(length, -1, self.heads, -1)
                for stream, length in zip((self.text, self.image), lengths, strict=True)
            ]
        )
        attended = joint_attention(qk, v.squeeze(2), qk_scale, rotary, mask, kernels=kernels)
        text_attended, image_attended = attended.split(lengths, dim=1)
        return (
            self.image.update(image_BLD, image_attended, image_parts, kernels),
            self.text.update(text_BLD, text_attended, text_parts, kernels),
        )


class SingleStreamBlock(nn.Module):
    """All tokens with the same weights; attention and MLP side by side, one matmul in, one out."""

    def __init__(self, width: int, head_dim: int):
        super().__init__()
        self.heads, self.head_dim = width // head_dim, head_dim
        self.modulation = nn.Linear(width, 3 * width)
        self.qkv_mlp = nn.Linear(width, (3 + MLP_RATIO) * width)
        self.qk_scale = nn.Parameter(torch.ones(2, head_dim))
        self.out = nn.Linear((1 + MLP_RATIO) * width, width)

    def forward(
        self,
        x_BLD: Tensor,
        vector_BD: Tensor,
        rotary: Tensor,
        mask: Tensor | None,
        first_output: int = 0,
        kernels: Kernels = PLAIN,
    ) -> Tensor:
        """Updated tokens from `first_output` on; those before it are only attended to."""
        width = x_BLD.shape[-1]
        shift, scale, gate = self.modulation(vector_BD).chunk(3, dim=-1)
        x_out = x_BLD[:, first_output:]
        qk, v, hidden = self.qkv_mlp(modulate(x_out, shift, scale)).split(
            [2 * width, width, MLP_RATIO * width], dim=-1
        )
        if first_output:
            weight, bias = self.qkv_mlp.weight[: 3 * width], self.qkv_mlp.bias[: 3 * width]
            only_keys = F.linear(modulate(x_BLD[:, :first_output], shift, scale), weight, bias)
            qk = torch.cat([only_keys[..., : 2 * width], qk], dim=1)
            v = torch.cat([only_keys[..., 2 * width :], v], dim=1)
        attended = joint_attention(
            qk.unflatten(-1, (2, self.heads, self.head_dim)),
            v.unflatten(-1, (self.heads, self.head_dim)),
            self.qk_scale[:, None].expand(-1, self.heads, -1),
            rotary,
            mask,
            first_output,
            kernels,
        )
        return add_gated(x_out, gate, self.out(kernels.beside_gelu(attended, hidden)))
