"""Runs jobs side by side on the cores or GPUs of one machine. When the study ends, all jobs end.

Every job is a process of its own, so that a job that fails or is killed takes nothing with it.
"""

from __future__ import annotations

import ctypes
import heapq
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

from selfe.errors import Stopped
from selfe.studies.schedule import Job

GRACE = 120.0
"""Seconds a job gets to write its checkpoint after SIGTERM, before it is killed."""

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None

Start = Callable[[Job, Sequence[int]], "subprocess.Popen[str]"]
"""Starts a job on the cores or GPUs of these numbers; its output is a pipe of text."""


@dataclass
class Progress:
    """Which jobs wait, run, succeeded, or will not run.

    Attributes:
        failed: jobs that failed, with their exit code.
        skipped: jobs that need one of them.
    """

    waiting: list[Job]
    running: dict[str, Job] = field(default_factory=dict)
    succeeded: set[str] = field(default_factory=set)
    failed: dict[str, int] = field(default_factory=dict)
    skipped: list[Job] = field(default_factory=list)

    def skip(self) -> None:
        """Mark waiting jobs that can no longer run as skipped."""
        while lost := [j for j in self.waiting if any(self._lost(need) for need in j.needs)]:
            self.skipped += lost
            self.waiting = [j for j in self.waiting if j not in lost]

    def _lost(self, name: str) -> bool:
        return name in self.failed or any(job.name == name for job in self.skipped)

    def next(self, free: int) -> Job | None:
        """The job to start now on `free` cores or GPUs, if there is one.

        The first in order goes first. One that does not fit is overtaken only by jobs of its own
        training seed, so that wide jobs get their turn. Jobs of no units run by themselves.
        """
        blocked: int | None = None
        for job in self.waiting:
            if not self.succeeded.issuperset(job.needs):
                continue
            if blocked is not None and job.seed != blocked:
                continue
            if job.units <= free and (job.units or not self.running):
                return job
            if blocked is None:
                blocked = job.seed
        return None

    def begin(self, job: Job) -> None:
        self.waiting.remove(job)
        self.running[job.name] = job

    def end(self, name: str, code: int) -> None:
        del self.running[name]
        if code:
            self.failed[name] = code
            self.skip()
        else:
            self.succeeded.add(name)


def progress_of(jobs: Iterable[Job]) -> Progress:
    """Where a study stands: what is done does not run again."""
    jobs = list(jobs)
    done = {job.name for job in jobs if job.done}
    return Progress([job for job in jobs if not job.done], succeeded=done)


def simulate(jobs: Iterable[Job], units: int) -> float:
    """Seconds from now to the end of the last job, as `run_jobs` starts them."""
    progress, free, now = progress_of(jobs), units, 0.0
    ends: list[tuple[float, str]] = []
    while progress.waiting or ends:
        while job := progress.next(free):
            progress.begin(job)
            free -= job.units
            heapq.heappush(ends, (now + (job.seconds or 0.0), job.name))
        if not ends:
            raise ValueError(f"no core or GPU is left for {progress.waiting[0].name}")
        now, name = heapq.heappop(ends)
        free += progress.running[name].units
        progress.end(name, 0)
    return now


