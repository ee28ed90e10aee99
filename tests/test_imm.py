"""IMM's objective against closed forms (arXiv 2503.07565 as SPEC 5 reads it)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from baselines.imm import InductiveMomentMatching, laplace_kernel
from selfe import path
from selfe.batch import LatentBatch, TextCondition
from selfe.config.resolve import resolve
from selfe.network.denoiser import DualTimeDenoiser
from selfe.objectives.base import Nets
from selfe.run_folder.model import build_model
from selfe.seeding import SampleRng
from selfe.times import TimeSampler
from tests.helpers import transcriptions
from tests.helpers.toy_networks import EMA, LIVE, Toy, numpy_toy, toy_batch


def rng(batch: int) -> SampleRng:
    return SampleRng(5, torch.arange(batch))


def drawn_times(batch: int, size: int, time_max: float = 0.994) -> list[tuple[float, float]]:
    """t ~ U(0, T), s ~ U(0, t) of every group, from the draws of its first sample."""
    first = SampleRng(5, torch.arange(batch)[::size])
    u, w = (first.uniform(purpose, torch.float64).tolist() for purpose in ("t", "s"))
    return [(time_max * a, time_max * a * b) for a, b in zip(u, w, strict=True)]


def transcribed(
    batch: LatentBatch,
    size: int,
    theta: tuple[float, ...] | np.ndarray = LIVE,
    net: object = None,
    **options: object,
) -> list[float]:
    x_0 = batch.x_0.double().numpy()
    eps = rng(len(batch)).normal("eps", batch.x_0.shape[1:]).double().numpy()
    c = batch.condition.pooled.double().numpy()
    groups = []
    for g, (t, s) in enumerate(drawn_times(len(batch), size)):
        rows = slice(g * size, (g + 1) * size)
        loss = transcriptions.imm_group(
            net or numpy_toy(theta), x_0[rows], eps[rows], c[rows], t, s, **options
        )  # type: ignore[arg-type]
        groups.append(loss * x_0[0].size)
    return groups


def test_r_at_a_thousand_times() -> None:
    generator = torch.Generator().manual_seed(0)
    t = torch.rand(1000, generator=generator, dtype=torch.float64) * 0.994
    s = t * torch.rand(1000, generator=generator, dtype=torch.float64)
    s[:100] = t[:100] - 1e-5  # r must not fall below s
    s.clamp_(min=0)
    for k in (10, 12, 14):
        r = InductiveMomentMatching(gap_exponent=k).reference_time(t, s)
        assert r.dtype == torch.float64
        expected = [
            transcriptions.imm_r(a, b, k=k) for a, b in zip(t.tolist(), s.tolist(), strict=True)
        ]
        np.testing.assert_allclose(r.numpy(), expected, rtol=1e-12, atol=1e-15)
        assert (r >= s).all() and (r <= t).all()


def test_eta_range_is_that_of_the_paper() -> None:
    assert transcriptions.eta(0.994) == pytest.approx(165.67, abs=0.01)
    # near t = T the step is 165.67 / 2^12 in eta, so r is known without the formula's code
    t = torch.tensor([0.9], dtype=torch.float64)
    r = InductiveMomentMatching().reference_time(t, torch.zeros_like(t)).item()
    assert r == pytest.approx((9 - 165.6667 / 4096) / (10 - 165.6667 / 4096), abs=1e-7)


@pytest.mark.parametrize("a", [1, 2])
@pytest.mark.parametrize("b", [4.0, 5.0])
def test_time_weight(a: int, b: float) -> None:
    t = torch.linspace(0.01, 0.994, 50, dtype=torch.float64)
    w = InductiveMomentMatching(weight_a=a, weight_b=b).time_weight(t)
    np.testing.assert_allclose(
        w, [transcriptions.imm_weight(x, a=a, b=b) for x in t.tolist()], rtol=1e-12
    )


def test_kernel() -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, 3, 4, 6, generator=generator, dtype=torch.float64)
    gap = torch.tensor([0.3, 0.9, 0.02], dtype=torch.float64)
    found = laplace_kernel(a, b, 1 / gap)
    for g in range(3):
        for j in range(4):
            for k in range(4):
                expected = transcriptions.imm_kernel(
                    a[g, j].numpy(), b[g, k].numpy(), gap[g].item(), 0.0
                )
                assert found[g, j, k].item() == pytest.approx(expected, rel=1e-10)
    same = laplace_kernel(a, a, 1 / gap)
    torch.testing.assert_close(same.diagonal(dim1=1, dim2=2), torch.ones(3, 4).double())


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("k", [7, 12])
@pytest.mark.parametrize("scale_input", [False, True])
def test_loss_equals_the_transcription(size: int, k: int, scale_input: bool) -> None:
    batch = toy_batch(16)
    objective = InductiveMomentMatching(group_size=size, gap_exponent=k, scale_input=scale_input)
    live = Toy(LIVE)

    def network(x, t, s, condition):  # scales as `DualTimeDenoiser` does under these settings
        sigma = objective.network_settings.get("input_sigma")
        return live(x if sigma is None else path.scale_input(x, t, sigma), t, s, condition)

    output = objective.loss(batch, Nets(network, Toy(EMA)), 0, rng(16))
    expected = transcribed(batch, size, k=k, c_in_sigma_d=1.0 if scale_input else None)
    # with k = 12 the terms nearly cancel in fp32: the gap t - r is what is left of them
    tolerance = {"rtol": 1e-3, "atol": 1e-5} if k == 7 else {"rtol": 2e-2, "atol": 2e-4}
    np.testing.assert_allclose(output.per_sample[::size].numpy(), expected, **tolerance)
    assert output.loss.item() == pytest.approx(np.mean(expected), rel=1e-2)
    for group, (t, s) in enumerate(drawn_times(16, size)):
        assert output.t[group * size :][:size].tolist() == pytest.approx([t] * size)
        assert output.s[group * size :][:size].tolist() == pytest.approx([s] * size)


def test_logit_normal_times_are_those_of_the_other_methods() -> None:
    """t has the others' distribution, of each group's first sample; s stays U(eps, t)."""
    batch, times = toy_batch(64), TimeSampler(base_len=64)
    objective = InductiveMomentMatching(time_distribution="logit-normal", times=times)
    output = objective.loss(batch, Nets(Toy(LIVE), Toy(EMA)), 0, rng(64))
    first = SampleRng(5, torch.arange(0, 64, 4))
    t = 0.994 * times.primary(first, batch.num_tokens)
    torch.testing.assert_close(output.t[::4], t)
    torch.testing.assert_close(output.s[::4], t * first.uniform("s"))
    assert torch.equal(output.t.view(-1, 4), output.t[::4, None].expand(-1, 4))


def test_two_particles_by_hand() -> None:
    """With V = 0 the particles are x_t and x_r themselves: everything is known."""
    batch = toy_batch(2)
    objective = InductiveMomentMatching(group_size=2, gap_exponent=7)

    def still(x, t, s, condition):
        return torch.zeros_like(x)

    output = objective.loss(batch, Nets(still, still), 0, rng(2))
    ((t, s),) = drawn_times(2, 2)
    r = transcriptions.imm_r(t, s, k=7)
    x = batch.x_0.double().flatten(1)
    e = rng(2).normal("eps", batch.x_0.shape[1:]).double().flatten(1)
    size = x.shape[1]
    far = lambda p, q: math.exp(-(p - q).norm().item() / (size * (t - s)))  # noqa: E731
    y1, y2 = (1 - t) * x + t * e
    z1, z2 = (1 - r) * x + r * e
    by_hand = 1 + far(y1, y2) + 1 + far(z1, z2)
    by_hand -= far(y1, z1) + far(y1, z2) + far(y2, z1) + far(y2, z2)
    snr = (1 - t) ** 2 / t**2
    sigmoid = 1 / (1 + snr * math.exp(-4))
    weight = sigmoid * (1 - t) / (t * ((1 - t) ** 2 + t**2))
    assert output.loss.item() == pytest.approx(size * weight * by_hand / 2, rel=1e-3)


def test_x_r_shares_its_noise_with_x_t_and_both_passes_use_live_weights() -> None:
    batch, live, ema = toy_batch(8), Toy(LIVE), Toy(EMA)
    InductiveMomentMatching().loss(batch, Nets(live, ema), 0, rng(8))
    assert live.calls == [(8, True), (8, False)] and ema.calls == []
    (x_t, t, s), (x_r, r, s_again) = live.inputs
    assert torch.equal(s, s_again) and (r < t).all() and (r >= s).all()
    eps = [
        (x - (1 - time.reshape(-1, 1, 1, 1)) * batch.x_0) / time.reshape(-1, 1, 1, 1)
        for x, time in ((x_t, t), (x_r, r))
    ]
    torch.testing.assert_close(eps[0], eps[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(eps[0], rng(8).normal("eps", (3, 2, 2)), rtol=1e-4, atol=1e-4)


def test_gradient_flows_through_y_only() -> None:
    batch, live = toy_batch(8), Toy(LIVE)
    objective = InductiveMomentMatching(gap_exponent=7)
    objective.loss(batch, Nets(live, Toy(EMA)), 0, rng(8)).loss.backward()
    times = drawn_times(8, 4)
    thresholds = [(t + transcriptions.imm_r(t, s, k=7)) / 2 for t, s in times]

    def frozen(theta: np.ndarray) -> float:
        def net(x: np.ndarray, t: float, s: float, c: np.ndarray) -> np.ndarray:
            group = min(range(2), key=lambda g: abs(times[g][1] - s))
            return numpy_toy(theta if t > thresholds[group] else LIVE)(x, t, s, c)

        return float(np.mean(transcribed(batch, 4, net=net, k=7)))

    h = 1e-5
    expected = [
        (frozen(np.array(LIVE) + h * unit) - frozen(np.array(LIVE) - h * unit)) / (2 * h)
        for unit in np.eye(len(LIVE))
    ]
    both = [
        (
            np.mean(transcribed(batch, 4, np.array(LIVE) + h * unit, k=7))
            - np.mean(transcribed(batch, 4, np.array(LIVE) - h * unit, k=7))
        )
        / (2 * h)
        for unit in np.eye(len(LIVE))
    ]
    found = live.theta.grad.numpy()
    np.testing.assert_allclose(found, expected, rtol=5e-3, atol=1e-3)
    assert np.abs(found - both).max() > 0.05 * np.abs(found).max()


def test_loss_is_scaled_by_the_elements_of_a_sample() -> None:
    """The factor D keeps gradients away from Adam's epsilon; doubling D must not halve the loss."""
    batch = toy_batch(4)
    wide = replace(batch, x_0=torch.cat([batch.x_0] * 4, dim=1))

    def still(x, t, s, condition):
        return torch.zeros_like(x)

    small, large = (
        InductiveMomentMatching(gap_exponent=7).loss(b, Nets(still, still), 0, rng(4)).loss.item()
        for b in (batch, wide)
    )
    assert large > small


