"""Sizes of the denoiser that follow from its configuration: FLOPs of a pass, numbers of weights.

A multiply-add counts 2 FLOPs; norms, activations and rotations count nothing. The count is that of
the architecture: our last block skips text outputs that are never read, which is not credited, so
that figures compare with other implementations.

Nothing here imports torch until a pass is made, so that `plan` does not wait for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# Stated by the network too (`selfe.network.blocks`, `selfe.network.embeddings`), which needs torch;
# tests compare every count with the network itself.
MLP_RATIO = 4
TIME_FEATURES = 256

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


def parameter_counts(config: Mapping[str, Any]) -> tuple[int, int]:
    """Numbers of weights of the network, and of its largest block.

    Args:
        config: as for `flops_per_image`.
    """
    head = config["attention_head_dim"]
    width = head * config["num_attention_heads"]

    def linear(inputs: int, outputs: int) -> int:
        return (inputs + 1) * outputs

    def embedder(features: int) -> int:
        return linear(features, width) + linear(width, width)

    hidden = MLP_RATIO * width
    stream = linear(width, 3 * width) + 2 * head + linear(width, width)
    stream += linear(width, hidden) + linear(hidden, width)
    double = 2 * stream + linear(width, 12 * width)
    single = linear(width, 3 * width) + linear(width, 3 * width + hidden) + 2 * head
    single += linear(width + hidden, width)
    blocks = [double] * config["num_layers"] + [single] * config["num_single_layers"]
    ends = linear(config["in_channels"], width) + linear(config["joint_attention_dim"], width)
    ends += linear(width, 2 * width) + linear(width, config["in_channels"])
    times = 2 * embedder(TIME_FEATURES) + embedder(config["pooled_projection_dim"])
    return ends + times + sum(blocks), max(blocks, default=0)


def cost_of_pass(x_t: Tensor) -> int:
    """The one of these constants that applies to a network called with x_t now."""
    import torch

    from selfe.network.derivative import carries_tangent

    if carries_tangent(x_t):
        return FORWARD_TANGENT
    return FORWARD_BACKWARD if torch.is_grad_enabled() else FORWARD
