"""Results that are kept beside a report give that report again."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from command_line import selfe_bench

REPORTS = Path(__file__).resolve().parent.parent / "reports"
ARCHIVES = sorted(REPORTS.glob("*/results.tar.xz"))


def test_there_are_some() -> None:
    assert ARCHIVES


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.parent.name)
def test_tables_follow_from_the_results(archive: Path, tmp_path: Path, monkeypatch) -> None:
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    (runs,) = (tmp_path / "runs").iterdir()
    code, _, err = selfe_bench("report", "--runs-dir", f"runs/{runs.name}", "--out", "again")
    assert code == 0, err
    tables = sorted(path.name for path in archive.parent.glob("*.csv"))
    assert {"table2.csv", "trainings.csv", "diversity.csv"} <= set(tables)
    for name in tables:
        assert (tmp_path / "again" / name).read_text() == (archive.parent / name).read_text(), name
