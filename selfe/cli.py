"""selfe-bench: the composition root. Commands are thin; every decision lives below.

Errors a person can mend are one sentence on stderr and exit code 2.
"""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

app = typer.Typer(
    name="selfe-bench",
    help="Any-step text-to-image training, compared fairly: Self-E, Flow Matching and IMM, scored "
    "by GenEval with error bars.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Console(stderr=True, highlight=False)

USER_ERROR = 2
RUNS = Path("runs")
REPORTS = Path("reports")

RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Folder of training runs and results.")]
Device = Annotated[
    str, typer.Option(help='Where to compute: "auto", "cpu", "cuda", "cuda:1", "mps".')
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a setting; repeatable."),
]


def main() -> None:
    """Entry point: one clear sentence instead of a traceback for what a user can mend."""
    from selfe.session import Stopped

    try:
        app()
    except ValueError as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        sys.exit(USER_ERROR)
    except Stopped as stopped:
        console.print(f"stopped by {stopped}; continue with --resume")
        sys.exit(128 + stopped.signal_number)
    except OSError as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def command_line() -> str:
    """The command as typed, to stand beside its figures."""
    return shlex.join(["selfe-bench", *sys.argv[1:]])


def pick_device(name: str) -> str:
    """ "auto" -> the best device there is; anything else is checked.

    Raises:
        ValueError: if torch does not know or does not have the device.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here ({reason})") from None
    return name


def parse_steps(text: str) -> list[int]:
    """ "2,4,8,50" -> [2, 4, 8, 50].

    Raises:
        ValueError: unless every part is a positive integer.
    """
    steps = []
    for part in text.split(","):
        if not part.strip().isdigit() or int(part) < 1:
            raise ValueError(
                f"--steps takes positive integers separated by commas (2,4,8,50), got {text!r}"
            )
        steps.append(int(part))
    return sorted(set(steps))


@contextmanager
def progress_bar(*columns: str) -> Iterator[Progress]:
    """A bar on stderr; where that is no terminal, callers print lines instead (`Ticker`)."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *[TextColumn(column) for column in columns],
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    ) as bar:
        yield bar


class Ticker:
    """Progress of several named jobs: bars on a terminal, a line now and then in a log."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self._tasks: dict[str, Any] = {}
        self._printed: dict[str, int] = {}

    def __call__(self, name: str, done: int, total: int, note: str = "") -> None:
        if name not in self._tasks:
            self._tasks[name] = self.bar.add_task(name, total=total, note="")
        self.bar.update(self._tasks[name], completed=done, total=total, note=note)
        tenth = 10 * done // max(total, 1)
        if not console.is_terminal and self._printed.get(name) != tenth:
            self._printed[name] = tenth
            console.print(f"{name}: {done}/{total} {note}".rstrip(), markup=False, soft_wrap=True)

    def job(self, name: str) -> Callable[[int, int], None]:
        return lambda done, total: self(name, done, total)


@app.command()
def train(
    method: Annotated[str, typer.Option(help="Objective: selfe, fm or imm.")],
    recipe: Annotated[
        str, typer.Option(help="What to train: shapes, shapes-quick, shapes-64, 0.5b, 2b.")
    ] = "shapes",
    variant: Annotated[str, typer.Option(help="Ablation of Self-E: no-target-norm or aux.")] = "",
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
        typer.Option(metavar="RUN@STEP", help="Fork another run's checkpoint, step included."),
    ] = None,
    settings: Settings = None,
    runs_dir: RunsDir = RUNS,
    device: Device = "auto",
) -> None:
    """Train a model into runs/. Killed at any time, it continues bit for bit with --resume."""
    from selfe.recipes import resolve, run_name
    from selfe.session import train_run
    from selfe.trainer import Callbacks
    from selfe.trainer import Progress as TrainProgress

    config = resolve(recipe, method, variant=variant, seed=seed, assignments=settings or [])
    run_dir = runs_dir / (name or run_name(config))
    with progress_bar("{task.fields[note]}") as bar:
        tick = Ticker(bar)

        def show(progress: TrainProgress) -> None:
            note = f"loss {progress.loss:.4f}  {progress.images_per_second:.0f} images/s"
            tick(config.label, progress.step, progress.iterations, note)

        train_run(
            config,
            run_dir,
            runs_dir=runs_dir,
            device=pick_device(device),
            resume=resume,
            init_from=init_from,
            command=command_line(),
            callbacks=Callbacks(
                progress=show, message=lambda text: console.print(text, markup=False)
            ),
            data_progress=tick.job("encoding the shapes world"),
        )
    typer.echo(f"trained: {run_dir}")
    typer.echo(f"score it: selfe-bench geneval --model {run_dir} --steps 2,4,8,50")
