"""What the training loop tells its caller: progress, checkpoints, samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from selfe.training.throughput import Speed


@dataclass(frozen=True)
class Progress:
    """What a progress bar shows after an iteration.

    Attributes:
        metrics: the objective's own (`LossOutput.metrics`).
    """

    step: int
    iterations: int
    loss: float
    metrics: Mapping[str, float]
    speed: Speed


@dataclass(frozen=True)
class Callbacks:
    """Everything outside the loop: showing, drawing sample grids, and being asked to stop.

    Attributes:
        begin: told how many iterations were made before.
    """

    begin: Callable[[int], None] = lambda step: None
    progress: Callable[[Progress], None] = lambda progress: None
    message: Callable[[str], None] = lambda text: None
    draw_samples: Callable[[nn.Module, int], None] | None = None
    should_stop: Callable[[], bool] = lambda: False
    record: Callable[[Mapping[str, Any]], None] = lambda record: None
    """Mirrors lines of metrics.jsonl, to a tracker for example."""
