"""The dual-time denoiser: a FLUX-style latent transformer with a second time input (Self-E S.2).

One network for every method; flow matching calls it with s = t. Shape suffixes: B batch, L tokens,
D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from selfe.batch import TextCondition
from selfe.network.blocks import DoubleStreamBlock, SingleStreamBlock, modulate
from selfe.network.cpu_kernels import kernels_for
from selfe.network.embeddings import (
    PATCH,
    TIME_FACTOR,
    TIME_FEATURES,
    VectorEmbedder,
    patchify,
    rotary_table,
    time_features,
    unpatchify,
)
from selfe.path import scale_input


class DualTimeDenoiser(ModelMixin, ConfigMixin):
    """V(x_t, t, s, c) of Self-E: double-stream blocks, then single-stream blocks, over 2x2 patches.

    Args:
        in_channels: features of one image token, 4 times the latent channels.
        num_layers: double-stream blocks.
        num_single_layers: single-stream blocks.
        attention_head_dim: features of one head.
        num_attention_heads: heads; the width is heads times features.
        joint_attention_dim: features of a text token.
        pooled_projection_dim: features of the pooled text vector.
        axes_dims_rope: features of a head rotated by (t, y, x); they add up to a head.
        time_factor: sinusoids are of so many times t and t - s; FLUX has 1000. Less makes the
            network smoother in time.
        input_sigma: deviation of the data, by which x_t is scaled to unit variance before the first
            layer (c_in of IMM, arXiv 2503.07565); None for x_t as it is.

    Weights are drawn from torch's global generator. Modulations and the last projection start at
    zero, so that an untrained network predicts exactly 0.
    """

    _no_split_modules = ["DoubleStreamBlock", "SingleStreamBlock"]
    _repeated_blocks = ["DoubleStreamBlock", "SingleStreamBlock"]

    @register_to_config
    def __init__(
        self,
        in_channels: int = 64,
        num_layers: int = 8,
        num_single_layers: int = 16,
        attention_head_dim: int = 64,
        num_attention_heads: int = 16,
        joint_attention_dim: int = 4096,
        pooled_projection_dim: int = 768,
        axes_dims_rope: tuple[int, int, int] = (8, 28, 28),
        time_factor: float = TIME_FACTOR,
        input_sigma: float | None = None,
    ):
        super().__init__()
        check_sizes(in_channels, attention_head_dim, axes_dims_rope)
        width = num_attention_heads * attention_head_dim
        self.image_in = nn.Linear(in_channels, width)
        self.text_in = nn.Linear(joint_attention_dim, width)
        self.time_in = VectorEmbedder(TIME_FEATURES, width)
        self.interval_in = VectorEmbedder(TIME_FEATURES, width)
        self.pooled_in = VectorEmbedder(pooled_projection_dim, width)
        self.double_blocks = nn.ModuleList(
            DoubleStreamBlock(width, attention_head_dim) for _ in range(num_layers)
        )
        self.single_blocks = nn.ModuleList(
            SingleStreamBlock(width, attention_head_dim) for _ in range(num_single_layers)
        )
        self.final_modulation = nn.Linear(width, 2 * width)
        self.image_out = nn.Linear(width, in_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights again from torch's global generator."""
        for name, module in self.named_modules():
            if not isinstance(module, nn.Linear):
                continue
            nn.init.zeros_(module.bias)
            if name.endswith("modulation") or name == "image_out":
                nn.init.zeros_(module.weight)
            else:
                nn.init.normal_(module.weight, std=module.in_features**-0.5)

    def forward(self, x_t: Tensor, t: Tensor, s: Tensor, condition: TextCondition) -> Tensor:
        """Velocity V(x_t, t, s, c).

        Args:
            x_t: (B, C, h, w) noisy latents; h and w even, any aspect ratio.
            t, s: (B,) times in [0, 1], 0 <= s <= t; 1 is noise. fp32 or better is kept so.
            condition: captions of the same batch. Padding never changes the result.

        Returns:
            (B, C, h, w) in the dtype of x_t.

        Raises:
            ValueError: a shape does not fit the configuration or the batch.
        """
        self._check_inputs(x_t, t, s, condition)
        dtype = self.image_in.weight.dtype
        height, width = x_t.shape[-2:]
        vector = F.silu(self._conditioning_vector(t, s, condition.pooled))
        tokens, mask = self._prepare_text(condition, (height // PATCH) * (width // PATCH), dtype)
        inputs = x_t
        if (sigma := self.config.input_sigma) is not None:
            inputs = scale_input(x_t, t, sigma)
        image, text = self.image_in(patchify(inputs).to(dtype)), self.text_in(tokens)
        text_len = text.shape[1]
        rotary = rotary_table(
            text_len,
            height // PATCH,
            width // PATCH,
            tuple(self.config.axes_dims_rope),
            x_t.device,
        )
        kernels = kernels_for(x_t, t)
        for block in self.double_blocks:
            image, text = block(image, text, vector, rotary, mask, kernels)
        x = torch.cat([text, image], dim=1)
        last = len(self.single_blocks) - 1
        for i, block in enumerate(self.single_blocks):
            # Nothing reads the text after the last block.
            x = block(x, vector, rotary, mask, text_len if i == last else 0, kernels)
        image = x if self.single_blocks else image
        # FLUX's last modulation lists the scale first.
        scale, shift = self.final_modulation(vector).chunk(2, dim=-1)
        out = self.image_out(modulate(image, shift, scale))
        return unpatchify(out.to(x_t.dtype), height, width)

    def _conditioning_vector(self, t: Tensor, s: Tensor, pooled: Tensor) -> Tensor:
        """Embeddings of t and of t - s, summed (s.9, s.10), plus that of the pooled text."""
        t = t.to(torch.promote_types(t.dtype, torch.float32))
        factor = self.config.time_factor
        return (
            self.time_in(time_features(t, factor))
            + self.interval_in(time_features(t - s, factor))
            + self.pooled_in(pooled)
        )

    @staticmethod
    def _prepare_text(
        condition: TextCondition, image_tokens: int, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor | None]:
        """Text tokens, and the additive mask (B, 1, 1, L) over text and image tokens."""
        tokens = condition.tokens.to(dtype)
        if condition.no_padding:
            return tokens, None
        # A masked key has weight 0, but 0 times a non-finite value would not be 0.
        tokens = tokens.masked_fill(~condition.mask[..., None], 0)
        mask = torch.zeros(
            tokens.shape[0], tokens.shape[1] + image_tokens, dtype=dtype, device=tokens.device
        )
        mask[:, : tokens.shape[1]].masked_fill_(~condition.mask, float("-inf"))
        return tokens, mask[:, None, None]

    def _check_inputs(self, x_t: Tensor, t: Tensor, s: Tensor, condition: TextCondition) -> None:
        channels = self.config.in_channels // PATCH**2
        if x_t.ndim != 4 or x_t.shape[1] != channels:
            raise ValueError(
                f"x_t must be (batch, {channels}, height, width) latents, got {tuple(x_t.shape)}"
            )
        if x_t.shape[2] % PATCH or x_t.shape[3] % PATCH or 0 in x_t.shape[2:]:
            raise ValueError(
                f"latent height and width must be even, got {x_t.shape[2]} x {x_t.shape[3]}"
            )
        batch = x_t.shape[0]
        if t.shape != (batch,) or s.shape != (batch,):
            raise ValueError(
                f"t and s must have shape ({batch},), got {tuple(t.shape)} and {tuple(s.shape)}"
            )
        wanted = (batch, condition.tokens.shape[1], self.config.joint_attention_dim)
        if tuple(condition.tokens.shape) != wanted or condition.mask.shape != wanted[:2]:
            raise ValueError(
                f"text tokens must be (batch, length, features) = {wanted} with a mask of "
                f"{wanted[:2]}, got {tuple(condition.tokens.shape)} and "
                f"{tuple(condition.mask.shape)}"
            )
        if condition.pooled.shape != (batch, self.config.pooled_projection_dim):
            raise ValueError(
                f"pooled text must be {(batch, self.config.pooled_projection_dim)}, "
                f"got {tuple(condition.pooled.shape)}"
            )


def check_sizes(in_channels: int, head_dim: int, axes: tuple[int, int, int]) -> None:
    """Raise ValueError where the configuration cannot be built."""
    if in_channels % PATCH**2:
        raise ValueError(
            f"in_channels counts the features of a 2x2 patch and must be a multiple of 4, "
            f"got {in_channels}"
        )
    if len(axes) != 3 or any(size % 2 for size in axes) or sum(axes) != head_dim:
        raise ValueError(
            f"axes_dims_rope must be three even numbers that add up to attention_head_dim "
            f"{head_dim}, got {tuple(axes)}"
        )