def test_batches_that_do_not_group_are_refused() -> None:
    with pytest.raises(ValueError, match="groups of 4"):
        InductiveMomentMatching().loss(toy_batch(6), Nets(Toy(), Toy()), 0, rng(6))


def test_scaled_inputs_hold_wherever_the_network_is_called() -> None:
    """Training, sampling and export all build the network from the section "model"."""
    plain = resolve("shapes", "imm")
    scaled = resolve("shapes", "imm", assignments=["objective.scale_input=true"])
    deviation = scaled.data.signal  # that of the latents
    assert (plain.model.input_sigma, scaled.model.input_sigma) == (None, deviation)
    assert build_model(scaled, "cpu").config.input_sigma == deviation
    tiny = {"num_layers": 0, "num_single_layers": 1, "attention_head_dim": 8,
            "num_attention_heads": 1, "joint_attention_dim": 4, "pooled_projection_dim": 4,
            "axes_dims_rope": (2, 2, 4), "in_channels": 8}  # fmt: skip
    as_it_is, scales = (DualTimeDenoiser(**tiny, input_sigma=s) for s in (None, 2.0))
    for parameter in as_it_is.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    scales.load_state_dict(as_it_is.state_dict())
    x, t, s = torch.randn(2, 2, 4, 4), torch.tensor([0.25, 1.0]), torch.tensor([0.0, 0.5])
    text = TextCondition(
        torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.bool), torch.randn(2, 4)
    )
    c_in = torch.tensor([1 / (2 * math.sqrt(0.75**2 + 0.25**2)), 0.5]).view(-1, 1, 1, 1)
    expected = as_it_is(c_in * x, t, s, text)
    assert not torch.allclose(as_it_is(x, t, s, text), expected, rtol=1e-2)
    torch.testing.assert_close(scales(x, t, s, text), expected)
