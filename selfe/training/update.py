"""The update at the end of an iteration, which a non-finite loss or gradient never gets past.

Asking the device whether they are finite makes the host wait until it has caught up, and the device
then wait for the host. Our optimiser, which is fused, can look for itself: the update is queued
either way, and what came of it is read an iteration later.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from selfe.config.schema import RunConfig
from selfe.distributed.processes import OneProcess
from selfe.objectives.base import LossOutput
from selfe.training.callbacks import Callbacks
from selfe.training.metrics_log import NoLog, RunLog
from selfe.training.state import TrainState


@dataclass(frozen=True)
class Reading:
    """Loss and gradient norm of an iteration, perhaps still on their way to the host."""

    values: Tensor
    arrived: torch.cuda.Event | None = None

    def wait(self) -> tuple[float, float]:
        if self.arrived is not None:
            self.arrived.synchronize()
        loss, norm = self.values.tolist()
        return loss, norm


Update = Callable[[TrainState, Tensor, Tensor], Reading]
"""Step the optimiser and the moving average where loss and gradient norm (scalars) are finite."""


def update_of(processes: int) -> tuple[Update, int]:
    """The update to use, and how many iterations later its measurements may be read.

    Several processes ask: their iterations are long, and the sums they wait for anyway.
    """
    return (update_unasked, 1) if processes == 1 else (ask_and_update, 0)


def ask_and_update(state: TrainState, loss: Tensor, norm: Tensor) -> Reading:
    """The host waits for the values and decides."""
    reading = Reading(torch.stack([loss.float(), norm.float()]).cpu())
    if all(math.isfinite(value) for value in reading.wait()):
        state.optimizer.step()
        state.ema.update(state.model, state.step)
    return reading


def update_unasked(state: TrainState, loss: Tensor, norm: Tensor) -> Reading:
    """The device decides. `found_inf` is how torch's gradient scaler tells a fused optimiser."""
    values = torch.stack([loss.float(), norm.float()])
    finite = torch.isfinite(values).all()
    state.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
    state.optimizer.step()
    state.ema.update(state.model, state.step, where=finite)
    if not values.is_cuda:
        return Reading(values)
    on_host = torch.empty(values.shape, pin_memory=True)
    on_host.copy_(values, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return Reading(on_host, arrived)


class NonFiniteLoss(ValueError):
    """Too many iterations in a row without a finite loss and gradient."""


@dataclass(frozen=True)
class Iteration:
    """An iteration whose update is queued and whose outcome may not be known yet.

    Attributes:
        step: before it (0-based).
        reading: its loss and gradient norm.
        outputs, indices: of this process' micro-batches.
    """

    step: int
    reading: Reading
    outputs: list[LossOutput]
    indices: Tensor


def explain_nonfinite(iteration: Iteration, processes: OneProcess) -> dict[str, Any]:
    """Which samples and times went wrong, on any process: what a person needs to look into it."""
    outputs = iteration.outputs
    per_sample = torch.cat([output.per_sample for output in outputs]).cpu()
    t = torch.cat([output.t for output in outputs]).cpu()
    s = torch.cat([output.s for output in outputs]).cpu()
    bad = torch.nonzero(~torch.isfinite(per_sample))[:, 0][:8]
    indices = iteration.indices.cpu()[bad]
    here = list(zip(indices.tolist(), t[bad].tolist(), s[bad].tolist(), strict=True))
    rows = [row for part in processes.gather(here) for row in part][:8]
    finite = all(processes.gather(all(bool(torch.isfinite(o.loss)) for o in outputs)))
    return {
        "event": "nonfinite",
        "step": iteration.step + 1,
        "where": "gradient" if finite and not rows else "loss",
        "samples": [index for index, _, _ in rows],
        "t": [t for _, t, _ in rows],
        "s": [s for _, _, s in rows],
    }


def settle(
    iteration: Iteration,
    state: TrainState,
    config: RunConfig,
    log: RunLog | NoLog,
    callbacks: Callbacks,
    processes: OneProcess,
) -> None:
    """Find out whether an iteration made its update; count, log and tell where it did not.

    Raises:
        NonFiniteLoss: after more than `max_nonfinite` in a row without one, or if none of the
            whole run made one.
    """
    if all(math.isfinite(value) for value in iteration.reading.wait()):
        state.skipped = 0
        return
    state.skipped += 1
    record = explain_nonfinite(iteration, processes)
    log.write(record)
    callbacks.message(f"iteration {record['step']}: no update, {record}")
    if state.skipped > config.train.max_nonfinite or state.skipped == config.train.iterations:
        raise NonFiniteLoss(
            f"{state.skipped} iterations in a row without a finite {record['where']}, the "
            f"last at iteration {record['step']} with samples {record['samples']}, "
            f"t = {record['t']}, s = {record['s']}"
        )
