"""Opens the processes of a command: one, workers of its own, or those torchrun started."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from selfe.distributed.environment import place_of_process
from selfe.distributed.processes import OneProcess


@contextlib.contextmanager
def open_processes(device: str, shard: int | None = None) -> Iterator[OneProcess]:
    """The processes a launcher has started, or the one there is without a launcher.

    Args:
        device: "cuda" becomes this process' own GPU of its machine.
        shard: processes that share one copy of the weights; None for those of one machine.

    Raises:
        ValueError: if the layout does not fit the number of processes.
    """
    place = place_of_process()
    if place.size == 1:
        if shard not in (None, 1):
            raise ValueError(
                f"--shard {shard} needs as many processes: start with scripts/launch_torchrun.sh"
            )
        yield OneProcess(device)
        return
    from selfe.distributed import group

    on_gpu = device.startswith("cuda")
    if on_gpu:
        device = f"cuda:{place.local_rank}"
        torch.cuda.set_device(device)
    with group.initialised("cpu:gloo,cuda:nccl" if on_gpu else "gloo"):
        yield group.ManyProcesses(device, shard or place.local_size)
