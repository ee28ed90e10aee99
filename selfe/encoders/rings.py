"""Codec of the preset "squares": linear, without weights, and exact on images of that world."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from selfe.encoders.ring_layout import BACKGROUND, CELL_SIDE, RING_OF_PIXEL, RINGS

_GREY = BACKGROUND / 127.5 - 1
_COORDINATES = 3 * RINGS


class RingCodec:
    """`LatentCodec`: the mean colour of the 8 rings of pixels in each cell.

    (B, 3, H, W) in [-1, 1] <-> (B, 6, H / 8, W / 8), of cells of 16 x 16 pixels. The 24 numbers of
    a cell lie in 6 channels of 2 x 2 places, one token of the network. Rings are weighted by the
    root of their pixels, so that distances of latents are those of pixels: a small square has
    little signal, as in the image. All numbers are divided by one, `STD`, for a variance of about 1
    over training scenes; an empty cell is 0.

    Args:
        signal: factor on the latents, as for `ShapesVAE`.

    Raises:
        ValueError: from `encode`, for sides that are no multiples of 16.
    """

    latent_channels = 6
    downsample = 8
    STD = 1.057

    def __init__(self, *, signal: float = 1.0) -> None:
        ring = torch.from_numpy(RING_OF_PIXEL).flatten()
        self.pixels = torch.bincount(ring, minlength=RINGS).float()
        self.ring = ring
        self.mean_of_ring = (ring[None] == torch.arange(RINGS)[:, None]).float()
        self.mean_of_ring /= self.pixels[:, None]
        self.std = self.STD / signal
        self.digest = hashlib.sha256(f"rings@1 {self.STD!r} x {signal!r}".encode()).hexdigest()

    def to(self, device: str) -> RingCodec:
        for name in ("pixels", "ring", "mean_of_ring"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def encode(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        if height % CELL_SIDE or width % CELL_SIDE:
            raise ValueError(
                f"the codec shapes-squares takes images whose sides are multiples of {CELL_SIDE} "
                f"pixels, got {width} x {height}"
            )
        images = images.to(self.ring.device, torch.float32)
        cells = images.unflatten(3, (-1, CELL_SIDE)).unflatten(2, (-1, CELL_SIDE))
        pixels = cells.permute(0, 2, 4, 1, 3, 5).flatten(4)  # (B, rows, columns, 3, 256)
        rings = pixels @ self.mean_of_ring.T - _GREY
        return from_cells((rings * self.pixels.sqrt() / self.std).flatten(3))

    def decode(self, latents: Tensor) -> Tensor:
        cells = to_cells(latents.to(self.ring.device, torch.float32))
        rings = cells.unflatten(3, (3, RINGS)) * self.std / self.pixels.sqrt() + _GREY
        pixels = rings[..., self.ring].unflatten(4, (CELL_SIDE, CELL_SIDE))
        return pixels.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def to_cells(latents: Tensor) -> Tensor:
    """(B, 6, 2 rows, 2 columns) -> (B, rows, columns, 24): the numbers of every cell."""
    tiles = latents.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
    return tiles.permute(0, 2, 4, 1, 3, 5).flatten(3)


def from_cells(cells: Tensor) -> Tensor:
    """(B, rows, columns, 24) -> (B, 6, 2 rows, 2 columns), the inverse of `to_cells`."""
    tiles = cells.unflatten(3, (_COORDINATES // 4, 2, 2))
    return tiles.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
