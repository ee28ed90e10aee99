"""`selfe-bench verify`: runs, latent caches and results against their checksums."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from selfe.cli import options
from selfe.cli.common import RUNS, console
from selfe.cli.completion import complete_runs


def verify(
    path: Annotated[
        Path,
        typer.Argument(
            help="A run by name, or the folder of a run, checkpoint, latent cache or result, or a "
            "folder of them.",
            autocompletion=complete_runs,
        ),
    ],
    runs_dir: options.RunsDir = RUNS,
) -> None:
    """Check what was written against its checksums; exit 1 and say what is wrong.

    Every byte is read: checkpoints and metrics of runs, files of latent caches, verdicts,
    detections and images of results.
    """
    path = path if path.is_dir() else _of_run(str(path), runs_dir)
    checked = 0
    problems: list[str] = []
    for what, folder, problems_of in things_below(path):
        found = problems_of(folder)
        checked += 1
        problems += found
        typer.echo(f"{'FAIL' if found else 'ok  '}  {what} {folder}")
        for problem in found:
            console.print(f"      {problem}", markup=False, soft_wrap=True)
    if not checked:
        raise ValueError(f"{path} holds no run, latent cache or result")
    if problems:
        raise typer.Exit(1)


def _of_run(text: str, runs_dir: Path) -> Path:
    """The folder of RUN, or of a checkpoint for RUN@STEP, damaged or not."""
    from selfe.run_folder.records import find_checkpoint, parse_run, unknown_run

    run = parse_run(text, runs_dir)
    if run is None:
        raise ValueError(
            f"{unknown_run(text, runs_dir)}, and no folder of a latent cache or a result"
        )
    folder, step = run
    if step is None:
        return folder
    path = folder / "checkpoints" / f"step-{step:08d}"
    return path if path.is_dir() else find_checkpoint(folder, step).path


Check = Callable[[Path], list[str]]


def things_below(path: Path) -> Iterator[tuple[str, Path, Check]]:
    """(what it is, its folder, what checks it) of `path` itself and all below it."""
    from evals.measurements import MEASURES
    from evals.verify import problems_of_judged, problems_of_result
    from selfe.data.latent_cache.verify import problems_of_cache
    from selfe.run_folder.records import is_run
    from selfe.run_folder.verify import problems_of_checkpoint, problems_of_run

    if (path / "state.json").is_file() and path.name.startswith("step-"):
        yield "checkpoint", path, problems_of_checkpoint
        return
    for place, folders, files in os.walk(path):
        folder = Path(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if "config.json" in files and is_run(folder):
            yield "run", folder, problems_of_run
            folders[:] = [name for name in folders if name != "checkpoints"]
        if "prepare.json" in files or ("index.json" in files and "shards" in folders):
            yield "latent cache", folder, problems_of_cache
            folders.clear()
        measured = folder / MEASURES
        if "result.json" in files:
            yield "result", folder, problems_of_result
        elif MEASURES in folders and any(measured.glob("[!.]*.json")):
            yield "measurements", folder, problems_of_judged
        if "result.json" in files or MEASURES in folders:
            # images lie below; a result of another detector may, too
            folders[:] = [name for name in folders if not name.isdecimal()]
