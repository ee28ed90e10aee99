"""The network of TiM-T2I (arXiv 2509.04394), written from its published facts.

Shapes: B batch, C latent channels, h, w latent rows and columns, N = h w image tokens, L text
tokens, W width, H heads, D = W / H.

A block is self-attention, cross-attention to all text tokens (unmasked), SwiGLU MLP, each modulated
by the sum of two time embeddings: of t, and of the distance t - r that the step will cover. The
distance also enters every self-attention directly, through `qkv_d`. Module names are those of the
published state dict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfe.published_weights import other_kinds

FREQUENCIES = 256
MAX_PERIOD = 10_000.0
ROPE_THETA = 10_000.0
NORM_EPS = 1e-6
TRAINING_ONLY = frozenset(
    f"projector.{layer}.{kind}" for layer in (0, 2, 4) for kind in ("weight", "bias")
)
"""Aligns features with an image encoder while training; sampling never runs it."""


class SwiGLU(nn.Module):
    """fc2(silu(fc1_g x) * fc1_x x), with biases."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.fc1_g = nn.Linear(in_dim, hidden_dim)
        self.fc1_x = nn.Linear(in_dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.silu(self.fc1_g(x)) * self.fc1_x(x))
        return out


class TimeEmbedder(nn.Module):
    """(B,) times in [0, 1], unscaled -> (B, W): 128 cosines, then 128 sines, then an MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        half = FREQUENCIES // 2
        index = torch.arange(half, dtype=torch.float32, device=t.device)
        angles = t.float()[:, None] * torch.exp(-math.log(MAX_PERIOD) * index / half)
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        out: Tensor = self.mlp(waves.to(next(self.mlp.parameters()).dtype))
        return out


class CaptionEmbedder(nn.Module):
    """(B, L, text_dim) features of the language model -> (B, L, W)."""

    def __init__(self, text_dim: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(text_dim)
        self.mlp = SwiGLU(text_dim, 4 * width, width)

    def forward(self, text: Tensor) -> Tensor:
        out: Tensor = self.mlp(self.norm(text))
        return out


class LatentEmbedder(nn.Module):
    """(B, C, h, w) -> (B, N, W), tokens in row-major order; patches of one latent pixel."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return out


