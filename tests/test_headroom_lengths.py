"""Leads after longer trainings, of kept results: they equal the report's, and their difference is
that of independent trainings over the same prompts."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from scripts.studies.headroom_lengths import archived_counts, difference_of_leads, sentences
from scripts.studies.headroom_table import leads

STUDY = Path(__file__).parents[1] / "reports" / "studies" / "reference-3000"


def row(b: float, by_seed: list[float], by_prompt: dict[str, list[float]], steps: int = 2) -> Any:
    return {"b": b, "method": "selfe", "steps": steps, "headroom": 1 - b,
            "lead_by_seed": by_seed, "by_prompt": by_prompt}  # fmt: skip


def test_leads_of_an_archive_are_those_of_its_report() -> None:
    cells = archived_counts(STUDY / "results.tar.xz")
    assert set(cells) == {(0.25, m, n) for m in ("fm", "selfe", "imm") for n in (2, 4, 8, 50)}
    found = {(r["method"], r["steps"]): r for r in leads(cells, {})}
    with (STUDY / "trainings.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["method"] == "Flow Matching"]
    assert len(rows) == 4
    for report in rows:
        ours = found["selfe", int(report["steps"])]
        assert ours["lead"] == pytest.approx(-float(report["delta_selfe"]), abs=1e-6)
        assert ours["lead_low"] == pytest.approx(-float(report["delta_high"]), abs=1e-6)
        assert ours["lead_high"] == pytest.approx(-float(report["delta_low"]), abs=1e-6)


def test_without_variance_over_prompts_the_interval_is_welchs() -> None:
    a, b = [0.12, 0.18, 0.15], [0.02, 0.11, 0.05, 0.06]
    flat = {"colors": [0.1, 0.1], "position": [0.0, 0.0]}
    found = difference_of_leads(row(0.25, a, flat), row(1, b, flat))
    errors = [np.var(v, ddof=1) / len(v) for v in (a, b)]
    degrees = sum(errors) ** 2 / (errors[0] ** 2 / 2 + errors[1] ** 2 / 3)
    half = stats.t.ppf(0.975, int(degrees)) * math.sqrt(sum(errors))
    assert found.mean == pytest.approx(0.15 - 0.06)
    assert (found.low, found.high) == pytest.approx((0.09 - half, 0.09 + half))
    # rounding degrees down widens: Welch's own interval lies within
    welch = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert found.low <= welch.low and welch.high <= found.high


def test_without_variance_over_seeds_prompts_alone_count_task_by_task() -> None:
    a = {"colors": [0.2, 0.4, 0.0], "position": [0.1, 0.1]}
    b = {"colors": [0.0, 0.1, 0.2], "position": [0.0, 0.2]}
    found = difference_of_leads(row(0.25, [0.15, 0.15], a), row(1, [0.1, 0.1], b))
    differences = [np.subtract(a[task], b[task]) for task in a]
    error = math.sqrt(sum(d.var(ddof=1) / len(d) for d in differences)) / 2
    assert found.high - found.mean == pytest.approx(1.959964 * error, rel=1e-5)


def test_sentences_say_what_is_not_resolved_and_need_two_values_of_b() -> None:
    flat = {"colors": [0.1, 0.1]}
    wide, narrow = row(0.25, [0.0, 0.4], flat), row(0.25, [0.3, 0.301], flat, 4)
    others = [row(1, [0.05, 0.05], flat, n) for n in (2, 4)]
    two, four = sentences([wide, narrow, *others], (2, 4))
    assert two.startswith("- In 2 steps the lead at b = 0.25 less that at b = 1 is +0.150")
    assert "not resolved" in two and "not resolved" not in four
    assert sentences([wide, narrow], (2, 4)) == []
