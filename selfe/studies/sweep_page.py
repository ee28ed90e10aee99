"""The page of a sweep: every point of the grid against the baseline of its method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from evals.base import Interval
from evals.report.markup import signed, to_markdown, with_interval
from evals.report.result_folders import read_result_folder
from evals.report.training_seeds import difference_over, leaves_out_0, mean_over
from evals.stats import overall_interval
from evals.verdicts import Counts, difference_of_counts
from selfe.files import write_atomically
from selfe.studies.done import result_folders
from selfe.studies.study import Study, Training, trainings_of

COLUMNS = (
    "method", "settings", "iterations", "steps", "seeds", "overall", "low", "high",
    "difference", "difference_low", "difference_high", "resolved",
)  # fmt: skip
BASELINE = "baseline"


@dataclass(frozen=True)
class SweepRow:
    """One point at one number of steps.

    Attributes:
        overall: over prompts, and where there are several, over training seeds.
        difference: to the baseline of the same method, paired; None for the baseline itself.
    """

    method: str
    settings: str
    iterations: int
    steps: int
    seeds: tuple[int, ...]
    overall: Interval
    difference: Interval | None

    @property
    def resolved(self) -> bool:
        return self.difference is not None and leaves_out_0(
            self.difference.low, self.difference.high
        )


def sweep_rows(study: Study, steps: Sequence[int]) -> list[SweepRow]:
    """The results of a sweep; the first row of a method is its baseline (`sweep_study`).

    Raises:
        ValueError: if a result is missing or damaged.
    """
    by_row: dict[tuple[str, tuple[str, ...]], list[Training]] = {}
    for training in trainings_of(study).trainings:
        by_row.setdefault((training.entry.label, training.entry.settings), []).append(training)
    rows: list[SweepRow] = []
    for count in steps:
        first: dict[str, Mapping[int, Counts]] = {}
        for (method, settings), trainings in by_row.items():
            ours = {t.seed: _counts(study, t, count) for t in trainings}
            its = first.setdefault(method, ours)
            rows.append(
                SweepRow(
                    method,
                    " ".join(settings) or "the recipe's own",
                    trainings[0].end,
                    count,
                    tuple(ours),
                    _mean(list(ours.values())),
                    None if its is ours else _difference(ours, its),
                )
            )
    return rows


def _counts(study: Study, training: Training, steps: int) -> Counts:
    folders = list(result_folders(study, training.run_dir, [training.end], [steps]))
    if not folders:
        raise ValueError(f"{training.run_dir} has no checkpoint at iteration {training.end}")
    return read_result_folder(folders[0]).counts


def _mean(trainings: Sequence[Counts]) -> Interval:
    return overall_interval(trainings[0]) if len(trainings) == 1 else mean_over(trainings)


def _difference(ours: Mapping[int, Counts], its: Mapping[int, Counts]) -> Interval:
    pairs = [(ours[seed], its[seed]) for seed in ours]
    if len(pairs) == 1:
        return difference_of_counts(*pairs[0], test=False).interval
    return difference_over(pairs)


def write_sweep(study: Study, steps: Sequence[int], commands: str) -> Path:
    """sweep.md and sweep.csv in the study's report; the path of the first.

    Args:
        commands: what made it.
    """
    rows = sweep_rows(study, steps)
    study.out.mkdir(parents=True, exist_ok=True)
    text = as_frame(rows).to_csv(index=False, float_format="%.6f", lineterminator="\n")
    write_atomically(study.out / "sweep.csv", text)
    page = study.out / "sweep.md"
    write_atomically(page, as_markdown(rows, study, commands))
    return page


def as_frame(rows: Sequence[SweepRow]) -> pd.DataFrame:
    records = []
    for row in rows:
        delta = row.difference
        ends = (delta.mean, delta.low, delta.high) if delta else (None,) * 3
        values = (
            *(row.method, row.settings, row.iterations, row.steps, " ".join(map(str, row.seeds))),
            *(row.overall.mean, row.overall.low, row.overall.high, *ends),
            (BASELINE if delta is None else "resolved" if row.resolved else "not resolved"),
        )
        records.append(dict(zip(COLUMNS, values, strict=True)))
    return pd.DataFrame(records, columns=list(COLUMNS))


def as_markdown(rows: Sequence[SweepRow], study: Study, commands: str) -> str:
    seeds = rows[0].seeds
    several = len(seeds) > 1
    compared = sum(row.difference is not None for row in rows)
    kind = "other training seeds and other prompts" if several else "other prompts, not trainings"
    parts = [
        f"# Sweep of recipe {study.recipe}",
        f"`{commands}`",
        "Overall scores with their 95% intervals, and the paired difference to the baseline of the "
        f"same method; intervals hold for {kind}. Training seeds: "
        f"{', '.join(map(str, seeds))}. Prompts: {study.split or 'the suite'}"
        f"{f', at most {study.limit} per task' if study.limit else ''}.",
        f"{compared} differences are shown: about 1 in 20 leaves out 0 by chance where nothing "
        "differs. What is chosen here is to be measured again on other prompts.",
    ]
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method]
        steps = list(dict.fromkeys(row.steps for row in own))
        table = []
        for settings in dict.fromkeys(row.settings for row in own):
            cells = [_cell(r) for r in own if r.settings == settings]
            table.append([settings, *cells])
        header = ["settings", *(f"{count} steps" for count in steps)]
        parts.append(f"## {method}, {own[0].iterations:,} iterations")
        parts.append(to_markdown(header, table).rstrip())
    return "\n\n".join(parts) + "\n"


def _cell(row: SweepRow) -> str:
    score = with_interval(row.overall.mean, row.overall.low, row.overall.high)
    delta = row.difference
    if delta is None:
        return f"{score} ({BASELINE})"
    ends = f"{signed(delta.mean)} [{signed(delta.low)}, {signed(delta.high)}]"
    return f"{score}, {'**' + ends + '**' if row.resolved else ends + ' not resolved'}"
