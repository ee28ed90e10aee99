"""Inductive Moment Matching (Zhou et al., arXiv 2503.07565) on the dual-time network.

Groups of M samples share times s < r < t. The group's one-step predictions from t and from r to s
are matched in distribution by the maximum mean discrepancy under a Laplace kernel:

    y     = f_{s,t}(x_t)             with gradient
    y_ref = sg f_{s,r}(x_r)          live weights, the same noise in x_r as in x_t
    loss  = mean_groups w(t) / M^2 sum_{j,k} [K(y_j, y_k) + K(y_ref_j, y_ref_k) - 2 K(y_j, y_ref_k)]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from selfe.batch import LatentBatch, TextCondition
from selfe.objectives.base import LossOutput, Nets, Velocity
from selfe.path import add_noise, expand_time
from selfe.seeding import SampleRng
from selfe.times import IMM_TIME_MAX, TimeSampler


def noise_ratio(t: Tensor) -> Tensor:
    """eta(t) = sigma_t / alpha_t = t / (1 - t)."""
    return t / (1 - t)


def inverse_noise_ratio(eta: Tensor) -> Tensor:
    """eta^-1(y) = y / (1 + y)."""
    return eta / (1 + eta)


def laplace_kernel(a: Tensor, b: Tensor, inverse_bandwidth: Tensor) -> Tensor:
    """exp(-w ||a - b|| / D) for all pairs: (G, M, D), (G, M, D), (G,) -> (G, M, M).

    The norm is floored at 1e-8, where it also has no gradient (the diagonal of K(y, y)).
    """
    squared = (a[:, :, None] - b[:, None, :]).square().sum(-1)
    distance = squared.clamp_min(1e-16).sqrt()
    return torch.exp(-inverse_bandwidth[:, None, None] * distance / a.shape[-1])


@dataclass(frozen=True)
class InductiveMomentMatching:
    """The IMM objective; defaults are its paper's for latents of unit variance.

    The Self-E paper states none of these for its IMM baseline, hence all are switches.

    Attributes:
        group_size: M, particles per group.
        time_max, time_min: T and eps, the ends of the time distribution.
        time_distribution: of t between these ends: "uniform", or "logit-normal" as the other
            methods draw it (`times`; Self-E S.2), pressed into the ends. w(t) is the same for both.
        gap_exponent: k; r is 2^-k of the eta range below t.
        min_gap: smallest t - r.
        sigma_d: standard deviation of the data.
        weight_a, weight_b: a and b of w(t).
        scale_input: the network reads c_in x_t, as the original's does, wherever it is called: the
            run's `model.input_sigma` is then sigma_d. Off, so that the network sees what it sees
            under the other objectives.
    """

    group_size: int = 4
    time_max: float = IMM_TIME_MAX
    time_min: float = 0.0
    time_distribution: Literal["uniform", "logit-normal"] = "uniform"
    gap_exponent: int = 12
    min_gap: float = 1e-4
    sigma_d: float = 1.0
    weight_a: int = 2
    weight_b: float = 4.0
    scale_input: bool = False
    times: TimeSampler = field(default_factory=TimeSampler)

    needs_fake_captions = False

    @property
    def network_settings(self) -> dict[str, float]:
        """What the objective asks of the section "model"."""
        return {"input_sigma": self.sigma_d} if self.scale_input else {}

    def reference_time(self, t: Tensor, s: Tensor) -> Tensor:
        """r = max(s, min(t - 1e-4, eta^-1(eta(t) - (eta_max - eta_min) 2^-k))), in fp64."""
        t, s = t.double(), s.double()
        # numbers on the host may meet any device's tensors; to put them there would make it wait
        ends = torch.tensor([self.time_min, self.time_max], dtype=torch.float64)
        eta_min, eta_max = noise_ratio(ends)
        eta_r = noise_ratio(t) - (eta_max - eta_min) * 2.0**-self.gap_exponent
        # below eta = 0 the inverse is meaningless, and s bounds r from below anyway
        stepped = inverse_noise_ratio(eta_r.clamp_min(0))
        return torch.maximum(s, torch.minimum(t - self.min_gap, stepped))

    def time_weight(self, t: Tensor) -> Tensor:
        """w(t) = 1/2 sigmoid(b - log_snr) 2 / (t (1 - t)) (1 - t)^a / ((1 - t)^2 + t^2)."""
        log_snr = 2 * torch.log((1 - t) / t)
        signal = (1 - t) ** self.weight_a / ((1 - t) ** 2 + t**2)
        return 0.5 * torch.sigmoid(self.weight_b - log_snr) * (2 / (t * (1 - t))) * signal

    def map_to(
        self, net: Velocity, x: Tensor, t: Tensor, s: Tensor, condition: TextCondition
    ) -> Tensor:
        """f_{s,t}(x) = x - (t - s) V(x, t, s, c): Euler-FM, in fp32."""
        return x - expand_time((t - s).float(), x) * net(x, t.float(), s.float(), condition).float()

    def loss(self, batch: LatentBatch, nets: Nets, step: int, rng: SampleRng) -> LossOutput:
        """Loss of one micro-batch; `step` plays no part. Each sample keeps its own x, c and eps.

        The loss is multiplied by D, the elements of a sample: unscaled, its gradients of about 1e-7
        per element would meet Adam's epsilon and the clipping threshold.

        Raises:
            ValueError: if the batch is not a multiple of the group size.
        """
        size = self.group_size
        batch.check_groups(size)
        x_0 = batch.x_0.float()
        t_G, s_G = self._group_times(rng, batch.num_tokens)
        r_G = self.reference_time(t_G, s_G)
        t, s, r = (time.repeat_interleave(size) for time in (t_G, s_G, r_G))
        eps = rng.normal("eps", x_0.shape[1:])

        y = self.map_to(nets.live, add_noise(x_0, eps, t), t, s, batch.condition)
        with torch.no_grad():
            y_ref = self.map_to(nets.live, add_noise(x_0, eps, r), r, s, batch.condition)

        y_GMD, ref_GMD = (v.flatten(1).unflatten(0, (-1, size)) for v in (y, y_ref))
        inverse_bandwidth = (1 / ((t_G - s_G).clamp_min(1e-8) * self.sigma_d)).float()
        discrepancy = (
            laplace_kernel(y_GMD, y_GMD, inverse_bandwidth)
            + laplace_kernel(ref_GMD, ref_GMD, inverse_bandwidth)
            - 2 * laplace_kernel(y_GMD, ref_GMD, inverse_bandwidth)
        ).mean(dim=(1, 2))
        per_group = self.time_weight(t_G).float() * discrepancy * y_GMD.shape[-1]
        return LossOutput(
            loss=per_group.mean(),
            per_sample=per_group.detach().repeat_interleave(size),
            t=t.float(),
            s=s.float(),
        )

    def _group_times(self, rng: SampleRng, num_tokens: int) -> tuple[Tensor, Tensor]:
        """(B / M,) t in [eps, T] and s ~ U(eps, t) in fp64, keyed by each group's first sample."""
        first = SampleRng(rng.seed, rng.position[:: self.group_size], rng.device)
        if self.time_distribution == "uniform":
            share = first.uniform("t", torch.float64)
        else:
            share = self.times.primary(first, num_tokens).double()
        t = self.time_min + (self.time_max - self.time_min) * share
        s = self.time_min + (t - self.time_min) * first.uniform("s", torch.float64)
        return t, s
