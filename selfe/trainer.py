"""The training loop. It knows objectives only through `Objective.loss`.

State after iteration n is a function of the configuration alone: times, noise, caption dropout and
sample order are keyed by global sample position, so stopping and resuming changes no bit.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from selfe.acceleration import accelerate
from selfe.checkpoint import CheckpointError, newest_valid, prune, restore, save_checkpoint
from selfe.config import RunConfig
from selfe.ema import Ema
from selfe.mfu import Speed, Throughput
from selfe.objectives.base import LatentBatch, LossOutput, Nets, Objective
from selfe.optim import build_optimizer, clip_gradients, learning_rate, set_learning_rate
from selfe.runlog import RunLog
from selfe.seeding import SampleRng, derive_seed
from selfe.stages import first_position, stage_at


class BatchSource(Protocol):
    """Training data, addressed by global sample position."""

    @property
    def facts(self) -> Mapping[str, str]:
        """Identity of data and encoders where the configuration does not give it away."""
        ...

    def batch(self, rng: SampleRng) -> LatentBatch:
        """The samples at `rng.position`, on `rng.device`; the same for the same positions, ever."""
        ...


@runtime_checkable
class ReadsAhead(Protocol):
    """A source that profits from knowing which batches come next."""

    def expect(self, upcoming: Iterable[SampleRng]) -> None:
        """Announce batches, in order; what was announced before and is not any more is dropped."""
        ...


class NonFiniteLoss(ValueError):
    """Too many iterations in a row without a finite loss and gradient."""


@dataclass(frozen=True)
class Progress:
    """What a progress bar shows after an iteration."""

    step: int
    iterations: int
    loss: float
    speed: Speed


@dataclass
class TrainState:
    model: nn.Module
    ema: Ema
    optimizer: torch.optim.Optimizer
    step: int = 0
    skipped: int = 0
    """Iterations in a row without an update."""


@dataclass(frozen=True)
class Callbacks:
    """Everything outside the loop: showing, drawing sample grids, and being asked to stop."""

    progress: Callable[[Progress], None] = lambda progress: None
    message: Callable[[str], None] = lambda text: None
    draw_samples: Callable[[nn.Module, int], None] | None = None
    should_stop: Callable[[], bool] = lambda: False
    record: Callable[[Mapping[str, Any]], None] = lambda record: None
    """Mirrors lines of metrics.jsonl, to a tracker for example."""


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """bf16 autocast where asked for, or on "auto" where the device has it."""
    if precision == "auto":
        bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    else:
        bf16 = precision == "bf16"
    if not bf16:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def start_or_resume(
    model: nn.Module, config: RunConfig, run_dir: Path, resume: bool, message: Callable[[str], None]
) -> TrainState:
    """Fresh state, or that of the newest valid checkpoint.

    Raises:
        ValueError: if the run was made with another configuration.
        CheckpointError: if there are checkpoints but none of them is valid.
    """
    state = TrainState(model, Ema(model, config.optim), build_optimizer(model, config.optim))
    if not resume:
        return state
    path, problems = newest_valid(run_dir / "checkpoints")
    for problem in problems:
        message(f"skipped: {problem}")
    if path is None:
        if problems:
            raise CheckpointError(f"{run_dir} has no valid checkpoint to resume from")
        return state
    saved = restore(path, model=model, ema=state.ema.module, optimizer=state.optimizer)
    if saved.get("config_digest") != config.digest:
        raise ValueError(
            f"{run_dir} was trained with another configuration; resume with the same options, "
            "or give the new run another --name"
        )
    state.step, state.skipped = int(saved["step"]), int(saved["skipped"])
    message(f"resumed from {path.name}")
    return state


def micro_batches(
    config: RunConfig, step: int, device: torch.device, rank: int = 0, size: int = 1
) -> list[SampleRng]:
    """The streams of the micro-batches of iteration `step`, in order: part `rank` of `size` equal
    parts of the global batch."""
    part = stage_at(config, step).batch_size // size
    micro = config.train.micro_batch_size or part
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
    device: torch.device,
) -> tuple[Tensor, list[LossOutput], Tensor]:
    """Gradients of the global batch at `step`, in micro-batches.

    Returns:
        The mean loss on the device, the micro-batches' outputs, and the data-set indices.
    """
    streams = micro_batches(config, step, device)
    if isinstance(source, ReadsAhead):
        source.expect([*streams, *micro_batches(config, step + 1, device)])
    outputs, indices = [], []
    for rng in streams:
        batch = source.batch(rng)
        with autocast(device, config.train.precision):
            output = objective.loss(batch, nets, step, rng)
        (output.loss * (1 / len(streams))).backward()
        outputs.append(output)
        indices.append(batch.index)
    loss = torch.stack([output.loss.detach() for output in outputs]).mean()
    return loss, outputs, torch.cat(indices)


def explain_nonfinite(step: int, outputs: list[LossOutput], indices: Tensor) -> dict[str, Any]:
    """Which samples and times went wrong: what a person needs to look into it."""
    per_sample = torch.cat([output.per_sample for output in outputs]).cpu()
    t = torch.cat([output.t for output in outputs]).cpu()
    s = torch.cat([output.s for output in outputs]).cpu()
    bad = torch.nonzero(~torch.isfinite(per_sample))[:, 0][:8]
    return {
        "event": "nonfinite",
        "step": step + 1,
        "where": "loss" if len(bad) else "gradient",
        "samples": indices.cpu()[bad].tolist(),
        "t": t[bad].tolist(),
        "s": s[bad].tolist(),
    }


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
) -> TrainState:
    """Run `config.train.iterations` iterations, or until asked to stop.

    Args:
        model: the live network, on its device.
        run_dir: receives checkpoints/ and metrics.jsonl.
        resume: continue from the newest valid checkpoint of `run_dir`.
        init: state forked from another run, used when there is nothing to resume.

    Raises:
        NonFiniteLoss: after more than `max_nonfinite` iterations in a row without an update.
        CheckpointError, OSError: if checkpoints cannot be read or written.
    """
    callbacks = callbacks or Callbacks()
    device = next(model.parameters()).device
    state = start_or_resume(model, config, run_dir, resume, callbacks.message)
    if init is not None and state.step == 0:
        state = init
    log = RunLog(run_dir / "metrics.jsonl", state.step, callbacks.record)
    with contextlib.closing(log):
        for _ in iterate(state, config, objective, source, run_dir, log, callbacks, device):
            if callbacks.should_stop():
                if not _saved_at(run_dir, state.step):
                    save(state, config, run_dir)
                callbacks.message(f"stopped after iteration {state.step}, checkpoint written")
                break
    return state


def iterate(
    state: TrainState,
    config: RunConfig,
    objective: Objective,
    source: BatchSource,
    run_dir: Path,
    log: RunLog,
    callbacks: Callbacks,
    device: torch.device,
) -> Iterator[int]:
    """The iterations themselves; yields the step after each."""
    for network in (state.model, state.ema.module):
        accelerate(network, config.train)
    throughput = Throughput(config.model, device)
    nets = Nets(throughput.watch(state.model), throughput.watch(state.ema.module))
    parameters = [p for p in state.model.parameters() if p.requires_grad]
    state.model.train()
    state.ema.module.eval()
    while state.step < config.train.iterations:
        step = state.step
        rate = learning_rate(step, config.optim, config.train.iterations)
        set_learning_rate(state.optimizer, rate)
        state.optimizer.zero_grad(set_to_none=True)
        loss, outputs, indices = accumulate(objective, source, nets, config, step, device)
        norm = clip_gradients(parameters, config.optim.clip_norm)

        # The one place where the host waits for the device: an infinite loss or norm never reaches
        # the weights, and is reported before the batch that caused it is gone.
        loss_value, norm_value = torch.stack([loss.float(), norm.float()]).tolist()
        if math.isfinite(loss_value) and math.isfinite(norm_value):
            state.optimizer.step()
            state.ema.update(state.model, step)
            state.skipped = 0
        else:
            state.skipped += 1
            record = explain_nonfinite(step, outputs, indices)
            log.write(record)
            callbacks.message(f"iteration {step + 1}: no update, {record}")
            if state.skipped > config.train.max_nonfinite:
                raise NonFiniteLoss(
                    f"{state.skipped} iterations in a row without a finite {record['where']}, the "
                    f"last at iteration {step + 1} with samples {record['samples']}, "
                    f"t = {record['t']}, s = {record['s']}"
                )
        state.step = step + 1
        throughput.images += len(indices)

        if state.step % config.train.log_every == 0 or state.step == config.train.iterations:
            metrics = _mean_metrics(outputs)
            speed = throughput.read()
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
            callbacks.progress(Progress(state.step, config.train.iterations, loss_value, speed))
            throughput.restart()
        if _due(state.step, config.train.checkpoint_every, config):
            save(state, config, run_dir)
        every = config.train.sample_every
        if callbacks.draw_samples and every and _due(state.step, every, config):
            callbacks.draw_samples(state.ema.module, state.step)
            throughput.restart()
        yield state.step


def _due(step: int, every: int | None, config: RunConfig) -> bool:
    milestone = config.train.milestone_every
    return bool(
        (every and step % every == 0)
        or (milestone and step % milestone == 0)
        or step == config.train.iterations
    )


def _mean_metrics(outputs: list[LossOutput]) -> dict[str, float]:
    names = outputs[0].metrics.keys()
    return {n: float(torch.stack([o.metrics[n] for o in outputs]).mean()) for n in names}


def _saved_at(run_dir: Path, step: int) -> bool:
    return (run_dir / "checkpoints" / f"step-{step:08d}" / "state.json").exists()


def save(state: TrainState, config: RunConfig, run_dir: Path) -> None:
    """Write a checkpoint of the current step and prune older ones."""
    every = config.train.milestone_every
    folder = run_dir / "checkpoints"
    save_checkpoint(
        folder,
        state.step,
        model=state.model,
        ema=state.ema.module,
        optimizer=state.optimizer,
        state={
            "config_digest": config.digest,
            "skipped": state.skipped,
            "samples_seen": first_position(config, state.step),
        },
        milestone=bool(every and state.step % every == 0) or state.step == config.train.iterations,
    )
    prune(folder, config.train.keep_last)
