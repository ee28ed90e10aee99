"""The TiM objective against arXiv 2509.04394, and its derivative against automatic ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from baselines.transition import TransitionModel
from selfe.objectives.base import Nets
from selfe.path import add_noise
from selfe.seeding import SampleRng
from tests.helpers import transcriptions
from tests.helpers.toy_networks import EMA, LIVE, Toy, numpy_toy, toy_batch

BATCH = 16


def rng(batch: int = BATCH) -> SampleRng:
    return SampleRng(8, torch.arange(batch))


def expected(theta, times, *, directional: bool, h: float = 0.005) -> list[tuple[float, float]]:
    """(error, loss) of every sample; targets always those of LIVE."""
    batch = toy_batch(BATCH, dropped=(3,))
    eps = rng().normal("eps", batch.x_0.shape[1:]).double().numpy()
    return [
        transcriptions.transition(
            numpy_toy(theta),
            batch.x_0[i].double().numpy(),
            eps[i],
            t,
            s,
            batch.condition.pooled[i].double().numpy(),
            h=h,
            target_net=numpy_toy(LIVE),
            directional=directional,
        )
        for i, (t, s) in enumerate(times)
    ]


@pytest.mark.parametrize(
    ("directional", "loss_norm"), [(True, True), (False, True), (True, False), (False, False)]
)
def test_loss_and_gradient_equal_the_transcription(directional: bool, loss_norm: bool) -> None:
    batch, live, ema = toy_batch(BATCH, dropped=(3,)), Toy(LIVE), Toy(EMA)
    objective = TransitionModel(directional=directional, loss_norm=loss_norm)
    output = objective.loss(batch, Nets(live, ema), 7, rng())
    output.loss.backward()
    times = list(zip(output.t.tolist(), output.s.tolist(), strict=True))
    weights = np.array([transcriptions.transition_weight(t, s) for t, s in times])
    now = np.array(expected(LIVE, times, directional=directional))
    if loss_norm:
        weights /= now[:, 1] + 1e-5
    np.testing.assert_allclose(output.per_sample, weights * now[:, 1], rtol=2e-4)
    assert output.loss.item() == pytest.approx(output.per_sample.mean().item())
    errors = {"loss_data": now[::2, 0].mean(), "loss_transition": now[1::2, 0].mean()}
    for name, value in errors.items():
        assert output.metrics[name].item() == pytest.approx(value, rel=1e-3)
    # the divisor is a constant of the gradient
    h, slopes = 1e-5, []
    for e in np.eye(6):
        up, down = (
            np.array(expected(np.array(LIVE) + k * e, times, directional=directional))[:, 1]
            for k in (h, -h)
        )
        slopes.append(np.mean(weights * (up - down) / 2 / h))
    np.testing.assert_allclose(live.theta.grad.numpy(), slopes, rtol=1e-3, atol=1e-4)
    assert live.calls == [(BATCH // 2, False)] * 2 + [(BATCH, True)] and ema.calls == []


def test_times_are_two_sorted_draws() -> None:
    objective, count = TransitionModel(), 20_000
    t, s = objective.pairs(rng(count))
    assert (t >= s).all()
    draws = [torch.sigmoid(1.6 * rng(count).normal(name)) for name in ("t", "s")]
    assert torch.equal(t, torch.stack(draws).amax(0))
    to_data = s == 0
    assert torch.equal(s[~to_data], torch.stack(draws).amin(0)[~to_data])
    assert to_data.float().mean().item() == pytest.approx(0.2, abs=0.01)
    output = objective.loss(toy_batch(BATCH), Nets(Toy(), Toy()), 0, rng())
    even = torch.arange(BATCH) % 2 == 0
    assert torch.equal(output.s[even], output.t[even])
    assert (output.s[~even] < output.t[~even]).all()


def test_the_difference_approaches_the_derivative_along_the_path() -> None:
    """d/dt V with x_0, eps and s fixed is the Jacobian-vector product with (eps - x_0, 1, 0)."""
    batch, net = toy_batch(BATCH), Toy()
    eps = torch.randn(batch.x_0.shape, generator=torch.Generator().manual_seed(0))
    x_0, eps = batch.x_0.double(), eps.double()
    t = torch.linspace(0.1, 0.9, BATCH, dtype=torch.float64)
    s = t / 3

    def of(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return net(x, time, s, batch.condition)

    tangents = (eps - x_0, torch.ones_like(t))
    _, exact = torch.func.jvp(of, (add_noise(x_0, eps, t), t), tangents)
    for h in (0.02, 0.01):
        ours = TransitionModel(difference=h)
        found = ours.total_derivative(net, x_0, eps, t, s, batch.condition)
        assert (found - exact).abs().max() < 40 * h**2  # second order
    assert exact.abs().max() > 1


def test_the_mean_velocity_of_a_straight_flow_is_a_fixed_point() -> None:
    """With one sample of data, V = eps - x_0 whatever t and s: its derivative is zero."""
    batch = toy_batch(BATCH)
    x_0 = batch.x_0[:1].expand_as(batch.x_0)
    single = type(batch)(x_0, batch.condition, batch.null, batch.dropped, batch.index)
    one = torch.ones((), requires_grad=True)

    def velocity(x, t, s, condition):
        time = t.reshape(-1, 1, 1, 1)
        return one * (x - x_0[: len(x)]) / time

    output = TransitionModel(time_std=0.5).loss(single, Nets(velocity, velocity), 0, rng())
    for name in ("loss_data", "loss_transition"):
        assert output.metrics[name].item() < 1e-6


def test_groups_must_be_whole() -> None:
    with pytest.raises(ValueError, match="a batch of 5 does not divide into groups of 2"):
        TransitionModel().loss(toy_batch(5), Nets(Toy(), Toy()), 0, rng(5))
