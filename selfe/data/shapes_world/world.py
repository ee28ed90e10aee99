"""`ShapesWorld`: an endless, seeded source of captioned scenes, and their renderer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from selfe.data.shapes_world.renderer import render_batch
from selfe.data.shapes_world.scenes import Scene, build_scene
from selfe.data.shapes_world.vocabulary import COLORS, PRESETS, TASKS, draw_record

_HELDOUT_SEED = 2512
_SIZE_BINS = ("small", "large")


@dataclass(frozen=True)
class NuisanceFactor:
    """Something the caption leaves open, with its values.

    Attributes:
        label: class of the objects it belongs to.
        kind: "place", "size" or "color".
        values: names of the bins.
        count: how many objects of the class the scene holds.
    """

    label: str
    kind: str
    values: tuple[str, ...]
    count: int


class ShapesWorld:
    """The world in one of its presets, "grid" (32x32, 2x2 cells) or "free" (64x64).

    Every example is a function of (seed, index) alone. The six tasks of GenEval are equally
    frequent. Captions describe every object; cell or position, size and the colours that the
    caption does not name are uniform.

    Attributes:
        heldout_pairs: (shape, color) pairs, a tenth of all, that never occur in a training scene
            with two different objects: one pair for each shape, colours as even as they can be.

    Raises:
        ValueError: where the preset is unknown.
    """

    def __init__(self, preset: str = "grid") -> None:
        if preset not in PRESETS:
            raise ValueError(
                f"unknown shapes preset {preset!r}; the presets are {', '.join(PRESETS)}"
            )
        self.preset = PRESETS[preset]
        self.image_size = self.preset.image_size
        self.shapes = self.preset.shapes
        self.colors = tuple(COLORS)
        self.heldout_pairs = _draw_heldout_pairs(self.shapes)

    def training_example(self, seed: int, index: int) -> Scene:
        """The scene at place `index` of the stream `seed`; both at least 0."""
        rng = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, index]))
        tag = TASKS[int(rng.integers(len(TASKS)))]
        metadata = draw_record(tag, self.shapes, rng)
        while self.is_unseen(metadata):
            metadata = draw_record(tag, self.shapes, rng)
        return self.scene_for(metadata, rng)

    def scene_for(self, metadata: dict[str, Any], rng: np.random.Generator) -> Scene:
        """A correct scene of a record; only what the record leaves open is drawn."""
        return build_scene(self.preset, self.heldout_pairs, metadata, rng)

    def render(self, scene: Scene) -> np.ndarray:
        """(H, W, 3) uint8."""
        return self.render_batch([scene])[0]

    def render_batch(self, scenes: Sequence[Scene]) -> np.ndarray:
        """(N, H, W, 3) uint8."""
        return render_batch(self.preset, scenes)

    def is_unseen(self, metadata: dict[str, Any]) -> bool:
        """True for a color_attr record that names a held-out pair."""
        return metadata["tag"] == "color_attr" and any(
            (clause["class"], clause.get("color")) in self.heldout_pairs
            for clause in metadata["include"]
        )

    def nuisance_factors(self, metadata: dict[str, Any]) -> list[NuisanceFactor]:
        """What the record leaves open, per class: place, size, and the colour unless stated."""
        bins = range(self.preset.bins)
        places = tuple(f"row {y} column {x}" for y in bins for x in bins)
        factors = []
        for clause in metadata["include"]:
            label, count = clause["class"], clause["count"]
            factors.append(NuisanceFactor(label, "place", places, count))
            factors.append(NuisanceFactor(label, "size", _SIZE_BINS, count))
            if "color" not in clause:
                factors.append(NuisanceFactor(label, "color", self.colors, count))
        return factors

    def factor_value(
        self, kind: str, box: tuple[float, float, float, float], color: str | None
    ) -> str:
        """The bin of one detected object: `kind` as in `NuisanceFactor`, box (x1, y1, x2, y2).

        Size compares the longer side of the box with the middle of the range of diameters, the
        same for data and for generated images, so shapes narrower than their diameter do not bias
        the comparison.
        """
        x1, y1, x2, y2 = box
        if kind == "place":
            n, side = self.preset.bins, self.image_size
            column = min(n - 1, max(0, int((x1 + x2) / 2 * n / side)))
            row = min(n - 1, max(0, int((y1 + y2) / 2 * n / side)))
            return f"row {row} column {column}"
        if kind == "size":
            return _SIZE_BINS[max(x2 - x1, y2 - y1) >= sum(self.preset.radius)]
        if kind == "color":
            return str(color)
        raise ValueError(f"unknown nuisance factor {kind!r}; known are place, size, color")


def _draw_heldout_pairs(shapes: tuple[str, ...]) -> frozenset[tuple[str, str]]:
    """One colour for each shape: repeated permutations of the colours, from a fixed seed."""
    rng = np.random.default_rng(_HELDOUT_SEED)
    names = tuple(COLORS)
    order: list[int] = []
    while len(order) < len(shapes):
        order += rng.permutation(len(names)).tolist()
    return frozenset((shape, names[color]) for shape, color in zip(shapes, order, strict=False))
