"""Features of unequal length side by side, padded with zeros, in memory that is used again.

New memory costs more than what is written into it: the system clears every page of a batch, padding
and all, when it is first touched. A batch that is no longer referenced passes its memory to the
next batch of its shape, and only the part of the padding that its rows had filled is cleared.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class _Buffer:
    """16-bit words (rows, length, features), zero but for the first so many of each row."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.words = np.zeros(shape, np.int16)
        self.filled = [0] * shape[0]
        self._unused = self._references()

    def _references(self) -> int:
        return sys.getrefcount(self.words)

    @property
    def free(self) -> bool:
        """Whether no tensor is left on this memory: each one's storage holds the array."""
        return self._references() == self._unused

    def fill(self, rows: Sequence[np.ndarray]) -> Tensor:
        fill_padded(self.words, rows, self.filled)
        self.filled = [len(row) for row in rows]
        return torch.from_numpy(self.words)


def fill_padded(words: np.ndarray, rows: Sequence[np.ndarray], filled: Sequence[int]) -> None:
    """Write `rows` to the front of the rows of `words`, of which `filled` are not zero yet."""
    for place, row, used in zip(words, rows, filled, strict=True):
        place[: len(row)] = row
        place[len(row) : used] = 0


class PaddedRows:
    """Pads rows to tensors that must not be written to; safe to call from several threads.

    Args:
        most: buffers kept; the one used longest ago goes first.
        pinned: hand out pinned memory, for copies to an accelerator. Torch's allocator keeps it, as
            it alone knows when a copy in flight has ended, so padding is cleared as a whole.
    """

    def __init__(self, most: int, *, pinned: bool = False) -> None:
        self.most, self.pinned = most, pinned
        self._buffers: list[_Buffer] = []
        self._lock = threading.Lock()

    def __call__(self, rows: Sequence[np.ndarray], length: int) -> Tensor:
        """Rows of int16 (L_i, D), L_i <= length -> (B, length, D) int16."""
        shape = (len(rows), length, rows[0].shape[1])
        if self.pinned:
            tensor = torch.empty(shape, dtype=torch.int16, pin_memory=True)
            fill_padded(tensor.numpy(), rows, [length] * len(rows))
            return tensor
        buffer = self._take(shape)
        tensor = buffer.fill(rows)
        with self._lock:  # only now, in use: nobody else may take it while it is filled
            self._buffers = [*self._buffers, buffer][-self.most :]
        return tensor

    def _take(self, shape: tuple[int, ...]) -> _Buffer:
        with self._lock:
            for number, buffer in enumerate(self._buffers):
                if buffer.words.shape == shape and buffer.free:
                    return self._buffers.pop(number)
        return _Buffer(shape)
