"""Preset "squares": many squares of very different sizes, each in a cell of its own.

In the other presets all objects are about as large, so that noise hides all of them at the same
time t, and a grid of few times, shifted there, suits the exact model. Here sides go from 2 to 14
pixels: noise hides small squares long before large ones. What follows for the number of steps is in
docs/headroom.md.

A square lies in the middle of its cell, so that everything an image shows is the colour of the 8
square rings of pixels around the middle of each of its 16 cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from selfe.data.shapes_world.scenes import Scene, ShapeObject
from selfe.data.shapes_world.vocabulary import (
    COLORS,
    NUMBERS,
    Preset,
    counting,
    plural,
    single_object,
    with_article,
)
from selfe.data.shapes_world.world import NuisanceFactor, ShapesWorld
from selfe.encoders.ring_layout import BACKGROUND, CELL_SIDE, CELLS, RING_OF_PIXEL, RINGS

SIDES = (2.0, 14.0)
"""Least and greatest side of a square in pixels; all between them alike likely."""
TASKS = ("single_object", "counting", "two_object")
COUNTS, COUNTS_OF_TWO = (2, 8), (1, 4)
CLASSES = tuple(f"{color} square" for color in COLORS)
PRESET = Preset(
    "squares",
    CELLS * CELL_SIDE,
    CLASSES,
    (SIDES[0] / 2, SIDES[1] / 2),
    cells=CELLS,
    jitter=0.0,
    bins=CELLS,
)


class SquaresWorld(ShapesWorld):
    """`ShapesWorld` of the preset "squares". Three tasks, equally frequent; captions state colour
    and number of all squares; cell and side are uniform. No pair is held out."""

    def __init__(self) -> None:
        self.preset = PRESET
        self.image_size = PRESET.image_size
        self.shapes, self.colors = CLASSES, tuple(COLORS)
        self.heldout_pairs = frozenset()

    def training_example(self, seed: int, index: int) -> Scene:
        rng = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, index]))
        return self.scene_for(draw_record(TASKS[int(rng.integers(len(TASKS)))], rng), rng)

    def scene_for(self, metadata: dict[str, Any], rng: np.random.Generator) -> Scene:
        names = [c["class"] for c in metadata["include"] for _ in range(c["count"])]
        cells = rng.permutation(CELLS * CELLS)[: len(names)].tolist()
        sides = rng.uniform(*SIDES, size=len(names)).tolist()
        objects = tuple(
            ShapeObject(
                name,
                name.split()[0],
                (cell % CELLS + 0.5) * CELL_SIDE,
                (cell // CELLS + 0.5) * CELL_SIDE,
                side / 2,
            )
            for name, cell, side in zip(names, cells, sides, strict=True)
        )
        return Scene(metadata, objects, float(BACKGROUND))

    def render_batch(self, scenes: Sequence[Scene]) -> np.ndarray:
        """(N, H, W, 3) uint8."""
        rings = np.full((len(scenes), CELLS, CELLS, RINGS, 3), float(BACKGROUND))
        for image, scene in zip(rings, scenes, strict=True):
            for thing in scene.objects:
                row, column = int(thing.cy // CELL_SIDE), int(thing.cx // CELL_SIDE)
                image[row, column] = ring_colors(thing.color, 2 * thing.radius)
        pixels = np.rint(rings).astype(np.uint8)[:, :, :, RING_OF_PIXEL]
        side = CELLS * CELL_SIDE
        return np.ascontiguousarray(pixels.transpose(0, 1, 3, 2, 4, 5)).reshape(-1, side, side, 3)

    def is_unseen(self, metadata: dict[str, Any]) -> bool:
        return False

    def nuisance_factors(self, metadata: dict[str, Any]) -> list[NuisanceFactor]:
        return [f for f in super().nuisance_factors(metadata) if f.kind != "color"]


def ring_colors(color: str, side: float | np.ndarray) -> np.ndarray:
    """(..., 8, 3) sRGB values in [0, 255] of the rings of a cell with one square.

    Args:
        side: in pixels; a ring that the square covers in part is mixed with the background.
    """
    reach = np.asarray(side, np.float64)[..., None] / 2
    covered = np.clip(reach - np.arange(RINGS), 0, 1)[..., None]
    return BACKGROUND + covered * (np.array(COLORS[color], np.float64) - BACKGROUND)


def two_colors(first: str, count_first: int, second: str, count_second: int) -> dict[str, Any]:
    """A record of exactly so many squares of each of two colours."""

    def words(name: str, count: int) -> str:
        return with_article(name) if count == 1 else f"{NUMBERS[count]} {plural(name)}"

    wanted = ((first, count_first), (second, count_second))
    return {
        "tag": "two_object",
        "include": [{"class": name, "count": count} for name, count in wanted],
        "exclude": [{"class": name, "count": count + 1} for name, count in wanted],
        "prompt": f"a photo of {' and '.join(words(name, count) for name, count in wanted)}",
    }


def draw_record(tag: str, rng: np.random.Generator) -> dict[str, Any]:
    """One record of a task: colours, then numbers.

    Raises:
        ValueError: for another task.
    """
    if tag not in TASKS:
        raise ValueError(f"the squares have no task {tag!r}; theirs are {', '.join(TASKS)}")
    name = CLASSES[int(rng.integers(len(CLASSES)))]
    if tag == "single_object":
        return single_object(name)
    if tag == "counting":
        return counting(name, int(rng.integers(*COUNTS, endpoint=True)))
    other = name
    while other == name:
        other = CLASSES[int(rng.integers(len(CLASSES)))]
    counts = rng.integers(*COUNTS_OF_TWO, size=2, endpoint=True).tolist()
    return two_colors(name, counts[0], other, counts[1])
