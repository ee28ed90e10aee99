"""Opens the processes of a command: one, workers of its own, or those torchrun started."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from selfe.distributed.processes import OneProcess


@contextlib.contextmanager
def open_processes(device: str, shard: int | None = None) -> Iterator[OneProcess]:
    """The processes a launcher has started, or the one there is without a launcher.

    Reads WORLD_SIZE, RANK, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT.

    Args:
        device: "cuda" becomes this process' own GPU of its machine.
        shard: processes that share one copy of the weights; None for those of one machine.

    Raises:
        ValueError: if the layout does not fit the number of processes.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        if shard not in (None, 1):
            raise ValueError(
                f"--shard {shard} needs as many processes: start with scripts/launch_torchrun.sh"
            )
        yield OneProcess(device)
        return
    from selfe.distributed import group

    on_gpu = device.startswith("cuda")
    if on_gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    with group.initialised("cpu:gloo,cuda:nccl" if on_gpu else "gloo"):
        shard = shard or int(os.environ.get("LOCAL_WORLD_SIZE", size))
        yield group.ManyProcesses(device, shard)


def launched() -> bool:
    return int(os.environ.get("WORLD_SIZE", 1)) > 1
