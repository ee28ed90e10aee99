"""MeanFlow (Geng et al., arXiv 2505.13447) on the dual-time network.

V(x_t, t, s, c) is to be the mean velocity from t to s: their u(z_t, r, t) with r = s. That asks for

    target = sg[v_t - (t - s) d/dt V(x_t, t, s, c)],  v_t = eps - x_0                their Eq. 10-11
    d/dt V = v_t . grad_x V + dV/dt, one Jacobian-vector product                       their Eq. 8
    loss   = ||V - target||^2 / sg[||V - target||^2 + 0.01]                  their adaptive weight

The derivative is exact where that of `baselines.transition` is a difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from selfe.batch import LatentBatch
from selfe.network.derivative import time_derivative
from selfe.objectives.base import LossOutput, Nets, loss_parts
from selfe.path import add_noise, expand_time
from selfe.seeding import SampleRng


@dataclass(frozen=True)
class MeanFlow:
    """The MeanFlow objective; defaults are its authors' for images of 256 x 256.

    They can train with guidance, of which one step gains most; it is left out, and images are drawn
    with guidance as those of the other methods.

    Attributes:
        time_mean, time_std: t and s are the larger and the smaller of two draws
            sigmoid(time_mean + time_std z).
        group_size: one sample in so many has s < t, the others s = t.
        floor: added to the squared error that a sample's is divided by.
        power: of that divisor; 0 for the squared error itself.
    """

    time_mean: float = -0.4
    time_std: float = 1.0
    group_size: int = 4
    floor: float = 0.01
    power: float = 1.0

    needs_fake_captions = False

    def loss(self, batch: LatentBatch, nets: Nets, step: int, rng: SampleRng) -> LossOutput:
        """Loss of one micro-batch; `step` plays no part.

        Raises:
            ValueError: if the batch is not a multiple of the group size.
        """
        batch.check_groups(self.group_size)
        x_0 = batch.x_0.float()
        apart = rng.position % self.group_size == 0
        rows = torch.nonzero(apart)[:, 0].to(x_0.device, non_blocking=True)
        t, s = self.pairs(rng)
        s = t.index_copy(0, rows, s[rows])
        eps = rng.normal("eps", x_0.shape[1:])
        x_t, v_t = add_noise(x_0, eps, t), eps - x_0
        slope = time_derivative(
            nets.live, x_t[rows], v_t[rows], t[rows], s[rows], batch.condition[rows]
        )
        change = expand_time(t[rows] - s[rows], x_0) * slope.float()
        target = v_t.index_copy(0, rows, v_t[rows] - change)
        v = nets.live(x_t, t, s, batch.condition).float()
        squared = (v - target).square().flatten(1)
        distance = squared.sum(1)
        per_sample = distance / (distance.detach() + self.floor) ** self.power
        metrics = loss_parts(squared.mean(1), rows, "meanflow")
        return LossOutput(per_sample.mean(), per_sample.detach(), t, s, metrics)

    def pairs(self, rng: SampleRng) -> tuple[Tensor, Tensor]:
        """(B,) t >= s, drawn independently and sorted."""
        first, second = (
            torch.sigmoid(self.time_mean + self.time_std * rng.normal(name)) for name in ("t", "s")
        )
        return torch.maximum(first, second), torch.minimum(first, second)
