"""Flow Matching (Lipman et al. 2022; Self-E Eq. 3) on the dual-time network, with s = t."""

from __future__ import annotations

from dataclasses import dataclass, field

from selfe.batch import LatentBatch
from selfe.objectives.base import LossOutput, Nets
from selfe.path import add_noise
from selfe.seeding import SampleRng
from selfe.times import TimeSampler


@dataclass(frozen=True)
class FlowMatching:
    """||V(x_t, t, t, c) - (eps - x_0)||^2, averaged over elements and batch.

    Times, noise and caption dropout are those of Self-E: the same seed gives both the same draws.
    """

    times: TimeSampler = field(default_factory=TimeSampler)

    group_size = 1
    needs_fake_captions = False

    def loss(self, batch: LatentBatch, nets: Nets, step: int, rng: SampleRng) -> LossOutput:
        """Loss of one micro-batch; `step` plays no part."""
        x_0 = batch.x_0.float()
        t = self.times.primary(rng, batch.num_tokens)
        eps = rng.normal("eps", x_0.shape[1:])
        v = nets.live(add_noise(x_0, eps, t), t, t, batch.condition).float()
        per_sample = (v - (eps - x_0)).square().flatten(1).mean(1)
        return LossOutput(per_sample.mean(), per_sample.detach(), t, t)
