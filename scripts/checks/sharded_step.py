"""A training step of the paper's networks on eight GPUs, traced without any of them.

    python -m scripts.checks.sharded_step [--out FILE]

Process 0 of eight runs the trainer's own iteration under FSDP2, at full size, on torch's fake
tensors: they have shapes and no memory, and the other seven are a process group that answers at
once. What is live after every operation is added up, and every collective is counted. It is held
against `selfe-bench plan`. Blocks are not compiled and compute what they compute on a GPU, but no
allocator rounds or fragments, and no library asks for workspace.
"""

from __future__ import annotations

import argparse
import json
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.overrides import TorchFunctionMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scripts.bench.fixed_batch_step import random_batch
from selfe.batch import LatentBatch
from selfe.config.resolve import build_objective, resolve
from selfe.config.schema import RunConfig
from selfe.config.stages import stage_at
from selfe.distributed import group
from selfe.files import write_atomically
from selfe.network import denoiser
from selfe.network.embeddings import rotary_table
from selfe.network.operations import PLAIN
from selfe.objectives.base import Nets
from selfe.planning.memory import CODEC_GEOMETRY
from selfe.planning.plan import Plan, make_plan
from selfe.provenance import provenance
from selfe.seeding import SampleRng
from selfe.training.block_execution import accelerate
from selfe.training.loop import accumulate
from selfe.training.optim import clip_gradients
from selfe.training.state import new_state

PROCESSES = 8
TEXT_TOKENS = 256
COLLECTIVES = {
    "_allgather_base_": "all_gather",
    "_reduce_scatter_base_": "reduce_scatter",
    "allreduce_": "all_reduce",
    "all_reduce": "all_reduce",
}


@dataclass(frozen=True)
class Traced:
    """What one process does in a step; bytes are of this process.

    Attributes:
        state: weights, gradients, moments and averages, between two steps.
        peak: the most that is live at once, in the second step: the first makes the moments.
        collectives: how many of each kind.
        moved: bytes of the largest tensor of every collective, added up by kind: of a gather what
            it gives, of a scatter what it takes.
    """

    state: int
    peak: int
    collectives: dict[str, int]
    moved: dict[str, int]


class _OneFakeMode(FakeTensorMode):
    """A moving average is a deep copy of the network; by default it copies the mode, too."""

    def __deepcopy__(self, memo: Any) -> _OneFakeMode:
        return self


