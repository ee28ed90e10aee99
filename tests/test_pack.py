"""`selfe-bench pack`: what a report was made from, in one file that makes it again."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from tests.helpers.command_line import selfe_bench
from tests.helpers.synthetic_results import write_result


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for steps in (2, 4):
        folder = Path(f"runs/b/results/step-1/steps-{steps}")
        write_result(folder, "fm", steps=steps, images=True)
    Path("runs/b/metrics.jsonl").write_text('{"step": 1}\n')
    Path("runs/b/checkpoints").mkdir()
    Path("runs/b/checkpoints/state.json").write_text("{}")
    Path("report").mkdir()
    return Path("runs")


def test_results_are_packed_without_images_and_weights_and_report_as_before(runs, tmp_path):
    code, out, err = selfe_bench("pack", "runs", "report")
    assert code == 0, err
    assert "wrote report/results.tar.xz: 2 results" in out
    first = Path("report/results.tar.xz").read_bytes()
    Path("runs/b/metrics.jsonl").touch()
    selfe_bench("pack", "runs", "report")
    assert Path("report/results.tar.xz").read_bytes() == first
    with tarfile.open("report/results.tar.xz") as packed:
        names = packed.getnames()
        packed.extractall(tmp_path / "elsewhere", filter="data")
    assert names == sorted(names) and "runs/b/metrics.jsonl" in names
    kept = {"result.json", "images.jsonl", "metrics.jsonl"}
    assert {Path(name).name for name in names} == kept
    for name in names:
        assert (tmp_path / "elsewhere" / name).read_bytes() == Path(name).read_bytes()


def test_what_cannot_be_packed(runs, tmp_path):
    for words, sentence in (
        (("nowhere", "report"), "no folder nowhere"),
        (("runs", "nowhere"), "no folder nowhere"),
        ((str(tmp_path / "runs"), "report"), "is not below the current folder"),
        (("report", "report"), "no result in report"),
    ):
        code, _, err = selfe_bench("pack", *words)
        assert code == 2 and sentence in err, err
        assert len(err.strip().splitlines()) == 1
