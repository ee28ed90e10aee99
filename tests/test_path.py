"""The noise path: Eq. 1, 2, 6 and the identities between its heads."""

from __future__ import annotations

import torch

from selfe.path import add_noise, noise_head, sample_head, sample_norm
from tests.helpers import transcriptions


def draws(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x_0, eps = torch.randn(2, 7, 3, 4, 5, generator=generator, dtype=torch.float64)
    return x_0, eps, torch.linspace(0, 1, 7, dtype=torch.float64)


def test_noise_one_data_zero() -> None:
    x_0, eps, t = draws()
    x_t = add_noise(x_0, eps, t)
    assert torch.equal(x_t[0], x_0[0]) and torch.equal(x_t[-1], eps[-1])
    for i in range(7):
        expected = transcriptions.noisy(x_0[i].numpy(), eps[i].numpy(), t[i].item())
        torch.testing.assert_close(x_t[i], torch.from_numpy(expected))


def test_heads_of_the_exact_velocity_are_data_and_noise() -> None:
    x_0, eps, t = draws()
    x_t, v = add_noise(x_0, eps, t), eps - x_0
    torch.testing.assert_close(sample_head(x_t, v, t), x_0)
    torch.testing.assert_close(noise_head(x_t, v, t), eps)


def test_heads_make_up_the_sample_again_for_any_velocity() -> None:
    x_t, v, t = draws(1)
    again = add_noise(sample_head(x_t, v, t), noise_head(x_t, v, t), t)
    torch.testing.assert_close(again, x_t)


def test_velocity_is_the_derivative_of_the_path() -> None:
    x_0, eps, t = draws()
    h = 1e-6
    slope = (add_noise(x_0, eps, t + h) - add_noise(x_0, eps, t - h)) / (2 * h)
    torch.testing.assert_close(slope, eps - x_0, rtol=1e-7, atol=1e-7)


def test_norm_is_per_sample_over_everything_else() -> None:
    x, _, _ = draws()
    expected = torch.stack([(row**2).sum().sqrt() for row in x])
    torch.testing.assert_close(sample_norm(x), expected)
    assert sample_norm(x.bfloat16()).dtype == torch.float32


def test_half_precision_samples_keep_their_dtype_and_precise_times() -> None:
    x_0, eps, _ = draws()
    t = torch.full((7,), 0.98)
    x_t = add_noise(x_0.bfloat16(), eps.bfloat16(), t)
    assert x_t.dtype == torch.bfloat16
    exact = 0.02 * x_0.bfloat16().double() + 0.98 * eps.bfloat16().double()
    assert (x_t.double() - exact).abs().max() <= exact.abs().max() * 2**-8
