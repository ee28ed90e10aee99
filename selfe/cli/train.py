"""`selfe-bench train`: trains one model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfe.cli import options
from selfe.cli.common import (
    RUNS,
    Ticker,
    command_line,
    pick_device,
    progress_bar,
    tell,
    warn,
)
from selfe.cli.completion import complete_runs
from selfe.cli.train_words import Stopwatch, header, summary
from selfe.objectives.registry import method_label

if TYPE_CHECKING:
    from selfe.config.schema import RunConfig
    from selfe.training.callbacks import Progress

Name = Annotated[
    str | None, typer.Option(help="Folder below --runs-dir; made from the options if absent.")
]
TrainingSeed = Annotated[
    int, typer.Option(min=0, help="Seed of initialisation, data order, noise.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue from the newest valid checkpoint.")
]
AutoResume = Annotated[
    bool,
    typer.Option(
        "--auto-resume", help="Resume if there is a run, else start: for launchers that retry."
    ),
]
InitFrom = Annotated[
    str | None,
    typer.Option(
        metavar="RUN@STEP",
        help="Fork another run's checkpoint, step included.",
        autocompletion=complete_runs,
    ),
]
Tracker = Annotated[
    str | None,
    typer.Option(
        help="Mirror metrics and samples: tensorboard, wandb, trackio, comet_ml, aim, mlflow, "
        "clearml or swanlab."
    ),
]
Shard = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Processes that share one copy of the weights: 1 replicates, the number of "
        "processes shards fully. [default: those of one machine]",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Processes on the CPU's cores that share every batch. "
        "[default: one a core for small networks, and as before with --resume]",
    ),
]


def train(
    method: options.Method,
    recipe: options.Recipe = "shapes",
    variant: options.Variant = "",
    name: Name = None,
    seed: TrainingSeed = 0,
    resume: Resume = False,
    init_from: InitFrom = None,
    tracker: Tracker = None,
    settings: options.Settings = None,
    auto_resume: AutoResume = False,
    shard: Shard = None,
    workers: Workers = None,
    runs_dir: options.RunsDir = RUNS,
    device: options.Device = "auto",
) -> None:
    """Train a model into runs/. Killed at any time, it continues bit for bit with --resume.

    For many GPUs start it with scripts/launch_torchrun.sh or scripts/launch_slurm.sh.
    """
    from selfe.config.resolve import resolve, run_name

    config = resolve(recipe, method, variant=variant, seed=seed, assignments=settings or [])
    if name is not None and (name != Path(name).name or name.startswith(".")):
        raise ValueError(f"--name takes the name of a folder below --runs-dir, got {name!r}")
    run_dir = runs_dir / (name or run_name(config))
    # a typing error is answered before torch starts
    from selfe.cli import suspicions
    from selfe.distributed.launch import open_processes
    from selfe.distributed.workers import open_workers
    from selfe.training.callbacks import Callbacks
    from selfe.training.run import train_run
    from selfe.training.worker_count import workers_for

    device = pick_device(device)
    run = partial(
        train_run,
        config,
        run_dir,
        runs_dir=runs_dir,
        resume=None if auto_resume else resume,
        init_from=init_from,
        command=command_line(),
    )
    warn(suspicions.of_training(config, device, workers))
    workers = workers or (workers_for(config, run_dir, device) if shard is None else 1)
    watch = Stopwatch()
    with (
        open_workers(workers, run, device)
        if workers > 1
        else open_processes(device, shard) as processes,
        progress_bar("{task.fields[note]}", disable=not processes.is_main) as bar,
    ):
        before = header(config, run_dir, device, workers) if processes.is_main else ""
        show = TrainingDisplay(config, before, Ticker(bar), watch)
        run(
            processes=processes,
            tracker=tracker,
            callbacks=Callbacks(begin=watch.begin, progress=show.iteration, message=tell),
            data_progress=show.encoding,
        )
    if processes.is_main:
        from selfe.run_folder.records import find_runs, run_names

        names = run_names(find_runs(runs_dir), runs_dir)
        called = names.get(run_dir, str(run_dir))
        made = (watch.steps, watch.seconds, watch.losses)
        typer.echo(summary(run_dir, called, *made, runs_dir))


class TrainingDisplay:
    """What a user sees of a training: the header, then the progress of data and iterations.

    Args:
        header: printed before the first progress, when folder and data are known to be usable;
            "" for none.
        watch: told every iteration that is shown.
    """

    def __init__(self, config: RunConfig, header: str, tick: Ticker, watch: Stopwatch) -> None:
        self.config, self.header, self.tick, self.watch = config, header, tick, watch

    def encoding(self, done: int, total: int) -> None:
        self._begin()
        self.tick("encoding the shapes world", done, total)

    def iteration(self, progress: Progress) -> None:
        self._begin()
        # losses that are divided by themselves say nothing, their parts do
        parts = [
            f"{name.removeprefix('loss_')} {value:.3g}"
            for name, value in progress.metrics.items()
            if name.startswith("loss_")
        ]
        loss = f"loss {progress.loss:.4f}" + (f" ({', '.join(parts)})" if parts else "")
        note = f"{loss}  {progress.speed}"  # the end of it goes first on narrow terminals
        self.watch.see(progress.step, progress.loss)
        label = method_label(self.config.method)
        self.tick(label, progress.step, progress.iterations, note)

    def _begin(self) -> None:
        if self.header:
            tell(self.header)
            self.header = ""
