"""Shortcut models (Frans et al., arXiv 2410.12557) on the dual-time network.

Most samples learn flow matching at s = t. The others learn that one step from t to s goes where two
steps over a middle time m go:

    x_m    = x_t - (t - m) V(x_t, t, m, c)
    target = sg[((t - m) V(x_t, t, m, c) + (m - s) V(x_m, m, s, c)) / (t - s)]     their Eq. 4-5
    loss   = ||V(x_t, t, s, c) - target||^2

with the moving average of the weights in both steps. The network sees s where theirs sees the size
of the step.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from selfe.batch import LatentBatch, TextCondition
from selfe.objectives.base import LossOutput, Nets, Velocity, loss_parts
from selfe.path import add_noise, expand_time
from selfe.seeding import SampleRng
from selfe.times import TimeSampler, length_shift, warp_time


@dataclass(frozen=True)
class ShortcutModel:
    """The shortcut objective; defaults are its authors'.

    Their time grid is even. Here it is warped for the number of image tokens like all other times,
    so that 1, 2, 4, ... steps of the any-step sampler are the steps that were trained. They clip
    targets to [-4, 4] and can train with guidance; both are left out.

    Attributes:
        times: flow matching's t, as in the other methods, and the anchor of the warp.
        group_size: one sample in so many learns a shortcut.
        levels: shortcuts span 1, 1/2, ..., 2^-(levels - 1) of the grid; each is equally likely.
            Half of the last is where the network is asked for the velocity itself, at s = t.
    """

    times: TimeSampler = field(default_factory=TimeSampler)
    group_size: int = 8
    levels: int = 7

    needs_fake_captions = False

    def loss(self, batch: LatentBatch, nets: Nets, step: int, rng: SampleRng) -> LossOutput:
        """Loss of one micro-batch; `step` plays no part.

        Raises:
            ValueError: if the batch is not a multiple of the group size.
        """
        batch.check_groups(self.group_size)
        x_0 = batch.x_0.float()
        shortcut = rng.position % self.group_size == 0
        rows = torch.nonzero(shortcut)[:, 0].to(x_0.device, non_blocking=True)
        t_rows, m_rows, s_rows, finest = (x[rows] for x in self.spans(rng, batch.num_tokens))
        t = self.times.primary(rng, batch.num_tokens).index_copy(0, rows, t_rows)
        s = t.index_copy(0, rows, s_rows)
        eps = rng.normal("eps", x_0.shape[1:])
        x_t = add_noise(x_0, eps, t)
        with torch.no_grad():
            two_steps = average_velocity(
                nets.ema, x_t[rows], t_rows, m_rows, s_rows, finest, batch.condition[rows]
            )
        target = (eps - x_0).index_copy(0, rows, two_steps)
        v = nets.live(x_t, t, s, batch.condition).float()
        per_sample = (v - target).square().flatten(1).mean(1)
        metrics = loss_parts(per_sample, rows, "shortcut")
        return LossOutput(per_sample.mean(), per_sample.detach(), t, s, metrics)

    def spans(self, rng: SampleRng, num_tokens: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(t, m, s, finest), each (B,): ends and middle of a shortcut, and where it is the finest.

        A level and one of its spans are drawn uniformly, then warped (Eq. s.12 of Self-E).
        """
        level = torch.floor(rng.uniform("level") * self.levels)
        spans = 2**level
        span = torch.floor(rng.uniform("span") * spans)
        mu = length_shift(num_tokens, base_len=self.times.base_len)
        t, m, s = (warp_time(1 - (span + part) / spans, mu) for part in (0.0, 0.5, 1.0))
        return t, m, s, level == self.levels - 1


def average_velocity(
    net: Velocity,
    x_t: Tensor,
    t: Tensor,
    m: Tensor,
    s: Tensor,
    finest: Tensor,
    condition: TextCondition,
) -> Tensor:
    """Mean velocity of two steps t -> m -> s of `net`, (B, ...) in fp32.

    Args:
        finest: (B,) bool, where the steps are those of the velocity itself, s = t.
    """
    first, second = (expand_time(gap, x_t) for gap in (t - m, m - s))
    v_t = net(x_t, t, torch.where(finest, t, m), condition).float()
    v_m = net(x_t - first * v_t, m, torch.where(finest, m, s), condition).float()
    return (first * v_t + second * v_m) / (first + second)
