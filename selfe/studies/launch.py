"""Starts a job of a study: one process on its cores or its GPU, torchrun on several GPUs."""

from __future__ import annotations

import glob
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence

from selfe.files import folder_lock
from selfe.studies.pool import GRACE, end_with_parent
from selfe.studies.schedule import BENCH, Job, Machine

PROGRAM = (sys.executable, "-m", "selfe.cli")


def command_of(job: Job, machine: Machine) -> list[str]:
    """The words that start a job.

    Raises:
        ValueError: if a folder is not there that an earlier job should have made, or is not the
            only one.
    """
    assert job.words[0] == BENCH
    words = [_completed(word) if "*" in word else word for word in job.words[1:]]
    if machine.kind == "gpu" and job.units > 1:
        torchrun = ("-m", "torch.distributed.run", "--standalone")
        processes = f"--nproc-per-node={job.units}"
        return [sys.executable, *torchrun, processes, "-m", PROGRAM[-1], *words]
    return [*PROGRAM, *words]


def _completed(pattern: str) -> str:
    found = sorted(glob.glob(pattern))
    if len(found) != 1:
        raise ValueError(f"{len(found)} folders match {pattern}, where one was expected")
    return found[0]


def environment_of(job: Job, machine: Machine, places: Sequence[int]) -> dict[str, str]:
    """Environment variables of a job's process: its number of threads and its GPUs."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if machine.kind == "cpu":
        environment["OMP_NUM_THREADS"] = str(max(1, job.units))
    elif places:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        names = visible.split(",") if visible else [str(n) for n in range(machine.units)]
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(names[place] for place in places)
        share = max(1, (os.cpu_count() or 1) // machine.units)
        environment.setdefault("OMP_NUM_THREADS", str(share))
    return environment


def start_on(machine: Machine, job: Job, places: Sequence[int]) -> subprocess.Popen[str]:
    """A process that writes into a pipe, in a session of its own: Ctrl-C reaches the study alone,
    which then asks every job to end."""
    return subprocess.Popen(
        command_of(job, machine),
        env=environment_of(job, machine, places),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=end_with_parent,
    )


def wait_until_free(
    jobs: Iterable[Job], say: Callable[[str], None], seconds: float = GRACE
) -> None:
    """Wait for trainings that a killed study left behind: they end after their checkpoint."""
    deadline = time.monotonic() + seconds
    for job in jobs:
        if job.done or job.training is None or not job.training.run_dir.is_dir():
            continue
        told = False
        while time.monotonic() < deadline:
            try:
                with folder_lock(job.training.run_dir):
                    break
            except ValueError as error:
                if not told:
                    say(f"waiting: {error}")
                told = True
                time.sleep(0.5)
