"""Self-E: learning from data and by self-evaluation (arXiv 2512.22374, Sec. 3; Eq. 7-21, s.8).

For a sample with (t, s), s < t:

    x0_hat = G(x_t, t, s, c)                                                            Eq. 6
    x_s    = (1 - s) sg[x0_hat] + s eps'
    x_self = sg[x0_hat - (G(x_s, s, s, null) - G(x_s, s, s, c))]                        Eq. 14
    target = (x_0 + lambda x_self) / ||x_0 + lambda x_self|| ||x_0||                    Eq. 19
    loss   = 1/t^2 ||x0_hat - target||^2                                                Eq. 20-21

and where s = t the target is x_0: flow matching. The conditional evaluation uses the moving average
of the weights, the unconditional one the live weights (S.2).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from selfe.batch import LatentBatch, TextCondition
from selfe.objectives.base import LossOutput, Nets, Velocity
from selfe.path import add_noise, expand_time, sample_head, sample_norm
from selfe.seeding import SampleRng
from selfe.times import TimeSampler


def data_weight(t: Tensor, s: Tensor) -> Tensor:
    """a = 1 / (1 + lambda) = (1 - t)(1 - s) / (1 - 2s + ts), with a = 1 where s = t.

    The convex weight of the data in Eq. 18, where lambda = t / (1 - t) - s / (1 - s) is Eq. 17;
    finite at t = 1, where lambda is not.
    """
    denominator = 1 - 2 * s + t * s
    weight = (1 - t) * (1 - s) / torch.where(s == t, torch.ones_like(t), denominator)
    return torch.where(s == t, torch.ones_like(t), weight)


def evaluate(net: Velocity, x_s: Tensor, s: Tensor, condition: TextCondition) -> Tensor:
    """G(x_s, s, s, c): the posterior mean as the network has learnt it, in fp32."""
    return sample_head(x_s, net(x_s, s, s, condition).float(), s)


@dataclass(frozen=True)
class SelfEvaluation:
    """The Self-E objective and its ablations.

    Attributes:
        times: the schedule of (t, s).
        target_norm: energy-preserving normalisation, Eq. 19. Off is the ablation "w/o target norm":
            the target is Eq. 18.
        unnormalized_weight: weight of the loss where `target_norm` is off. "one_plus_lambda" has
            the gradient of Eq. 16; "one" keeps Eq. 20's weight. The paper does not say which.
        aux_from: first iteration with the auxiliary term of Eq. 13; None for never, 0 for the
            ablation "w/ aux term", 550,000 in the 2B run.
        classifier_share: k of Delta = k (g_null - g_cond) + (1 - k) (g_fake - g_cond).
        fake_loss_scale: coefficient of Eq. s.8.
        fake_loss_weight: "inverse_square" weighs Eq. s.8 by 1/s^2, like the main loss by 1/t^2;
            "uniform" by 1, as it is printed, which costs less score in the shapes world.
        renoise: noise of x_s. "we add noise to the generated sample" names it eps, as Eq. 1 names
            that of x_t: "fresh" draws it anew, "same" takes the eps of x_t.
        dropped: target of samples whose caption was dropped, which the paper does not mention.
            "data" is lambda = 0, as there is no caption to be evaluated against; "literal" is Eq.
            18-20 with the null prompt on both branches, which then differ in their weights alone.
        fake_average: Eq. s.8 is an expectation, Eq. 21 "averaging over all possible timestep
            pairs": "rows" averages over the samples with s < t, "batch" counts the others as 0.
        conditional_weights: "the conditional branch utilizes the EMA model", whose decay is stated
            "for model evaluation": "ema" is the average that is scored, "live" one of decay 0.
        conditional_decay: decay of an average for the conditional branch alone, in [0, 1), which
            costs one more copy of the weights; None for the average that is scored.

    Raises:
        ValueError: for a decay outside [0, 1), or one beside live weights.
    """

    times: TimeSampler = field(default_factory=TimeSampler)
    target_norm: bool = True
    unnormalized_weight: Literal["one_plus_lambda", "one"] = "one_plus_lambda"
    aux_from: int | None = None
    classifier_share: float = 0.9
    fake_loss_scale: float = 1.0
    fake_loss_weight: Literal["inverse_square", "uniform"] = "inverse_square"
    renoise: Literal["fresh", "same"] = "fresh"
    dropped: Literal["data", "literal"] = "data"
    fake_average: Literal["rows", "batch"] = "rows"
    conditional_weights: Literal["ema", "live"] = "ema"
    conditional_decay: float | None = None

    group_size = 1

    def __post_init__(self) -> None:
        decay = self.conditional_decay
        if decay is None:
            return
        if not 0 <= decay < 1:
            raise ValueError(f"conditional_decay must be at least 0 and below 1, got {decay}")
        if self.conditional_weights == "live":
            raise ValueError(
                "conditional_decay is of an average; with conditional_weights=live there is none"
            )

    @property
    def needs_fake_captions(self) -> bool:
        return self.aux_from is not None

    def loss(self, batch: LatentBatch, nets: Nets, step: int, rng: SampleRng) -> LossOutput:
        """Loss of one micro-batch.

        Raises:
            ValueError: if the auxiliary term is on and the batch carries no fake captions.
        """
        x_0 = batch.x_0.float()
        t, s, equal = self.times.pairs(rng, batch.num_tokens, step)
        eps = rng.normal("eps", x_0.shape[1:])
        x_t = add_noise(x_0, eps, t)
        v = nets.live(x_t, t, s, batch.condition).float()

        rows = torch.nonzero(~equal)[:, 0].to(x_0.device, non_blocking=True)  # where s < t
        target, weight, fake_loss = x_0, torch.ones_like(t), x_0.new_zeros(())
        metrics = {"self_evaluation_norm": x_0.new_zeros(())}
        padding = nets.lockstep and not rows.numel()
        if padding:  # every process must call the network; this row's output is not used
            rows = rows.new_zeros(1)
        if rows.numel():
            x0_hat = sample_head(x_t[rows], v[rows], t[rows]).detach()
            noise = eps if self.renoise == "same" else rng.normal("eps_s", x_0.shape[1:])
            eps_s = noise[rows]
            x_s_hat = add_noise(x0_hat, eps_s, s[rows])
            score, fake_loss = self._score(x_s_hat, x0_hat, eps_s, s[rows], rows, batch, nets, step)
            if self.fake_average == "batch":
                fake_loss = fake_loss * (rows.numel() / len(x_0))
            if padding:
                fake_loss = 0 * fake_loss
            else:
                row_target, row_weight = self._target(
                    x_0[rows], x0_hat - score, t[rows], s[rows], batch.dropped[rows]
                )
                target = x_0.index_copy(0, rows, row_target)
                weight = weight.index_copy(0, rows, row_weight)
                metrics["self_evaluation_norm"] = sample_norm(score).mean()

        # Eq. 20 times 1/t^2 is ||V - v_target||^2; written so, s = t is flow matching bit for bit.
        v_target = (eps - x_0) + (x_0 - target) / expand_time(t, x_0)
        per_sample = (v - v_target).square().flatten(1).mean(1) * weight
        with torch.no_grad():
            share = equal.to(per_sample.device, non_blocking=True).float()
            metrics["loss_data"] = (per_sample * share).sum() / share.sum().clamp_min(1)
            metrics["loss_self"] = (per_sample * (1 - share)).sum() / (1 - share).sum().clamp_min(1)
            if self._aux_active(step):
                metrics["loss_fake"] = fake_loss.detach()
        loss = per_sample.mean() + self.fake_loss_scale * fake_loss
        return LossOutput(loss, per_sample.detach(), t, s, metrics)

    def _aux_active(self, step: int) -> bool:
        return self.aux_from is not None and step >= self.aux_from

    def _score(
        self,
        x_s_hat: Tensor,
        x0_hat: Tensor,
        eps_s: Tensor,
        s: Tensor,
        rows: Tensor,
        batch: LatentBatch,
        nets: Nets,
        step: int,
    ) -> tuple[Tensor, Tensor]:
        """Delta, without gradient, and the loss of the fake branch (Eq. 13, 14, s.8)."""
        with torch.no_grad():
            g_null = evaluate(nets.live, x_s_hat, s, batch.null.expand(rows.numel()))
            judge = (
                nets.live if self.conditional_weights == "live" else nets.conditional or nets.ema
            )
            g_cond = evaluate(judge, x_s_hat, s, batch.condition[rows])
        classifier_score = g_null - g_cond
        if not self._aux_active(step):
            return classifier_score, x_s_hat.new_zeros(())
        if batch.fake is None:
            raise ValueError("the auxiliary term needs batches that carry the fake captions")
        # One pass serves both uses: as the fake score, and as the branch that learns it.
        v_fake = nets.live(x_s_hat, s, s, batch.fake[rows]).float()
        g_fake = sample_head(x_s_hat, v_fake.detach(), s)
        k = self.classifier_share
        score = k * classifier_score + (1 - k) * (g_fake - g_cond)
        # ||G - x0_hat||^2 / s^2 = ||V - (eps' - x0_hat)||^2, finite as s -> 0
        fake_per_sample = (v_fake - (eps_s - x0_hat)).square().flatten(1).mean(1)
        if self.fake_loss_weight == "uniform":
            fake_per_sample = fake_per_sample * s.square()
        return score, fake_per_sample.mean()

    def _target(
        self, x_0: Tensor, x_self: Tensor, t: Tensor, s: Tensor, dropped: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The regression target and the loss weight of samples with s < t (Eq. 17-19).

        Dropped captions have nothing to be evaluated against: lambda = 0, the target is x_0, unless
        `dropped` is "literal".
        """
        a = data_weight(t, s)
        mixture = x_self + expand_time(a, x_0) * (x_0 - x_self)
        weight = torch.ones_like(a)
        if self.target_norm:
            ratio = sample_norm(x_0) / sample_norm(mixture).clamp_min(1e-12)
            mixture = mixture * expand_time(ratio, mixture)
        elif self.unnormalized_weight == "one_plus_lambda":
            # at t = 1 exactly Eq. 16 has no finite weight
            weight = 1 / a.clamp_min(torch.finfo(a.dtype).eps)
        if self.dropped == "literal":
            return mixture, weight
        weight = torch.where(dropped, torch.ones_like(weight), weight)
        return torch.where(expand_time(dropped, x_0), x_0, mixture), weight
