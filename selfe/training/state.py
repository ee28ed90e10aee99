"""What a run carries from one iteration to the next: made, resumed from a checkpoint, and saved."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from selfe.config.resolve import differing_settings
from selfe.config.schema import RunConfig
from selfe.config.stages import first_position
from selfe.device import uses_bf16
from selfe.distributed.processes import OneProcess
from selfe.run_folder.checkpoint import (
    CONDITIONAL,
    load_optimizer,
    load_weights,
    newest_valid,
)
from selfe.run_folder.checkpoint_kept import WholeWriter
from selfe.run_folder.checkpoint_state import CheckpointError, CheckpointState, read_state
from selfe.run_folder.records import owner_of, read_config
from selfe.training.ema import Ema
from selfe.training.optim import build_optimizer

_NAMED = 5
"""Differing settings that a message names."""


@dataclass
class TrainState:
    model: nn.Module
    ema: Ema
    optimizer: torch.optim.Optimizer
    step: int = 0
    skipped: int = 0
    """Iterations in a row without an update."""
    conditional: Ema | None = None
    """The average of an objective's `conditional_decay`; the loss evaluates with it, nothing is
    scored with it."""

    @property
    def averages(self) -> list[Ema]:
        return [self.ema] if self.conditional is None else [self.ema, self.conditional]

    def update_averages(self, where: Tensor | None = None) -> None:
        """Move every average towards the weights after iteration `step`; see `Ema.update`."""
        for average in self.averages:
            average.update(self.model, self.step, where=where)


class CheckpointWriter(Protocol):
    def save(
        self,
        step: int,
        *,
        model: nn.Module,
        ema: nn.Module,
        optimizer: torch.optim.Optimizer,
        state: Mapping[str, Any],
        milestone: bool,
        conditional: nn.Module | None = None,
    ) -> None:
        """Write the checkpoint of an iteration, now or in the background, and prune older ones."""
        ...

    def close(self) -> None:
        """Return when everything is written."""
        ...


def new_state(model: nn.Module, config: RunConfig, processes: OneProcess) -> TrainState:
    """The state before the first iteration; shards the model where processes share it."""
    # copies, which sharded weights cannot be made of
    ema, conditional = Ema(model, config.optim), None
    decay = config.objective.get("conditional_decay")
    if decay is not None:
        conditional = Ema(model, config.optim.model_copy(update={"ema_decay": decay}))
    bf16 = uses_bf16(processes.device, config.train.precision)
    processes.shard(model, bf16)
    optimizer = build_optimizer(model, config.optim, sharded=processes.sharded)
    state = TrainState(model, ema, optimizer, conditional=conditional)
    for average in state.averages:
        processes.shard(average.module, bf16)
    return state


def restore(state: TrainState, path: Path) -> CheckpointState:
    """Load a verified checkpoint into a state and return its state.json.

    The average of `conditional_decay` begins as the scored one where the checkpoint has none: that
    of a run which is forked.

    Raises:
        CheckpointError: if it does not fit.
    """
    from selfe.run_folder.checkpoint_sharded import load_part

    saved = read_state(path)
    for part, module in (("model", state.model), ("ema", state.ema.module)):
        load_weights(module, load_part(path, part, module.state_dict()), path / part)
    like = {
        f"{name}/{entry}": parameter
        for name, parameter in state.model.named_parameters()
        for entry in ("exp_avg", "exp_avg_sq", CONDITIONAL)
    }
    tensors = load_part(path, "optimizer", like)
    average = {
        name.removesuffix(f"/{CONDITIONAL}"): tensors.pop(name)
        for name in list(tensors)
        if name.endswith(f"/{CONDITIONAL}")
    }
    if state.conditional is not None:
        average = average or dict(state.ema.module.state_dict())
        load_weights(state.conditional.module, average, path / "optimizer")
    load_optimizer(state.optimizer, state.model, tensors, path / "optimizer")
    return saved


def check_configuration(run_dir: Path, digest: str, config: RunConfig) -> None:
    """Raise ValueError where a run was made with another configuration than `config`, naming the
    settings that differ."""
    if digest == config.digest:
        return
    other = ""
    with contextlib.suppress(ValueError):  # what is there is damaged, or no run that could tell
        differing = differing_settings(read_config(run_dir), config)
        shown = [f"{name} was {there} and is now {here}" for name, there, here in differing]
        more = f"; and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
        other = f" ({'; '.join(shown[:_NAMED])}{more})" if shown else ""
    raise ValueError(
        f"{run_dir} was trained with another configuration{other}; resume with the same options, "
        "or give the new run another --name"
    )


def resume(
    state: TrainState,
    config: RunConfig,
    run_dir: Path,
    processes: OneProcess,
    message: Callable[[str], None],
) -> None:
    """Load the newest valid checkpoint, if there is any at all.

    Raises:
        ValueError: if the run was made with another configuration.
        CheckpointError: if there are checkpoints but none of them is valid.
    """
    path, problems = processes.on_main(
        lambda: newest_valid(run_dir / "checkpoints", owner_of(run_dir))
    )
    for problem in problems:
        message(f"skipped: {problem}")
    if path is None:
        if problems:
            raise CheckpointError(f"{run_dir} has no valid checkpoint to resume from")
        return
    saved = restore(state, path)
    check_configuration(run_dir, saved.config_digest, config)
    if saved.samples_seen not in (None, first_position(config, saved.step)):
        raise CheckpointError(
            f"{path} says that {saved.samples_seen} samples were seen by iteration {saved.step}, "
            f"which are {first_position(config, saved.step)}: it was changed after it was written"
        )
    state.step, state.skipped = saved.step, saved.skipped
    message(f"resumed from {path.name}")


class OnMain:
    """Lets the main process write; the others wait, and hear of an error.

    Raises:
        PeerError: where the main process raised OSError.
    """

    def __init__(self, writer: CheckpointWriter, processes: OneProcess) -> None:
        self._writer, self._processes = writer, processes

    def save(self, step: int, **content: Any) -> None:
        self._processes.on_main(lambda: self._writer.save(step, **content))

    def close(self) -> None:
        self._writer.close()


def open_writer(config: RunConfig, run_dir: Path, processes: OneProcess) -> CheckpointWriter:
    """What writes the run's checkpoints: whole files, or shards where processes share the state.

    On a GPU in the background; on processors the writing thread would only take their time.
    """
    folder, keep_last = run_dir / "checkpoints", config.train.keep_last
    if processes.sharded:
        from selfe.run_folder.checkpoint_sharded import ShardedWriter

        return ShardedWriter(folder, keep_last, processes.device)
    writer: CheckpointWriter = WholeWriter(folder, keep_last)
    if processes.device.type == "cuda":
        from selfe.run_folder.checkpoint_background import WholeInBackground

        writer = WholeInBackground(folder, keep_last, processes.device)
    return writer if processes.size == 1 else OnMain(writer, processes)


def save(state: TrainState, config: RunConfig, writer: CheckpointWriter, run: str = "") -> None:
    """Write a checkpoint of the current step.

    Args:
        run: `Owner.run`, identity of the run.
    """
    every = config.train.milestone_every
    writer.save(
        state.step,
        model=state.model,
        ema=state.ema.module,
        optimizer=state.optimizer,
        conditional=state.conditional.module if state.conditional else None,
        state={
            "config_digest": config.digest,
            "skipped": state.skipped,
            "samples_seen": first_position(config, state.step),
            "run": run,
        },
        milestone=bool(every and state.step % every == 0) or state.step == config.train.iterations,
    )
