"""The GPU study, rehearsed on the processor: every part, time limits, kills and resumption."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import torch

from scripts.bench.fixed_batch_step import build_perturbed
from scripts.gpu_study import run as gpu_study
from scripts.gpu_study import shapes64
from scripts.gpu_study.rows import (
    Measurement,
    Mismatch,
    Part,
    Settings,
    Unfinished,
    largest_that_fits,
    release,
)
from selfe.training.block_execution import accelerate

ROOT = Path(__file__).resolve().parent.parent
FACTS = {"commit": "c", "machine": "m", "gpu": "g", "torch": "t", "settings": {}}


def rehearsal(work: Path, seconds: float = 600.0, assignments: tuple[str, ...] = ()) -> Settings:
    return Settings("cpu", True, work, assignments, time.monotonic() + seconds)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in gpu_study.PARTS if name != "shapes64"])
def test_every_part_runs_to_its_end(name, tmp_path):
    rows = gpu_study.run_part(name, rehearsal(tmp_path / "work"), tmp_path, FACTS)
    assert rows
    assert [row for row in rows if not gpu_study.is_done(row)] == []
    stored = json.loads((tmp_path / f"{name}.json").read_text())
    assert stored["rows"] == rows
    assert stored["commit"] == "c" and stored["about"]


@pytest.fixture
def part(monkeypatch):
    """A part of three rows: one that works, one that fails at first, one that needs two calls."""
    calls: list[str] = []

    def fails_once():
        calls.append("b")
        if calls.count("b") == 1:
            raise RuntimeError("no kernel\ndetails")
        return {"value": 2.0}

    def takes_two():
        calls.append("c")
        if calls.count("c") == 1:
            raise Unfinished("half way")
        return {"value": 3.0}

    def works():
        calls.append("a")
        return {"value": 1.0}

    rows = [Measurement("a", 1, works), Measurement("b", 1, fails_once)]
    rows += [Measurement("c", 1, takes_two), Measurement("d", 1000, lambda: {"value": 4.0})]
    monkeypatch.setattr(gpu_study, "build_part", lambda name, settings: Part("about", rows))
    return calls


def run(tmp_path, seconds=600.0, facts=FACTS, only=""):
    settings = Settings("cpu", False, tmp_path, (), time.monotonic() + seconds)
    return gpu_study.run_part("steps", settings, tmp_path, facts, only)


def test_failed_and_unfinished_rows_are_tried_again_and_the_others_are_not(part, tmp_path, capsys):
    first = {row["name"]: row for row in run(tmp_path)}
    assert first["b"]["error"] == "RuntimeError: no kernel"
    assert first["c"]["unfinished"] == "half way"
    assert "d" not in first and "no time left for d (1000 s)" in capsys.readouterr().out
    second = {row["name"]: row for row in run(tmp_path)}
    assert part == ["a", "b", "c", "b", "c"]
    assert [second[name]["value"] for name in "abc"] == [1.0, 2.0, 3.0]
    assert second["a"] == first["a"]


def test_nothing_is_started_without_time(part, tmp_path):
    assert run(tmp_path, seconds=0.5) == []
    assert part == []


def test_figures_of_another_gpu_are_not_mixed(part, tmp_path):
    run(tmp_path, only="a")
    with pytest.raises(ValueError, match="another study .gpu: g, now h.*--out"):
        run(tmp_path, facts={**FACTS, "gpu": "h"})
    rows = run(tmp_path, facts={**FACTS, "machine": "one with more memory"})
    assert [row["machine"] for row in rows] == ["m"] + 2 * ["one with more memory"]


def test_only_rows_that_are_asked_for(part, tmp_path):
    assert [row["name"] for row in run(tmp_path, only="^[ac]")] == ["a", "c"]
    assert part == ["a", "c"]


def test_a_mismatch_is_measured_again_with_other_code_only(tmp_path, monkeypatch):
    calls = []

    def wrong():
        calls.append(1)
        raise Mismatch("velocity = 1")

    rows = [Measurement("a", 1, wrong)]
    monkeypatch.setattr(gpu_study, "build_part", lambda name, settings: Part("about", rows))
    for commit, expected in (("c", 1), ("c", 1), ("d", 2), ("unknown", 3), ("unknown", 4)):
        (row,) = run(tmp_path, facts={**FACTS, "commit": commit})
        assert len(calls) == expected and row["error"] == "Mismatch: velocity = 1"


def test_a_device_that_stays_broken_costs_no_row(tmp_path, monkeypatch):
    def broken(device):
        raise RuntimeError("illegal access\ndetails")

    rows = [Measurement("a", 1, lambda: {"value": 1.0}), Measurement("b", 1, lambda: 1 / 0)]
    monkeypatch.setattr(gpu_study, "build_part", lambda name, settings: Part("about", rows))
    monkeypatch.setattr(gpu_study, "release", broken)
    a, b = run(tmp_path)
    assert a["error"] == "RuntimeError: illegal access"
    assert b["error"] == "ZeroDivisionError: division by zero"


def test_a_part_that_cannot_begin_costs_no_other(tmp_path, monkeypatch, capsys):
    def build(name, settings):
        if name == "scoring":
            raise ModuleNotFoundError("No module named 'open_clip'")
        return Part("about", [Measurement("a", 1, lambda: {"value": 1.0})])

    monkeypatch.setattr(gpu_study, "build_part", build)
    parts = ["--part", "scoring", "--part", "checkpoint"]
    monkeypatch.setattr(
        sys, "argv", ["x", "--tiny", "--device", "cpu", "--out", str(tmp_path), *parts]
    )
    with pytest.raises(SystemExit, match="failed: scoring .No module named 'open_clip'"):
        gpu_study.main()
    assert "| a | 1 |" in capsys.readouterr().out


def test_compiled_networks_are_given_back(monkeypatch):
    """A compiled block and its wrapper hold each other: only the collector frees them."""
    config = Settings("cpu", True, Path()).config("0.5b", "fm")
    gc.disable()
    try:
        network = build_perturbed(config, "cpu", drawn_there=True)
        accelerate(network, config.train)
        weight = weakref.ref(network.double_blocks[0].modulation.weight)
        del network
        assert weight() is not None
        release("cpu")
        assert weight() is None
    finally:
        gc.enable()


def test_a_batch_that_does_not_fit_is_halved():
    tried = []

    def measure(batch):
        tried.append(batch)
        if batch > 8:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return {"seconds": 1.0}

    assert largest_that_fits(32, 4, measure, "cpu") == {"batch": 8, "seconds": 1.0}
    assert tried == [32, 16, 8]
    with pytest.raises(torch.cuda.OutOfMemoryError):
        largest_that_fits(32, 16, measure, "cpu")


@pytest.mark.parametrize(
    ("message", "batch"), [("CUBLAS_STATUS_ALLOC_FAILED when", 16), ("an illegal address", None)]
)
def test_libraries_report_memory_in_words(message, batch):
    def measure(batch):
        if batch > 16:
            raise RuntimeError(message)
        return {}

    if batch:
        assert largest_that_fits(32, 4, measure, "cpu") == {"batch": batch}
    else:
        with pytest.raises(RuntimeError, match=message):
            largest_that_fits(32, 4, measure, "cpu")


def test_training_stops_in_time_and_goes_on(tmp_path, monkeypatch):
    longer = ("train.iterations=30", "train.checkpoint_every=1000")
    with pytest.raises(Unfinished, match="no time left"):
        shapes64.training_row(rehearsal(tmp_path, 1, longer), "fm")
    # enough to begin with, and none left once the first two iterations are done
    left = iter([600.0, 600.0, 19.0])
    monkeypatch.setattr(Settings, "seconds_left", lambda settings: next(left))
    with pytest.raises(Unfinished, match="stopped at iteration 2$"):
        shapes64.training_row(rehearsal(tmp_path, assignments=longer), "fm")
    monkeypatch.undo()
    with pytest.raises(Unfinished, match="the run is at iteration 2$"):
        shapes64.scoring_row(rehearsal(tmp_path, assignments=longer), "fm", 2)
    row = shapes64.training_row(rehearsal(tmp_path, assignments=longer), "fm")
    assert row["iterations"] == 30


@pytest.mark.slow
@pytest.mark.fault
def test_kill_and_run_again(tmp_path):
    command = [sys.executable, "-m", "scripts.gpu_study.run", "--tiny", "--device", "cpu"]
    command += ["--part", "shapes64", "--out", str(tmp_path), "--work", str(tmp_path / "work")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    first = process.stdout.readline()
    process.kill()
    process.communicate()
    assert first.startswith("shapes64: {")
    path = tmp_path / "shapes64.json"
    before = json.loads(path.read_text())
    facts = {key: before[key] for key in ("commit", "machine", "gpu", "torch", "settings")}
    rows = gpu_study.run_part("shapes64", rehearsal(tmp_path / "work"), tmp_path, facts)
    assert rows[: len(before["rows"])] == before["rows"]
    assert len(rows) == 1 + 3 + 3 * 4 and all(map(gpu_study.is_done, rows))
