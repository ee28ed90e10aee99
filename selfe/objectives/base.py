"""The contract between objectives and the trainer: a method returns a loss and what to log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from selfe.batch import LatentBatch, TextCondition
from selfe.seeding import SampleRng

Velocity = Callable[[Tensor, Tensor, Tensor, TextCondition], Tensor]
"""V(x_t (B,C,H,W), t (B,), s (B,), condition) -> (B,C,H,W)."""


@dataclass(frozen=True)
class Nets:
    """The networks an objective may call: the live weights, and their moving averages.

    Attributes:
        ema: the average that is scored.
        conditional: an average of another decay, where the objective has a `conditional_decay`.
        lockstep: weights are sharded and gathered by all processes at once, so that every process
            must call the networks equally often for a (micro-)batch, whatever its samples are.
    """

    live: Velocity
    ema: Velocity
    lockstep: bool = False
    conditional: Velocity | None = None


@dataclass(frozen=True)
class LossOutput:
    """The loss that a step minimises, and what is logged.

    Attributes:
        loss: scalar, with gradient.
        per_sample: (B,) detached; for objectives over groups, the group's loss for each member.
        t, s: (B,) the times used.
        metrics: named detached scalars.
    """

    loss: Tensor
    per_sample: Tensor
    t: Tensor
    s: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


def loss_parts(per_sample: Tensor, rows: Tensor, name: str) -> dict[str, Tensor]:
    """Metrics: the mean of per_sample (B,) over `rows`, and over the others, which learn from data.

    Free of host syncs; 0 where there are no others.
    """
    values = per_sample.detach()
    others = (values.sum() - values[rows].sum()) / max(1, len(values) - len(rows))
    return {"loss_data": others, f"loss_{name}": values[rows].mean()}


class Objective(Protocol):
    """A training objective. Stateless: everything random comes from `rng`."""

    needs_fake_captions: bool
    """Whether batches must carry `fake`."""
    group_size: int
    """Number of samples that belong together; the batch on each process is a multiple of it."""

    def loss(self, batch: LatentBatch, nets: Nets, step: int, rng: SampleRng) -> LossOutput:
        """Loss of one (micro-)batch at iteration `step`."""
        ...
