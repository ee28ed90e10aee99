"""One training run, from a configuration to its last checkpoint: folder, lock, signals, forks."""

from __future__ import annotations

import contextlib
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import torch
from torch import nn

from selfe.config.resolve import build_objective
from selfe.config.schema import RunConfig
from selfe.config.suspicious import suspicious_settings
from selfe.data.registry import build_source
from selfe.device import used_on
from selfe.distributed.processes import OneProcess
from selfe.errors import Stopped
from selfe.files import folder_lock
from selfe.provenance import provenance
from selfe.run_folder.checkpoint import verify
from selfe.run_folder.model import build_model
from selfe.run_folder.records import (
    check_data,
    find_checkpoint,
    owner_of,
    parse_run,
    read_record,
    unknown_run,
    write_config,
)
from selfe.temporaries import remove_leftovers
from selfe.training.callbacks import Callbacks
from selfe.training.host_memory import keep_freed_memory
from selfe.training.loop import train
from selfe.training.sample_sheets import SampleSheets
from selfe.training.state import TrainState, check_configuration, new_state, restore
from selfe.training.trackers import Tracker, open_tracker


@dataclass
class StopSignal:
    """Remembers that a signal came. A second Ctrl-C interrupts at once."""

    number: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopSignal]:
    """SIGINT and SIGTERM let the iteration in flight finish and be saved."""
    stop = StopSignal()
    previous = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def parse_fork(text: str, runs_dir: Path) -> tuple[Path, int]:
    """ "RUN@STEP" -> the run's folder and the iteration.

    Raises:
        ValueError: if the text has another form, or names no run.
    """
    name, at, step = text.rpartition("@")
    if not at or not step.isdecimal():
        raise ValueError(f"--init-from takes RUN@STEP, got {text!r}")
    found = parse_run(name, runs_dir)
    if found is None:
        raise ValueError(f"--init-from: {unknown_run(name, runs_dir)}")
    return found[0], int(step)


def fork(
    model: nn.Module, config: RunConfig, source: Path, step: int, processes: OneProcess
) -> TrainState:
    """State of another run's checkpoint, to be continued under this run's configuration.

    Raises:
        ValueError: if run or checkpoint are not there, it is damaged, or lies beyond this run's
            end.
    """
    if not (source / "config.json").is_file():
        raise ValueError(f"--init-from names no run: there is none at {source}")
    if step >= config.train.iterations:
        raise ValueError(
            f"the fork starts at iteration {step}, but the run ends at "
            f"{config.train.iterations}: raise train.iterations"
        )
    path = find_checkpoint(source, step).path
    processes.on_main(lambda: verify(path, owner_of(source)))
    state = new_state(model, config, processes)
    restore(state, path)
    state.step = step
    return state


def check_folder(run_dir: Path, resume: bool) -> None:
    """Refuse to overwrite a run, or to resume one that does not exist.

    A run that ended before its first checkpoint holds nothing to lose: another may take its place.
    """
    exists = (run_dir / "config.json").exists()
    if not resume and any((run_dir / kept).exists() for kept in ("checkpoints", "results")):
        raise ValueError(
            f"{run_dir} already holds a run: continue it with --resume, "
            "or choose another folder with --name"
        )
    if resume and not exists:
        raise ValueError(f"nothing to resume at {run_dir}")


def begin(run_dir: Path, config: RunConfig, facts: Mapping[str, object]) -> None:
    """Write config.json, and remove what an earlier run of that name left that made no
    checkpoint."""
    if (run_dir / "config.json").exists():
        (run_dir / "metrics.jsonl").unlink(missing_ok=True)
        if (run_dir / "samples").exists():
            shutil.rmtree(run_dir / "samples")
    write_config(run_dir, config, provenance=provenance(), **facts)


def occupy(run_dir: Path, resume: bool | None, stack: contextlib.ExitStack) -> bool:
    """Check the folder and lock it until `stack` is closed. Returns whether the run is resumed."""
    if resume is None:
        resume = (run_dir / "config.json").exists()
    check_folder(run_dir, resume)
    stack.enter_context(folder_lock(run_dir))
    for folder in (run_dir, run_dir / "checkpoints", run_dir / "samples"):
        remove_leftovers(folder)
    return resume


