"""Ratios of CPU work, measured so that a busy machine disturbs both sides alike.

The two sides run in turn, on one thread, timed by the processor seconds they used; the ratio is the
median over pairs (wall clock on a shared machine gave ratios between 0.2 and 2.0 for equal work).
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from selfe.provenance import provenance

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ratio:
    """One row: CPU seconds of two sides, and the median of their paired ratios.

    `passes` is the largest ratio that counts as good, None where the row is only informative;
    `ideal` what the arithmetic alone would give.
    """

    name: str
    seconds: float
    reference_seconds: float
    ratio: float
    quartiles: tuple[float, float]
    pairs: int
    ideal: float | None
    passes: float | None

    @property
    def verdict(self) -> str:
        if self.passes is None:
            return ""
        return "pass" if self.ratio <= self.passes else f"over by {self.ratio - self.passes:.3f}"


def paired_ratio(
    name: str,
    work: Callable[[], object],
    reference: Callable[[], object],
    *,
    pairs: int = 9,
    ideal: float | None = None,
    passes: float | None = None,
    clock: Callable[[], float] = time.process_time,
) -> Ratio:
    """Time `work` against `reference`, in alternating order, after one warm-up of each.

    `clock` gives CPU seconds: of this process, if nothing else is said.
    """
    if pairs < 2:
        raise ValueError(f"at least 2 pairs are needed for a median with quartiles, got {pairs}")
    torch.set_num_threads(1)
    work()
    reference()
    ours, theirs = [], []
    for i in range(pairs):
        sides = [(work, ours), (reference, theirs)]
        for side, seconds in sides if i % 2 == 0 else reversed(sides):
            start = clock()
            side()
            seconds.append(clock() - start)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(
        name,
        statistics.median(ours),
        statistics.median(theirs),
        middle,
        (low, high),
        pairs,
        ideal,
        passes,
    )


def print_table(rows: Sequence[Ratio]) -> None:
    width = max(len(row.name) for row in rows)
    print(f"{'ratio':{width}}  measured  quartiles      ideal  pass at  verdict")
    for row in rows:
        ideal = "" if row.ideal is None else f"{row.ideal:.3f}"
        passes = "" if row.passes is None else f"{row.passes:.2f}"
        low, high = row.quartiles
        print(
            f"{row.name:{width}}  {row.ratio:8.3f}  {low:.3f}-{high:.3f}  {ideal:>7}  "
            f"{passes:>7}  {row.verdict}"
        )


def measurement_facts(seed: int) -> dict[str, Any]:
    """Everything needed to repeat a measurement.

    Taken before the first row: the commit must be that of the code which was loaded, and a long
    measurement may see others.
    """
    script = Path(sys.argv[0]).resolve().with_suffix("")
    module = os.path.relpath(script, ROOT).replace(os.sep, ".")
    return {
        "command": " ".join(["python", "-m", module, *sys.argv[1:]]),
        "seed": seed,
        "threads": 1,
        "clock": "time.process_time",
        **provenance(),
        "load_average_at_start": os.getloadavg(),
    }


def write_report(path: Path, rows: Sequence[Ratio], facts: Mapping[str, Any]) -> None:
    """`facts` from `measurement_facts`, and the rows."""
    report = {
        **facts,
        "load_average_at_end": os.getloadavg(),
        "rows": [{**asdict(row), "verdict": row.verdict} for row in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
