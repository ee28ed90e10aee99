"""Matrix-multiplication FLOPs of the denoiser, the numerator of every MFU figure.

A multiply-add counts 2; norms, activations and rotations count nothing. The count is that of the
architecture: our last block skips text outputs that nobody reads, which is not credited, so that
figures compare with other implementations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from selfe.network.blocks import MLP_RATIO
from selfe.network.derivative import carries_tangent
from selfe.network.embeddings import TIME_FEATURES

FORWARD, FORWARD_TANGENT, FORWARD_BACKWARD = 1, 2, 3
"""Cost of a pass alone, with a derivative beside it and with a backward pass, in forward passes."""


VAE_FACTOR = 8


def flops_per_image(
    config: Mapping[str, Any],
    height: int,
    width: int,
    text_tokens: int,
    vae_factor: int = VAE_FACTOR,
) -> int:
    """FLOPs of one forward pass for one image; forward and backward together cost 3 times as much.

    Args:
        config: the denoiser's configuration (`DualTimeDenoiser.config` or its arguments).
        height, width: of the image, in pixels; multiples of twice `vae_factor`.
        text_tokens: text tokens that reach the network, padding included.
        vae_factor: pixels per latent along a side.
    """
    patch = 2 * vae_factor
    if height % patch or width % patch:
        raise ValueError(f"height and width must be multiples of {patch}, got {height} x {width}")
    image_tokens = (height // patch) * (width // patch)
    tokens = image_tokens + text_tokens
    dim = config["attention_head_dim"] * config["num_attention_heads"]
    double, single = config["num_layers"], config["num_single_layers"]

    projections = (3 + 1 + 2 * MLP_RATIO) * dim * dim * tokens
    attention = 2 * tokens * tokens * dim
    ends = dim * (
        2 * config["in_channels"] * image_tokens + config["joint_attention_dim"] * text_tokens
    )
    modulations = (12 * double + 3 * single + 2) * dim * dim
    vectors = dim * (2 * TIME_FEATURES + config["pooled_projection_dim"] + 3 * dim)
    return 2 * ((double + single) * (projections + attention) + ends + modulations + vectors)


def cost_of_pass(x_t: Tensor) -> int:
    """Of these the one that applies to a network called with x_t now."""
    if carries_tangent(x_t):
        return FORWARD_TANGENT
    return FORWARD_BACKWARD if torch.is_grad_enabled() else FORWARD
