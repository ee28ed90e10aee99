"""The update at the end of an iteration, which a non-finite loss or gradient never gets past.

Asking the device whether they are finite makes the host wait until it has caught up, and the device
then wait for the host. Our optimiser, which is fused, can look for itself: the update is queued
either way, and what came of it is read an iteration later.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from selfe.train_state import TrainState


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
    """The update to use, and by how many iterations its readings may be left lying.

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
