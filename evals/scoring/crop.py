"""Black borders cut off before an image is saved, as BAGEL's evaluation of GenEval does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from selfe.generator import GeneratedImage, TextToImage

if TYPE_CHECKING:  # images that are there already need no torch
    import torch


def crop_black_borders(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> the smallest box outside which every pixel is black; the image itself
    where all of it is."""
    rows, columns = (np.flatnonzero(image.any(axis=axes)) for axes in ((1, 2), (0, 2)))
    if not len(rows):
        return image
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


class CropsBlackBorders:
    """A model whose images lose their black borders; results say so."""

    def __init__(self, generator: TextToImage) -> None:
        self._generator = generator
        self.facts, self.chunk_size = generator.facts, generator.chunk_size

    @property
    def device(self) -> torch.device:
        return self._generator.device

    def nfe(self, num_steps: int) -> int:
        return self._generator.nfe(num_steps)

    def sampling_at(self, num_steps: int) -> Mapping[str, Any]:
        return {**self._generator.sampling_at(num_steps), "crop_black_borders": True}

    def count_truncated(self, prompts: Sequence[str]) -> dict[str, int]:
        return self._generator.count_truncated(prompts)

    def generate(
        self, prompts: Sequence[str], num_steps: int, seeds: Sequence[int]
    ) -> list[GeneratedImage]:
        """See `selfe.generator.TextToImage.generate`."""
        images = self._generator.generate(prompts, num_steps, seeds)
        return [None if image is None else crop_black_borders(image) for image in images]
