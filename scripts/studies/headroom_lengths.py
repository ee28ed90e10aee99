"""Leads after longer trainings at two values of b, from kept results: for `headroom_table`.

The trainings of 3,000 iterations are studies of their own, whose results lie in an archive each
(reports/studies/reference-3000, full-signal-3000). Their verdicts are read from there.
"""

from __future__ import annotations

import math
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evals.base import Interval
from evals.results import read_result
from evals.stats import normal_quantile, student_quantile
from evals.verdicts import Counts, counts_by_task, read_verdicts

ARCHIVES = ("reference-3000", "full-signal-3000")
"""Studies of 3,000 iterations, folders beside the study of headroom."""

Cells = dict[tuple[float, str, int], dict[int, Counts]]
"""(signal b, method, steps) -> counts by training seed."""


def archived_counts(archive: Path) -> Cells:
    """Counts of every result in a study's results.tar.xz, by b, method, steps and training seed.

    Raises:
        ValueError: if two results stand for the same training and number of steps.
    """
    cells: Cells = {}
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        for path in sorted(Path(folder).rglob("result.json")):
            result = read_result(path.parent)
            training = result.model.training or {}
            key = (result.protocol.signal, result.model.method, result.sampling.steps)
            by_seed = cells.setdefault(key, {})
            if training["seed"] in by_seed:
                raise ValueError(f"{archive} has two results of {key}, seed {training['seed']}")
            by_seed[training["seed"]] = counts_by_task(read_verdicts(path.parent))
    return cells


def difference_of_leads(a: Mapping[str, Any], b: Mapping[str, Any]) -> Interval:
    """How much larger the lead of row `a` is than that of row `b`, with a 95% interval for other
    training seeds and other prompts.

    The trainings of the two are independent (Welch's interval), the prompts are the same; the two
    are added in quadrature, as in `evals.over_trainings`.

    Args:
        a, b: of `headroom_table.leads`, with `lead_by_seed` (two or more) and `by_prompt`.
    """
    pair = [np.asarray(row["lead_by_seed"], dtype=float) for row in (a, b)]
    errors = [values.var(ddof=1) / len(values) for values in pair]
    total = sum(errors)
    seeds = 0.0
    if total > 0:
        # Welch and Satterthwaite's degrees of freedom, rounded down: rather too wide.
        parts = zip(errors, pair, strict=True)
        degrees = total**2 / sum(e**2 / (len(v) - 1) for e, v in parts)
        seeds = student_quantile(max(1, int(degrees))) * math.sqrt(total)
    tasks = [np.subtract(a["by_prompt"][task], b["by_prompt"][task]) for task in a["by_prompt"]]
    variance = sum(d.var(ddof=1) / len(d) for d in tasks) / len(tasks) ** 2
    half = math.hypot(seeds, normal_quantile() * math.sqrt(variance))
    mean = float(pair[0].mean() - pair[1].mean())
    return Interval(mean=mean, low=mean - half, high=mean + half)


def sentences(rows: Sequence[Mapping[str, Any]], steps: Sequence[int]) -> list[str]:
    """One line a number of steps: Self-E's lead at the smallest b less that at the largest."""
    own = [r for r in rows if r["method"] == "selfe" and len(r.get("lead_by_seed", ())) > 1]
    values = sorted({r["b"] for r in own})
    lines = []
    for n in steps if len(values) > 1 else ():
        by_b = {r["b"]: r for r in own if r["steps"] == n}
        if not {values[0], values[-1]} <= by_b.keys():
            continue
        low, high = by_b[values[0]], by_b[values[-1]]
        found = difference_of_leads(low, high)
        held = "" if found.low > 0 or found.high < 0 else ", not resolved"
        lines.append(
            f"- In {n} steps the lead at b = {values[0]:g} less that at b = {values[-1]:g} is "
            f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]{held}; headroom "
            f"{low['headroom']:.3f} and {high['headroom']:.3f}."
        )
    return lines
