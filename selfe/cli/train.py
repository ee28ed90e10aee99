"""selfe-bench train."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from selfe.cli.common import (
    RUNS,
    Device,
    RunsDir,
    Settings,
    Ticker,
    command_line,
    console,
    pick_device,
    progress_bar,
    tell,
    warn,
)
from selfe.cli.completion import complete_methods, complete_recipes, complete_runs
from selfe.cli.train_words import Stopwatch, header, summary
from selfe.objectives.registry import METHODS, method_label


def train(
    method: Annotated[
        str, typer.Option(help=f"Objective: {', '.join(METHODS)}.", autocompletion=complete_methods)
    ],
    recipe: Annotated[
        str,
        typer.Option(
            help="What to train: shapes, shapes-quick, shapes-64, 0.5b, 2b.",
            autocompletion=complete_recipes,
        ),
    ] = "shapes",
    variant: Annotated[
        str, typer.Option(help="Ablation of the method, as `ls methods` lists them.")
    ] = "",
    name: Annotated[
        str | None, typer.Option(help="Folder below --runs-dir; made from the options if absent.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of initialisation, data order, noise.")
    ] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the newest valid checkpoint.")
    ] = False,
    init_from: Annotated[
        str | None,
        typer.Option(
            metavar="RUN@STEP",
            help="Fork another run's checkpoint, step included.",
            autocompletion=complete_runs,
        ),
    ] = None,
    tracker: Annotated[
        str | None,
        typer.Option(
            help="Mirror metrics and samples: tensorboard, wandb, trackio, comet_ml, aim, mlflow, "
            "clearml or swanlab."
        ),
    ] = None,
    settings: Settings = None,
    auto_resume: Annotated[
        bool,
        typer.Option(
            "--auto-resume", help="Resume if there is a run, else start: for launchers that retry."
        ),
    ] = False,
    shard: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Processes that share one copy of the weights: 1 replicates, the number of "
            "processes shards fully. [default: those of one machine]",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Processes on the CPU's cores that share every batch. "
            "[default: one a core for small networks, and as before with --resume]",
        ),
    ] = None,
    runs_dir: RunsDir = RUNS,
    device: Device = "auto",
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
    from selfe.training.callbacks import Progress as TrainProgress
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
        tick = Ticker(bar)
        begun: list[bool] = []

        def begin() -> None:  # not before the folder and the data are known to be usable
            if not begun and processes.is_main:
                begun.append(True)
                tell(header(config, run_dir, device, workers))

        encode = tick.job("encoding the shapes world")

        def show_encoding(done: int, total: int) -> None:
            begin()
            encode(done, total)

        def show(progress: TrainProgress) -> None:
            begin()
            # losses that are divided by themselves say nothing, their parts do
            parts = [
                f"{name.removeprefix('loss_')} {value:.3g}"
                for name, value in progress.metrics.items()
                if name.startswith("loss_")
            ]
            loss = f"loss {progress.loss:.4f}" + (f" ({', '.join(parts)})" if parts else "")
            note = f"{loss}  {progress.speed}"  # the end of it goes first on narrow terminals
            watch.see(progress.step, progress.loss)
            tick(method_label(config.method), progress.step, progress.iterations, note)

        run(
            processes=processes,
            tracker=tracker,
            callbacks=Callbacks(
                progress=show, message=lambda text: console.print(text, markup=False)
            ),
            data_progress=show_encoding,
        )
    if processes.is_main:
        from selfe.run_folder.records import find_runs, run_names

        names = run_names(find_runs(runs_dir), runs_dir)
        called = names.get(run_dir, str(run_dir))
        made = (watch.steps, watch.seconds, watch.losses)
        typer.echo(summary(run_dir, called, *made, runs_dir))