class _EverySecondRow(TorchFunctionMode):
    """Fake tensors have no values: of the samples every second one has s < t."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nonzero:
            return torch.empty(args[0].numel() // 2, args[0].ndim, dtype=torch.int64)
        return func(*args, **(kwargs or {}))


class LiveBytes(TorchDispatchMode):
    """Adds up the storages that are live, and counts collectives."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[int, int] = {}
        self.now, self._resize = 0, torch.UntypedStorage.resize_
        self.restart()

    def restart(self) -> None:
        self.peak = self.now
        self.collectives: Counter[str] = Counter()
        self.moved: Counter[str] = Counter()

    def see(self, tensor: Tensor) -> None:
        """Count a tensor's storage for as long as it lives."""
        local = tensor._local_tensor if isinstance(tensor, DTensor) else tensor
        storage = local.untyped_storage()
        if id(storage) not in self._sizes:
            weakref.finalize(storage, self._forget, id(storage))
            self._set(id(storage), storage.nbytes())

    def _forget(self, key: int) -> None:
        self._set(key, 0)
        del self._sizes[key]

    def _set(self, key: int, size: int) -> None:
        self.now += size - self._sizes.get(key, 0)
        self._sizes[key] = size
        self.peak = max(self.peak, self.now)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """FSDP frees gathered weights by resizing their storage to nothing."""

        def resize(storage: torch.UntypedStorage, size: int) -> Any:
            if id(storage) in self._sizes:
                self._set(id(storage), size)
            return self._resize(storage, size)

        with patch.object(torch.UntypedStorage, "resize_", resize), self:
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if DTensor in types:
            return NotImplemented  # it comes back as what it does on this process
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.see(leaf)
        kind = COLLECTIVES.get(func.overloadpacket.__name__)
        if kind and func.namespace in ("c10d", "_c10d_functional"):
            sizes = [leaf.nbytes for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
            self.collectives[kind] += 1
            self.moved[kind] += max(sizes)
        return result


@dataclass(frozen=True)
class _Source:
    """Batches as the latent cache gives them: latents and text in 16 bits."""

    config: RunConfig
    side: int
    text_tokens: int

    facts = {}

    def batch(self, rng: SampleRng) -> LatentBatch:
        batch = random_batch(self.config, len(rng.position), self.side, self.text_tokens)
        half = torch.bfloat16
        fake = None if batch.fake is None else batch.fake.to(half)
        return replace(
            batch,
            x_0=batch.x_0.to(half),
            condition=batch.condition.to(half),
            null=batch.null.to(half),
            fake=fake if self.config.objective.get("aux_from") is not None else None,
        )


@contextmanager
def fake_tensors() -> Iterator[None]:
    """On the kernels of a GPU; no table that the network keeps is shared with real tensors."""
    rotary_table.cache_clear()
    try:
        with (
            _OneFakeMode(),
            _EverySecondRow(),
            patch.object(denoiser, "kernels_for", lambda *inputs: PLAIN),
        ):
            yield
    finally:
        rotary_table.cache_clear()


@contextmanager
def fake_processes(shard: int) -> Iterator[group.ManyProcesses]:
    """Process 0 of eight, the others of which answer every collective at once."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=PROCESSES)
    try:
        with patch.object(group, "HostGroup"):  # gloo would wait for the others
            yield group.ManyProcesses("cpu", shard)
    finally:
        dist.destroy_process_group()


def trace_step(
    config: RunConfig, shard: int, images: int, side: int, step: int, micro_batches: int = 1
) -> Traced:
    """The second of two iterations of the trainer.

    Args:
        images: of a micro-batch of this process.
        side: of the images, in pixels.
        step: iteration (0-based) whose terms of the loss are on.
    """
    part = images * micro_batches
    config = with_batch(config, part * PROCESSES, images)
    objective = build_objective(config)
    source = _Source(config, side // CODEC_GEOMETRY[config.data.codec][1], TEXT_TOKENS)
    live = LiveBytes()
    with fake_processes(shard) as processes, fake_tensors():
        state = new_state(denoiser.DualTimeDenoiser(**config.model.model_dump()), config, processes)
        for network in (state.model, *(average.module for average in state.averages)):
            accelerate(network, config.train)
            for parameter in network.parameters():
                live.see(parameter)
        conditional = state.conditional and state.conditional.module
        nets = Nets(state.model, state.ema.module, lockstep=True, conditional=conditional)
        parameters = list(state.model.parameters())
        with live.counting():
            for _ in range(2):
                live.restart()
                state.optimizer.zero_grad(set_to_none=True)
                loss, *rest = accumulate(objective, source, nets, config, step, processes)
                loss = processes.average(loss, parameters)
                processes.full(clip_gradients(parameters, config.optim.clip_norm))
                state.optimizer.step()
                state.update_averages()
                del loss, rest
        wrong = [n for n, p in state.model.named_parameters() if p.grad.shape != p.shape]
        if wrong:
            raise ValueError(f"gradients have other shapes than weights: {wrong[:3]}")
    return Traced(live.now, live.peak, dict(live.collectives), dict(live.moved))


def with_batch(config: RunConfig, batch: int, micro: int) -> RunConfig:
    """The same run with one stage, of this batch, uncompiled."""
    train = {"batch_size": batch, "micro_batch_size": micro, "compile": False, "stages": ()}
    return config.model_copy(update={"train": config.train.model_copy(update=train)})


def planned(config: RunConfig, shard: int) -> Plan:
    return make_plan(config, gpu="h200", gpus=PROCESSES, shard=shard, text_tokens=TEXT_TOKENS)


def row(recipe: str, method: str, recompute: str) -> dict[str, Any]:
    config = resolve(recipe, method, assignments=[f"train.recompute={recompute}"])
    plan = planned(config, PROCESSES)
    last = config.train.iterations - 1
    side = max(stage_at(config, last).resolutions)
    traced = trace_step(config, PROCESSES, plan.micro_batch_per_gpu, side, last)
    facts = {"recipe": recipe, "method": method, "recompute": recompute, "pixels": side}
    facts |= {"images": plan.micro_batch_per_gpu, "parameters": plan.parameters}
    memory = plan.as_json()["memory_per_gpu"]
    ratio = memory["total"] / traced.peak
    print(f"{recipe} {method} {recompute}: plan / traced peak {ratio:.3f}", flush=True)
    return {**facts, "traced": asdict(traced), "planned": memory, "planned_over_traced": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="+", default=["0.5b", "2b"])
    parser.add_argument("--methods", nargs="+", default=["fm", "selfe", "imm"])
    parser.add_argument("--recompute", nargs="+", default=["none", "blocks"])
    parser.add_argument("--out", type=Path, default=Path("reports/local/speed/sharded_step.json"))
    arguments = parser.parse_args()
    facts = {"processes": PROCESSES, "shard": PROCESSES, "gpu": "h200", **provenance()}
    rows = [
        row(recipe, method, recompute)
        for recipe in arguments.recipes
        for method in arguments.methods
        for recompute in arguments.recompute
    ]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.out, json.dumps({**facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
