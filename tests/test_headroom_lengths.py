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

from scripts.studies.headroom_lengths import (
    ARCHIVES,
    archived_counts,
    difference_of_leads,
    sentences,
)
from scripts.studies.headroom_table import leads

STUDIES = Path(__file__).parents[1] / "reports" / "studies"


def row(b: float, by_seed: list[float], over_prompts: tuple[float, float], steps: int = 2) -> Any:
    return {"b": b, "method": "selfe", "steps": steps, "headroom": 1 - b,
            "lead_by_seed": by_seed, "over_prompts": over_prompts}  # fmt: skip


@pytest.mark.parametrize("study", ARCHIVES)
def test_leads_of_an_archive_are_those_of_its_report(study: str) -> None:
    cells = archived_counts([STUDIES / study / "results.tar.xz"])
    found = {(r["method"], r["steps"]): r for r in leads(cells, {})}
    with (STUDIES / study / "trainings.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["method"] == "Flow Matching"]
    assert {int(r["steps"]) for r in rows} == {2, 4, 8, 50}
    for report in rows:
        ours = found["selfe", int(report["steps"])]
        assert ours["lead"] == pytest.approx(-float(report["delta_selfe"]), abs=1e-6)
        assert ours["lead_low"] == pytest.approx(-float(report["delta_high"]), abs=1e-6)
        assert ours["lead_high"] == pytest.approx(-float(report["delta_low"]), abs=1e-6)


def test_a_training_counts_once() -> None:
    archive = STUDIES / ARCHIVES[1] / "results.tar.xz"
    with pytest.raises(ValueError, match="a second result of .*seed 0"):
        archived_counts([archive, archive])


def test_another_protocol_is_refused() -> None:
    archives = [STUDIES / name / "results.tar.xz" for name in (ARCHIVES[1], "quickstart")]
    with pytest.raises(ValueError, match="quickstart.* is of another protocol"):
        archived_counts(archives)


A, B = [0.12, 0.18, 0.15], [0.02, 0.11, 0.05, 0.06]


def welch(a: list[float], b: list[float]) -> float:
    """Half width, degrees of freedom rounded down."""
    errors = [np.var(v, ddof=1) / len(v) for v in (a, b)]
    degrees = sum(errors) ** 2 / sum(
        e**2 / (len(v) - 1) for e, v in zip(errors, (a, b), strict=True)
    )
    return float(stats.t.ppf(0.975, int(degrees))) * math.sqrt(sum(errors))


def test_without_doubt_over_prompts_the_interval_is_welchs() -> None:
    found = difference_of_leads(row(0.25, A, (0.15, 0.15)), row(1, B, (0.06, 0.06)))
    assert (found.low, found.high) == pytest.approx((0.09 - welch(A, B), 0.09 + welch(A, B)))
    # rounding degrees down widens: Welch's own interval lies within
    own = stats.ttest_ind(A, B, equal_var=False).confidence_interval()
    assert found.low <= own.low and own.high <= found.high


def test_the_three_doubts_are_added_in_quadrature_end_by_end() -> None:
    found = difference_of_leads(row(0.25, A, (0.12, 0.16)), row(1, B, (0.04, 0.12)))
    assert found.mean == pytest.approx(0.15 - 0.06)
    # the difference is smaller where the first lead is smaller or the second larger
    assert found.low == pytest.approx(0.09 - math.hypot(welch(A, B), 0.03, 0.06))
    assert found.high == pytest.approx(0.09 + math.hypot(welch(A, B), 0.01, 0.02))


def test_sentences_say_what_is_not_resolved_and_need_both_values_of_b() -> None:
    wide = row(0.25, [0.0, 0.4], (0.1, 0.3))
    narrow = row(0.25, [0.3, 0.301], (0.29, 0.31), 4)
    others = [row(1, [0.05, 0.05], (0.04, 0.06), n) for n in (2, 4)]
    two, four = sentences([wide, narrow, *others], (2, 4, 8), (0.25, 1))
    assert two.startswith("- In 2 steps the lead at b = 0.25 less that at b = 1 is +0.150 [")
    assert two.endswith("], not resolved.") and four.endswith("].")
    assert sentences([wide, narrow], (2, 4), (0.25, 1)) == []
