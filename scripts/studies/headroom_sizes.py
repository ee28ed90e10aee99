"""Is there a world with headroom under every time grid? Objects of many sizes, nothing trained.

    python -m scripts.studies.headroom_sizes --out reports/studies/headroom/sizes.json

`headroom_worlds` draws with a finite number of scenes, on which the exact model falls where times
are near the data. Here the scenes are so simple that the posterior mean needs no list of scenes:
exactly n of M cells hold one object each, whose look is one of K patterns; how likely each cell is
to hold each pattern follows from a recursion over the cells. Nothing is encoded, so that the
figures are of the objects in pixels, in units that give all pixels a variance of 1.

For every number of steps many time grids are tried, and two scores of the best are written: over
all grids, and over those that keep the data's diversity. An image counts where exactly n cells lie
nearer to an object than to the empty cell. Diversity is lost by the total variation between the
objects drawn and the data's (which cell, which pattern).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scripts import command_line
from selfe.data.shapes_world.exact_squares import ExactSquares, occupancy
from selfe.data.shapes_world.vocabulary import counting
from selfe.encoders.rings import RingCodec
from selfe.files import write_atomically
from selfe.provenance import provenance
from selfe.sampler import SamplerSettings, Step, take_step
from selfe.times import length_shift, warp_time

PIXELS = 64 * 64
TOLERANCE = 0.05
"""Diversity counts as kept where the total variation is at most this above that of as many scenes
of the data."""
SETTINGS = SamplerSettings(eta=0.0)


@dataclass(frozen=True)
class CellWorld:
    """Scenes in which exactly `objects` of M cells hold an object, all such scenes alike likely.

    Attributes:
        patterns: (M, K, D) what an object in a cell looks like, K equally likely looks of D
            coordinates each; an empty cell is 0.
        objects: n.
    """

    patterns: Tensor
    objects: int

    def posterior_mean(self, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """E[x_0 | x_t] of x (B, M, D) at time t in (0, 1], and P(cell c holds look k) (B, M, K)."""
        dots = torch.einsum("bmd,mkd->bmk", x, self.patterns)
        norms = self.patterns.square().sum(2)
        log_odds = ((1 - t) * dots - (1 - t) ** 2 * norms / 2) / t**2
        looks = log_odds.softmax(2)
        each = torch.logsumexp(log_odds, 2, keepdim=True) - np.log(log_odds.shape[2])
        occupied = occupancy(each, [self.objects])[..., 0]
        chances = looks * occupied[..., None]
        return torch.einsum("bmk,mkd->bmd", chances, self.patterns), chances

    def scenes(self, count: int, rng: torch.Generator) -> Tensor:
        """(count, M) look of every cell drawn from the data, -1 where it is empty."""
        cells, looks = self.patterns.shape[:2]
        order = torch.rand(count, cells, generator=rng).argsort(1)[:, : self.objects]
        drawn = torch.full((count, cells), -1)
        return drawn.scatter(1, order, torch.randint(looks, order.shape, generator=rng))

    def recognised(self, x_0: Tensor) -> Tensor:
        """(B, M) nearest look of every cell of (B, M, D), -1 where the empty cell is nearest."""
        distances = (x_0[:, :, None] - self.patterns).square().sum(3)
        nearest = distances.argmin(2)
        return torch.where(distances.amin(2) < x_0.square().sum(2), nearest, -1)

    def lost_diversity(self, looks: Tensor) -> float:
        """Total variation of (cell, look) over all objects in (B, M) from evenly, 0 to 1."""
        count = self.patterns.shape[1]
        shares = torch.stack([(looks == k).double().sum(0) for k in range(count)])
        shares /= shares.sum().clamp_min(1)
        return 0.5 * (shares - 1 / shares.numel()).abs().sum().item()


def squares(sizes: Sequence[float]) -> Tensor:
    """(K, D) squares of one centre as D = K coordinates: a ring of pixels each, by its norm."""
    areas = torch.tensor(sizes, dtype=torch.float64) ** 2
    rings = torch.diff(areas, prepend=areas.new_zeros(1)).sqrt()
    return rings.expand(len(sizes), -1).tril()


def unit_variance(patterns: Tensor, objects: int) -> CellWorld:
    """The world with patterns of contrast 1, all multiplied so that the 64 x 64 pixels have
    variance 1. Under the best of all grids the factor changes nothing: it is a shift of time."""
    share = objects * patterns.square().sum(2).mean().item() / PIXELS
    return CellWorld(patterns / (share * (1 - share)) ** 0.5, objects)


def textured(sides: int, looks: int, contrast: float) -> Tensor:
    """(1, K, D) squares of one size with one of K textures that are orthogonal to each other."""
    flat = torch.full((looks, 1), float(sides), dtype=torch.float64)
    return torch.cat([flat, contrast * sides * torch.eye(looks, dtype=torch.float64)], 1)[None]


WORLDS = {
    "64 cells, 8 squares of 6 pixels": lambda: unit_variance(
        torch.full((64, 1, 1), 6.0, dtype=torch.float64), 8
    ),
    "64 cells, 8 squares of 6 pixels, one of 8 textures, contrast 0.2": lambda: unit_variance(
        textured(6, 8, 0.2).expand(64, -1, -1), 8
    ),
    "16 cells, 4 squares, each of 2, 4, ... 14 pixels": lambda: unit_variance(
        squares(range(2, 15, 2)).expand(16, -1, -1), 4
    ),
    "64 cells, 8 squares, every cell with a size of its own, 2 to 14 pixels": lambda: unit_variance(
        torch.linspace(np.log(2), np.log(14), 64, dtype=torch.float64).exp()[:, None, None], 8
    ),
    "scenes@1, five red squares, sides of whole pixels": lambda: CellWorld(
        ExactSquares(counting("red square", 5), RingCodec()).looks[:, ::8].expand(16, -1, -1), 5
    ),
}


def draw(world: CellWorld, times: Sequence[float], count: int, rng: torch.Generator) -> Tensor:
    """(count, M) looks of what the exact model draws on a grid from 1 to 0, eta 0."""
    cells, _, dims = world.patterns.shape
    x = torch.randn(count, cells, dims, generator=rng, dtype=torch.float64)
    for t, t_next in zip(times[:-1], times[1:], strict=True):
        v = (x - world.posterior_mean(x, t)[0]) / t
        x = take_step(Step(t, t_next, t_next), x, v, SETTINGS, partial(torch.zeros_like, x))
    return world.recognised(x)


def candidates(steps: int, rng: np.random.Generator, count: int) -> list[list[float]]:
    """The recipe's grid first, then shifted ones, then grids of random times."""
    even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    shifts = [length_shift(16), *np.linspace(-4, 4, count // 2).tolist()]
    found = [warp_time(even, mu).tolist() for mu in shifts]
    while len(found) <= count:
        low, high = np.sort(rng.uniform(-4, 5, 2))
        logits = np.sort(rng.uniform(low, high, steps - 1))[::-1]
        found.append([1.0, *(1 / (1 + np.exp(-logits))).tolist(), 0.0])
    return found


def moved(times: Sequence[float], rng: np.random.Generator) -> list[float]:
    """A grid near another: every odds of an inner time times a random factor."""
    inner = np.asarray(times[1:-1])
    logits = np.log(inner / (1 - inner)) + rng.normal(0, 0.3, len(inner))
    return [1.0, *np.sort(1 / (1 + np.exp(-logits)))[::-1].tolist(), 0.0]


def study(world: CellWorld, steps: int, few: int, many: int, tries: int) -> dict[str, Any]:
    """Score and lost diversity on the recipe's grid, on the best, and on the best that keeps the
    data's diversity. The best of `tries` grids with `few` images are drawn again, `many` images."""
    rng, noise = np.random.default_rng(steps), torch.Generator().manual_seed(steps)

    def measured(times: Sequence[float], count: int) -> dict[str, Any]:
        looks = draw(world, times, count, noise)
        right = ((looks >= 0).sum(1) == world.objects).double().mean().item()
        return {"times": list(times), "score": right, "tv": world.lost_diversity(looks)}

    def worth(row: dict[str, Any], allowed: float) -> float:
        return float(row["score"] - 20 * max(0.0, row["tv"] - allowed))

    floor = {n: world.lost_diversity(world.scenes(n, noise)) for n in (few, many)}
    grids = candidates(steps, rng, tries // 2)
    recipe = measured(grids[0], many)
    rows = [measured(times, few) for times in grids]
    best: dict[str, Any] = {"recipe": recipe, "tv_data": floor[many]}
    for name, slack in (("any", float("inf")), ("diverse", TOLERANCE)):
        own = list(rows)
        for _ in range(tries // 4):
            top = sorted(own, key=lambda row: -worth(row, floor[few] + slack))[:4]
            own.append(measured(moved(top[rng.integers(4)]["times"], rng), few))
        top = sorted(own, key=lambda row: -worth(row, floor[few] + slack))[:8]
        again = [measured(row["times"], many) for row in top]
        allowed = [row for row in again if row["tv"] <= floor[many] + slack]
        best[name] = max(allowed, key=lambda row: row["score"], default=None)
    best["least_tv"] = min(row["tv"] for row in rows)
    return best


def sentence(row: dict[str, Any]) -> str:
    """What `study` found, in one line."""
    kept = row["diverse"]
    return (
        f"{row['recipe']['score']:.3f} on the recipe's grid, {row['any']['score']:.3f} on the best "
        f"(TV {row['any']['tv']:.3f}), "
        + (f"{kept['score']:.3f} with diversity kept" if kept else "no grid keeps diversity")
        + f" (TV of the data {row['tv_data']:.3f}, least of any grid {row['least_tv']:.3f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", default="2,3,4,8")
    parser.add_argument("--images", type=int, nargs=2, default=[400, 4000], metavar=("FEW", "MANY"))
    parser.add_argument("--tries", type=int, default=240, help="grids tried, each number of steps")
    parser.add_argument("--out", type=Path, default=Path("reports/studies/headroom/sizes.json"))
    args = parser.parse_args()
    few, many = args.images
    known = provenance()
    made = {"command": command_line(), "commit": known["commit"], "machine": known["machine"]}
    found = json.loads(args.out.read_text()) if args.out.exists() else {"worlds": {}}
    for name, make in WORLDS.items():
        known = found["worlds"].setdefault(name, {"made": made, "tolerance": TOLERANCE})
        rows = known.setdefault("steps", {})
        for steps in args.steps.split(","):
            if steps in rows:
                continue
            row = rows[steps] = study(make(), int(steps), few, many, args.tries)
            write_atomically(args.out, json.dumps(found, indent=0))
            print(f"{name}, {steps} steps: {sentence(row)}", flush=True)


if __name__ == "__main__":
    main()
