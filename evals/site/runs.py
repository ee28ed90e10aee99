"""Training runs as the page shows them: curves, sample sheets, time. Reads their files only."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from evals.report.result_folders import ResultFolder
from selfe.json_files import JsonFault
from selfe.sealed_files import read_chained_lines, read_sealed

METRICS, CONFIG = "metrics.jsonl", "config.json"
_MOST_POINTS = 400
_MOST_SHEETS = 8
_CURVES = ("loss", "gradient_norm", "learning_rate", "images_per_second")


@dataclass
class RunRecord:
    """What a run's folder says of its training so far.

    Attributes:
        curves: name -> (iteration, value) pairs, thinned to some hundred.
        sheets: (iteration, file) of sample sheets, evenly over the run, the newest last.
        seconds: (iteration, seconds of training until then); empty where the batch size is not
            recorded.
        changed_at: time of the last record, in seconds since 1970.
    """

    name: str
    path: Path
    state: str = ""
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    sheets: list[tuple[int, Path]] = field(default_factory=list)
    seconds: list[tuple[int, float]] = field(default_factory=list)
    changed_at: float = 0.0

    def seconds_at(self, iteration: int | None) -> float | None:
        """Seconds of training until an iteration; None where they are not known."""
        if iteration is None:
            return None
        return next((s for step, s in self.seconds if step >= iteration), None)


def runs_of(folders: Iterable[ResultFolder]) -> dict[str, RunRecord]:
    """The runs whose folders the results lie in, by `ResultFolder.run`; others are unknown."""
    found: dict[str, RunRecord] = {}
    for folder in folders:
        name = folder.run
        if name in found:
            continue
        for parent in folder.path.parents[:6]:
            if (parent / METRICS).is_file():
                found[name] = read_run(parent)
                break
    return found


def read_run(path: Path) -> RunRecord:
    """A run's records; missing ones are left out. The run's state reports a damaged metrics.jsonl:
    the results of the run do not depend on it."""
    metrics = path / METRICS
    run = RunRecord(path.name, path, changed_at=metrics.stat().st_mtime)
    try:
        record = _config(path)
        digest = record.get("digest")
        first = digest if isinstance(digest, str) else None
        lines = [row for _, row in read_chained_lines(metrics, first, nonfinite=True)]
    except JsonFault as fault:
        run.state = f"no curves: {fault}"
        return run
    steps = [r for r in lines if isinstance(r.get("step"), int) and "loss" in r]
    names = [n for n in _CURVES if any(n in r for r in steps)]
    names += sorted({n for r in steps for n in r if n.startswith("loss_")})
    for name in names:
        points = [(r["step"], float(r[name])) for r in steps if _is_number(r.get(name))]
        run.curves[name] = thinned(points)
    planned, batch = _planned(record)
    damaged = "" if record else "; its config.json is damaged"
    last = steps[-1]["step"] if steps else 0
    if planned:
        run.state = f"{last} of {planned} iterations"
    else:
        run.state = f"{last} iterations{damaged if (path / CONFIG).exists() else ''}"
    if batch:
        run.seconds = _seconds(steps, batch)
    sheets = [
        (int(match[1]), sheet)
        for sheet in sorted((path / "samples").glob("step-*.png"))
        if (match := re.fullmatch(r"step-([0-9]+)\.png", sheet.name))
    ]
    run.sheets = _evenly(sheets, _MOST_SHEETS)
    return run


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _config(path: Path) -> dict[str, Any]:
    """config.json of a run; {} where it cannot be read: its curves can be shown all the same."""
    try:
        return read_sealed(path / CONFIG, dict[str, Any], "run", nonfinite=True)
    except (OSError, ValueError):
        return {}


def _planned(record: dict[str, Any]) -> tuple[int | None, int | None]:
    """Iterations planned and images per iteration, where config.json says."""
    try:
        config = record["config"]["train"]
        batch = None if config.get("stages") else config.get("batch_size")
        return config.get("iterations"), batch
    except (LookupError, TypeError, AttributeError):
        return None, None


def _seconds(records: Sequence[dict[str, Any]], batch: int) -> list[tuple[int, float]]:
    """From the images per second of every record: breaks between sessions do not count."""
    total, before = 0.0, 0
    found = []
    for record in records:
        speed = record.get("images_per_second")
        if not _is_number(speed) or speed <= 0:
            return []
        total += (record["step"] - before) * batch / speed
        before = record["step"]
        found.append((before, round(total, 2)))
    return found


def thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most some hundred points: means of neighbours, at the last of their iterations."""
    size = -(-len(points) // _MOST_POINTS) or 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(g[-1][0], float(f"{sum(v for _, v in g) / len(g):.5g}")) for g in groups]


def _evenly(sheets: Sequence[tuple[int, Path]], most: int) -> list[tuple[int, Path]]:
    if len(sheets) <= most:
        return list(sheets)
    return [sheets[round(i * (len(sheets) - 1) / (most - 1))] for i in range(most)]
