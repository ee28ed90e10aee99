"""Processes on the cores of this machine: one run, whole checkpoints, and nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from selfe.config.resolve import resolve
from selfe.distributed.workers import open_workers
from selfe.errors import WorkerDied
from selfe.run_folder.checkpoint import PARTS
from selfe.run_folder.records import find_checkpoint
from selfe.training.metrics_log import read_lines
from selfe.training.worker_count import usable_workers
from tests.helpers.tiny import TINY_MODEL


def settings(iterations: int) -> list[str]:
    assignments = [
        *TINY_MODEL,
        *("train.precision=fp32", "train.batch_size=16", f"train.iterations={iterations}"),
        *("train.log_every=1", "train.checkpoint_every=4", "train.keep_last=99"),
        *("train.milestone_every=null", "train.sample_every=8", "data.size=32"),
    ]
    return [word for assignment in assignments for word in ("--set", assignment)]


def command(name: str, *more: str, iterations: int = 8, count: int = 2) -> list[str]:
    code = "from selfe.cli import main; main()"
    words = ["train", "--method", "selfe", "--name", name, *more]
    words += ["--workers", str(count)] if count else []
    return [sys.executable, "-c", code, *words, *settings(iterations)]


def start(folder: Path, *words: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        command(*words, **options), cwd=folder, stderr=subprocess.PIPE, text=True
    )


def train(folder: Path, *words: str, **options) -> Path:
    subprocess.run(command(*words, **options), cwd=folder, check=True, capture_output=True)
    return folder / "runs" / words[0]


def children(process: subprocess.Popen) -> list[int]:
    """The workers; not the process in which `multiprocessing` counts resources."""
    found = []
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text():
                found.append(int(child))
    return found


def wait_for_iterations(run_dir: Path, process: subprocess.Popen, size: int = 400) -> None:
    metrics = run_dir / "metrics.jsonl"
    while not metrics.exists() or metrics.stat().st_size < size:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def gone(pid: int, within: float = 10) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":  # ended; its new parent has not asked yet
            return True
        time.sleep(0.02)
    return False


def losses(run_dir: Path) -> list[float]:
    return [line["loss"] for line in read_lines(run_dir / "metrics.jsonl") if "loss" in line]


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """A run of two processes that nothing happened to."""
    return train(tmp_path_factory.mktemp("workers"), "two")


def test_two_processes_follow_one_and_leave_what_one_leaves(two):
    one = train(two.parent.parent, "one", count=1)
    assert losses(two) == pytest.approx(losses(one), rel=1e-4) and len(losses(two)) == 8
    layout = {"processes": 2, "replicate": 2, "shard": 1}
    assert read_lines(two / "metrics.jsonl")[0] == {"event": "layout", "step": 0, **layout}
    assert json.loads((two / "config.json").read_text()).items() >= layout.items()
    files = [{p.relative_to(run) for p in run.rglob("*")} for run in (two, one)]
    assert files[0] == files[1] and Path("samples/step-00000008.png") in files[0]


@pytest.mark.fault(6)
def test_killing_the_run_ends_its_workers_and_resuming_changes_no_bit(two):
    process = start(two.parent.parent, "killed")
    run_dir = two.parent / "killed"
    while not (run_dir / "checkpoints" / "step-00000004").exists() and process.poll() is None:
        time.sleep(0.005)
    workers_of_it = children(process)
    process.kill()
    assert len(workers_of_it) == 1 and gone(workers_of_it[0])
    process.communicate()
    train(two.parent.parent, "killed", "--resume", count=0)  # as many as before
    whole, again = (find_checkpoint(run).path for run in (two, run_dir))
    for part in PARTS:
        file = f"{part}.safetensors"
        assert (whole / file).read_bytes() == (again / file).read_bytes()


def test_a_killed_worker_is_named_and_the_run_can_go_on(tmp_path):
    process = start(tmp_path, "run", iterations=100_000)
    wait_for_iterations(tmp_path / "runs" / "run", process)
    (worker,) = children(process)
    os.kill(worker, signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"error: process {worker} of this run was ended (signal 9); continue with" in error
    assert "Traceback" not in error


@pytest.mark.fault(8)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_run_lets_all_finish_the_iteration(tmp_path, number):
    process = start(tmp_path, "run", iterations=100_000)
    wait_for_iterations(tmp_path / "runs" / "run", process)
    (worker,) = children(process)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "continue with --resume" in error
    assert "Traceback" not in error and gone(worker)
    last = read_lines(tmp_path / "runs" / "run" / "metrics.jsonl")[-1]["step"]
    assert find_checkpoint(tmp_path / "runs" / "run").step == last


def test_what_a_user_can_correct_is_said_once(tmp_path):
    (tmp_path / "runs" / "taken" / "checkpoints").mkdir(parents=True)
    process = start(tmp_path, "taken")
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2 and error.count("already holds a run") == 1
    assert "Traceback" not in error


def fail_elsewhere(processes) -> None:
    if processes.rank:
        raise OSError("the cable is out")
    processes.any(False)


def test_what_a_worker_alone_met_is_told():
    with (
        pytest.raises(WorkerDied, match=r"process \d+: the cable is out"),
        open_workers(2, fail_elsewhere) as processes,
    ):
        fail_elsewhere(processes)
    assert torch.get_num_threads() == 1


def fail_everywhere(processes) -> None:
    processes.any(False)
    raise RuntimeError("shapes do not match")


def test_what_all_met_is_raised_where_it_was(capfd):
    with (
        pytest.raises(RuntimeError, match="^shapes do not match$"),
        open_workers(2, fail_everywhere) as processes,
    ):
        fail_everywhere(processes)
    assert "in fail_everywhere" in capfd.readouterr().err  # of the worker


def test_workers_are_as_many_as_the_batch_and_the_threads_allow(monkeypatch):
    def count(threads: int, *assignments: str, method: str = "selfe", device: str = "cpu") -> int:
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        return usable_workers(resolve("shapes", method, assignments=assignments), device)

    assert [count(threads) for threads in (1, 2, 3, 4, 5, 16)] == [1, 2, 2, 4, 4, 4]
    assert count(2, "train.batch_size=32") == 1
    assert count(3, "train.batch_size=96") == 3
    assert count(16, "train.batch_size=1024", method="imm") == 16
    assert count(2, device="cuda") == 1
    assert count(2, "train.micro_batch_size=128") == 2  # one micro-batch of half the size
    monkeypatch.setattr("selfe.training.worker_count.LARGEST_NETWORK", 1000)
    assert count(2) == 1
    monkeypatch.undo()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert count(2) == 1


def test_workers_need_cores_and_no_launcher(monkeypatch):
    with pytest.raises(ValueError, match="not 'cuda:0'"), open_workers(2, print, "cuda:0"):
        pass
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="launcher"), open_workers(2, print):
        pass
