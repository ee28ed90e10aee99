"""Two models compared: by name, over every common number of steps and training seed."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from evals.report.compare_runs import RunsComparison, Side, as_text, compare_runs
from evals.report.result_folders import ResultFolder, collect
from evals.site.comparison import render_comparison
from selfe.api.runs import Run
from selfe.api.scores import Scores
from selfe.run_folder.records import find_checkpoint, find_runs, read_config, require_run
from selfe.text import first_line

Compared = str | Path | Run | Scores


class Comparison:
    """A minus B, with a verdict on every row.

    Attributes:
        facts: everything as plain values (`evals.report.compare_runs.RunsComparison`).
    """

    def __init__(self, facts: RunsComparison, sides: tuple[Side, Side]) -> None:
        self.facts = facts
        self._sides = sides

    def frame(self) -> pd.DataFrame:
        """A row per number of steps and task: scores of both, the difference with its 95%
        interval, p-value, p-value adjusted for the number of rows, and the verdict."""
        rows = []
        for row in self.facts.rows:
            values = row.model_dump(exclude={"difference"})
            d = row.difference
            rows.append({**values, "difference": d.mean, "low": d.low, "high": d.high})
        return pd.DataFrame(rows)

    def flipped(self) -> pd.DataFrame:
        """Prompts of which the two drew different numbers of correct images, with their text."""
        return pd.DataFrame([each.model_dump() for each in self.facts.flipped])

    def page(self, out_dir: str | Path) -> Path:
        """Write a page of the images beside each other, which opens at those that only one of the
        two got right; returns its index.html."""
        steps = sorted({row.steps for row in self.facts.rows})
        return render_comparison(*self._sides, out_dir, steps=steps)[0]

    def __repr__(self) -> str:
        return as_text(self.facts)

    def _repr_html_(self) -> str:
        title = html.escape(f"A = {self.facts.a}; B = {self.facts.b}")
        table = self.frame().drop(columns="seeds").to_html(index=False, float_format="%.3f")
        return f"<p>{title}</p>{table}"


def compare(
    a: Compared,
    b: Compared,
    *,
    steps: Sequence[int] | None = None,
    runs_dir: str | Path = "runs",
) -> Comparison:
    """Compare two models over every number of steps that both were scored at.

    Of runs, the trainings of the same configurations with other seeds are found below `runs_dir`
    and taken into account as far as both sides have them.

    Args:
        a: a run (its name, NAME@STEP, folder or `Run`), or `Scores`.
        b: what it is compared with, likewise.
        steps: only these numbers of steps.

    Raises:
        ValueError: if a run is unknown or has no result, or the two have no protocol and number of
            steps in common.
    """
    runs_dir = Path(runs_dir)
    notes: list[str] = []
    sides = (_side(a, runs_dir, notes), _side(b, runs_dir, notes))
    places = [[folder.path for folder in own] for _, own, _ in sides]
    if places[0] == places[1]:
        raise ValueError(f"{sides[0][0]} is compared with itself: name two different runs")
    found = compare_runs(*sides, steps=steps)
    return Comparison(found.model_copy(update={"notes": (*notes, *found.notes)}), sides)


def _side(given: Compared, runs_dir: Path, notes: list[str]) -> Side:
    """Name, results of the model itself, and results of its configuration with other seeds; `notes`
    gets the runs that cannot be read."""
    if isinstance(given, Scores):
        own = list(given)
        name = f"{own[0].result.model.label} {own[0].result.model.variant}".strip() if own else ""
        return name, own, []
    if isinstance(given, Run):
        folder, step, runs_dir = given.folder, given.step, given.runs_dir
    else:
        folder, step = require_run(str(given), runs_dir)
    own = _results(folder, step)
    if not own:
        raise ValueError(
            f"{folder} has no result to compare: score it with "
            f"`selfe-bench geneval --model {folder}`"
        )
    config = read_config(folder)
    iteration = own[0].result.model.iterations
    others = []
    for run in find_runs(runs_dir):
        if run.resolve() == folder.resolve():
            continue
        try:
            same = read_config(run).seedless_digest == config.seedless_digest
        except ValueError as error:
            notes.append(f"{run} is left out, which may be another seed: {first_line(error)}")
            continue
        if same:
            others += [r for r in _results(run, None) if r.result.model.iterations == iteration]
    return folder.name if step is None else f"{folder.name}@{step}", own, others


def _results(folder: Path, step: int | None) -> list[ResultFolder]:
    """Complete results of a run at one checkpoint, the newest that has any."""
    place = folder / "results"
    if step is not None:
        place = place / find_checkpoint(folder, step).path.name
    found = collect([place]) if place.is_dir() else []
    found = [f for f in found if f.result.scores.overall and not f.result.scores.partial]
    newest = max((f.result.model.iterations or 0 for f in found), default=0)
    return [f for f in found if (f.result.model.iterations or 0) == newest]
