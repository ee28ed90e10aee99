"""What drawing costs: wall time and peak memory, measured alike for every model."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selfe.generator import TextToImage


class DrawingMeter:
    """Adds up seconds and images of the drawing it watches, and keeps the highest memory seen.

    Memory is what torch allocated on a CUDA device while drawing; elsewhere, where nothing can be
    asked or reset, the resident peak of the process so far, weights and all.

    Args:
        model: that draws; its device is asked for where it does.
    """

    def __init__(self, model: TextToImage) -> None:
        self.model = model
        self.images = 0
        self.seconds = 0.0
        self.peak_bytes = 0

    @contextmanager
    def watch(self, num_images: int) -> Iterator[None]:
        """Measures the drawing of `num_images` inside; images are in memory when it ends."""
        import torch  # here, so that a plan does not start it

        device = self.model.device
        on_cuda = device.type == "cuda"
        if on_cuda:
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
        started = time.perf_counter()
        yield
        if on_cuda:
            torch.cuda.synchronize(device)
        self.seconds += time.perf_counter() - started
        self.images += num_images
        peak = torch.cuda.max_memory_allocated(device) if on_cuda else resident_peak()
        self.peak_bytes = max(self.peak_bytes, peak)

    def cost(self) -> dict[str, float]:
        """For `Result.cost`; {} where nothing was drawn."""
        if not self.images:
            return {}
        return {
            "wall_s_per_image": self.seconds / self.images,
            "peak_memory_bytes": float(self.peak_bytes),
        }


def resident_peak() -> int:
    """Bytes of memory this process has held at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
