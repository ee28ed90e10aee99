"""Training on many processes: FSDP2 over a mesh of replicas and shards, or plain replicas.

With FSDP, weights, moving average, gradients and optimiser state are sharded over `shard` processes
and replicated over the others: `shard` = 1 is plain replication, all processes full sharding,
anything between hybrid. On GPUs tensors are exchanged through NCCL, what the hosts tell each other
through gloo. This module has been run with gloo on processors only.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast
from weakref import WeakSet

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from selfe.distributed.processes import OneProcess
from selfe.errors import PeerError

T = TypeVar("T")


@contextlib.contextmanager
def initialised(backend: str) -> Iterator[None]:
    """The default group of all processes, as the environment describes it."""
    # torchrun keeps one store over its restarts: what a killed group left there is not to be read
    store, rank, size = next(dist.rendezvous("env://"))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    dist.init_process_group(
        backend,
        store=dist.PrefixStore(f"attempt {attempt}", store),
        rank=rank,
        world_size=size,
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


class HostGroup:
    """All processes, exchanging picklable objects over gloo.

    Collectives of one group must come in the same order everywhere: each thread has its own group.
    """

    def __init__(self) -> None:
        self.group: Any = dist.new_group(backend="gloo")
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def gather(self, value: T) -> list[T]:
        """Every process' value, by rank, on every process."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def together(self, work: Callable[[], T]) -> list[T]:
        """Do `work` on every process and return all results, by rank.

        Raises:
            OSError, ValueError: what `work` raised here.
            PeerError: if it raised elsewhere, so that no process waits for one that is gone.
        """
        value: T | None = None
        error: Exception | None = None
        try:
            value = work()
        except (OSError, ValueError) as raised:
            error = raised
        outcomes = self.gather((value, error and str(error)))
        if error is not None:
            raise error
        for rank, (_, text) in enumerate(outcomes):
            if text is not None:
                raise PeerError(f"process {rank}: {text}")
        return [result for result, _ in outcomes]  # type: ignore[misc]

    def on_main(self, work: Callable[[], T]) -> T:
        """Do `work` on rank 0 alone and return its result everywhere; errors as in `together`."""
        return self.together(work if self.rank == 0 else lambda: None)[0]  # type: ignore[return-value]


class Group(OneProcess):
    """One of several processes whose group is initialised: what they tell each other."""

    def __init__(self, device: torch.device | str) -> None:
        super().__init__(device)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.host = HostGroup()

    def mean(self, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total / self.size

    def any(self, flag: bool) -> bool:
        raised = torch.tensor(flag, dtype=torch.int32)
        dist.all_reduce(raised, op=dist.ReduceOp.MAX, group=self.host.group)
        return bool(raised)

    def gather(self, value: T) -> list[T]:
        return self.host.gather(value)

    def on_main(self, work: Callable[[], T]) -> T:
        return self.host.on_main(work)

    def main_first(self, work: Callable[[], T]) -> T:
        done: list[T] = []
        self.on_main(lambda: done.append(work()))
        return done[0] if done else work()


class Replicas(Group):
    """One of several processes on the processor's cores, each with all the weights.

    Every process makes the same update from the same mean gradient, so that the weights stay equal
    to the last bit and only the main one writes them down. Gradients are exchanged through a file
    mapped into the memory of all.

    Args:
        folder: where all can write; the file is left there.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__("cpu")
        self._folder, self._turn = folder, 0
        self._areas: list[Tensor] = []

    @property
    def layout(self) -> dict[str, int]:
        return {"processes": self.size, "replicate": self.size, "shard": 1}

    def whole(self, module: nn.Module, build: Callable[[], nn.Module]) -> nn.Module | None:
        return module if self.is_main else None

    def average(self, loss: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
        gradients = [p.grad for p in parameters if p.grad is not None]
        sizes = [gradient.numel() for gradient in gradients]
        # Two areas in turn: a process that writes to one again has met all others at the other,
        # after they had read this one.
        area = self._area(sum(sizes))
        self._turn += 1
        torch.cat([gradient.flatten() for gradient in gradients], out=area[self.rank])
        loss = self.mean(loss)  # all have written
        mean = area.sum(0).div_(self.size)
        for gradient, part in zip(gradients, mean.split(sizes), strict=True):
            gradient.copy_(part.view_as(gradient))
        return loss

    def _area(self, numel: int) -> Tensor:
        """(size, numel) of memory that the processes share, the other one than last time."""
        if not self._areas:
            path, shape = str(self._folder / "gradients"), (2, self.size, numel)
            areas = torch.from_file(path, shared=True, size=math.prod(shape), dtype=torch.float32)
            self._areas = list(areas.view(shape))
        return self._areas[self._turn % 2]


class ManyProcesses(Group):
    """One of `size` processes of a group that is already initialised.

    Args:
        device: this process' own.
        shard: consecutive ranks that share one copy of the weights.

    Raises:
        ValueError: if `shard` does not divide the number of processes.
    """

    sharded = True

    def __init__(self, device: torch.device | str, shard: int) -> None:
        super().__init__(device)
        if self.size % shard:
            raise ValueError(f"--shard {shard} must divide the number of processes, {self.size}")
        self.mesh = init_device_mesh(
            self.device.type,
            (self.size // shard, shard),
            mesh_dim_names=("replicate", "shard"),
        )
        self._sharded: WeakSet[FSDPModule] = WeakSet()

    @property
    def layout(self) -> dict[str, int]:
        replicate, shard = self.mesh.shape
        return {"processes": self.size, "replicate": replicate, "shard": shard}

    def shard(self, module: nn.Module, bf16: bool) -> None:
        # times and latents come in fp32 and must stay so: inputs are not cast
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if bf16 else None,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,
        )
        mesh = self.mesh if self.mesh.shape[0] > 1 else self.mesh["shard"]
        names = cast(list[str], module._no_split_modules)
        blocks = [m for m in module.modules() if type(m).__name__ in names]
        for part in [*blocks, module]:
            # The root is resharded as well: a moving average has no backward pass that would do it,
            # and would be evaluated with the weights of its first forward pass for ever.
            fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
        self._sharded.add(cast(FSDPModule, module))

    def reduce_across_replicas(self, now: bool) -> None:
        for module in self._sharded:
            module.set_requires_all_reduce(now)

    def full(self, tensor: Tensor) -> Tensor:
        return cast(DTensor, tensor).full_tensor()

    def whole(self, module: nn.Module, build: Callable[[], nn.Module]) -> nn.Module | None:
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = get_model_state_dict(module, options=options)
        if not self.is_main:
            return None
        gathered = build()
        gathered.load_state_dict(weights)
        return gathered
