"""A six-parameter network, in torch for the code under test and in numpy for the transcriptions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from selfe.batch import LatentBatch, TextCondition

LIVE = (0.7, -0.4, 0.9, 0.5, 0.6, -0.3)
EMA = (0.2, 0.5, -0.6, 0.8, -0.5, 0.4)


class Toy(nn.Module):
    """V depends on every argument, mixes elements, and counts the rows it is called with."""

    def __init__(self, theta: tuple[float, ...] = LIVE) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta, dtype=torch.float64))
        self.calls: list[tuple[int, bool]] = []
        self.inputs: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor, s: Tensor, condition: TextCondition) -> Tensor:
        self.calls.append((x.shape[0], torch.is_grad_enabled()))
        self.inputs.append((x.detach(), t, s))
        a, b, c, d, e, f = self.theta
        x = x.double()
        t, s = (time.double().reshape(-1, 1, 1, 1) for time in (t, s))
        p, q = (condition.pooled.double()[:, i].reshape(-1, 1, 1, 1) for i in (0, 1))
        mixed = torch.tanh(x.roll(1, dims=-1))
        return a * x + b * mixed + c * p + d * q * x + e * (t - s) + f * torch.sin(3 * t) * x**2


def numpy_toy(theta: tuple[float, ...] | np.ndarray = LIVE) -> Callable[..., np.ndarray]:
    a, b, c, d, e, f = theta

    def velocity(x: np.ndarray, t: float, s: float, cond: np.ndarray) -> np.ndarray:
        mixed = np.tanh(np.roll(x, 1, axis=-1))
        linear = a * x + b * mixed + c * cond[0] + d * cond[1] * x
        return linear + e * (t - s) + f * np.sin(3 * t) * x**2

    return velocity


def pooled_condition(pooled: Tensor) -> TextCondition:
    """A condition whose only content is the pooled vector."""
    batch = pooled.shape[0]
    return TextCondition(
        torch.zeros(batch, 1, 1), torch.ones(batch, 1, dtype=torch.bool), pooled.float()
    )


def toy_batch(
    batch: int = 8, dropped: tuple[int, ...] = (), shape: tuple[int, ...] = (3, 2, 2)
) -> LatentBatch:
    generator = torch.Generator().manual_seed(3)
    pooled = torch.randn(batch, 2, generator=generator)
    null = torch.tensor([[-0.8, 0.3]])
    is_dropped = torch.zeros(batch, dtype=torch.bool)
    for row in dropped:
        is_dropped[row] = True
        pooled[row] = null[0]
    return LatentBatch(
        x_0=torch.randn(batch, *shape, generator=generator),
        condition=pooled_condition(pooled),
        null=pooled_condition(null),
        dropped=is_dropped,
        index=torch.arange(batch),
        fake=pooled_condition(pooled.flip(1) * 1.5 + 0.4),
    )
