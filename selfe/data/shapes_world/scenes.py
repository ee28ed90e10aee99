"""Scenes that are correct for a record: what is drawn, where, how large and in which colour."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from selfe.data.shapes_world.vocabulary import COLORS, Preset

_COLOR_NAMES = tuple(COLORS)
_BACKGROUND = (116.0, 140.0)
_GAP = 2.0  # least distance in pixels between two objects of the free layout
_RELATION_MARGIN = 0.62  # GenEval's rule wants 0.5; the rest absorbs what a detector gets wrong
_SIDES = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}


@dataclass(frozen=True)
class ShapeObject:
    """One object: class, colour, centre (x, y) and radius in pixels."""

    shape: str
    color: str
    cx: float
    cy: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """What one image shows. `background` is a grey level in [0, 255]."""

    metadata: dict[str, Any]
    objects: tuple[ShapeObject, ...]
    background: float

    @property
    def prompt(self) -> str:
        return str(self.metadata["prompt"])


def relation_holds(relation: str, dx: float, dy: float, sizes: float, margin: float = 0.5) -> bool:
    """GenEval's position rule for an object at offset (dx, dy) from its target.

    `sizes` is the sum of the two box sides, taken equal on both axes.
    """
    norm = math.hypot(dx, dy)
    if norm == 0:
        return False
    side_x, side_y = _SIDES[relation]
    reduced = side_x * dx + side_y * dy - 0.1 * sizes
    return reduced / norm > margin


def build_scene(
    preset: Preset,
    heldout_pairs: frozenset[tuple[str, str]],
    metadata: dict[str, Any],
    rng: np.random.Generator,
) -> Scene:
    """A scene of `metadata`; everything the record leaves open is drawn uniformly.

    Two different classes in one scene never take an unstated colour that would make a held-out
    pair.
    """
    wanted: list[tuple[str, str | None]] = []
    for clause in metadata["include"]:
        wanted += [(clause["class"], clause.get("color"))] * clause["count"]
    mixed = len({shape for shape, _ in wanted}) > 1
    places = None
    while places is None:  # five large objects may not fit: then others are drawn
        radii = rng.uniform(*preset.radius, size=len(wanted)).tolist()
        places = _place(preset, metadata, radii, rng)
    objects = []
    for (shape, color), radius, (cx, cy) in zip(wanted, radii, places, strict=True):
        if color is None:
            color = _COLOR_NAMES[int(rng.integers(10))]
            while mixed and (shape, color) in heldout_pairs:
                color = _COLOR_NAMES[int(rng.integers(10))]
        objects.append(ShapeObject(shape, color, cx, cy, radius))
    return Scene(metadata, tuple(objects), float(rng.uniform(*_BACKGROUND)))


def _place(
    preset: Preset, metadata: dict[str, Any], radii: list[float], rng: np.random.Generator
) -> list[tuple[float, float]] | None:
    relation = metadata["include"][-1].get("position", [None])[0]
    return (_place_in_cells if preset.cells else _place_freely)(preset, relation, radii, rng)


def _place_in_cells(
    preset: Preset, relation: str | None, radii: list[float], rng: np.random.Generator
) -> list[tuple[float, float]]:
    """Different cells; with a relation, neighbours in one row or column, in any such place."""
    n = preset.cells
    if relation is None:
        cells = rng.permutation(n * n)[: len(radii)].tolist()
        spots = [(cell % n, cell // n) for cell in cells]
    else:
        side_x, side_y = _SIDES[relation]
        line, first = int(rng.integers(n)), int(rng.integers(n - 1))
        low, high = (first, line), (first + 1, line)
        if side_x == 0:
            low, high = (line, first), (line, first + 1)
        # The records list the target first, then the object that stands in the relation to it.
        spots = [high, low] if side_x + side_y < 0 else [low, high]
    side = preset.image_size / n
    jitter = rng.uniform(-preset.jitter, preset.jitter, size=2 * len(spots)).tolist()
    return [
        ((x + 0.5) * side + jitter[2 * i], (y + 0.5) * side + jitter[2 * i + 1])
        for i, (x, y) in enumerate(spots)
    ]


def _place_freely(
    preset: Preset, relation: str | None, radii: list[float], rng: np.random.Generator
) -> list[tuple[float, float]] | None:
    """Uniform over the layouts without overlap in which the relation, if any, holds clearly;
    None where 16,000 draws found no such place."""
    low = np.array(radii) + 1.0
    span = preset.image_size - 2 * low
    for _ in range(2_000):
        block = rng.random((8, 2, len(radii)))
        for xs, ys in (low + block * span).tolist():
            if _apart(xs, ys, radii) and (
                relation is None
                or relation_holds(
                    relation,
                    xs[1] - xs[0],
                    ys[1] - ys[0],
                    2 * (radii[0] + radii[1]),
                    _RELATION_MARGIN,
                )
            ):
                return list(zip(xs, ys, strict=True))
    return None


def _apart(xs: list[float], ys: list[float], radii: list[float]) -> bool:
    """No two bounding squares closer than the gap: whatever the shapes, they do not touch."""
    for i in range(len(radii)):
        for j in range(i):
            reach = radii[i] + radii[j] + _GAP
            if abs(xs[i] - xs[j]) < reach and abs(ys[i] - ys[j]) < reach:
                return False
    return True
