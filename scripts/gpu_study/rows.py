"""What the parts of the GPU study share: settings, rows of a table, and the clock of a device."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from selfe.config.resolve import resolve
from selfe.config.schema import RunConfig
from selfe.device import GPUS

PEAK_TFLOPS = GPUS["h200"].flops / 1e12
"""Dense bf16 of one H200: the denominator of every MFU figure, whatever the card."""

Row = dict[str, Any]

# The networks of the paper's recipes, shrunk until a processor makes a step in a fraction of a
# second; latents and text keep their number of features.
TINY = (
    "model.num_layers=1",
    "model.num_single_layers=1",
    "model.num_attention_heads=1",
    "model.attention_head_dim=16",
    "model.axes_dims_rope=[4,6,6]",
)


class Unfinished(Exception):
    """A measurement ran out of time and continues when it is called again."""


class Mismatch(ValueError):
    """The device computes something else than the reference."""


@dataclass(frozen=True)
class Settings:
    """How a study is run.

    Attributes:
        device: "cuda", or "cpu" for a rehearsal.
        tiny: toy sizes: proves that the study works, measures nothing.
        work: folder of runs, images and caches.
        assignments: `section.key=value` for the runs of shapes-64.
        ends: `time.monotonic` by which everything must have stopped.
    """

    device: str
    tiny: bool
    work: Path
    assignments: tuple[str, ...] = ()
    ends: float = float("inf")

    @property
    def on_gpu(self) -> bool:
        return torch.device(self.device).type == "cuda"

    def seconds_left(self) -> float:
        return self.ends - time.monotonic()

    def config(
        self, recipe: str, method: str, variant: str = "", precision: str = "auto"
    ) -> RunConfig:
        """A recipe's run with compiled blocks; its network is shrunk where the study is."""
        assignments = [f"train.precision={precision}", "train.compile=true"]
        assignments += TINY if self.tiny else ()
        return resolve(recipe, method, variant=variant, assignments=assignments)


@dataclass(frozen=True)
class Measurement:
    """One row.

    Attributes:
        name: identifies the row; a finished one is not measured again.
        expected_seconds: it is not started with less time left.
        run: makes the row, without its name.

    `run` raises `Unfinished` where it can go on later; any other error becomes the row's "error".
    """

    name: str
    expected_seconds: float
    run: Callable[[], Row]


@dataclass(frozen=True)
class Part:
    """A table of its own.

    Attributes:
        about: one sentence on what the rows say, written beside them.
        measurements: in order of importance.
        derive: adds to the rows what follows from several of them.
    """

    about: str
    measurements: Sequence[Measurement]
    derive: Callable[[list[Row]], None] = field(default=lambda rows: None)


def synchronize(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def wall_seconds(work: Callable[[], object], device: str) -> float:
    """Wall clock of one call, until the device has finished."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def median_seconds(
    sides: Sequence[Callable[[], object]], device: str, seconds: float, rounds: int = 5
) -> list[float]:
    """Median wall seconds of each side, called in turn for about `seconds`, `rounds` at least."""
    for side in sides:
        wall_seconds(side, device)
    times: list[list[float]] = [[] for _ in sides]
    start = time.monotonic()
    while len(times[0]) < rounds or time.monotonic() - start < seconds:
        for side, own in zip(sides, times, strict=True):
            own.append(wall_seconds(side, device))
    return [statistics.median(own) for own in times]


def release(device: str) -> None:
    """Forget compiled versions and give memory back: the next row starts from nothing."""
    torch.compiler.reset()
    gc.collect()  # a compiled block and its wrapper hold each other, and the weights with them
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def ran_out_of_memory(error: RuntimeError) -> bool:
    """Libraries that allocate for themselves report it in words."""
    words = ("out of memory", "ALLOC_FAILED")
    told = any(word in str(error) for word in words)
    return told or isinstance(error, torch.cuda.OutOfMemoryError)


def largest_that_fits(batch: int, multiple: int, measure: Callable[[int], Row], device: str) -> Row:
    """`measure(batch)`, with the batch halved as long as memory runs out.

    Raises:
        RuntimeError: where not even `multiple` samples fit.
    """
    while True:
        try:
            return {"batch": batch, **measure(batch)}
        except RuntimeError as error:
            if not ran_out_of_memory(error) or batch <= multiple:
                raise
            batch //= 2
        release(device)
