"""Encoders of the shapes world: a small AutoencoderKL, and a text encoder that has no weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from selfe.batch import TextCondition
from selfe.packaged_weights import read_packaged_weights

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

ASSETS = Path(__file__).resolve().parent.parent / "assets"


def build_autoencoder() -> AutoencoderKL:
    """The untrained autoencoder of both presets: 4 channels at a quarter of the side, 315k
    parameters, fully convolutional without attention."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 40),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )


class ShapesVAE:
    """`LatentCodec` of the shapes world: posterior mean, normalised per channel.

    (B, 3, H, W) in [-1, 1] <-> (B, 4, H / 4, W / 4) with about zero mean and unit variance over
    training scenes. Each preset has weights of its own; `autoencoder` is a diffusers model.

    Args:
        signal: factor b on the latents, whose deviation is then b. At every t there is less to see
            of the data, as if time were t' with t' / (1 - t') = t / ((1 - t) b).

    Raises:
        ValueError: where the preset has no weights, or they do not match their checksum.
    """

    latent_channels = 4
    downsample = 4

    def __init__(self, preset: str = "grid", folder: Path = ASSETS, *, signal: float = 1.0) -> None:
        weights = read_packaged_weights(folder, f"shapes_vae_{preset}.safetensors")
        self.digest, facts = weights.digest, weights.facts
        self.preset = preset
        self.autoencoder = build_autoencoder()
        self.autoencoder.load_state_dict(weights.tensors())
        self.autoencoder.requires_grad_(False).eval()
        self.mean = torch.tensor(facts["latent_mean"]).view(1, -1, 1, 1)
        self.std = torch.tensor(facts["latent_std"]).view(1, -1, 1, 1) / signal
        if signal != 1:
            self.digest = hashlib.sha256(f"{self.digest} x {signal!r}".encode()).hexdigest()

    def to(self, device: str) -> ShapesVAE:
        self.autoencoder.to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        images = images.to(self.mean.device, torch.float32)
        return (self.autoencoder.encode(images).latent_dist.mode() - self.mean) / self.std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        latents = latents.to(self.mean.device, torch.float32)
        return self.autoencoder.decode(latents * self.std + self.mean).sample


class ShapesTextEncoder:
    """`TextEncoder` without weights: every word has a fixed random vector.

    A caption becomes a begin token and its words (letters and digits, lower case), each the
    word's vector plus a sinusoid of its place, because the denoiser gives text tokens no
    positions. A word's 64 numbers have zero mean and unit variance and come from Philox keyed by
    the word's sha256, so any word works and every machine agrees. `pooled` is the mean of the
    vectors, without places, scaled to unit variance. "" is the begin token alone.
    """

    token_dim = 64
    pooled_dim = 64
    max_tokens = 24

    def __init__(self) -> None:
        self.digest = hashlib.sha256(b"shapes-text@1 words philox 64 places sinusoid").hexdigest()
        self._device = torch.device("cpu")
        self._vectors: dict[str, Tensor] = {}
        self._places = _sinusoids(self.max_tokens, self.token_dim)

    def to(self, device: str) -> ShapesTextEncoder:
        self._device = torch.device(device)
        return self

    def encode(self, captions: Sequence[str]) -> TextCondition:
        """(B, L, 64) tokens with L the longest caption of the batch, and (B, 64) pooled; fp32.

        Captions longer than `max_tokens` lose their end: see `count_truncated`.
        """
        words = [self._words(caption)[: self.max_tokens] for caption in captions]
        longest = max((len(row) for row in words), default=0)
        tokens = torch.zeros(len(words), longest, self.token_dim)
        mask = torch.zeros(len(words), longest, dtype=torch.bool)
        pooled = torch.zeros(len(words), self.pooled_dim)
        for i, row in enumerate(words):
            vectors = torch.stack([self._vector(word) for word in row])
            tokens[i, : len(row)] = vectors + self._places[: len(row)]
            mask[i, : len(row)] = True
            pooled[i] = _standardized(vectors.mean(0))
        return TextCondition(tokens, mask, pooled).to(self._device)

    def count_truncated(self, captions: Sequence[str]) -> int:
        return sum(len(self._words(caption)) > self.max_tokens for caption in captions)

    def count_truncated_by_encoder(self, captions: Sequence[str]) -> dict[str, int]:
        return {"shapes": self.count_truncated(captions)}

    def _words(self, caption: str) -> list[str]:
        # The begin token cannot collide with a word: words hold no brackets.
        return ["<begin>", *re.findall(r"[a-z0-9]+", caption.lower())]

    def _vector(self, word: str) -> Tensor:
        if word not in self._vectors:
            key = int.from_bytes(hashlib.sha256(word.encode()).digest()[:16], "big")
            draws = np.random.Generator(np.random.Philox(key=key)).standard_normal(self.token_dim)
            self._vectors[word] = _standardized(torch.from_numpy(draws)).float()
        return self._vectors[word]


def _standardized(x: Tensor) -> Tensor:
    return (x - x.mean()) / x.std(correction=0)


def _sinusoids(length: int, dim: int) -> Tensor:
    """(length, dim) float32: sines, then cosines, of wavelengths from 2 pi to 2 pi x 100."""
    frequencies = 100.0 ** (-torch.arange(dim // 2, dtype=torch.float64) / (dim // 2))
    angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()
