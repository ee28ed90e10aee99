"""Jobs side by side: who goes first, what a failure stops, and that nothing outlives the study."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from selfe.errors import Stopped
from selfe.studies.pool import end_with_parent, progress_of, run_jobs, simulate
from selfe.studies.schedule import Job


def job(name: str, script: str = "", units: int = 1, **more) -> Job:
    return Job(name, "", ("selfe-bench", script), units, **more)


def start(each: Job, places) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["sh", "-c", each.words[1]],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=end_with_parent,
    )


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_until(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_wide_job_is_overtaken_by_its_own_seed_only():
    progress = progress_of(
        [
            job("wide", units=2),
            job("a"),
            job("b", needs=("wide",)),
            job("later", seed=1),
            job("last", units=0, needs=("wide", "a", "b", "later")),
        ]
    )
    assert progress.next(1).name == "a"
    progress.begin(progress.next(1))
    assert progress.next(1) is None  # not "later": the wide one gets its turn
    progress.end("a", 0)
    assert progress.next(2).name == "wide"
    progress.begin(progress.next(2))
    assert progress.next(1).name == "later"  # "b" waits for a result, and holds nobody up
    progress.begin(progress.next(1))
    progress.end("wide", 0)
    progress.begin(progress.next(2))
    progress.end("b", 0)
    assert progress.next(2) is None
    progress.end("later", 0)
    assert progress.next(2).name == "last"


def test_the_time_of_all_is_that_of_the_longest_way():
    jobs = [
        job("fm", units=2, seconds=60),
        job("selfe", seconds=100),
        job("imm", seconds=300),
        job("selfe scores", needs=("selfe",), seconds=50),
        job("report", units=0, needs=("selfe scores", "imm"), seconds=5),
    ]
    assert simulate(jobs, 2) == 60 + 300 + 5
    assert simulate(jobs, 4) == 300 + 5
    with pytest.raises(ValueError, match="no core or GPU is left for fm"):
        simulate(jobs, 1)


def test_lines_carry_names_and_a_failure_stops_what_needs_it():
    said: list[str] = []
    jobs = [
        job("bad", "echo before; exit 3"),
        job("good", "echo fine"),
        job("after bad", "echo never", needs=("bad",)),
        job("after good", "echo later", needs=("good",)),
        job("report", "echo never", units=0, needs=("after bad", "after good")),
        job("old", "echo never", done=True),
    ]
    progress = run_jobs(jobs, 2, start, said.append)
    assert progress.failed == {"bad": 3}
    assert [each.name for each in progress.skipped] == ["after bad", "report"]
    assert {"bad: before", "good: fine", "after good: later"} <= set(said)
    assert not any("never" in line for line in said)
    assert any(line.startswith("== bad: failed with exit code 3") for line in said)


def test_what_is_left_is_told_from_what_was_taken():
    said: list[str] = []
    jobs = [job("a", "sleep 0.3", seconds=30), job("b", "true", needs=("a",), seconds=60_000)]
    run_jobs(jobs, 1, start, said.append)
    (line,) = [line for line in said if line.startswith("== a: done")]
    minutes = float(line.split("about ")[1].split()[0])
    assert 9 <= minutes <= 200  # 60,000 s at the rate of 0.3 s for 30, more on a busy machine


def test_a_signal_ends_all_jobs_after_their_last_words(tmp_path):
    script = (
        f"trap 'echo saved; exit 0' TERM; echo $$ >{tmp_path}/NAME; while :; do sleep 0.05; done"
    )
    jobs = [job(name, script.replace("NAME", name)) for name in ("a", "b", "c")]
    said: list[str] = []
    before = signal.getsignal(signal.SIGINT)

    def interrupt() -> None:
        wait_until(lambda: all((tmp_path / n).exists() for n in "ab"))
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(Stopped, match="SIGINT"):
        run_jobs(jobs, 2, start, said.append)
    pids = [int((tmp_path / name).read_text()) for name in "ab"]
    assert not any(alive(pid) for pid in pids)
    assert {"a: saved", "b: saved"} <= set(said)
    assert not (tmp_path / "c").exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_what_does_not_end_is_killed_with_all_it_started(tmp_path):
    script = f"trap '' TERM; setsid sleep 60 & echo $! >{tmp_path}/child; wait; sleep 60"

    def interrupt() -> None:
        wait_until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text())
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(Stopped, match="SIGTERM"):
        run_jobs([job("stubborn", script)], 1, start, lambda line: None, grace=0.2)
    child = int((tmp_path / "child").read_text())
    wait_until(lambda: not alive(child))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal")
def test_jobs_end_with_a_study_that_is_killed(tmp_path):
    """A study's process is killed with -9; what it had started gets SIGTERM."""
    reader, writer = os.pipe()
    study = os.fork()
    if study == 0:  # no torch and no pytest below here
        os.close(reader)
        started = start(job("a", f"trap 'echo > {tmp_path}/saved; exit 0' TERM; "
                                 "while :; do sleep 0.05; done"), [])  # fmt: skip
        time.sleep(0.2)
        os.write(writer, f"{started.pid}\n".encode())
        time.sleep(60)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as lines:
        pid = int(lines.readline())
    os.kill(study, signal.SIGKILL)
    os.waitpid(study, 0)
    wait_until(lambda: not alive(pid))
    assert (tmp_path / "saved").exists()
