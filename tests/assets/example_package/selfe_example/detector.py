"""A detector that calls a bright image a lamp and a dark one a cave."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evals.base import Detection


class BrightnessDetector:
    identity = "brightness of the whole image"
    classes = ("lamp", "cave")

    def __init__(self, device: str = "cpu", batch_size: int = 8) -> None:
        self.batch_size = batch_size

    def detect(self, images: Sequence[np.ndarray]) -> list[list[Detection]]:
        return [[self._whole(image)] for image in images]

    def _whole(self, image: np.ndarray) -> Detection:
        height, width = image.shape[:2]
        return Detection(
            label="lamp" if image.mean() > 127 else "cave",
            box=(0, 0, width, height),
            score=1.0,
            mask=np.ones((height, width), dtype=bool),
        )
