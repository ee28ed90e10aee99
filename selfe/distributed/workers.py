"""Training on the cores of one machine: processes that share every batch.

Operations on a small network are too short for several threads: they spend their time on meeting,
and on waiting for Python. Processes of their own meet once an iteration, to average gradients.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from selfe.distributed.environment import launched
from selfe.distributed.processes import OneProcess
from selfe.errors import PeerError, WorkerDied
from selfe.temporaries import scratch_folder

GRACE = 5
"""Seconds a worker gets to notice that it is over."""
LOOPBACK = {"linux": "lo", "darwin": "lo0"}

GLOO = "gloo"
"""In every message of the library that the processes talk through."""

Job = Callable[..., object]
"""Called with the keyword argument `processes`."""


@contextlib.contextmanager
def open_workers(count: int, job: Job, device: str = "cpu") -> Iterator[OneProcess]:
    """This process, with `count - 1` others that do `job` while the caller does.

    The caller does the same job with the processes it is given; all divide torch's threads among
    them. The others end with this one, however it ends.

    Args:
        job: picklable; all call each other's collectives in the same order.

    Raises:
        ValueError: where there are no cores to share: on a GPU, or below a launcher.
        WorkerDied: instead of what the group raised, if one of the others ended before.
    """
    from selfe.distributed import group

    if device != "cpu":
        raise ValueError(f"workers share the cores of the CPU, not {device!r}")
    if launched():
        raise ValueError("workers are started by one process, not by those of a launcher")
    threads = torch.get_num_threads()
    share = max(1, threads // count)
    spawn = multiprocessing.get_context("spawn")
    with scratch_folder("selfe-bench-workers") as folder:
        meeting = folder / "meeting"
        workers, ends = [], []
        for rank in range(1, count):
            ours, theirs = spawn.Pipe(duplex=False)
            arguments = (rank, count, share, meeting, job, theirs)
            # daemon: ended, if still there, when this process ends in an ordinary way
            workers.append(spawn.Process(target=_work, args=arguments, daemon=True))
            workers[-1].start()
            theirs.close()
            ends.append(ours)
        torch.set_num_threads(share)
        try:
            with _group(0, count, meeting):
                yield group.Replicas(meeting.parent)
            for worker in workers:
                worker.join()
        except RuntimeError as error:
            if not _of_the_group(error):  # our own mistake: the others made it too
                raise
            reasons = [_reason(*pair) for pair in zip(workers, ends, strict=True)]
            found = [reason for reason in reasons if reason]
            if not found:
                raise
            raise WorkerDied("; ".join(found)) from error
        finally:
            torch.set_num_threads(threads)
            for worker in workers:
                worker.join(GRACE)
                worker.kill()
                worker.join()


def _says_enough(error: Exception) -> bool:
    """Whether the words of an error tell what to do, without the place where it was raised."""
    ours = type(error).__module__.startswith("selfe.")
    return ours or isinstance(error, (ValueError, OSError)) or _of_the_group(error)


def _of_the_group(error: Exception) -> bool:
    """Whether processes failed to reach each other, as when one is gone."""
    from torch import distributed

    return isinstance(error, distributed.DistError) or GLOO in str(error)


def _reason(worker: multiprocessing.process.BaseProcess, end: Connection) -> str:
    """Why a worker ended; empty if it is still there or ended well."""
    worker.join(GRACE)
    if not worker.exitcode:
        return ""
    with contextlib.suppress(EOFError):
        return f"process {worker.pid}: {end.recv()}"
    cause = f"signal {-worker.exitcode}" if worker.exitcode < 0 else f"exit {worker.exitcode}"
    return f"process {worker.pid} of this run was ended ({cause})"


def _work(rank: int, size: int, threads: int, meeting: Path, job: Job, end: Connection) -> None:
    from selfe.distributed import group

    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with _group(rank, size, meeting):
            job(processes=group.Replicas(meeting.parent))
    except (PeerError, KeyboardInterrupt):
        sys.exit(1)
    except Exception as error:
        # the caller tells: it met the same error itself, or hears of this one
        if not _says_enough(error):
            traceback.print_exc()
        end.send(str(error) or type(error).__name__)
        sys.exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def _group(rank: int, size: int, meeting: Path) -> Iterator[None]:
    from torch import distributed

    # gloo looks up the machine's name unless it is told where to listen, and not all have one
    if interface := LOOPBACK.get(sys.platform):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    store = distributed.FileStore(str(meeting), size)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
    try:
        yield
    finally:
        distributed.destroy_process_group()
