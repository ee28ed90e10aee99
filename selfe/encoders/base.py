"""What an image codec and a text encoder must offer; implementations register by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from selfe.batch import TextCondition


class LatentCodec(Protocol):
    """A frozen autoencoder whose latents are normalised to about zero mean and unit variance."""

    latent_channels: int
    downsample: int
    """Image pixels per latent pixel along one side."""
    digest: str
    """sha256 of the weights: part of every cache key and of every result."""

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float in [-1, 1] -> (B, C, H / downsample, W / downsample) float32."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Inverse of `encode`; returns (B, 3, H, W) float32, not clamped."""
        ...

    def to(self, device: str) -> LatentCodec: ...


class TextEncoder(Protocol):
    """A frozen text encoder. Captions are trimmed: padding is masked, on the right."""

    token_dim: int
    pooled_dim: int
    max_tokens: int
    digest: str

    def encode(self, captions: Sequence[str]) -> TextCondition: ...

    def count_truncated(self, captions: Sequence[str]) -> int:
        """How many captions have more tokens than `max_tokens`."""
        ...

    def count_truncated_by_encoder(self, captions: Sequence[str]) -> dict[str, int]:
        """The same for every encoder that reads the captions; all names, also for no captions."""
        ...

    def to(self, device: str) -> TextEncoder: ...
