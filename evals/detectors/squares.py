"""Detector of the preset "squares": nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evals.base import Detection
from evals.detectors.batches import checked_batches
from selfe.data.shapes_world.squares import CLASSES, PRESET, SIDES, ring_colors
from selfe.encoders.ring_layout import BACKGROUND, CELL_SIDE, CELLS, RING_OF_PIXEL, RINGS

_SIDES = np.arange(SIDES[0], SIDES[1] + 0.25, 0.5)


class SquaresDetector:
    """`Detector`: the square that each cell is most like.

    A cell is described by the mean colours of its 8 rings of pixels, all rings alike. With d the
    squared distance to the nearest square of any colour and side, and e that to an empty cell, the
    score is (e - d) / (e + d): 1 on a clean square, 0 where a cell is as near to empty. Mixed or
    blurred squares score low.

    Raises:
        ValueError: where an image has another size or type than the world's.
    """

    identity = "shapes-squares@1"
    classes: Sequence[str] = CLASSES

    def __init__(self, device: str = "cpu", batch_size: int = 256) -> None:
        self.batch_size = batch_size  # numpy does it all, whatever the device
        looks = np.stack([ring_colors(name.split()[0], _SIDES) for name in CLASSES])
        self._looks = (looks.reshape(-1, RINGS * 3) - BACKGROUND) / 127.5
        ring = np.eye(RINGS)[RING_OF_PIXEL.ravel()]
        self._means = ring / ring.sum(0)  # (256, 8)

    def detect(self, images: Sequence[np.ndarray]) -> list[list[Detection]]:
        return [
            found
            for batch in checked_batches(images, PRESET.image_size, PRESET.name, self.batch_size)
            for found in self._detect_batch(batch)
        ]

    def _detect_batch(self, images: np.ndarray) -> list[list[Detection]]:
        cells = images.reshape(-1, CELLS, CELL_SIDE, CELLS, CELL_SIDE, 3)
        pixels = cells.transpose(0, 1, 3, 5, 2, 4).reshape(len(images), -1, 3, CELL_SIDE**2)
        rings = (pixels @ self._means).swapaxes(2, 3).reshape(len(images), -1, RINGS * 3)
        rings = (rings - BACKGROUND) / 127.5
        empty = np.square(rings).sum(2)
        squared = empty[..., None] - 2 * rings @ self._looks.T + np.square(self._looks).sum(1)
        nearest = squared.argmin(2)
        distance = np.maximum(squared.min(2), 0)
        score = (empty - distance) / np.maximum(empty + distance, 1e-12)
        return [
            [self._detection(n, int(nearest[i, n]), score[i, n]) for n in np.argsort(-score[i])
             if score[i, n] > 0]
            for i in range(len(images))
        ]  # fmt: skip

    def _detection(self, cell: int, look: int, score: float) -> Detection:
        label, side = CLASSES[look // len(_SIDES)], float(_SIDES[look % len(_SIDES)])
        x, y = ((place + 0.5) * CELL_SIDE for place in (cell % CELLS, cell // CELLS))
        mask = np.zeros((PRESET.image_size,) * 2, bool)
        top, left = cell // CELLS * CELL_SIDE, cell % CELLS * CELL_SIDE
        mask[top : top + CELL_SIDE, left : left + CELL_SIDE] = RING_OF_PIXEL < round(side / 2)
        box = (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
        return Detection(label=label, box=box, score=float(score), mask=mask)
