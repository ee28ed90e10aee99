"""Differences on the page: each configuration against the reference, adjusted for their number."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from evals.multiplicity import LEVEL, holm
from evals.report.compact import reference_for, settings_of
from evals.report.lines import Line
from evals.report.markup import is_missing
from evals.report.result_folders import ResultFolder
from evals.report.rows import difference
from evals.site.summary import ResultIds, rounded


def mean_differences(frame: pd.DataFrame, means: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Differences over training seeds at the last iteration, from `trainings_frame`.

    Args:
        means: of `mean_lines`, from the same frame.
    """
    rows: list[dict[str, Any]] = []
    keys = ["recipe", "method", "variant", "settings"]
    for mean, (_, members) in zip(means, frame.groupby(keys, sort=False), strict=True):
        for _, row in members[members["iterations"] == members["iterations"].max()].iterrows():
            if is_missing(row["delta_selfe"]):
                continue
            ends = [round(float(row[f"delta_{n}"]), 5) for n in ("selfe", "low", "high")]
            rows.append(
                {
                    "line": mean["id"],
                    "steps": int(row["steps"]),
                    "iterations": int(row["iterations"]),
                    "score": round(float(row["overall"]), 5),
                    "delta": ends,
                    "p": round(float(row["p_value"]), 5),
                    "resolved": ends[1] > 0 or ends[2] < 0,
                    "settings": row["settings"],
                }
            )
    return rows


def difference_rows(
    folders: Sequence[ResultFolder],
    ids: ResultIds,
    lines: Sequence[Line],
    reference: Line | None,
    named: bool,
    means: Sequence[dict[str, Any]] = (),
    most: int = 120,
) -> dict[str, Any] | None:
    """Every line's last iteration against the reference at the same steps.

    Configurations that were trained with several seeds stand for all of them; single trainings of
    such a configuration are left out, because they would be compared with one training of Self-E.

    Args:
        lines: of one protocol.
        named: whether the user chose the reference: then iterations may differ, and `means` are
            left out.
        means: of `mean_differences`.
        most: comparisons at most; lines drawn at first come first.
    """
    if reference is None:
        return None
    means = () if named else means
    names = {id(folder): ids.ids[place] for place, folder in enumerate(folders)}
    averaged = {row["settings"] for row in means}
    if averaged:
        averaged.add(settings_of(reference.first))
    rows = _mean_rows(means, lines, reference, names)
    single, left_out = _training_rows(lines, reference, named, averaged, names, most - len(rows))
    rows += single
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["adjusted"] = round(adjusted, 5)
        row["verdict"] = _verdict(row["resolved"], adjusted, row["delta"][0])
    words = _words(reference, bool(averaged), len(rows), left_out)
    return {"protocol": reference.protocol, "words": words, "rows": rows}


def _mean_rows(
    means: Sequence[dict[str, Any]],
    lines: Sequence[Line],
    reference: Line,
    names: Mapping[int, str],
) -> list[dict[str, Any]]:
    """Means over seeds against the reference's mean, each with a pair of results to look at."""
    shown = {settings_of(line.first): line for line in reversed(lines) if not line.further}
    rows = []
    for mean in means:
        line = shown.get(mean["settings"])
        pair = (line and line.final_at(mean["steps"]), reference.final_at(mean["steps"]))
        result, against = (names[id(folder)] if folder else "" for folder in pair)
        row = {key: value for key, value in mean.items() if key != "settings"}
        rows.append(row | {"reference": reference.id, "result": result, "against": against})
    return rows


def _training_rows(
    lines: Sequence[Line],
    reference: Line,
    named: bool,
    averaged: Collection[str],
    names: Mapping[int, str],
    most: int,
) -> tuple[list[dict[str, Any]], int]:
    """Single trainings against the reference; and how many comparisons exceed `most`.

    Args:
        averaged: settings whose trainings have a mean, and are left out.
        names: identifier of a result by the `id` of its folder.
    """
    pairs = [
        (line, folder, other)
        for line in sorted(lines, key=lambda line: not line.usual)
        if line is not reference and (line.further or settings_of(line.first) not in averaged)
        for folder in line.folders
        if line.is_final(folder) and (other := reference_for(folder, reference, named)) is not None
    ]
    rows: list[dict[str, Any]] = []
    for compared, (line, folder, other) in enumerate(pairs):
        if len(rows) >= most:
            return rows, len(pairs) - compared
        delta = difference(folder, other)
        overall = folder.result.scores.overall
        if delta is None or overall is None:
            continue
        rows.append(
            {
                "line": line.id,
                "reference": reference.id,
                "result": names[id(folder)],
                "against": names[id(other)],
                "steps": folder.result.sampling.steps,
                "iterations": folder.result.model.iterations,
                "score": round(overall.mean, 5),
                "delta": rounded(delta.interval),
                "p": round(delta.p_value, 5),
                "resolved": delta.resolved,
            }
        )
    return rows, 0


def _words(reference: Line, averaged: bool, comparisons: int, left_out: int) -> str:
    """What a reader of the table must know."""
    if averaged:
        whom = f"Self-E's mean (single trainings against {reference.name}), paired over the same "
        whom += "prompts and training seeds. p is of a sign-flip test, of means from their interval"
    else:
        whom = f"{reference.name}, paired over the same prompts. p is of a sign-flip test"
    words = (
        f"Each configuration against {whom}; adjusted, it holds for all {comparisons} comparisons "
        'of this table together (Holm). A verdict is "resolved" where the 95% interval leaves out '
        f"0 and the adjusted p is below {LEVEL:g}."
    )
    if left_out:
        words += f" {left_out} further comparisons are not computed: choose fewer results."
    return words


def _verdict(resolved: bool, adjusted: float, mean: float) -> str:
    if not resolved:
        return "not resolved"
    way = "higher" if mean > 0 else "lower"
    return f"{way}, resolved" if adjusted < LEVEL else f"{way}, not after adjustment"