def rope_tables(h: int, w: int, head_dim: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines (N, D) of the 2-D rotary embedding, in dtype and on the device of `like`.

    Half of the pairs turn with the first coordinate, half with the second. Token n of a row-major
    grid has the coordinates (n mod h, n // h): the published order, wrong where h differs from w,
    and what the weights were trained with. The published code keeps its angles in the network's
    dtype, so in bfloat16 they are rounded before the cosine is taken; so are ours.
    """
    pairs = head_dim // 4
    exponent = torch.arange(pairs, dtype=torch.float32, device=like.device) / pairs
    frequencies = 1.0 / ROPE_THETA**exponent
    token = torch.arange(h * w, device=like.device)
    angles = torch.cat(
        [(token % h)[:, None] * frequencies, (token // h)[:, None] * frequencies], dim=-1
    )
    angles = angles.repeat_interleave(2, dim=-1).to(like.dtype)
    return angles.cos(), angles.sin()


def rotate(q_BHND: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Turns neighbouring pairs (0, 1), (2, 3), ... of the last dimension."""
    cos, sin = tables
    even, odd = q_BHND[..., 0::2], q_BHND[..., 1::2]
    quarter_turn = torch.stack([-odd, even], dim=-1).flatten(-2)
    return q_BHND * cos + quarter_turn * sin


def split_heads(x_BNW: Tensor, num_heads: int) -> Tensor:
    """(B, N, W) -> (B, H, N, D)."""
    return x_BNW.unflatten(-1, (num_heads, -1)).transpose(1, 2)


class SelfAttention(nn.Module):
    """Attention among image tokens; the distance t - r shifts queries, keys and values alike."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.qkv_d = nn.Linear(width, 3 * width, bias=False)
        self.q_norm = nn.LayerNorm(width // num_heads)
        self.k_norm = nn.LayerNorm(width // num_heads)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, distance: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        q, k, v = (self.qkv(x) + self.qkv_d(distance)).chunk(3, dim=-1)
        q = rotate(self.q_norm(split_heads(q, self.num_heads)), tables)
        k = rotate(self.k_norm(split_heads(k, self.num_heads)), tables)
        mixed = F.scaled_dot_product_attention(q, k, split_heads(v, self.num_heads))
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out


class CrossAttention(nn.Module):
    """Image tokens attend to all L text tokens, unmasked; only the queries are rotated."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.q_norm = nn.LayerNorm(width // num_heads)
        self.k_norm = nn.LayerNorm(width // num_heads)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, text: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        k, v = self.kv(text).chunk(2, dim=-1)
        q = rotate(self.q_norm(split_heads(self.q(x), self.num_heads)), tables)
        k = self.k_norm(split_heads(k, self.num_heads))
        mixed = F.scaled_dot_product_attention(q, k, split_heads(v, self.num_heads))
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out


def normalize(x: Tensor) -> Tensor:
    """LayerNorm without weights."""
    return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return normalize(x) * (1 + scale) + shift


class Block(nn.Module):
    def __init__(self, width: int, num_heads: int, modulation_dim: int) -> None:
        super().__init__()
        self.attn = SelfAttention(width, num_heads)
        self.cross_attn = CrossAttention(width, num_heads)
        self.mlp = SwiGLU(width, 4 * width * 2 // 3, width)
        self.adaLN_modulation = SwiGLU(width, modulation_dim, 9 * width)

    def forward(
        self,
        x: Tensor,
        text: Tensor,
        time: Tensor,
        distance: Tensor,
        tables: tuple[Tensor, Tensor],
    ) -> Tensor:
        """x (B, N, W), text (B, L, W), time and distance (B, 1, W) -> (B, N, W)."""
        modulation = self.adaLN_modulation(time).chunk(9, dim=-1)
        shift, scale, gate = modulation[0:3]
        x = x + gate * self.attn(modulate(x, shift, scale), distance, tables)
        shift, scale, gate = modulation[3:6]
        x = x + gate * self.cross_attn(modulate(x, shift, scale), normalize(text), tables)
        shift, scale, gate = modulation[6:9]
        out: Tensor = x + gate * self.mlp(modulate(x, shift, scale))
        return out


class FinalLayer(nn.Module):
    def __init__(self, width: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out_channels)
        self.adaLN_modulation = SwiGLU(width, width // 2, 2 * width)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(time).chunk(2, dim=-1)
        out: Tensor = self.linear(modulate(x, shift, scale))
        return out


class TiMTransformer(nn.Module):
    """The denoiser F(x, t, r, text) of TiM-T2I. The defaults are the published 865M parameters.

    Args:
        in_channels: latent channels C.
        width: token dimension W; W / num_heads must be a multiple of 4.
        depth: number of blocks.
        num_heads: attention heads H.
        text_dim: dimension of the text features.
        modulation_dim: hidden width of each block's modulation.
    """

    def __init__(
        self,
        in_channels: int = 32,
        width: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        text_dim: int = 1152,
        modulation_dim: int = 384,
    ) -> None:
        super().__init__()
        if width % (4 * num_heads):
            raise ValueError(f"width {width} must be a multiple of 4 x num_heads ({num_heads})")
        self.head_dim = width // num_heads
        self.in_channels = in_channels
        self.x_embedder = LatentEmbedder(in_channels, width)
        self.t_embedder = TimeEmbedder(width)
        self.delta_embedder = TimeEmbedder(width)
        self.y_embedder = CaptionEmbedder(text_dim, width)
        self.blocks = nn.ModuleList(Block(width, num_heads, modulation_dim) for _ in range(depth))
        self.final_layer = FinalLayer(width, in_channels)

    def forward(self, x: Tensor, t: Tensor, r: Tensor, text: Tensor) -> Tensor:
        """The transition field.

        Args:
            x: (B, C, h, w) noisy latents, in the network's dtype.
            t: (B,) their time in [0, 1], 1 is noise.
            r: (B,) the time the step goes to, r <= t.
            text: (B, L, text_dim) features, all attended to.

        Returns:
            (B, C, h, w), of x's dtype.
        """
        h, w = x.shape[-2:]
        tokens = self.x_embedder(x)
        distance = self.delta_embedder(t - r)[:, None]
        time = self.t_embedder(t)[:, None] + distance
        text = self.y_embedder(text)
        tables = rope_tables(h, w, self.head_dim, tokens)
        for block in self.blocks:
            tokens = block(tokens, text, time, distance, tables)
        out: Tensor = self.final_layer(tokens, time)
        return out.transpose(1, 2).unflatten(-1, (h, w))


def load_published(network: TiMTransformer, state: Mapping[str, Tensor]) -> int:
    """Loads a published state dict; every key is either used or known to be for training only.

    Returns:
        How many training-only tensors were left out.

    Raises:
        ValueError: naming keys that are missing, unknown or of another shape.
    """
    left_out = TRAINING_ONLY & state.keys()
    used = {key: value for key, value in state.items() if key not in left_out}
    expected = network.state_dict()
    problems = {
        "missing": sorted(expected.keys() - used.keys()),
        "unknown": sorted(used.keys() - expected.keys()),
        "of another shape": sorted(
            key for key in expected.keys() & used.keys() if expected[key].shape != used[key].shape
        ),
        "whole numbers in place of fractions": other_kinds(expected, used),
        "half a projector": sorted(TRAINING_ONLY - left_out) if left_out else [],
    }
    found = [f"{kind}: {', '.join(keys[:5])}" for kind, keys in problems.items() if keys]
    if found:
        raise ValueError(f"this is not a TiM-T2I state dict of this size ({'; '.join(found)})")
    network.load_state_dict(used, strict=True, assign=True)
    return len(left_out)
