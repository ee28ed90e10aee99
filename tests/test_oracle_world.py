"""The oracle world: closed-form posterior means judge Eq. 14, and all objectives learn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from baselines.flow_matching import FlowMatching
from baselines.imm import InductiveMomentMatching
from baselines.meanflow import MeanFlow
from baselines.shortcut import ShortcutModel
from baselines.transition import TransitionModel
from scripts.studies import oracle_world
from selfe.batch import TextCondition
from selfe.data.gaussian_mixture import ConditionalGaussianMixture, overlapping_pairs
from selfe.objectives.base import Nets
from selfe.objectives.self_evaluation import SelfEvaluation
from selfe.seeding import SampleRng
from selfe.times import TimeSampler

WORLD = overlapping_pairs()


@pytest.mark.parametrize("c", [None, 0, 2])
@pytest.mark.parametrize("s", [0.1, 0.5, 0.9])
def test_posterior_mean_is_tweedies_formula(s: float, c: int | None) -> None:
    """Eq. 11 and s.1: (x_s + s^2 grad log q(x_s | c)) / (1 - s), the gradient by autograd."""
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x.requires_grad_()
    (score,) = torch.autograd.grad(WORLD.log_density(x, s, c).sum(), x)
    expected = (x + s**2 * score) / (1 - s)
    torch.testing.assert_close(WORLD.posterior_mean(x, s, c), expected.detach())


@pytest.mark.parametrize("c", [None, 1])
def test_posterior_mean_by_importance_sampling(c: int | None) -> None:
    generator = torch.Generator().manual_seed(1)
    s, x_s = 0.6, torch.tensor([[0.3, -0.5]], dtype=torch.float64)
    x_0 = WORLD.sample(200_000, c, generator)
    weight = torch.softmax(-((x_s - (1 - s) * x_0) ** 2).sum(1) / (2 * s**2), dim=0)
    expected = (weight[:, None] * x_0).sum(0)
    torch.testing.assert_close(WORLD.posterior_mean(x_s, s, c)[0], expected, rtol=0, atol=0.01)


def test_null_mixture_weighs_conditions_by_the_prior() -> None:
    x = torch.randn(9, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    each = torch.stack([WORLD.log_density(x, 0.3, c).exp() for c in range(3)], dim=1)
    torch.testing.assert_close(WORLD.log_density(x, 0.3, None).exp(), each @ WORLD.prior)
    with pytest.raises(ValueError, match="sum to 1"):
        ConditionalGaussianMixture(
            WORLD.weights, WORLD.means, WORLD.covariances, torch.ones(3, dtype=torch.float64)
        )


def oracle_network(calls: list[tuple[Tensor, Tensor, Tensor]]):
    """V whose sample head is the exact posterior mean; records what it was asked."""

    def velocity(x_t: Tensor, t: Tensor, s: Tensor, condition: TextCondition) -> Tensor:
        rows = []
        for x, time, pooled in zip(x_t, t, condition.pooled, strict=True):
            c = int(pooled.argmax()) if pooled.sum() > 0 else None
            point = x.double().reshape(1, -1)
            mean = WORLD.posterior_mean(point, time.item(), c)
            rows.append(((point - mean) / time.double()).reshape(x.shape))
        calls.append((x_t, t, s))
        return torch.stack(rows)

    return velocity


def test_self_evaluation_climbs_the_implicit_classifier() -> None:
    """With exact judges, target - x0_hat is s^2 / (1 - s) grad log q(c | x_s): Result 1 of S.1."""
    batch = oracle_world.draw_batch(WORLD, 64, torch.Generator().manual_seed(3), dropout=0.0)
    calls: list[tuple[Tensor, Tensor, Tensor]] = []
    net = oracle_network(calls)
    scores: list[tuple[Tensor, Tensor]] = []
    inner = SelfEvaluation._target

    class Watched(SelfEvaluation):
        def _target(self, x_0, x_self, t, s, dropped):
            target, weight = inner(self, x_0, x_self, t, s, dropped)
            scores.append((x_self, s))
            return target, weight

    rng = SampleRng(0, torch.arange(64))
    watched = Watched(times=TimeSampler(tau_horizon=1), target_norm=False)
    output = watched.loss(batch, Nets(net, net), 5, rng)
    ((x_self, s),) = scores
    (x_t, t, _), (x_s, _, _), _ = calls
    odd = torch.arange(64) % 2 == 1
    assert torch.equal(s, output.s[odd])
    climbs = 0
    for i, row in enumerate(torch.nonzero(odd)[:, 0].tolist()):
        c = int(batch.condition.pooled[row].argmax())
        x0_hat = WORLD.posterior_mean(x_t[row].double().reshape(1, -1), t[row].item(), c)
        point = x_s[i].double().reshape(1, -1).requires_grad_()
        time = s[i].item()
        log_classifier = WORLD.log_density(point, time, c) - WORLD.log_density(point, time, None)
        (gradient,) = torch.autograd.grad(log_classifier.sum(), point)
        step = x_self[i].double().reshape(1, -1) - x0_hat
        torch.testing.assert_close(step, time**2 / (1 - time) * gradient, rtol=2e-3, atol=2e-5)
        climbs += int((step * gradient).sum() > 0)
    assert climbs == 32  # a wrong sign in Eq. 14 would make it 0


def test_fixed_points_of_the_evaluation_alone() -> None:
    """The classifier score alone does not stop at the data; the reverse KL (k = 0) does.

    Nothing in the classifier score knows p_theta: particles leave the other conditions' region and
    keep no memory of the data's spread. The auxiliary term pulls them back to the data.
    """
    exact = WORLD.sample(300, 0, torch.Generator().manual_seed(6))
    options = {"n": 200, "iterations": 150}
    distances = {
        k: oracle_world.energy_distance(oracle_world.settle(WORLD, 0, k, **options), exact)
        for k in (0.0, 0.9, 1.0)
    }
    print("energy distance to the data by k:", {k: round(d, 4) for k, d in distances.items()})
    assert distances[0.0] < 0.05
    assert distances[0.0] < distances[0.9] < distances[1.0]


@pytest.mark.slow
def test_all_objectives_learn() -> None:
    iterations = 400
    times = TimeSampler(tau_horizon=iterations // 2)
    table = {}
    for label, objective, sampling in (
        ("selfe", SelfEvaluation(times=times), {}),
        ("fm", FlowMatching(times=times), {"eta": 0.0, "s_fraction": 1.0}),
        ("imm", InductiveMomentMatching(), {"pushforward": True}),
        ("shortcut", ShortcutModel(times=times), {"eta": 0.0}),
        ("transition", TransitionModel(), {"eta": 0.0}),
        ("meanflow", MeanFlow(), {"eta": 0.0}),
        ("transition w/o loss norm", TransitionModel(loss_norm=False), {"eta": 0.0}),
    ):
        network = oracle_world.train(WORLD, objective, iterations, batch=128)
        table[label] = {
            n: oracle_world.divergence(network, WORLD, n, n=500, **sampling)
            for n in (1, 2, 4, 8, 50)
        }
        print(label, {n: round(value, 4) for n, value in table[label].items()})
    noise = torch.randn(500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    untrained = oracle_world.energy_distance(
        noise, WORLD.sample(500, 0, torch.Generator().manual_seed(1))
    )
    for label, row in table.items():
        assert min(row.values()) < 0.25 * untrained, label
    # one step of a flow is the conditional mean: many steps are what it needs
    assert table["fm"][50] < 0.3 * table["fm"][1]
    # which method is ahead at how many steps is for scripts/studies/oracle_world.py to measure
