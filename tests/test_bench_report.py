"""The benchmark of reports makes as many results as it is asked for, and a report of them."""

from __future__ import annotations

from pathlib import Path

from evals.report.render import render
from evals.report.result_folders import collect
from scripts.bench.report import make_results


def test_made_up_results_become_a_report(tmp_path: Path) -> None:
    make_results(tmp_path / "runs", results=3, images=12)
    assert len(collect([tmp_path / "runs"])) == 3
    assert sum(1 for _ in (tmp_path / "runs").rglob("*.png")) == 3 * 12
    summary = render([tmp_path / "runs"], tmp_path / "report")
    assert summary.results == 3
    page = (tmp_path / "report" / "index.html").read_text()
    assert "Report: runs" in page
    assert str(tmp_path) not in page  # a page that is sent to others
