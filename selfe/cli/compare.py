"""`selfe-bench compare`: two runs at all steps they share, or two results prompt by prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfe.cli import options
from selfe.cli.common import RUNS, fitted, parse_steps
from selfe.cli.completion import complete_runs


def compare(
    a: Annotated[
        str,
        typer.Argument(
            help="A run (RUN or RUN@STEP), a result folder, or a measurement measures/NAME.json.",
            autocompletion=complete_runs,
        ),
    ],
    b: Annotated[
        str, typer.Argument(help="A second one of the same kind.", autocompletion=complete_runs)
    ],
    steps: Annotated[
        str | None,
        typer.Option(
            help="For runs: compare only these numbers of steps.", show_default="all common"
        ),
    ] = None,
    over: Annotated[
        Path | None,
        typer.Option(
            help="For result folders: a folder with results of other training seeds. The two "
            "configurations are compared over the seeds that both have there. Runs find these "
            "by themselves.",
            file_okay=False,
        ),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            help="For runs: a folder for a page of their images, which opens at those that only "
            "one of the two got right.",
            file_okay=False,
        ),
    ] = None,
    as_json: options.AsJson = False,
    runs_dir: options.RunsDir = RUNS,
) -> None:
    """Compare two runs: every common step, task and training seed, with verdicts."""
    folders = [Path(each) for each in (a, b)]
    are_results = [f.is_file() or (f / "result.json").is_file() for f in folders]
    if not any(are_results):
        if over is not None:
            raise ValueError(
                "--over is for result folders: runs find results of other seeds by themselves"
            )
        typer.echo(_compare_runs(a, b, steps, page, as_json, runs_dir))
        return
    if not all(are_results):
        raise ValueError(f"{a} and {b} are of different kinds: name two runs or two results")
    if steps is not None:
        raise ValueError("--steps is for runs: a result folder has one number of steps")
    if page is not None:
        raise ValueError("--page is for runs: of results, `selfe-bench view A B` makes a page")
    typer.echo(_compare_results(folders[0], folders[1], over, as_json))


def _compare_runs(
    a: str, b: str, steps: str | None, page: Path | None, as_json: bool, runs_dir: Path
) -> str:
    from selfe.run_folder.records import require_run

    for name in (a, b):  # a typing error is answered before scipy and pandas load
        require_run(name, runs_dir)
    chosen = None if steps is None else parse_steps(steps)
    from selfe.api.comparison import compare as compare_by_name

    found = compare_by_name(a, b, steps=chosen, runs_dir=runs_dir)
    written = None if page is None else found.page(page)
    if as_json:
        return found.facts.model_dump_json(indent=1)
    where = f"their images: {written}" if written else "their images: the same with --page FOLDER"
    return fitted(f"{found!r}\n\n{where}")


def _compare_results(a: Path, b: Path, over: Path | None, as_json: bool) -> str:
    from evals.measurements import MEASURES
    from evals.report import compare, compare_seeds
    from evals.report.compare_measurements import compare_measurements
    from evals.report.result_folders import collect

    if a.is_file() and b.is_file() and a.parent.name == b.parent.name == MEASURES:
        measured = compare_measurements(a, b)
        return measured.model_dump_json(indent=1) if as_json else measured.text
    if over is not None:
        over_seeds = compare_seeds.compare_trainings(a, b, collect([over]))
        as_text = compare_seeds.as_markdown(over_seeds)
        return over_seeds.model_dump_json(indent=1) if as_json else as_text
    paired = compare.compare(a, b)
    return paired.model_dump_json(indent=1) if as_json else compare.as_markdown(paired)
