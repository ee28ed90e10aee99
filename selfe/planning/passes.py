"""Which passes through the network a training step makes, and what they cost.

They are found by running the objective on a network that only takes notes, so that an objective
says nothing about its cost and cannot say it wrongly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from selfe.batch import LatentBatch, TextCondition
from selfe.network.flops import FORWARD, FORWARD_BACKWARD, FORWARD_TANGENT, cost_of_pass
from selfe.objectives.base import Nets, Objective, Velocity
from selfe.seeding import SampleRng

_NOTED_GROUPS = 512
_KINDS = {
    FORWARD: "forward",
    FORWARD_TANGENT: "forward with derivative",
    FORWARD_BACKWARD: "forward and backward",
}
# Captions are told apart by their length.
_LENGTHS: dict[int, Literal["null", "own", "fake"]] = {1: "null", 2: "own", 3: "fake"}


@dataclass(frozen=True)
class Pass:
    """One evaluation of the network in a training step.

    Attributes:
        weights: the live ones or their moving average.
        caption: the sample's own (dropped or not), the null prompt, or the fake one.
        share: of the batch that takes part.
        cost: in forward passes: 1 alone, 2 with a forward-mode derivative, 3 with a backward pass.
    """

    weights: Literal["live", "ema"]
    caption: Literal["own", "null", "fake"]
    share: float
    cost: int

    @property
    def name(self) -> str:
        kind = _KINDS[self.cost]
        weights = "moving average" if self.weights == "ema" else "live weights"
        caption = {"own": "", "null": ", null prompt", "fake": ", fake caption"}[self.caption]
        return f"{weights}, {kind}{caption}"


TRAINING_PASS = Pass("live", "own", 1, FORWARD_BACKWARD)
"""All that flow matching asks for."""


def passes_of(objective: Objective, step: int) -> tuple[Pass, ...]:
    """The passes of iteration `step`, noted on random 2x2 latents.

    Where an objective chooses rows by chance (bernoulli pairing), so are the shares.
    """
    rows = _NOTED_GROUPS * objective.group_size
    passes: list[Pass] = []

    def captions(kind: str, count: int) -> TextCondition:
        length = next(length for length, name in _LENGTHS.items() if name == kind)
        mask = torch.ones(count, length, dtype=torch.bool)
        return TextCondition(torch.zeros(count, length, 1), mask, torch.zeros(count, 1))

    def noting(weights: Literal["live", "ema"]) -> Velocity:
        def velocity(x_t: Tensor, t: Tensor, s: Tensor, condition: TextCondition) -> Tensor:
            caption = _LENGTHS[condition.tokens.shape[1]]
            passes.append(Pass(weights, caption, len(x_t) / rows, cost_of_pass(x_t)))
            return torch.zeros_like(x_t)

        return velocity

    batch = LatentBatch(
        x_0=torch.randn(rows, 4, 2, 2, generator=torch.Generator().manual_seed(0)),
        condition=captions("own", rows),
        null=captions("null", 1),
        fake=captions("fake", rows),
        dropped=torch.zeros(rows, dtype=torch.bool),
        index=torch.arange(rows),
    )
    rng = SampleRng(0, torch.arange(rows))
    objective.loss(batch, Nets(noting("live"), noting("ema")), step, rng)
    return tuple(passes)
