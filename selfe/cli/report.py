"""`selfe-bench report`: tables, figures and pages from results."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated

import typer

from selfe.cli import options
from selfe.cli.common import (
    REPORTS,
    RUNS,
    Ticker,
    asked_for,
    parse_steps,
    progress_bar,
    warn,
)

if TYPE_CHECKING:
    from evals.report.render import ReportSummary


Out = Annotated[Path, typer.Option(help="Folder for tables and figures.", file_okay=False)]
Results = Annotated[
    list[Path] | None, typer.Option(help="Further folders to search for results; repeatable.")
]
Runs = Annotated[
    str,
    typer.Option(
        metavar="RUN,...",
        help="Only these runs, under these names: a run or published model by name, a folder, "
        "or NAME=RUN; separated by commas.",
    ),
]
Baseline = Annotated[
    str,
    typer.Option(
        help="With --runs: the run that the others are compared with.",
        show_default="the first of --runs",
    ),
]
Latex = Annotated[bool, typer.Option("--latex", help="Write the tables as LaTeX, too.")]
Paper = Annotated[
    bool,
    typer.Option(
        "--paper", help="List the paper's errata too, and what of its tables was not run."
    ),
]
Grid = Annotated[
    list[str] | None,
    typer.Option(
        "--grid",
        metavar="MODEL",
        help="Draw a grid of images instead, a row for each run, published model or diffusers:ID; "
        "repeatable.",
    ),
]
GridSteps = Annotated[str, typer.Option(help="Columns of --grid.")]
GridPrompts = Annotated[
    Path | None, typer.Option(help="Prompts of --grid, one a line.", dir_okay=False)
]
GridSeed = Annotated[int, typer.Option(min=0, help="Seed of --grid.")]


def report(
    context: typer.Context,
    runs_dir: options.RunsDir = RUNS,
    out: Out = REPORTS,
    results: Results = None,
    grid: Grid = None,
    steps: GridSteps = "2,4,8,50",
    prompts: GridPrompts = None,
    seed: GridSeed = 0,
    latex: Latex = False,
    runs: Runs = "",
    baseline: Baseline = "",
    paper: Paper = False,
    device: options.Device = "auto",
) -> None:
    """Render Tables 1 and 2, curves and grids from all results that are found."""
    of_tables, of_grids = ("results", "runs", "paper", "latex"), ("steps", "prompts", "seed")
    unread = asked_for(context, *(of_tables if grid else of_grids))
    if unread:
        drawn = "draws images and no tables" if grid else "draws images, and is not given here"
        raise ValueError(f"{', '.join(unread)} would change nothing: --grid {drawn}")
    if runs and paper:
        raise ValueError("--paper is of the report of all results: leave out it or --runs")
    if grid:
        written = _draw_grid(grid, steps, prompts, seed, runs_dir, out, device)
        typer.echo("\n".join(f"wrote {path}" for path in written))
        return
    if baseline and not runs:
        raise ValueError("--baseline names one of --runs: give --runs, too")
    # no run yet is no error: the report then says what to run
    roots = [runs_dir] if runs_dir.is_dir() or runs_dir != RUNS else []
    for path in [*roots, *(results or [])]:
        if not path.is_dir():
            raise ValueError(f"no folder {path}")
    roots += results or []
    warn(_damaged_runs(roots))
    if runs:
        from evals.report.chosen_results import choose_runs

        wanted = [text.strip() for text in runs.split(",") if text.strip()]
        chosen = choose_runs(roots, wanted, baseline)
        from evals.report.chosen import render_runs  # a typing error is answered before it loads

        _tell(render_runs(chosen, out, latex=latex), out)
        return
    from evals.report.render import render

    summary = render(roots, out, runs_dir=runs_dir.as_posix(), paper=paper, latex=latex)
    _tell(summary, out, lists_not_run=paper or not summary.results)


def _damaged_runs(roots: Sequence[Path]) -> Iterator[str]:
    """A sentence for every run whose config.json is not what was written: results do not depend on
    it, and yet say what was trained."""
    from selfe.run_folder.records import find_runs, read_config

    for root in roots:
        for run_dir in find_runs(root):
            try:
                read_config(run_dir)
            except ValueError as error:
                yield f"{error}; the results of this run are shown as they were recorded"


_MOST_NOTES = 6


def _tell(summary: ReportSummary, out: Path, lists_not_run: bool = False) -> None:
    """The compact tables, what a reader must know, and where the rest is."""
    from evals.report.compact_text import compact_text
    from evals.report.render import PAGE

    width = shutil.get_terminal_size((100, 24)).columns
    for table in summary.compact:
        typer.echo(compact_text(table, width) + "\n")
    for text in summary.notes[:_MOST_NOTES]:
        typer.echo(fill(text, width, break_long_words=False, break_on_hyphens=False))
    if len(summary.notes) > _MOST_NOTES:
        typer.echo(f"and {len(summary.notes) - _MOST_NOTES} more notes in {out / PAGE}")
    for command in summary.not_run if lists_not_run else []:
        typer.echo(f"not run: {command}")
    if summary.left_over:
        names = ", ".join(path.name for path in summary.left_over)
        typer.echo(f"left over from an earlier report in {out}: {names}")
    count = f"{summary.results} result{'s' * (summary.results != 1)}"
    typer.echo(f"{count} rendered; open {out / 'index.html'} (as text: {out / PAGE})")


def _draw_grid(
    models: list[str],
    steps: str,
    prompts: Path | None,
    seed: int,
    runs_dir: Path,
    out: Path,
    device: str,
) -> list[Path]:
    from selfe.cli.targets import find_targets
    from selfe.generator import image_seed
    from selfe.text import numbered_lines

    if prompts is None or not prompts.is_file():
        raise ValueError("--grid needs --prompts FILE, a text file with one prompt a line")
    texts = [line for _, line in numbered_lines(prompts)]
    if not texts:
        raise ValueError(f"{prompts} holds no prompt")
    counts = parse_steps(steps)
    targets = find_targets(
        models, runs_dir=runs_dir, milestones=False, device=device, assignments=[], model_args=[]
    )
    from evals.report.canvas import save
    from evals.report.image_grids import GridBlock, column_labels, grid, row_labels

    seeds = [image_seed(seed, text, 0) for text in texts]
    drawn, labels = [], []
    with progress_bar() as bar:
        tick = Ticker(bar)
        for done, target in enumerate(targets, start=1):
            generator = target.load()
            labels.append(generator.facts.label)
            drawn.append([generator.generate(texts, count, seeds) for count in counts])
            tick("drawing", done, len(targets))
    blocks = [
        GridBlock(text, [[column[i] for column in row] for row in drawn])
        for i, text in enumerate(texts)
    ]
    labels = row_labels(labels, [target.name for target in targets])
    figure = grid(labels, column_labels(counts), blocks)
    return [save(figure, out / "figures" / "grid")]
