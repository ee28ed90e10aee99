"""A codec without weights: a latent pixel is the mean of a block of 4 x 4 pixels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


class BlockCodec:
    latent_channels = 3
    downsample = 4
    digest = "blocks of 4"

    def encode(self, images: Tensor) -> Tensor:
        return F.avg_pool2d(images.float(), self.downsample)

    def decode(self, latents: Tensor) -> Tensor:
        return F.interpolate(latents.float(), scale_factor=self.downsample)

    def to(self, device: str) -> BlockCodec:
        return self
