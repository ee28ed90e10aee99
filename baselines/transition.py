"""The objective of Transition Models (TiM, Wang et al., arXiv 2509.04394) on the dual-time network.

V(x_t, t, s, c) is to be the mean velocity from t to s. Along a path of data and noise that asks for

    target = sg[(eps - x_0) - (t - s) d/dt V(x_t, t, s, c)]
    d/dt V = (V(x_{t+h}, t + h, s, c) - V(x_{t-h}, t - h, s, c)) / (2 h),  x_0 and eps held fixed
    l      = ||V - target||^2 + (1 - cos(V, target))
    loss   = (tan t - tan s + 1)^(-1/2) l / sg[l]

(their differential derivation equation). Dividing by a sample's own loss turns the mean that a
squared error asks for into something nearer to a mode: in the plane of
scripts/studies/oracle_world.py it is what keeps samples from the data, yet the shapes recipes learn
nothing without it (README).

With an exact derivative the target is MeanFlow's (`baselines.meanflow`). Differences need no
forward-mode differentiation, so that fused attention and compiled blocks will do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from selfe.batch import LatentBatch, TextCondition
from selfe.objectives.base import LossOutput, Nets, Velocity, loss_parts
from selfe.path import add_noise, expand_time
from selfe.seeding import SampleRng

_FLOOR = 1e-5
"""Added to the loss that a sample's loss is divided by."""


@dataclass(frozen=True)
class TransitionModel:
    """The TiM objective for the linear path; defaults are those of its text-to-image training.

    Its representation alignment needs a further network and is left out; so is guidance within
    training. Half of the samples have s = t.

    Attributes:
        time_std: t and s are the larger and the smaller of two draws sigmoid(time_std z).
        data_share: share of the samples with s = 0 (consistency training); at most 0.5.
        difference: h.
        directional: add the cosine distance between V and target, over channels.
        loss_norm: divide each sample's loss by its own value.
    """

    time_std: float = 1.6
    data_share: float = 0.1
    difference: float = 0.005
    directional: bool = True
    loss_norm: bool = True

    group_size = 2
    needs_fake_captions = False

    def __post_init__(self) -> None:
        if not 0 <= self.data_share <= 0.5:  # of the half of the samples that has s < t
            raise ValueError(f"data_share must be from 0 to 0.5, got {self.data_share}")

    def loss(self, batch: LatentBatch, nets: Nets, step: int, rng: SampleRng) -> LossOutput:
        """Loss of one micro-batch; `step` plays no part.

        Raises:
            ValueError: if the batch is not a multiple of the group size.
        """
        batch.check_groups(self.group_size)
        x_0 = batch.x_0.float()
        apart = rng.position % self.group_size == 1  # s < t
        rows = torch.nonzero(apart)[:, 0].to(x_0.device, non_blocking=True)
        t, s = self.pairs(rng)
        s = t.index_copy(0, rows, s[rows])
        eps = rng.normal("eps", x_0.shape[1:])
        v_t = eps - x_0
        with torch.no_grad():
            slope = self.total_derivative(
                nets.live, x_0[rows], eps[rows], t[rows], s[rows], batch.condition[rows]
            )
            change = expand_time(t[rows] - s[rows], x_0) * slope
            target = v_t.index_copy(0, rows, v_t[rows] - change)
        v = nets.live(add_noise(x_0, eps, t), t, s, batch.condition).float()
        error = (v - target).square().flatten(1).mean(1)
        distance = error
        if self.directional:
            distance = error + (1 - F.cosine_similarity(v, target, dim=1)).flatten(1).mean(1)
        weight = torch.rsqrt(torch.tan(t) - torch.tan(s) + 1)
        if self.loss_norm:
            weight = weight / (distance.detach() + _FLOOR)
        per_sample = weight * distance
        metrics = loss_parts(error, rows, "transition")
        return LossOutput(per_sample.mean(), per_sample.detach(), t, s, metrics)

    def pairs(self, rng: SampleRng) -> tuple[Tensor, Tensor]:
        """(B,) t >= s, drawn independently and sorted, s = 0 for `data_share` of all samples."""
        first, second = (torch.sigmoid(self.time_std * rng.normal(name)) for name in ("t", "s"))
        t, s = torch.maximum(first, second), torch.minimum(first, second)
        # asked of every sample, used by those with s < t, half of all
        to_data = rng.uniform("to data") < 2 * self.data_share
        return t, torch.where(to_data, torch.zeros_like(s), s)

    def total_derivative(
        self,
        net: Velocity,
        x_0: Tensor,
        eps: Tensor,
        t: Tensor,
        s: Tensor,
        condition: TextCondition,
    ) -> Tensor:
        """d/dt V(x_t, t, s, c) by a central difference, (B, ...) in fp32; as with its authors, the
        times asked for may leave [s, 1] by h."""
        after, before = (
            net(add_noise(x_0, eps, time), time, s, condition).float()
            for time in (t + self.difference, t - self.difference)
        )
        return (after - before) / (2 * self.difference)
