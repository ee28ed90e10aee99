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

from evals.base import Interval, ProtocolFacts
from evals.results import read_result
from evals.stats import student_quantile
from evals.verdicts import Counts, counts_by_task, read_verdicts

ARCHIVES = ("reference-3000", "full-signal-3000")
"""Studies of 3,000 iterations, folders beside the study of headroom."""

Cells = dict[tuple[float, str, int], dict[int, Counts]]
"""(signal b, method, steps) -> counts by training seed."""


def archived_counts(archives: Sequence[Path]) -> Cells:
    """Counts of every result in studies' results.tar.xz, by b, method, steps and training seed.

    Raises:
        ValueError: if two results stand for the same training and number of steps, a result is not
            complete, or two were measured under protocols that differ in more than b and the name
            of the inference.
    """
    cells: Cells = {}
    protocol = None
    for archive in archives:
        protocol = _add_counts(cells, archive, protocol)
    return cells


def _add_counts(
    cells: Cells, archive: Path, protocol: ProtocolFacts | None
) -> ProtocolFacts | None:
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        for path in sorted(Path(folder).rglob("result.json")):
            result = read_result(path.parent)
            facts = result.protocol.model_copy(update={"signal": 1.0, "inference": ""})
            protocol = protocol or facts
            if facts != protocol or result.scores.partial:
                raise ValueError(f"{archive}: {path.parent.name} is of another protocol or partial")
            key = (result.protocol.signal, result.model.method, result.sampling.steps)
            seed = result.model.training["seed"]
            by_seed = cells.setdefault(key, {})
            if seed in by_seed:
                raise ValueError(f"{archive}: a second result of {key}, training seed {seed}")
            by_seed[seed] = counts_by_task(read_verdicts(path.parent))
    return protocol


def difference_of_leads(a: Mapping[str, Any], b: Mapping[str, Any]) -> Interval:
    """How much larger the lead of row `a` is than that of row `b`, with a 95% interval for other
    training seeds and other prompts.

    The trainings of the two are independent (Welch's interval). Its half width and those of the two
    leads over prompts are added in quadrature, as in `evals.over_trainings`. That both leads are of
    the same prompts is not used: the interval is rather too wide.

    Args:
        a, b: of `headroom_table.leads`, with `lead_by_seed` (two or more) and `over_prompts`.
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
    (low_a, high_a), (low_b, high_b) = a["over_prompts"], b["over_prompts"]
    mean_a, mean_b = (float(values.mean()) for values in pair)
    mean = mean_a - mean_b
    return Interval(
        mean=mean,
        low=mean - math.hypot(seeds, mean_a - low_a, high_b - mean_b),
        high=mean + math.hypot(seeds, high_a - mean_a, mean_b - low_b),
    )


def sentences(
    rows: Sequence[Mapping[str, Any]], steps: Sequence[int], b: tuple[float, float]
) -> list[str]:
    """One line a number of steps: Self-E's lead at the first value of b less that at the second,
    where both were trained with two seeds or more."""
    own = {
        (r["b"], r["steps"]): r
        for r in rows
        if r["method"] == "selfe" and len(r.get("lead_by_seed", ())) > 1
    }
    lines = []
    for n in steps:
        if (b[0], n) not in own or (b[1], n) not in own:
            continue
        one, other = own[b[0], n], own[b[1], n]
        found = difference_of_leads(one, other)
        held = "" if found.low > 0 or found.high < 0 else ", not resolved"
        lines.append(
            f"- In {n} steps the lead at b = {b[0]:g} less that at b = {b[1]:g} is "
            f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]{held}."
        )
    return lines
