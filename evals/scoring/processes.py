"""Several processes on one benchmark: the rank of this one, and waiting for the others
(torchrun)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from selfe.distributed.environment import place_of_process

# The shares differ: a process may wait for the others as long as a whole benchmark takes.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Processes:
    """This process's number, and how many share the work and the folders."""

    rank: int = 0
    world_size: int = 1

    @property
    def lock_name(self) -> str:
        """File by which this process holds a folder that it shares with the others."""
        return ".lock" if self.rank == 0 else f".lock-{self.rank}"

    def wait(self) -> None:
        """Returns once every process has called it."""
        if self.world_size > 1:
            import torch.distributed as dist

            dist.barrier()

    def leave(self) -> None:
        """Call at the end, after the last `wait`."""
        if self.world_size > 1:
            import torch.distributed as dist

            dist.destroy_process_group()


ALONE = Processes()


def join_processes() -> Processes:
    """The processes that torchrun started together; one alone without it.

    Only waiting goes through torch.distributed (on the CPU); results go through the folder.

    Raises:
        ValueError: if the environment names several processes but not where they meet.
    """
    place = place_of_process()
    processes = Processes(place.rank, place.size)
    if processes.world_size > 1:
        import torch.distributed as dist

        if not place.address:
            raise ValueError(
                f"WORLD_SIZE is {processes.world_size} but MASTER_ADDR is not set: start several "
                "processes with `torchrun --nproc-per-node N $(which selfe-bench) geneval ...`"
            )
        dist.init_process_group("gloo", timeout=_PATIENCE)
    return processes
