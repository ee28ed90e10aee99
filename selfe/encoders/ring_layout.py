"""How an image of the preset "squares" is cut: 4 x 4 cells of 16 x 16 pixels, 8 rings in each."""

from __future__ import annotations

import numpy as np

CELLS, CELL_SIDE, RINGS = 4, 16, 8
BACKGROUND = 128
"""Grey of an empty cell, in [0, 255]."""
_OFFSETS = np.abs(np.arange(CELL_SIDE) + 0.5 - CELL_SIDE / 2)
RING_OF_PIXEL = np.maximum(_OFFSETS[:, None], _OFFSETS[None]).astype(np.int64)
"""(16, 16) ring of every pixel of a cell: 0 are the four in the middle, 7 is the border."""
