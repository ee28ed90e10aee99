"""Contact sheets: rows of images in one PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from selfe.files import write_atomically
from selfe.generator import GeneratedImage

_FAILED = (255, 0, 255)


def sheet(rows: Sequence[Sequence[GeneratedImage]], gap: int = 2) -> np.ndarray:
    """Images on white, `gap` pixels apart; a failed image is a magenta square.

    Raises:
        ValueError: if no image is finite, so that no size is known.
    """
    sizes = [image.shape for row in rows for image in row if image is not None]
    if not sizes:
        raise ValueError("none of the images is finite")
    height, width = max(s[0] for s in sizes), max(s[1] for s in sizes)
    columns = max(len(row) for row in rows)
    canvas = np.full(
        (len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8
    )
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            y, x = r * (height + gap), c * (width + gap)
            if image is None:
                canvas[y : y + height, x : x + width] = _FAILED
            else:
                canvas[y : y + image.shape[0], x : x + image.shape[1]] = image
    return canvas


def write_sheet(path: Path, rows: Sequence[Sequence[GeneratedImage]], gap: int = 2) -> np.ndarray:
    """Write the sheet as a PNG and return its pixels."""
    pixels = sheet(rows, gap)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())
    return pixels
