"""The exact model of the preset "squares": its posterior mean in closed form, no list of scenes.

Which cells hold a square is one of the subsets of given size, all alike likely; given that, cells
are independent. So the probability that a cell holds a square of a colour follows from sums over
subsets, elementary symmetric polynomials of the cells' odds, which a recursion over the cells
builds up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfe.data.shapes_latents import images_to_float
from selfe.data.shapes_world.scenes import Scene, ShapeObject
from selfe.data.shapes_world.squares import SIDES, SquaresWorld
from selfe.encoders.base import LatentCodec
from selfe.encoders.rings import from_cells, to_cells

LOOKS = 97
"""Sides that stand for all sides between the least and the greatest: an eighth of a pixel apart."""


def occupancy(log_odds: Tensor, counts: Sequence[int]) -> Tensor:
    """P(cell holds an object of a kind) where exactly so many cells hold one of each kind.

    Args:
        log_odds: (B, M, T) logarithm of the likelihood of kind j in cell c over an empty one's.
        counts: T numbers of objects, at least 1 each.

    Returns:
        (B, M, T).
    """
    batch, cells, _ = log_odds.shape
    empty = torch.full((batch, *(n + 1 for n in counts)), -torch.inf, dtype=log_odds.dtype)
    empty.flatten(1)[:, 0] = 0

    def sums(odds: Tensor) -> list[Tensor]:
        """Logarithm of the sum over assignments to the first 0, 1, ... cells, for every number of
        objects of each kind."""
        found = [empty]
        for cell in range(cells):
            grown = found[-1]
            for kind, count in enumerate(counts):
                one_less = found[-1].narrow(1 + kind, 0, count)
                with_it = one_less + odds[:, cell, kind].view(-1, *[1] * len(counts))
                added = torch.full_like(grown, -torch.inf)
                added.narrow(1 + kind, 1, count).copy_(with_it)
                grown = torch.logaddexp(grown, added)
            found.append(grown)
        return found

    kinds_last = tuple(range(1, 1 + len(counts)))
    before, after = sums(log_odds), sums(log_odds.flip(1))[::-1]
    total = before[-1].flatten(1)[:, -1]
    rows = []
    for cell in range(cells):
        # what stands before and after this cell adds up to all objects but one
        row = []
        for kind, count in enumerate(counts):
            left = before[cell].narrow(1 + kind, 0, count)
            right = after[cell + 1].narrow(1 + kind, 0, count).flip(kinds_last)
            others = (left + right).flatten(1).logsumexp(1)
            row.append(others + log_odds[:, cell, kind] - total)
        rows.append(torch.stack(row, 1))
    return torch.stack(rows, 1).exp()


class ExactSquares:
    """V(x_t, t, s) = (x_t - E[x_0 | x_t]) / t of one prompt of the squares; s is not looked at.

    Args:
        record: of the prompt.
        codec: linear, an empty cell 0, 24 numbers a cell as `RingCodec` lays them.

    Attributes:
        scenes_in_use: (B,) effective number of scenes in the latest mean, as if cells were
            independent: 1 where it has fallen on a single one.
    """

    def __init__(self, record: Mapping[str, Any], codec: LatentCodec) -> None:
        world = SquaresWorld()
        include = record["include"]
        self.counts = [clause["count"] for clause in include]
        sides = np.linspace(*SIDES, LOOKS)
        scenes = [
            Scene({}, (ShapeObject("", clause["class"].split()[0], 8.0, 8.0, side / 2),), 0.0)
            for clause in include
            for side in sides.tolist()
        ]
        images = images_to_float(torch.from_numpy(world.render_batch(scenes)))
        first = to_cells(codec.encode(images).cpu())[:, 0, 0].double()
        self.looks = first.unflatten(0, (len(include), LOOKS))  # (T, K, D)
        self.scenes_in_use = torch.empty(0, dtype=torch.float64)

    def posterior_mean(self, x_t: Tensor, t: float) -> Tensor:
        """E[x_0 | x_t] of (B, C, h, w) at time t in (0, 1]."""
        grid = to_cells(x_t.double())
        x = grid.flatten(1, 2)
        dots = torch.einsum("bmd,tkd->bmtk", x, self.looks)
        norms = self.looks.square().sum(2)
        likeness = ((1 - t) * dots - (1 - t) ** 2 * norms / 2) / t**2
        occupied = occupancy(likeness.logsumexp(3) - np.log(LOOKS), self.counts)
        chances = likeness.softmax(3) * occupied[..., None]
        alone = chances.square().sum((2, 3)) + (1 - occupied.sum(2)).square()
        self.scenes_in_use = 1 / alone.prod(1)
        return from_cells(torch.einsum("bmtk,tkd->bmd", chances, self.looks).view_as(grid))

    def __call__(self, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Of x_t (B, C, h, w) at one time for all, as samplers ask for it; float64."""
        time = float(t[0])
        return (x_t.double() - self.posterior_mean(x_t, time)) / time
