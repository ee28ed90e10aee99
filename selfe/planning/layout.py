"""How a run is laid out on its GPUs: what is shared, and how many images go through at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from selfe.config.schema import RunConfig
from selfe.planning.memory import Memory, image_tokens, memory_of
from selfe.planning.stages import CostStage


class Layout(NamedTuple):
    """How a run is laid out on its GPUs.

    Attributes:
        shard: GPUs that share one copy of weights and optimiser.
        micro_batch: images of one GPU's forward and backward pass.
        memory: of one GPU, in the stage and at the resolution that need most.
        fits: whether `memory` stays within the limit.
    """

    shard: int
    micro_batch: int
    memory: Memory
    fits: bool


def lay_out(
    config: RunConfig,
    stages: Sequence[CostStage],
    text_tokens: int,
    limit: float,
    gpus: int,
    shard: int | None,
) -> Layout:
    def memory(count: int, shard: int) -> Memory:
        needs = [
            memory_of(config, stage.passes, image_tokens(config, side) + text_tokens, count, shard)
            for stage in stages
            for side in stage.resolutions
        ]
        return max(needs, key=lambda each: each.total)

    if shard is None:
        shard = 1 if memory(1, 1).total <= limit else gpus
    # one size for the whole run: it divides every stage's share of a GPU
    common = math.gcd(*(stage.batch_size // gpus for stage in stages))
    asked = math.gcd(common, config.train.micro_batch_size or common)
    micro = largest_fitting(asked, lambda count: memory(count, shard).total <= limit)
    need = memory(micro, shard)
    return Layout(shard, micro, need, need.total <= limit)


def largest_fitting(images: int, fits: Callable[[int], bool]) -> int:
    """The largest divisor of `images` that fits, or 1."""
    divisors = [n for n in range(images, 0, -1) if images % n == 0]
    return next((n for n in divisors if fits(n)), 1)