def check_resumed(
    run_dir: Path, config: RunConfig, init_from: str | None, processes: OneProcess
) -> str | None:
    """The fork that a run was started from ("RUN@STEP"), None for one started from scratch.

    Raises:
        ValueError: if the run has another configuration, or `init_from` names another fork.
    """
    started = read_record(run_dir)
    processes.on_main(lambda: check_configuration(run_dir, started.digest, config))
    origin = started.init_from
    if init_from and init_from != origin:
        raise ValueError(
            f"{run_dir} was started from {origin or 'scratch'}, not from {init_from}: "
            "give the new run another --name"
        )
    return origin


def connect(
    callbacks: Callbacks, stop: StopSignal, sheets: SampleSheets | None, tracked: Tracker | None
) -> Callbacks:
    """The caller's callbacks, which also see signals, draw sheets and tell a tracker."""
    asked = callbacks.should_stop
    callbacks = replace(
        callbacks, draw_samples=sheets, should_stop=lambda: stop.number is not None or asked()
    )
    if tracked:
        callbacks = replace(callbacks, record=tracked.write)
        if sheets:
            sheets.mirror = tracked.write_samples
    return callbacks


def train_run(
    config: RunConfig,
    run_dir: Path,
    *,
    runs_dir: Path,
    device: torch.device | str = "cpu",
    processes: OneProcess | None = None,
    resume: bool | None = False,
    init_from: str | None = None,
    command: str = "",
    tracker: str | None = None,
    callbacks: Callbacks | None = None,
    data_progress: Callable[[int, int], None] = lambda done, total: None,
) -> TrainState:
    """Train, resume or fork a run in `run_dir`.

    Every process of the run calls this; only the main one writes the folder and the log and uses
    the callbacks.

    Args:
        device: of a run on this process alone.
        processes: those that train together, with their devices; None for this one alone.
        resume: None to resume if there is something to resume, else to start.
        callbacks: of the main process; sample sheets are drawn as the configuration says.

    Returns:
        The state at the end of the run, or where `callbacks.should_stop` ended it.

    Raises:
        ValueError: for a folder that cannot be used, in one sentence.
        PeerError: if another process found such a reason.
        Stopped: after SIGINT or SIGTERM on any process, once the checkpoint is written.
    """
    processes = processes or OneProcess(device)
    if processes.device.type == "cpu":
        keep_freed_memory()
    callbacks = callbacks or Callbacks()
    if not processes.is_main:
        callbacks, data_progress, tracker = Callbacks(), lambda done, total: None, None
    with contextlib.ExitStack() as stack:
        resume = processes.on_main(lambda: occupy(run_dir, resume, stack))
        stop = stack.enter_context(stop_on_signals())
        if resume:  # there may be no checkpoint yet that would tell
            init_from = check_resumed(run_dir, config, init_from, processes)
        for problem in suspicious_settings(config):
            callbacks.message(f"warning: {problem}")
        objective = build_objective(config)
        model = build_model(config, processes.device)
        init = None
        if init_from:
            source_dir, step = parse_fork(init_from, runs_dir)
            init = fork(model, config, source_dir, step, processes)
        source = processes.main_first(
            lambda: build_source(
                config,
                with_fake=objective.needs_fake_captions,
                device=processes.device,
                cache_dir=runs_dir / ".cache",
                progress=data_progress,
            )
        )
        tracked = None
        if tracker:
            tracked = stack.enter_context(
                contextlib.closing(open_tracker(tracker, run_dir, config))
            )
        precision = used_on(processes.device, config.train.precision)
        if resume:
            processes.on_main(lambda: check_data(run_dir, source.facts))
            before = read_record(run_dir).precision or precision
            if before != precision:
                callbacks.message(f"this run began in {before} and continues in {precision}")
        else:  # only now: a run that cannot start must not occupy its folder
            facts: dict[str, object] = {"command": command, "init_from": init_from}
            facts |= {"data": dict(source.facts), "precision": precision, **processes.layout}
            processes.on_main(lambda: begin(run_dir, config, facts))
        sheets = SampleSheets(config, run_dir, processes) if config.train.sample_every else None
        state = train(
            config,
            model=model,
            objective=objective,
            source=source,
            run_dir=run_dir,
            resume=resume,
            init=init,
            callbacks=connect(callbacks, stop, sheets, tracked),
            processes=processes,
        )
        signals = [number for number in processes.gather(stop.number) if number is not None]
        if signals and state.step < config.train.iterations:
            raise Stopped(signals[0])
    return state
