"""The update at the end of an iteration. A non-finite loss or gradient never changes the weights.

If the host checks the values, it waits for the device, and then the device waits for the host. The
fused optimiser can check them on the device: the update is queued in any case, and the host reads
the outcome one iteration later.
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
class Outcome:
    """Loss and gradient norm of an iteration, perhaps still being copied to the host."""

    values: Tensor
    arrived: torch.cuda.Event | None = None

    def wait(self) -> tuple[float, float]:
        if self.arrived is not None:
            self.arrived.synchronize()
        loss, norm = self.values.tolist()
        return loss, norm


Update = Callable[[TrainState, Tensor, Tensor], Outcome]
"""Step the optimiser and the moving average where loss and gradient norm (scalars) are finite."""


def update_of(processes: int) -> tuple[Update, int]:
    """The update to use, and how many iterations later its outcome may be read.

    On several processes the host checks: iterations are long, and it waits for sums in any case.
    """
    return (update_if_finite, 1) if processes == 1 else (check_then_update, 0)


def check_then_update(state: TrainState, loss: Tensor, norm: Tensor) -> Outcome:
    """The host waits for the values, checks them and decides."""
    outcome = Outcome(torch.stack([loss.float(), norm.float()]).cpu())
    if all(math.isfinite(value) for value in outcome.wait()):
        state.optimizer.step()
        state.update_averages()
    return outcome


def update_if_finite(state: TrainState, loss: Tensor, norm: Tensor) -> Outcome:
    """The device checks and decides: torch's fused optimisers skip the step if `found_inf` is 1."""
    values = torch.stack([loss.float(), norm.float()])
    finite = torch.isfinite(values).all()
    state.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
    state.optimizer.step()
    state.update_averages(where=finite)
    if not values.is_cuda:
        return Outcome(values)
    on_host = torch.empty(values.shape, pin_memory=True)
    on_host.copy_(values, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return Outcome(on_host, arrived)


class NonFiniteLoss(ValueError):
    """Too many iterations in a row without a finite loss and gradient."""


@dataclass(frozen=True)
class Iteration:
    """An iteration whose update is queued and whose outcome may not be known yet.

    Attributes:
        step: before it (0-based).
        outcome: its loss and gradient norm.
        outputs, indices: of this process' micro-batches.
    """

    step: int
    outcome: Outcome
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
    if all(math.isfinite(value) for value in iteration.outcome.wait()):
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
