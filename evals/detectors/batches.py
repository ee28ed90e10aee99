"""Images of the shapes world in batches, each checked for its size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np


def checked_batches(
    images: Sequence[np.ndarray], side: int, preset: str, batch_size: int
) -> Iterator[np.ndarray]:
    """Images one after the other as uint8 (B, side, side, 3), B at most `batch_size`.

    Raises:
        ValueError: where an image of a batch has another size or type; names the preset's.
    """
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        for image in batch:
            if image.shape != (side, side, 3) or image.dtype != np.uint8:
                raise ValueError(
                    f"the shapes detector of preset {preset!r} takes uint8 images of "
                    f"({side}, {side}, 3), got {image.dtype} {image.shape}"
                )
        yield np.stack(batch)
