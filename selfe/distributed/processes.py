"""The processes that train together: one alone, or those that a launcher has started.

torchrun, or scripts/launch_slurm.sh, says through the environment which process this is; on the
cores of one machine `selfe.distributed.workers` starts them. The global batch of an iteration is
cut into equal contiguous parts, one a process; randomness is keyed by global position, so every
number of processes computes the same loss up to rounding. What a group of processes does is in
`selfe.distributed.group`, which a run on one process does not import."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class OneProcess:
    """A run on one process: nothing is sharded, nothing is communicated."""

    rank, size = 0, 1
    sharded = False
    """Whether the processes share one copy of the weights."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)

    @property
    def is_main(self) -> bool:
        """Whether this process writes logs, sample sheets and config.json."""
        return self.rank == 0

    @property
    def layout(self) -> dict[str, int]:
        """Numbers that a run records about its processes; empty for one."""
        return {}

    def shard(self, module: nn.Module, bf16: bool) -> None:
        """Shard a module's weights in place; with `bf16` it computes on bf16 copies of them."""

    def reduce_across_replicas(self, now: bool) -> None:
        """Whether the next backward pass sums gradients over replicas, or leaves it for later."""

    def average(self, loss: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
        """Mean loss over the processes, after whose backward passes this is called.

        The parameters' gradients become means as well, unless the backward passes saw to that.
        """
        return self.mean(loss)

    def mean(self, tensor: Tensor) -> Tensor:
        """Mean over the processes, on the device, without waiting for it."""
        return tensor

    def full(self, tensor: Tensor) -> Tensor:
        """A plain tensor of one that may be sharded."""
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any process."""
        return flag

    def gather(self, value: T) -> list[T]:
        """See `HostGroup.gather`."""
        return [value]

    def on_main(self, work: Callable[[], T]) -> T:
        """See `HostGroup.on_main`."""
        return work()

    def main_first(self, work: Callable[[], T]) -> T:
        """Do `work` on rank 0, then everywhere else: for what rank 0 leaves in a cache."""
        return work()

    def whole(self, module: nn.Module, build: Callable[[], nn.Module]) -> nn.Module | None:
        """The module with all its weights on the main process, None elsewhere.

        Args:
            build: makes a module of the same architecture, for weights gathered from shards.
        """
        return module
