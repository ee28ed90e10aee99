"""The training loop. It knows objectives only through `Objective.loss`.

State after iteration n is a function of the configuration alone: times, noise, caption dropout and
sample order are keyed by global sample position, so stopping and resuming changes no bit. On many
processes (`selfe.distributed.processes`) that holds for each layout; between layouts sums are
rounded differently."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from selfe import train_state
from selfe.acceleration import accelerate
from selfe.batch import BatchSource, LatentBatch, ReadsAhead
from selfe.config.schema import RunConfig
from selfe.config.stages import check_batches, first_position, micro_batch_size, stage_at
from selfe.device import autocast, matrix_products
from selfe.distributed.processes import OneProcess
from selfe.mfu import Speed, Throughput
from selfe.objectives.base import LossOutput, Nets, Objective
from selfe.optim import clip_gradients, learning_rate, set_learning_rate
from selfe.runlog import NoLog, RunLog
from selfe.seeding import SampleRng, derive_seed
from selfe.train_state import CheckpointWriter, TrainState
from selfe.updates import Reading, update_of


class NonFiniteLoss(ValueError):
    """Too many iterations in a row without a finite loss and gradient."""


class ObjectiveError(RuntimeError):
    """An objective failed on a batch. Its cause says where, for whoever writes the objective."""


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
    """Everything outside the loop: showing, drawing sample grids, and being asked to stop."""

    progress: Callable[[Progress], None] = lambda progress: None
    message: Callable[[str], None] = lambda text: None
    draw_samples: Callable[[nn.Module, int], None] | None = None
    should_stop: Callable[[], bool] = lambda: False
    record: Callable[[Mapping[str, Any]], None] = lambda record: None
    """Mirrors lines of metrics.jsonl, to a tracker for example."""


def micro_batches(
    config: RunConfig, step: int, device: torch.device, rank: int = 0, size: int = 1
) -> list[SampleRng]:
    """The streams of the micro-batches of iteration `step`, in order: part `rank` of `size` equal
    parts of the global batch."""
    part = stage_at(config, step).batch_size // size
    micro = micro_batch_size(config, part)
    first = first_position(config, step) + rank * part
    position = torch.arange(first, first + part)
    rng = SampleRng(derive_seed(config.seed, "training"), position, device)
    return [rng.rows(start, start + micro) for start in range(0, part, micro)]


def accumulate(
    objective: Objective,
    source: BatchSource,
    nets: Nets,
    config: RunConfig,
    step: int,
    processes: OneProcess,
) -> tuple[Tensor, list[LossOutput], Tensor]:
    """Gradients of the global batch at `step`: this process' part of it, in micro-batches.

    Returns:
        Of this process' part: the mean loss, on the device, the micro-batches' outputs and the
        data-set indices.
    """
    device, place = processes.device, (processes.rank, processes.size)
    streams = micro_batches(config, step, device, *place)
    if isinstance(source, ReadsAhead):
        source.expect([*streams, *micro_batches(config, step + 1, device, *place)])
    outputs, indices = [], []
    for rng in streams:
        batch = source.batch(rng)
        processes.reduce_across_replicas(now=rng is streams[-1])
        with autocast(device, config.train.precision):
            output = loss_of(objective, batch, nets, step, rng)
        (output.loss * (1 / len(streams))).backward()
        outputs.append(replace(output, loss=output.loss.detach()))
        indices.append(batch.index)
    loss = torch.stack([output.loss for output in outputs]).mean()
    return loss, outputs, torch.cat(indices)


def loss_of(
    objective: Objective, batch: LatentBatch, nets: Nets, step: int, rng: SampleRng
) -> LossOutput:
    """`objective.loss`, held to its contract.

    Raises:
        ObjectiveError: for a ValueError in it, which elsewhere is a user's to mend.
        TypeError: if it does not return what `Objective.loss` promises.
    """
    name = f"{type(objective).__qualname__}.loss"
    try:
        output = objective.loss(batch, nets, step, rng)
    except ValueError as error:
        raise ObjectiveError(f"{name} failed at iteration {step + 1}: {error}") from error
    samples = len(batch)
    if not isinstance(output, LossOutput):
        raise TypeError(f"{name} must return a LossOutput, got {type(output).__qualname__}")
    shapes = {"loss": (), "per_sample": (samples,), "t": (samples,), "s": (samples,)}
    fields = {field: (getattr(output, field), shape) for field, shape in shapes.items()}
    fields |= {f"metric {metric}": (value, ()) for metric, value in output.metrics.items()}
    for field, (value, wanted) in fields.items():
        if not isinstance(value, Tensor):
            what = type(value).__qualname__
            raise TypeError(f"{name}: {field} must be a tensor of shape {wanted}, got {what}")
        if tuple(value.shape) != wanted:
            raise TypeError(f"{name}: {field} must have shape {wanted}, got {tuple(value.shape)}")
    if not output.loss.requires_grad:
        raise TypeError(f"{name}: loss must carry a gradient")
    return output


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


def train(
    config: RunConfig,
    *,
    model: nn.Module,
    objective: Objective,
    source: BatchSource,
    run_dir: Path,
    resume: bool = False,
    init: TrainState | None = None,
    callbacks: Callbacks | None = None,
    processes: OneProcess | None = None,
) -> TrainState:
    """Run `config.train.iterations` iterations, or until asked to stop.

    Args:
        model: the live network, on its device; sharded in place where processes share it.
        run_dir: receives checkpoints/ and metrics.jsonl.
        resume: continue from the newest valid checkpoint of `run_dir`.
        init: state of `model` forked from another run; used when there is nothing to resume.
        processes: those that train together; None for this one alone.

    Raises:
        NonFiniteLoss: after more than `max_nonfinite` iterations in a row without an update.
        ObjectiveError, TypeError: if the objective fails or breaks its contract.
        ValueError: if batches do not divide over the processes.
        CheckpointError, OSError: if checkpoints cannot be read or written.
    """
    callbacks = callbacks or Callbacks()
    processes = processes or OneProcess(next(model.parameters()).device)
    check_batches(config, objective.group_size, processes.size)
    state = init or train_state.new_state(model, config, processes)
    if resume:
        train_state.resume(state, config, run_dir, processes, callbacks.message)
    log: RunLog | NoLog = NoLog()
    if processes.is_main:
        log = RunLog(run_dir / "metrics.jsonl", state.step, callbacks.record)
    if processes.layout:
        log.write({"event": "layout", "step": state.step, **processes.layout})
    writer = train_state.open_writer(config, run_dir, processes)
    products = matrix_products(processes.device, config.train.precision)
    with contextlib.closing(log), contextlib.closing(writer), products:
        iterate(state, config, objective, source, writer, log, callbacks, processes)
    if state.step < config.train.iterations:
        callbacks.message(f"stopped after iteration {state.step}, checkpoint written")
    return state


def iterate(
    state: TrainState,
    config: RunConfig,
    objective: Objective,
    source: BatchSource,
    writer: CheckpointWriter,
    log: RunLog | NoLog,
    callbacks: Callbacks,
    processes: OneProcess,
) -> None:
    """The iterations themselves, until the last or asked to stop, with a checkpoint at the end."""
    for network in (state.model, state.ema.module):
        accelerate(network, config.train)
    throughput = Throughput(config.model, processes.device)
    live, average = throughput.watch(state.model), throughput.watch(state.ema.module)
    nets = Nets(live, average, lockstep=processes.sharded)
    parameters = [p for p in state.model.parameters() if p.requires_grad]
    state.model.train()
    state.ema.module.eval()
    update, lag = update_of(processes.size)
    unsettled: deque[Iteration] = deque()

    def settle_down_to(left: int) -> None:
        while len(unsettled) > left:
            settle(unsettled.popleft(), state, config, log, callbacks, processes)

    while state.step < config.train.iterations:
        step = state.step
        rate = learning_rate(step, config.optim, config.train.iterations)
        set_learning_rate(state.optimizer, rate)
        state.optimizer.zero_grad(set_to_none=True)
        loss, outputs, indices = accumulate(objective, source, nets, config, step, processes)
        loss = processes.average(loss, parameters)
        norm = processes.full(clip_gradients(parameters, config.optim.clip_norm))
        iteration = Iteration(step, update(state, loss, norm), outputs, indices)
        unsettled.append(iteration)
        state.step = step + 1
        throughput.images += len(indices) * processes.size

        log_now = state.step % config.train.log_every == 0 or state.step == config.train.iterations
        save_now = _due(state.step, config.train.checkpoint_every, config)
        draw, every = callbacks.draw_samples, config.train.sample_every
        draw_now = bool(every and _due(state.step, every, config))
        # What is shown or written down comes after all that happened before.
        settle_down_to(0 if log_now or save_now or draw_now else lag)

        if log_now:
            metrics = _mean_metrics(outputs, processes)
            speed = throughput.read()
            loss_value, norm_value = iteration.reading.wait()
            log.write(
                {
                    "step": state.step,
                    "loss": loss_value,
                    "gradient_norm": norm_value,
                    "learning_rate": rate,
                    **speed.as_record(),
                    **metrics,
                }
            )
            callbacks.progress(
                Progress(state.step, config.train.iterations, loss_value, metrics, speed)
            )
            throughput.restart()
        if save_now:
            train_state.save(state, config, writer)
        if draw and draw_now:
            draw(state.ema.module, state.step)
            throughput.restart()
        if processes.any(callbacks.should_stop()):
            settle_down_to(0)
            if not save_now:
                train_state.save(state, config, writer)
            break


def _due(step: int, every: int | None, config: RunConfig) -> bool:
    milestone = config.train.milestone_every
    return bool(
        (every and step % every == 0)
        or (milestone and step % milestone == 0)
        or step == config.train.iterations
    )


def _mean_metrics(outputs: list[LossOutput], processes: OneProcess) -> dict[str, float]:
    names = outputs[0].metrics.keys()
    return {
        n: float(processes.mean(torch.stack([o.metrics[n] for o in outputs]).mean())) for n in names
    }
