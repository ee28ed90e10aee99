"""The training loop. It knows objectives only through `Objective.loss`.

State after iteration n is a function of the configuration alone: times, noise, caption dropout and
sample order are keyed by global sample position, so stopping and resuming changes no bit. On many
processes (`selfe.distributed.processes`) that holds for each layout; between layouts sums are
rounded differently."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from selfe.batch import BatchSource, LatentBatch, ReadsAhead
from selfe.config.schema import RunConfig
from selfe.config.stages import check_batches, first_position, micro_batch_size, stage_at
from selfe.device import autocast, matrix_products
from selfe.distributed.processes import OneProcess
from selfe.objectives.base import LossOutput, Nets, Objective
from selfe.run_folder.records import owner_of
from selfe.seeding import SampleRng, derive_seed
from selfe.training import state as train_state
from selfe.training.block_execution import accelerate
from selfe.training.callbacks import Callbacks, Progress
from selfe.training.metrics_log import NoLog, RunLog
from selfe.training.optim import clip_gradients, learning_rate, set_learning_rate
from selfe.training.state import TrainState
from selfe.training.throughput import Throughput
from selfe.training.update import Iteration, settle, update_of


class ObjectiveError(RuntimeError):
    """An objective failed on a batch. Its cause says where, for the author of the objective."""


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
        ObjectiveError: for a ValueError in it, which elsewhere is a mistake of the user.
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
        log = RunLog(run_dir / "metrics.jsonl", state.step, callbacks.record, config.digest)
    owner = owner_of(run_dir)
    run = owner.run if owner else ""
    if processes.layout:
        log.write({"event": "layout", "step": state.step, **processes.layout})
    writer = train_state.open_writer(config, run_dir, processes)

    def save(state: TrainState) -> None:
        train_state.save(state, config, writer, run)

    products = matrix_products(processes.device, config.train.precision)
    with contextlib.closing(log), contextlib.closing(writer), products:
        iterate(state, config, objective, source, save, log, callbacks, processes)
    if state.step < config.train.iterations:
        callbacks.message(f"stopped after iteration {state.step}, checkpoint written")
    return state


def iterate(
    state: TrainState,
    config: RunConfig,
    objective: Objective,
    source: BatchSource,
    save: Callable[[TrainState], None],
    log: RunLog | NoLog,
    callbacks: Callbacks,
    processes: OneProcess,
) -> None:
    """The iterations themselves, until the last or asked to stop, with a checkpoint at the end."""
    for network in (state.model, *(average.module for average in state.averages)):
        accelerate(network, config.train)
    throughput = Throughput(config.model, processes.device)
    live, average = throughput.watch(state.model), throughput.watch(state.ema.module)
    conditional = throughput.watch(state.conditional.module) if state.conditional else None
    nets = Nets(live, average, lockstep=processes.sharded, conditional=conditional)
    parameters = [p for p in state.model.parameters() if p.requires_grad]
    state.model.train()
    for moving in state.averages:
        moving.module.eval()
    update, lag = update_of(processes.size)
    unsettled: deque[Iteration] = deque()

    def settle_down_to(left: int) -> None:
        while len(unsettled) > left:
            settle(unsettled.popleft(), state, config, log, callbacks, processes)

    callbacks.begin(state.step)
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

        due = Due.after(state.step, config)
        # What is shown or written comes after everything that happened before it.
        settle_down_to(0 if due.log or due.save or due.draw else lag)
        if due.log:
            log_iteration(iteration, rate, config, throughput, log, callbacks, processes)
            throughput.restart()
        try:  # before the checkpoint: a run that resumes from it does not draw earlier sheets
            if due.draw and callbacks.draw_samples:
                callbacks.draw_samples(state.ema.module, state.step)
                throughput.restart()
        finally:
            if due.save:
                save(state)
        if processes.any(callbacks.should_stop()):
            settle_down_to(0)
            if not due.save:
                save(state)
            break


class Due(NamedTuple):
    """What follows an iteration: a line of the log, a checkpoint, a sheet of samples."""

    log: bool
    save: bool
    draw: bool

    @classmethod
    def after(cls, step: int, config: RunConfig) -> Due:
        """What follows iteration `step` (1-based). Milestones are saved and drawn, the last
        iteration is logged too."""
        train = config.train
        last = step == train.iterations
        milestone = last or bool(train.milestone_every and step % train.milestone_every == 0)

        def every(count: int | None) -> bool:
            return bool(count and step % count == 0)

        return cls(
            log=last or every(train.log_every),
            save=milestone or every(train.checkpoint_every),
            draw=bool(train.sample_every) and (milestone or every(train.sample_every)),
        )


def log_iteration(
    iteration: Iteration,
    rate: float,
    config: RunConfig,
    throughput: Throughput,
    log: RunLog | NoLog,
    callbacks: Callbacks,
    processes: OneProcess,
) -> None:
    """Write an iteration's record to the log and pass it to `callbacks.progress`."""
    names = iteration.outputs[0].metrics.keys()
    metrics = {
        n: float(processes.mean(torch.stack([o.metrics[n] for o in iteration.outputs]).mean()))
        for n in names
    }
    speed = throughput.read()
    loss, norm = iteration.outcome.wait()
    step = iteration.step + 1
    record = {"step": step, "loss": loss, "gradient_norm": norm, "learning_rate": rate}
    log.write({**record, **speed.as_record(), **metrics})
    callbacks.progress(Progress(step, config.train.iterations, loss, metrics, speed))
