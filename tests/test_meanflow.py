"""The MeanFlow objective against arXiv 2505.13447, and the network's exact derivative in time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from baselines.meanflow import MeanFlow
from selfe.batch import TextCondition
from selfe.network.cpu_kernels import GeluBeside, NormaliseAndRotate
from selfe.network.derivative import carries_tangent, time_derivative
from selfe.objectives.base import Nets
from selfe.seeding import SampleRng
from tests.helpers import transcriptions
from tests.helpers.toy_networks import EMA, LIVE, Toy, numpy_toy, toy_batch
from tests.test_acceleration import accelerated
from tests.test_network import TINY, make_inputs, tiny_model

BATCH = 16


def rng(batch: int = BATCH) -> SampleRng:
    return SampleRng(8, torch.arange(batch))


def squared_errors(theta, times) -> np.ndarray:
    """||V - target||^2 of every sample, V with theta and targets with LIVE."""
    batch = toy_batch(BATCH, dropped=(3,))
    eps = rng().normal("eps", batch.x_0.shape[1:]).double().numpy()
    return np.array(
        [
            transcriptions.meanflow_squared_error(
                numpy_toy(theta),
                batch.x_0[i].double().numpy(),
                eps[i],
                t,
                s,
                batch.condition.pooled[i].double().numpy(),
                target_net=numpy_toy(LIVE),
            )
            for i, (t, s) in enumerate(times)
        ]
    )


@pytest.mark.parametrize("power", [1.0, 0.5, 0.0])
def test_loss_and_gradient_equal_the_transcription(power: float) -> None:
    batch, live, ema = toy_batch(BATCH, dropped=(3,)), Toy(LIVE), Toy(EMA)
    output = MeanFlow(power=power).loss(batch, Nets(live, ema), 7, rng())
    output.loss.backward()
    times = list(zip(output.t.tolist(), output.s.tolist(), strict=True))
    now = squared_errors(LIVE, times)
    weights = (now + 0.01) ** -power
    np.testing.assert_allclose(output.per_sample, weights * now, rtol=1e-5)
    assert output.loss.item() == pytest.approx(output.per_sample.mean().item())
    elements, apart = batch.x_0[0].numel(), np.arange(BATCH) % 4 == 0
    errors = {"loss_data": now[~apart].mean(), "loss_meanflow": now[apart].mean()}
    for name, value in errors.items():
        assert output.metrics[name].item() == pytest.approx(value / elements, rel=1e-5)
    # the divisor is a constant of the gradient
    h, slopes = 1e-5, []
    for e in np.eye(6):
        up, down = (squared_errors(np.array(LIVE) + k * e, times) for k in (h, -h))
        slopes.append(np.mean(weights * (up - down) / 2 / h))
    np.testing.assert_allclose(live.theta.grad.numpy(), slopes, rtol=1e-4, atol=1e-5)
    assert live.calls == [(BATCH // 4, False), (BATCH, True)] and ema.calls == []


def test_times_are_two_sorted_draws() -> None:
    objective, count = MeanFlow(), 20_000
    t, s = objective.pairs(rng(count))
    draws = torch.stack([rng(count).normal(name) for name in ("t", "s")])
    ordered = torch.sigmoid(draws - 0.4)
    assert torch.equal(t, ordered.amax(0)) and torch.equal(s, ordered.amin(0))
    output = objective.loss(toy_batch(BATCH), Nets(Toy(), Toy()), 0, rng())
    apart = torch.arange(BATCH) % 4 == 0
    assert torch.equal(output.s[~apart], output.t[~apart])
    assert (output.s[apart] < output.t[apart]).all()


def test_the_mean_velocity_of_a_straight_flow_is_a_fixed_point() -> None:
    """With one sample of data, V = eps - x_0 whatever t and s: its derivative is zero."""
    batch = toy_batch(BATCH)
    x_0 = batch.x_0[:1].expand_as(batch.x_0)
    single = type(batch)(x_0, batch.condition, batch.null, batch.dropped, batch.index)
    one = torch.ones((), requires_grad=True)

    def velocity(x, t, s, condition):
        return one * (x - x_0[: len(x)]) / t.reshape(-1, 1, 1, 1)

    output = MeanFlow().loss(single, Nets(velocity, velocity), 0, rng())
    for name in ("loss_data", "loss_meanflow"):
        assert output.metrics[name].item() < 1e-6


def test_a_network_that_knows_no_time_has_no_derivative() -> None:
    x, t, s, condition = make_inputs(TINY)
    still = time_derivative(lambda x, *_: torch.ones_like(x), x, x, t, s, condition)
    assert torch.equal(still, torch.zeros_like(x))


def test_groups_must_be_whole() -> None:
    with pytest.raises(ValueError, match="a batch of 6 does not divide into groups of 4"):
        MeanFlow().loss(toy_batch(6), Nets(Toy(), Toy()), 0, rng(6))


# --- the derivative of the real network ----------------------------------------------------------


def inputs_and_slope(dtype: torch.dtype, **shape: int):
    x, t, s, condition = make_inputs(TINY, **shape)
    condition = TextCondition(
        condition.tokens.to(dtype), condition.mask, condition.pooled.to(dtype), condition.no_padding
    )
    slope = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    return x.to(dtype), slope.to(dtype), t.to(dtype), s.to(dtype), condition


def central_difference(**shape: int) -> torch.Tensor:
    x, slope, t, s, condition = inputs_and_slope(torch.float64, **shape)
    model, change = tiny_model().double(), 1e-7
    with torch.no_grad():
        after, before = (model(x + k * slope, t + k, s, condition) for k in (change, -change))
    return (after - before) / (2 * change)


@pytest.mark.parametrize("shape", [{}, {"h": 8, "w": 4}, {"h": 20, "w": 20}])
def test_the_network_is_differentiated_exactly(shape) -> None:
    """Few tokens and many are attended to by different kernels."""
    expected = central_difference(**shape)
    for dtype, tolerance in ((torch.float64, 1e-7), (torch.float32, 1e-4)):
        found = time_derivative(tiny_model().to(dtype), *inputs_and_slope(dtype, **shape))
        assert found.dtype == dtype and not found.requires_grad
        assert (found - expected).norm() < tolerance * expected.norm()


def test_bf16_is_as_good_as_its_rounding() -> None:
    expected = central_difference()
    with torch.autocast("cpu", torch.bfloat16):
        found = time_derivative(tiny_model(), *inputs_and_slope(torch.float32))
    assert (found - expected).norm() < 0.03 * expected.norm()


def test_compiled_blocks_are_differentiated_too() -> None:
    torch._dynamo.reset()
    inputs = inputs_and_slope(torch.float32)
    plain = time_derivative(tiny_model(), *inputs)
    x, _, t, s, condition = inputs
    model = accelerated(compile=True)
    model(x, t, s, condition).sum().backward()
    assert torch.equal(time_derivative(model, *inputs), plain)
    torch._dynamo.reset()


def test_functions_without_forward_mode_are_used_outside_of_it_only(monkeypatch) -> None:
    """They would be an error within it, and are what is fast elsewhere."""
    used = []
    for function in (GeluBeside, NormaliseAndRotate):
        apply = function.apply
        monkeypatch.setattr(function, "apply", lambda *a, f=apply: used.append(f) or f(*a))
    inputs = inputs_and_slope(torch.float32)
    time_derivative(tiny_model(), *inputs)
    assert used == []
    x, _, t, s, condition = inputs
    tiny_model()(x, t, s, condition)
    assert len(used) >= 2 and not carries_tangent(x)
