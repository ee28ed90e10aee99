"""How training times are drawn: (t, s) with 0 <= s <= t <= 1 (paper S.2, Eq. s.11-s.13).

All arithmetic is in fp32 or better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from selfe.seeding import SampleRng

IMM_TIME_MAX = 0.994
"""T of IMM's time distribution, where its sampler starts (IMM, arXiv 2503.07565)."""


def length_shift(
    num_tokens: int,
    *,
    base_len: int = 512,
    base_shift: float = 0.5,
    max_len: int = 4096,
    max_shift: float = 1.15,
) -> float:
    """mu(L): linear in the number of image tokens, not clamped at either end (with Eq. s.12).

    The paper anchors 0.5 at L = 512; FLUX and minFM anchor it at 256, which `base_len` selects.
    """
    slope = (max_shift - base_shift) / (max_len - base_len)
    return base_shift + slope * (num_tokens - base_len)


def warp_time(t: Tensor, mu: float) -> Tensor:
    """t -> e^mu / (e^mu + 1/t - 1), Eq. s.12, in a form that is exact at t = 0 and t = 1."""
    shift = math.exp(mu)
    return shift * t / (shift * t + (1 - t))


def logit_normal(z: Tensor) -> Tensor:
    """t_raw = sigmoid(z) for z ~ N(0, 1), Eq. s.11."""
    return torch.sigmoid(z)


def annealed_width(step: int, horizon: int) -> float:
    """tau of Eq. s.13: 0 -> 1 linearly over the first `horizon` iterations, then 1."""
    return min(1.0, step / horizon) if horizon > 0 else 1.0


@dataclass(frozen=True)
class TimeSampler:
    """Pairs (t, s) of the paper's schedule.

    Attributes:
        base_len: anchor of mu = 0.5 in image tokens (`length_shift`).
        tau_horizon: iterations over which tau goes from 0 to 1: "a linear annealing weight,
            transitioning from 0 to 1 over the first 300,000 training iterations" (S.2). The paper's
            ablations end there, or before; for a shorter run the number is open.
        pairing: "stratified": samples of even global index have s = t, so that every micro-batch on
            every rank has the same static split; "bernoulli": each sample with probability 0.5.
    """

    base_len: int = 512
    tau_horizon: int = 300_000
    pairing: Literal["stratified", "bernoulli"] = "stratified"

    def primary(self, rng: SampleRng, num_tokens: int) -> Tensor:
        """(B,) t in (0, 1): logit-normal, then warped for `num_tokens` image tokens."""
        t_raw = logit_normal(rng.normal("t"))
        return warp_time(t_raw, length_shift(num_tokens, base_len=self.base_len))

    def equal_times(self, rng: SampleRng) -> Tensor:
        """(B,) bool on the host: which samples have s = t."""
        if self.pairing == "stratified":
            return rng.position % 2 == 0
        return rng.on_host().uniform("pairing") < 0.5

    def pairs(self, rng: SampleRng, num_tokens: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """(t, s, equal), each (B,): s = t where `equal`, else s ~ U((1 - tau) t, t), Eq. s.13.

        `equal` is on the host, the times are on the generator's device.
        """
        t = self.primary(rng, num_tokens)
        equal = self.equal_times(rng)
        tau = annealed_width(step, self.tau_horizon)
        s = t * (1 - tau * rng.uniform("s"))
        return t, torch.where(equal.to(t.device, non_blocking=True), t, s), equal