class _Signals:
    """SIGINT and SIGTERM, noted instead of raised; a second one asks to hurry."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.hurry = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> _Signals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.hurry = self.number is not None
        self.number = self.number or number


def run_jobs(
    jobs: Sequence[Job],
    units: int,
    start: Start,
    say: Callable[[str], None],
    grace: float = GRACE,
) -> Progress:
    """Run the jobs that are not done; where a job fails, jobs that do not need it continue.

    Args:
        units: cores or GPUs of the machine.
        say: gets every line that a job prints, with the job's name before it.
        grace: seconds a job gets to end after SIGTERM.

    Raises:
        Stopped: after SIGINT or SIGTERM, once all jobs have ended; a second signal kills them.
    """
    progress, clock = progress_of(jobs), Clock()
    total = len(progress.waiting)
    free = list(range(units))
    taken: dict[str, list[int]] = {}
    processes: dict[str, subprocess.Popen[str]] = {}
    heard: queue.Queue[tuple[str, str | None]] = queue.Queue()
    with _Signals() as signals:
        try:
            while progress.waiting or progress.running:
                while signals.number is None and (job := progress.next(len(free))):
                    progress.begin(job)
                    clock.begin(job)
                    taken[job.name], free = free[: job.units], free[job.units :]
                    say(f"== {job.name}: {job.what}")
                    processes[job.name] = start(job, taken[job.name])
                    _listen(job.name, processes[job.name], heard)
                if signals.number is not None:
                    break
                if not progress.running:
                    raise ValueError(f"no core or GPU is left for {progress.waiting[0].name}")
                if (ended := _hear(heard, progress, say)) is None:
                    continue
                code = processes.pop(ended).wait()
                free += taken.pop(ended)
                clock.end(progress.running[ended])
                progress.end(ended, code)
                finished = total - len(progress.waiting) - len(progress.running)
                state = f"failed with exit code {code}" if code else "done"
                left = clock.left(progress, units)
                say(f"== {ended}: {state} ({finished} of {total} jobs{left})")
        finally:
            _end_all(processes, progress, heard, signals, say, grace)
        if signals.number is not None:
            raise Stopped(signals.number)
    return progress


def _listen(
    name: str, process: subprocess.Popen[str], heard: queue.Queue[tuple[str, str | None]]
) -> None:
    """Put every line of a process into the queue, and None at its end."""

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            heard.put((name, line.rstrip("\n")))
        heard.put((name, None))

    threading.Thread(target=listen, daemon=True).start()


def _hear(
    heard: queue.Queue[tuple[str, str | None]], progress: Progress, say: Callable[[str], None]
) -> str | None:
    """Pass one line on, if there is one soon; the name of a job that closed its output."""
    try:
        name, line = heard.get(timeout=0.2)
    except queue.Empty:
        return None
    if line is None:
        return name
    alone = name in progress.running and not progress.running[name].units
    say(line if alone else f"{name}: {line}")
    return None


def _end_all(
    processes: dict[str, subprocess.Popen[str]],
    progress: Progress,
    heard: queue.Queue[tuple[str, str | None]],
    signals: _Signals,
    say: Callable[[str], None],
    grace: float,
) -> None:
    """Ask all processes to end, and kill what is still there after the grace."""
    if not processes:
        return
    say(f"== stopping {', '.join(processes)}; again to kill")
    for process in processes.values():
        process.terminate()
    deadline = time.monotonic() + grace
    while any(p.poll() is None for p in processes.values()):
        if signals.hurry or time.monotonic() > deadline:
            for process in processes.values():
                kill_tree(process.pid)
        _hear(heard, progress, say)
    while not heard.empty():
        _hear(heard, progress, say)


def kill_tree(pid: int) -> None:
    """Kill a process and everything that it started, also what left its session."""
    for each in [*_descendants(pid), pid]:
        try:
            os.kill(each, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:  # it ended meanwhile
            continue
        parent = int(text.rpartition(")")[2].split()[1])
        children.setdefault(parent, []).append(int(stat.parent.name))
    found: list[int] = []
    level = [pid]
    while level:
        level = [child for each in level for child in children.get(each, [])]
        found += level
    return found


@dataclass
class Clock:
    """Measured and expected durations of jobs.

    Attributes:
        begun: when the running jobs began, seconds of the monotonic clock.
        expected, took: seconds of the jobs that ended.
    """

    begun: dict[str, float] = field(default_factory=dict)
    expected: float = 0.0
    took: float = 0.0

    def begin(self, job: Job) -> None:
        self.begun[job.name] = time.monotonic()

    def end(self, job: Job) -> None:
        took = time.monotonic() - self.begun.pop(job.name)
        if job.seconds:
            self.expected += job.seconds
            self.took += took

    def left(self, progress: Progress, units: int) -> str:
        """In words; "" where nothing is known."""
        running, waiting = list(progress.running.values()), progress.waiting
        if not self.expected or not any(job.seconds for job in (*running, *waiting)):
            return ""
        factor = self.took / self.expected
        now = time.monotonic()
        rest = []
        for job in (*running, *waiting):
            seconds = (job.seconds or 0.0) * factor
            if job.name in self.begun:
                seconds = max(0.05 * seconds, seconds - (now - self.begun[job.name]))
            needs = tuple(need for need in job.needs if need not in progress.succeeded)
            rest.append(replace(job, seconds=seconds, needs=needs))
        minutes = simulate(rest, units) / 60
        return f", about {minutes:.0f} minutes left" if minutes >= 1 else ", under a minute left"


def end_with_parent() -> None:
    """In a new process: get SIGTERM when the process that started it ends, however it ends."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
