"""Training times: quantiles, anchors, annealing and what they depend on (Eq. s.11-s.13)."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch

from selfe.seeding import SampleRng
from selfe.times import TimeSampler, annealed_width, length_shift, logit_normal, warp_time
from tests.helpers import transcriptions

MANY = SampleRng(1, torch.arange(40_000))


def test_length_shift_anchors() -> None:
    assert length_shift(512) == 0.5
    assert length_shift(4096) == pytest.approx(1.15)
    assert length_shift(256, base_len=256) == 0.5
    assert length_shift(4096, base_len=256) == pytest.approx(1.15)
    for length in (16, 256, 1024, 8192):  # not clamped at either end
        assert length_shift(length) == pytest.approx(transcriptions.mu(length))
        assert length_shift(length, base_len=256) == pytest.approx(transcriptions.mu(length, 256))
    assert length_shift(16) < 0.5 < 1.15 < length_shift(8192)


def test_warp_is_s12_with_its_limits() -> None:
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    for mu in (-0.3, 0.0, 0.5, 1.15):
        found = warp_time(t, mu)
        expected = torch.tensor(
            [transcriptions.warped(x, mu) for x in t.tolist()], dtype=torch.float64
        )
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)
        assert found[0] == 0 and found[-1] == 1
    torch.testing.assert_close(warp_time(t, 0.0), t)


def test_logit_normal() -> None:
    z = torch.linspace(-4, 4, 9, dtype=torch.float64)
    torch.testing.assert_close(logit_normal(z), 1 / (1 + torch.exp(-z)))


@pytest.mark.parametrize("num_tokens", [16, 256, 4096])
def test_quantiles_of_t(num_tokens: int) -> None:
    """The warp adds mu(L) to the logit, so logit t ~ N(mu, 1)."""
    t = TimeSampler().primary(MANY, num_tokens).double()
    assert ((t > 0) & (t < 1)).all()
    logit = torch.log(t / (1 - t)) - transcriptions.mu(num_tokens)
    for q in (0.05, 0.25, 0.5, 0.75, 0.95):
        expected = NormalDist().inv_cdf(q)
        spread = math.sqrt(q * (1 - q) / len(t)) / NormalDist().pdf(expected)
        assert logit.quantile(q).item() == pytest.approx(expected, abs=4 * spread)


def test_annealing_of_tau() -> None:
    assert [annealed_width(step, 300_000) for step in (0, 100_000, 300_000, 700_000)] == [
        0.0,
        pytest.approx(1 / 3),
        1.0,
        1.0,
    ]


@pytest.mark.parametrize(("step", "tau"), [(0, 0.0), (25, 0.25), (100, 1.0), (500, 1.0)])
def test_s_is_uniform_below_t(step: int, tau: float) -> None:
    t, s, equal = TimeSampler(tau_horizon=100).pairs(MANY, 256, step)
    assert torch.equal(s[equal], t[equal])
    assert (s <= t).all() and (s >= 0).all()
    place = ((t - s) / t)[~equal].double()  # ~ U(0, tau)
    assert place.max() <= tau + 1e-5
    if tau:
        assert place.mean().item() == pytest.approx(tau / 2, abs=0.01 * tau)
        assert place.quantile(0.1).item() == pytest.approx(0.1 * tau, abs=0.01 * tau)
        assert place.quantile(0.9).item() == pytest.approx(0.9 * tau, abs=0.01 * tau)
        correlation = torch.corrcoef(torch.stack([place, t[~equal].double()]))[0, 1]
        assert abs(correlation.item()) < 0.03


def test_stratified_pairs_follow_the_global_index() -> None:
    sampler = TimeSampler(tau_horizon=1)
    for start in (0, 1, 6, 1001):
        position = torch.arange(start, start + 9)
        t, s, equal = sampler.pairs(SampleRng(1, position), 256, 10)
        assert torch.equal(equal, position % 2 == 0)
        assert torch.equal(s == t, equal)


def test_bernoulli_pairs() -> None:
    _, _, equal = TimeSampler(pairing="bernoulli").pairs(MANY, 256, 10)
    assert equal.double().mean().item() == pytest.approx(0.5, abs=0.01)
    even = torch.arange(len(equal)) % 2 == 0
    assert equal[even].double().mean().item() == pytest.approx(0.5, abs=0.015)


@pytest.mark.parametrize("pairing", ["stratified", "bernoulli"])
def test_times_depend_on_seed_and_position_only(pairing: str) -> None:
    sampler = TimeSampler(tau_horizon=1, pairing=pairing)
    whole = sampler.pairs(SampleRng(9, torch.arange(64)), 256, 3)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    for rows in (torch.arange(20, 33), order):
        part = sampler.pairs(SampleRng(9, rows), 256, 3)
        for a, b in zip(whole, part, strict=True):
            assert torch.equal(a[rows], b)
    other = sampler.pairs(SampleRng(10, torch.arange(64)), 256, 3)
    assert (whole[0] != other[0]).all()
