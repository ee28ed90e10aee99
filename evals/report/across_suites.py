"""Accuracy, preference, diversity and distances of one model side by side, and where they disagree.

A column is one measure on one set of images: another judge, reference set or suite is another
column. Two rows are compared in every column that both have, paired by prompt where the column is a
mean over images; measures disagree where some resolve a gain and others a loss.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from evals.base import Interval, ModelFacts, SamplingFacts
from evals.clustered import clustered_difference
from evals.measurements import (
    ACCURACY,
    ASPECTS,
    Measurement,
    find_measurements,
    read_images,
)
from evals.report.markup import signed, to_markdown, with_interval
from evals.report.result_folders import ResultFolder
from evals.results import protocol_key

WORDS = (
    "Every suite and measure of one model in one row. Arrows say which way is better; intervals "
    "are 95%, clustered by prompt. No measure is the truth: accuracy cannot see artefacts or "
    "collapse, preference models like what they were trained to like, distances depend on the "
    "reference. Below stands where they disagree."
)
AGREE = "Wherever two rows differ by more than chance, all measures agree which is better."


@dataclass(frozen=True)
class Column:
    """One measure on one set of images.

    Attributes:
        key: identity of images and instrument.
        name: of the measure and, where it is not the suite's own score, the suite.
    """

    key: str
    name: str
    aspect: str
    higher_is_better: bool

    @property
    def heading(self) -> str:
        return f"{self.name} {'↑' if self.higher_is_better else '↓'}"


@dataclass
class Row:
    """One model under one way of sampling, with what was found of it."""

    model: ModelFacts
    sampling: SamplingFacts
    found: dict[str, Measurement | ResultFolder] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)

    @property
    def name(self) -> str:
        parts = [f"{self.model.label} {self.model.variant}".strip()]
        if self.model.iterations:
            parts.append(f"{self.model.iterations} iterations")
        return ", ".join(parts)

    @property
    def at(self) -> str:
        steps = self.sampling.steps
        return f"{self.name} at {steps} step{'' if steps == 1 else 's'}" if steps else self.name


def gather(
    roots: Sequence[Path], folders: Sequence[ResultFolder]
) -> tuple[list[Row], list[Column]]:
    """Rows and columns of everything measured below the roots; ([], []) without measurements.

    Raises:
        ValueError: for a damaged measurement; names the file.
    """
    measured = find_measurements(roots)
    rows: dict[str, Row] = {}
    columns: dict[str, Column] = {}
    for path, each in measured.items():
        name = each.instrument.name
        if not name.startswith(each.images.suite):
            name += f" on {each.images.suite}"
        columns.setdefault(each.key, Column(each.key, name, each.aspect, each.higher_is_better))
        row = rows.setdefault(_row_key(each.model, each.sampling), Row(each.model, each.sampling))
        row.found[each.key], row.paths[each.key] = each, path
    for folder in folders:
        result = folder.result
        key = _row_key(result.model, result.sampling)
        if key in rows and result.scores.overall:
            column = protocol_key(result.protocol)
            columns.setdefault(column, Column(column, result.protocol.suite, ACCURACY, True))
            rows[key].found[column] = folder
    every = sorted(columns.values(), key=lambda c: (ASPECTS.index(c.aspect), c.name, c.key))
    return sorted(rows.values(), key=_order), _told_apart(every)


def _row_key(model: ModelFacts, sampling: SamplingFacts) -> str:
    facts = [model.digest, model.name, sampling.model_dump(mode="json")]
    return json.dumps(facts, sort_keys=True)


def _order(row: Row) -> tuple[Any, ...]:
    model, sampling = row.model, row.sampling
    settings = json.dumps(sampling.settings, sort_keys=True)
    return (
        model.label,
        model.variant,
        model.iterations or 0,
        model.digest,
        sampling.steps,
        settings,
    )


def _told_apart(columns: Sequence[Column]) -> list[Column]:
    """Columns whose names are used twice get the start of their keys."""
    names = [column.name for column in columns]
    return [
        Column(c.key, f"{c.name} ({c.key[:6]})", c.aspect, c.higher_is_better)
        if names.count(c.name) > 1
        else c
        for c in columns
    ]


def shown(found: Measurement | ResultFolder) -> Interval:
    """The headline of a cell."""
    if isinstance(found, Measurement):
        return found.shown
    overall = found.result.scores.overall
    assert overall is not None
    return overall


def across_frame(rows: Sequence[Row], columns: Sequence[Column]) -> pd.DataFrame:
    """A row per model and number of steps, three columns per measure: value, low, high."""
    table = []
    for row in rows:
        cells: dict[str, Any] = {
            "method": row.model.label,
            "variant": row.model.variant,
            "iterations": row.model.iterations,
            "steps": row.sampling.steps,
            "nfe": row.sampling.nfe,
            "guidance": guidance_of(row),
        }
        for column in columns:
            found = row.found.get(column.key)
            interval = shown(found) if found is not None else None
            for end in ("mean", "low", "high"):
                suffix = "" if end == "mean" else f" {end}"
                cells[column.name + suffix] = getattr(interval, end) if interval else None
        table.append(cells)
    frame = pd.DataFrame(table)
    return frame.astype({"iterations": "Int64", "steps": "Int64", "nfe": "Int64"})


def guidance_of(row: Row) -> str:
    settings = row.sampling.settings
    kind, scale = str(settings.get("guidance", "")), settings.get("guidance_scale")
    return kind if kind in ("none", "") or scale is None else f"{kind} {scale:g}"


@dataclass(frozen=True)
class Change:
    """What one column says of two rows.

    Attributes:
        size: of the first row minus the second, in the column's unit.
        better: whether that is better; None where it is within chance.
    """

    column: Column
    size: float
    better: bool | None


def compare_rows(a: Row, b: Row, columns: Sequence[Column]) -> list[Change]:
    """Row `a` against row `b` in every column that both have."""
    changes = []
    for column in columns:
        if column.key in a.found and column.key in b.found:
            size, resolved = _difference(a, b, column.key)
            better = (size > 0) == column.higher_is_better if resolved else None
            changes.append(Change(column, size, better))
    return changes


def _difference(a: Row, b: Row, key: str) -> tuple[float, bool]:
    one, other = a.found[key], b.found[key]
    if isinstance(one, ResultFolder) and isinstance(other, ResultFolder):
        try:
            found = one.minus(other)
        except ValueError:  # partial sets of different images
            return shown(one).mean - shown(other).mean, False
        return found.interval.mean, found.resolved
    if key in a.paths and key in b.paths:
        left, right = read_images(a.paths[key]), read_images(b.paths[key])
        if left and left.keys() == right.keys():
            images = sorted(left)
            found = clustered_difference(
                [left[i] for i in images], [right[i] for i in images], [p for p, _ in images]
            )
            return found.interval.mean, found.resolved
    first, second = shown(one), shown(other)
    apart = first.low > second.high or second.low > first.high
    return first.mean - second.mean, apart


def disagreements(rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    """A sentence for every pair of `disagreeing`."""
    found = []
    for a, b, changes in disagreeing(rows, columns):
        gains = [c for c in changes if c.better is True]
        losses = [c for c in changes if c.better is False]
        found.append(
            f"{a.at} against {b.at}: better by {_listed(gains)}; worse by {_listed(losses)}."
        )
    return found


def disagreeing(
    rows: Sequence[Row], columns: Sequence[Column]
) -> list[tuple[Row, Row, list[Change]]]:
    """Every pair of rows of which one measure resolves a gain, another a loss: one model at two
    numbers of steps, or two models at the same number."""
    found = []
    for a, b in combinations(rows, 2):
        same_model = a.model.digest == b.model.digest and a.name == b.name
        if not same_model and a.sampling.steps != b.sampling.steps:
            continue
        if same_model and a.sampling.steps == b.sampling.steps:
            continue
        changes = compare_rows(a, b, columns)
        if {True, False} <= {change.better for change in changes}:
            found.append((a, b, changes))
    return found


def _listed(changes: Sequence[Change]) -> str:
    return ", ".join(f"{c.column.name} ({signed(c.size)})" for c in changes)


def across_markdown(
    rows: Sequence[Row], columns: Sequence[Column], figures: Sequence[str] = ()
) -> str:
    """The table, the figures, a line on every column, the disagreements and the notes of the
    measurements."""
    header = ["Method", "Variant", "Iterations", "Steps", "NFE", "Guidance"]
    lines = []
    for row in rows:
        sampling = row.sampling
        cells = [row.model.label, row.model.variant, str(row.model.iterations or "")]
        cells += [str(sampling.steps or ""), str(sampling.nfe or ""), guidance_of(row)]
        for column in columns:
            found = row.found.get(column.key)
            interval = shown(found) if found is not None else None
            text = with_interval(interval.mean, interval.low, interval.high) if interval else ""
            partial = found is not None and _partial(found)
            cells.append(text + (" (partial)" if partial else ""))
        lines.append(cells)
    parts = [
        f"# Across suites\n\n{WORDS}\n",
        to_markdown([*header, *[column.heading for column in columns]], lines),
        *[f"![{name}](figures/{name})\n" for name in figures],
        "## Where they disagree\n",
    ]
    differing = disagreements(rows, columns)
    parts.append("\n".join(f"- {text}" for text in differing or [AGREE]) + "\n")
    parts.append("## What the columns are\n")
    parts.append("\n".join(_legend(column, rows) for column in columns) + "\n")
    return "\n".join(parts)


def _partial(found: Measurement | ResultFolder) -> bool:
    return found.partial if isinstance(found, Measurement) else found.result.scores.partial


def _legend(column: Column, rows: Sequence[Row]) -> str:
    """What a column measures with what, and what its measurements ask readers to know."""
    cells = [row.found[column.key] for row in rows if column.key in row.found]
    first = cells[0]
    if isinstance(first, ResultFolder):
        protocol = first.result.protocol
        size = f"{protocol.num_prompts} prompts x {protocol.images_per_prompt} images"
        return f"- **{column.name}** ({column.aspect}): {protocol.detector}, {size}."
    images = first.images
    settings = _plain(first.instrument.settings)
    text = (
        f"- **{column.name}** ({column.aspect}): {first.instrument.identity}, "
        f"{images.num_prompts} prompts x {images.images_per_prompt} images; {settings}."
    )
    notes: dict[str, list[str]] = {}
    for row in rows:
        cell = row.found.get(column.key)
        if isinstance(cell, Measurement):
            for note in cell.notes:
                notes.setdefault(note, []).append(row.at)
    lines = [
        f"  - {note}" if len(where) == len(cells) else f"  - {', '.join(where)}: {note}"
        for note, where in notes.items()
    ]
    return "\n".join([text, *lines])


def _plain(settings: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value}" for name, value in settings.items() if value not in ("", None)
    )
