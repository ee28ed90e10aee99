"""The any-step sampler against Euler, a Bayes posterior and the marginals it must keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from selfe.sampler import (
    SamplerSettings,
    UpdateKind,
    ancestral_coefficients,
    draw_samples,
    minfm_coefficients,
    secondary_time,
    time_grid,
)
from tests.helpers import transcriptions

PAIRS = [(0.9, 0.5), (0.5, 0.45), (0.99, 0.01), (1.0, 0.5), (0.3, 0.1)]


def no_noise(k: int) -> torch.Tensor:
    raise AssertionError("a deterministic step asked for noise")


def curved(x, t, s):
    """A velocity that depends on all its arguments, for arrays and tensors alike."""
    if isinstance(x, torch.Tensor):
        t, s = (time.double().reshape(-1, *[1] * (x.ndim - 1)) for time in (t, s))
        return torch.tanh(x) * (1 + t) - 0.7 * s + 0.3 * x * s
    return np.tanh(x) * (1 + t) - 0.7 * s + 0.3 * x * s


def noises(count: int, shape: tuple[int, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(8)
    return torch.randn(count, *shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("num_steps", [1, 2, 4, 8, 50])
@pytest.mark.parametrize("num_tokens", [16, 256])
def test_grid(num_steps: int, num_tokens: int) -> None:
    for base_len in (512, 256):
        found = time_grid(num_steps, num_tokens, base_len=base_len)
        assert found == pytest.approx(
            transcriptions.grid(num_steps, num_tokens, base_len), abs=1e-12
        )
        assert len(found) == num_steps + 1 and found[0] == 1 and found[-1] == 0
        assert all(a > b for a, b in zip(found, found[1:], strict=False))
    even = time_grid(num_steps, num_tokens, warp=False)
    assert even == pytest.approx([1 - i / num_steps for i in range(num_steps + 1)])


@pytest.mark.parametrize("update", ["ancestral", "minfm"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("num_steps", [1, 2, 5])
@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_sampler_equals_the_transcription(
    update: UpdateKind, eta: float, num_steps: int, fraction: float
) -> None:
    x = noises(1, (3, 4))[0]
    fresh = noises(num_steps, (3, 4))
    settings = SamplerSettings(eta=eta, update=update, s_fraction=fraction)
    found = draw_samples(curved, x, num_steps, 256, settings, lambda k: fresh[k])
    expected = transcriptions.sample(
        curved,
        x.numpy(),
        transcriptions.grid(num_steps, 256),
        fresh.numpy(),
        update={"ancestral": transcriptions.ancestral, "minfm": transcriptions.minfm}[update],
        noise_level=eta,
        fraction=fraction,
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("update", ["ancestral", "minfm"])
def test_eta_zero_is_euler(update: UpdateKind) -> None:
    """Eq. 22: x <- x - (t_k - t_{k+1}) V, and no noise is asked for."""
    x = noises(1, (3, 4))[0]

    found = draw_samples(curved, x, 6, 256, SamplerSettings(eta=0.0, update=update), no_noise)
    times = transcriptions.grid(6, 256)
    euler = x.numpy()
    for t, t_next in zip(times, times[1:], strict=False):
        euler = euler - (t - t_next) * curved(euler, t, t_next)
    np.testing.assert_allclose(found.numpy(), euler, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_steps", [1, 2, 8])
def test_steps_are_calls_and_the_last_returns_x0_hat(num_steps: int) -> None:
    calls = []

    def velocity(x, t, s):
        calls.append((x, t, s))
        return curved(x, t, s)

    x = noises(1, (3, 4))[0]
    asked: list[int] = []

    def noise(k: int) -> torch.Tensor:
        asked.append(k)
        return noises(1, (3, 4))[0]

    result = draw_samples(velocity, x, num_steps, 256, SamplerSettings(), noise)
    assert len(calls) == num_steps and asked == list(range(num_steps - 1))
    x_t, t, s = calls[-1]
    assert t.shape == (3,) and t.dtype == torch.float32 and (s == 0).all()
    torch.testing.assert_close(result, x_t - t.reshape(-1, 1) * curved(x_t, t, s))


@pytest.mark.parametrize(("fraction", "place"), [(0.0, 0), (1.0, 1), (0.5, None)])
def test_secondary_time_policies(fraction: float, place: int | None) -> None:
    times = []

    def velocity(x, t, s):
        times.append((t[0].item(), s[0].item()))
        return curved(x, t, s)

    settings = SamplerSettings(eta=0.0, s_fraction=fraction)
    for num_steps in (1, 4, 50):
        times.clear()
        draw_samples(
            velocity, noises(1, (1, 2))[0], num_steps, 16, settings, lambda k: torch.zeros(1, 2)
        )
        grid = transcriptions.grid(num_steps, 16)
        for k, (t, s) in enumerate(times):
            middle = (grid[k] + grid[k + 1]) / 2
            expected = middle if place is None else (grid[k + 1], grid[k])[place]
            assert s == pytest.approx(expected, abs=1e-6) and s <= t
            if place == 1:
                assert s == t  # "current" means the evaluation network exactly
    assert secondary_time(0.8, 0.4, 0.25) == pytest.approx(0.5)


@pytest.mark.parametrize(("t", "t_next"), PAIRS)
def test_ancestral_is_the_bayes_posterior(t: float, t_next: float) -> None:
    """With exact x0_hat and eps_hat, eta = 1 draws from q(x_t' | x_t, x_0)."""
    keep, fresh = ancestral_coefficients(t, t_next, 1.0)
    of_x0, of_xt, variance = transcriptions.ddpm_posterior(t, t_next)
    assert fresh**2 == pytest.approx(variance, abs=1e-12)
    # x' = (1 - t') x_0 + keep eps with eps = (x_t - (1 - t) x_0) / t
    assert keep / t == pytest.approx(of_xt, abs=1e-12)
    assert (1 - t_next) - keep * (1 - t) / t == pytest.approx(of_x0, abs=1e-12)


def test_ancestral_against_a_posterior_by_monte_carlo() -> None:
    """Simulate the forward chain; keep the draws whose x_t falls near a value; compare moments."""
    t, t_next, x_0, near = 0.7, 0.4, 1.3, 0.5
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(2, 4_000_000, generator=generator)
    x_next = (1 - t_next) * x_0 + t_next * z[0]
    ratio = (1 - t) / (1 - t_next)
    x_t = ratio * x_next + math.sqrt(t**2 - (ratio * t_next) ** 2) * z[1]
    kept = x_next[(x_t - near).abs() < 0.01].double()
    keep, fresh = ancestral_coefficients(t, t_next, 1.0)
    mean = (1 - t_next) * x_0 + keep * (near - (1 - t) * x_0) / t
    error = fresh / math.sqrt(len(kept))
    assert kept.mean().item() == pytest.approx(mean, abs=5 * error)
    assert kept.std().item() == pytest.approx(fresh, abs=5 * error)


@pytest.mark.parametrize(("t", "t_next"), PAIRS)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_updates_keep_the_marginal(t: float, t_next: float, eta: float) -> None:
    for coefficients, expected in (
        (ancestral_coefficients, transcriptions.ancestral),
        (minfm_coefficients, transcriptions.minfm),
    ):
        keep, fresh = coefficients(t, t_next, eta)
        assert keep**2 + fresh**2 == pytest.approx(t_next**2)
        assert (keep, fresh) == pytest.approx(expected(t, t_next, eta))
        if eta == 0:
            assert (keep, fresh) == pytest.approx((t_next, 0.0))


def test_the_two_updates_differ_in_large_steps() -> None:
    """1 -> 0.5: eps_hat's coefficient is 0 for the posterior, 0.25 for minFM's rule."""
    assert ancestral_coefficients(1.0, 0.5, 1.0) == pytest.approx((0.0, 0.5))
    assert minfm_coefficients(1.0, 0.5, 1.0)[0] == pytest.approx(0.25)


@pytest.mark.parametrize("update", ["ancestral", "minfm"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_many_steps_with_the_exact_velocity_reach_a_gaussian(
    update: UpdateKind, eta: float
) -> None:
    mean, std = 0.8, 0.5

    def velocity(x, t, s):
        t = t.double().reshape(-1, 1)
        gain = (1 - t) * std**2 / ((1 - t) ** 2 * std**2 + t**2)
        x0 = mean + gain * (x - (1 - t) * mean)
        return (x - x0) / t

    generator = torch.Generator().manual_seed(0)
    draw = lambda k=0: torch.randn(20_000, 1, generator=generator, dtype=torch.float64)  # noqa: E731
    settings = SamplerSettings(eta=eta, update=update)
    x = draw_samples(velocity, draw(), 100, 256, settings, draw)
    assert x.mean().item() == pytest.approx(mean, abs=0.02)
    assert x.std().item() == pytest.approx(std, abs=0.025)


@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_pushforward(num_steps: int) -> None:
    x, fresh = noises(1, (3, 4))[0], noises(num_steps, (3, 4))
    found = draw_samples(curved, x, num_steps, 256, SamplerSettings("pushforward"), no_noise)
    np.testing.assert_allclose(
        found.numpy(),
        transcriptions.pushforward(curved, x.numpy(), num_steps),
        rtol=1e-4,
        atol=1e-5,
    )
    again = draw_samples(curved, x, num_steps, 256, SamplerSettings("restart"), lambda k: fresh[k])
    expected = transcriptions.pushforward(
        curved, x.numpy(), num_steps, restart_noises=fresh.numpy()
    )
    np.testing.assert_allclose(again.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_bad_requests_are_refused() -> None:
    x = torch.zeros(1, 2)
    for steps in (0, -3):
        with pytest.raises(ValueError, match="at least 1"):
            time_grid(steps, 16)
        with pytest.raises(ValueError, match="at least 1"):
            draw_samples(curved, x, steps, 256, SamplerSettings("pushforward"), no_noise)
