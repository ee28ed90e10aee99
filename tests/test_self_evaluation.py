"""Self-E's objective against a float64 transcription of Eq. 6-21 and s.6-s.8.

Longer than other files: every equation of the method has its test.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from baselines.flow_matching import FlowMatching
from selfe.batch import LatentBatch
from selfe.objectives.base import Nets
from selfe.objectives.self_evaluation import SelfEvaluation, data_weight
from selfe.seeding import SampleRng
from selfe.times import TimeSampler
from tests.helpers import transcriptions
from tests.helpers.toy_networks import EMA, LIVE, Toy, numpy_toy, toy_batch

STEP = 7


@dataclass(frozen=True)
class FixedTimes(TimeSampler):
    """Given times instead of drawn ones."""

    t: tuple[float, ...] = ()
    s: tuple[float, ...] = ()

    def primary(self, rng: SampleRng, num_tokens: int) -> Tensor:
        return torch.tensor(self.t)

    def pairs(self, rng: SampleRng, num_tokens: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
        t, s = torch.tensor(self.t), torch.tensor(self.s)
        return t, s, t == s


TIMES = FixedTimes(
    t=(0.5, 0.6, 0.9, 0.97, 0.3, 0.8, 0.2, 0.35), s=(0.5, 0.2, 0.9, 0.4, 0.3, 0.75, 0.2, 0.05)
)


def rng(batch: int = 8) -> SampleRng:
    return SampleRng(11, torch.arange(batch))


def terms(
    batch: LatentBatch,
    times: FixedTimes = TIMES,
    theta: tuple[float, ...] | np.ndarray = LIVE,
    **options: object,
) -> list[transcriptions.SelfETerms]:
    """The transcription on the very noise that the objective draws."""
    stream = rng(len(batch))
    eps = stream.normal("eps", batch.x_0.shape[1:]).double().numpy()
    eps_s = stream.normal("eps_s", batch.x_0.shape[1:]).double().numpy()
    assert batch.fake is not None
    return [
        transcriptions.self_e(
            numpy_toy(theta),
            numpy_toy(EMA),
            batch.x_0[i].double().numpy(),
            eps[i],
            eps_s[i],
            float(torch.tensor(times.t[i])),
            float(torch.tensor(times.s[i])),
            batch.condition.pooled[i].double().numpy(),
            batch.null.pooled[0].double().numpy(),
            fake=batch.fake.pooled[i].double().numpy(),
            dropped=bool(batch.dropped[i]),
            **options,  # type: ignore[arg-type]
        )
        for i in range(len(batch))
    ]


def losses(found: list[transcriptions.SelfETerms]) -> np.ndarray:
    return np.array([term.loss for term in found])


def per_sample(objective: SelfEvaluation, batch: LatentBatch) -> np.ndarray:
    nets = Nets(live=Toy(LIVE), ema=Toy(EMA))
    output = objective.loss(batch, nets, STEP, rng(len(batch)))
    return output.per_sample.double().numpy()


VARIANTS = {
    "paper": ({}, {}),
    "no target norm, 1 + lambda": ({"target_norm": False}, {"target_norm": False}),
    "no target norm, weight 1": (
        {"target_norm": False, "unnormalized_weight": "one"},
        {"target_norm": False, "unnormalized_weight": "one"},
    ),
    "aux": ({"aux_from": 0}, {"aux": True}),
    "aux, k = 0.6": ({"aux_from": 0, "classifier_share": 0.6}, {"aux": True, "k": 0.6}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_loss_equals_the_transcription(name: str) -> None:
    settings, options = VARIANTS[name]
    batch = toy_batch(dropped=(3, 4))
    found = per_sample(SelfEvaluation(times=TIMES, **settings), batch)
    np.testing.assert_allclose(found, losses(terms(batch, **options)), rtol=2e-4)


MISTAKES = {
    "live weights judge the condition": transcriptions.Reading(cond_net="live"),
    "averaged weights judge the null prompt": transcriptions.Reading(null_net="ema"),
    "weights swapped": transcriptions.Reading(null_net="ema", cond_net="live"),
    "conditions swapped": transcriptions.Reading(swap_conditions=True),
    "sign": transcriptions.Reading(sign=-1.0),
    "evaluated at t": transcriptions.Reading(evaluate_at="t"),
    "second time 0": transcriptions.Reading(pair_second_time="0"),
    "data noised instead of the prediction": transcriptions.Reading(renoise_data=True),
    "noise not fresh": transcriptions.Reading(share_noise=True),
}


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.parametrize("norm", [True, False])
def test_known_mistakes_are_told_apart(name: str, norm: bool) -> None:
    batch = toy_batch()
    found = per_sample(SelfEvaluation(times=TIMES, target_norm=norm), batch)
    wrong = losses(terms(batch, target_norm=norm, reading=MISTAKES[name]))
    differing = np.array(TIMES.t) != np.array(TIMES.s)
    assert (np.abs(wrong / found - 1)[differing]).max() > 0.02
    np.testing.assert_allclose(wrong[~differing], found[~differing], rtol=2e-4)


@pytest.mark.parametrize(
    "reading",
    [transcriptions.Reading(fake_net="ema"), transcriptions.Reading(k_swapped=True)],
    ids=["weights", "k"],
)
def test_known_mistakes_of_the_auxiliary_term_are_told_apart(
    reading: transcriptions.Reading,
) -> None:
    batch = toy_batch()
    found = per_sample(SelfEvaluation(times=TIMES, aux_from=0), batch)
    wrong = losses(terms(batch, aux=True, reading=reading))
    assert np.abs(wrong / found - 1).max() > 0.005


@pytest.mark.parametrize("weight", ["inverse_square", "uniform"])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_fake_branch_loss(weight: str, scale: float) -> None:
    """Eq. s.8 is averaged over the samples with s < t and added to the mean of Eq. 21."""
    batch = toy_batch()
    objective = SelfEvaluation(
        times=TIMES, aux_from=0, fake_loss_weight=weight, fake_loss_scale=scale
    )
    output = objective.loss(batch, Nets(Toy(LIVE), Toy(EMA)), STEP, rng())
    found = terms(batch, aux=True, fake_weight=weight)
    fake = np.mean([term.fake_loss for term in found if term.fake_loss is not None])
    assert output.loss.item() == pytest.approx(losses(found).mean() + scale * fake, rel=2e-4)
    assert output.metrics["loss_fake"].item() == pytest.approx(fake, rel=2e-4)


SWITCHES = {
    "the same noise": ({"renoise": "same"}, {"reading": transcriptions.Reading(share_noise=True)}),
    "live weights judge": (
        {"conditional_weights": "live"},
        {"reading": transcriptions.Reading(cond_net="live")},
    ),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_another_reading_of_the_paper_equals_its_transcription(name: str) -> None:
    settings, options = SWITCHES[name]
    batch = toy_batch(dropped=(3,))
    found = per_sample(SelfEvaluation(times=TIMES, **settings), batch)
    np.testing.assert_allclose(found, losses(terms(batch, **options)), rtol=2e-4)
    assert not np.allclose(found, per_sample(SelfEvaluation(times=TIMES), batch), rtol=1e-2)


@pytest.mark.parametrize("norm", [True, False])
def test_dropped_captions_taken_literally_are_evaluated_like_others(norm: bool) -> None:
    """Eq. 18-20 with no exception: `dropped` then changes nothing."""
    objective = SelfEvaluation(times=TIMES, target_norm=norm, dropped="literal")
    plain, dropped = (per_sample(objective, toy_batch(dropped=rows)) for rows in ((), (3, 5)))
    kept = [i for i in range(8) if i not in (3, 5)]
    np.testing.assert_array_equal(plain[kept], dropped[kept])
    found = losses(terms(replace(toy_batch(dropped=(3, 5)), dropped=torch.zeros(8, dtype=bool)),
                         target_norm=norm))  # fmt: skip
    np.testing.assert_allclose(dropped, found, rtol=2e-4)
    usual = per_sample(SelfEvaluation(times=TIMES, target_norm=norm), toy_batch(dropped=(3, 5)))
    assert abs(usual[3] / dropped[3] - 1) > 0.01 and usual[0] == dropped[0]


def test_the_fake_loss_may_be_averaged_over_the_batch() -> None:
    """Half of TIMES has s < t, so that the average over all samples is half of theirs."""
    found = {}
    for average in ("rows", "batch"):
        objective = SelfEvaluation(times=TIMES, aux_from=0, fake_average=average)
        output = objective.loss(toy_batch(), Nets(Toy(LIVE), Toy(EMA)), STEP, rng())
        found[average] = output.metrics["loss_fake"].item()
        main = output.loss.item() - found[average]
        assert main == pytest.approx(output.per_sample.mean().item(), rel=1e-4)
    share = np.mean(np.array(TIMES.s) < np.array(TIMES.t))
    assert found["batch"] == pytest.approx(share * found["rows"])


def test_metrics_are_the_mean_losses_of_either_kind_of_sample() -> None:
    output = SelfEvaluation(times=TIMES).loss(toy_batch(), Nets(Toy(LIVE), Toy(EMA)), STEP, rng())
    equal = output.t == output.s
    for metric, rows in (("loss_data", equal), ("loss_self", ~equal)):
        assert output.metrics[metric].item() == pytest.approx(output.per_sample[rows].mean().item())


def test_auxiliary_term_starts_at_its_iteration() -> None:
    batch, nets = toy_batch(), Nets(Toy(LIVE), Toy(EMA))
    late = SelfEvaluation(times=TIMES, aux_from=5)
    never, always = SelfEvaluation(times=TIMES), SelfEvaluation(times=TIMES, aux_from=0)
    before, after = (late.loss(batch, nets, step, rng()).loss for step in (4, 5))
    assert torch.equal(before, never.loss(batch, nets, 4, rng()).loss)
    assert torch.equal(after, always.loss(batch, nets, 5, rng()).loss)
    assert not torch.equal(before, after)


def test_equal_times_are_flow_matching_bit_for_bit() -> None:
    batch = toy_batch(dropped=(1,))
    times = FixedTimes(t=TIMES.t, s=TIMES.t)
    gradients, outputs = [], []
    for objective in (SelfEvaluation(times=times), FlowMatching(times=times)):
        live = Toy(LIVE)
        output = objective.loss(batch, Nets(live, Toy(EMA)), STEP, rng())
        output.loss.backward()
        outputs.append(output)
        gradients.append(live.theta.grad)
    assert torch.equal(outputs[0].loss, outputs[1].loss)
    assert torch.equal(outputs[0].per_sample, outputs[1].per_sample)
    assert torch.equal(gradients[0], gradients[1])


def test_even_half_equals_flow_matching_on_drawn_times() -> None:
    batch, nets = toy_batch(), Nets(Toy(LIVE), Toy(EMA))
    ours = SelfEvaluation(times=TimeSampler(tau_horizon=10)).loss(batch, nets, STEP, rng())
    flow = FlowMatching(times=TimeSampler(tau_horizon=10)).loss(batch, nets, STEP, rng())
    assert torch.equal(ours.t, flow.t)
    assert torch.equal(ours.per_sample[::2], flow.per_sample[::2])
    assert (ours.per_sample[1::2] != flow.per_sample[1::2]).all()


@pytest.mark.parametrize("aux", [False, True])
@pytest.mark.parametrize("norm", [True, False])
def test_gradient_is_that_of_the_loss_with_frozen_target(aux: bool, norm: bool) -> None:
    """Finite differences in float64: only the first pass and the fake branch carry gradient."""
    batch = toy_batch(dropped=(3,))
    live, ema = Toy(LIVE), Toy(EMA)
    objective = SelfEvaluation(times=TIMES, target_norm=norm, aux_from=0 if aux else None)
    objective.loss(batch, Nets(live, ema), STEP, rng()).loss.backward()
    assert ema.theta.grad is None

    base = terms(batch, aux=aux, target_norm=norm)
    stream = rng()
    eps = stream.normal("eps", batch.x_0.shape[1:]).double().numpy()

    def frozen(theta: np.ndarray) -> float:
        net = numpy_toy(theta)
        total, fakes = 0.0, []
        for i, term in enumerate(base):
            t, s = (float(torch.tensor(times[i])) for times in (TIMES.t, TIMES.s))
            x_t = transcriptions.noisy(batch.x_0[i].double().numpy(), eps[i], t)
            c = batch.condition.pooled[i].double().numpy()
            total += term.weight * np.mean(
                (transcriptions.head(net, x_t, t, s, c) - term.target) ** 2
            )
            if aux and s < t:
                fake = batch.fake.pooled[i].double().numpy()  # type: ignore[union-attr]
                g_fake = transcriptions.head(net, term.x_s_hat, s, s, fake)
                fakes.append(np.mean((g_fake - term.x0_hat) ** 2) / s**2)
        return total / len(base) + (np.mean(fakes) if fakes else 0.0)

    h = 1e-5
    expected = [
        (frozen(np.array(LIVE) + h * unit) - frozen(np.array(LIVE) - h * unit)) / (2 * h)
        for unit in np.eye(len(LIVE))
    ]
    np.testing.assert_allclose(live.theta.grad.numpy(), expected, rtol=1e-3, atol=1e-4)


def test_without_target_norm_the_gradient_is_that_of_eq16() -> None:
    """The regression on Eq. 18 with weight 1 + lambda and Eq. 16 differ by a constant only."""
    batch = toy_batch()
    live = Toy(LIVE)
    objective = SelfEvaluation(times=TIMES, target_norm=False)
    objective.loss(batch, Nets(live, Toy(EMA)), STEP, rng()).loss.backward()
    base = terms(batch, target_norm=False)
    eps = rng().normal("eps", batch.x_0.shape[1:]).double().numpy()

    def hybrid(theta: np.ndarray) -> float:
        total = 0.0
        for i, term in enumerate(base):
            t, s = (float(torch.tensor(times[i])) for times in (TIMES.t, TIMES.s))
            x_0 = batch.x_0[i].double().numpy()
            c = batch.condition.pooled[i].double().numpy()
            x0_hat = transcriptions.head(
                numpy_toy(theta), transcriptions.noisy(x_0, eps[i], t), t, s, c
            )
            x_self = x_0 if term.x_self is None else term.x_self
            total += transcriptions.eq16(x0_hat, x_0, x_self, t, s)
        return total / len(base)

    h = 1e-5
    expected = [
        (hybrid(np.array(LIVE) + h * unit) - hybrid(np.array(LIVE) - h * unit)) / (2 * h)
        for unit in np.eye(len(LIVE))
    ]
    np.testing.assert_allclose(live.theta.grad.numpy(), expected, rtol=1e-3, atol=1e-4)


def test_pure_noise_is_finite_and_follows_the_limit() -> None:
    """At t = 1 lambda diverges; Eq. 19 tends to x_self, scaled."""
    batch = toy_batch(4)
    times = FixedTimes(t=(1.0, 1.0, 1.0, 1.0), s=(1.0, 0.0, 0.6, 0.999))
    live = Toy(LIVE)
    output = SelfEvaluation(times=times).loss(batch, Nets(live, Toy(EMA)), STEP, rng(4))
    output.loss.backward()
    assert torch.isfinite(output.loss) and torch.isfinite(live.theta.grad).all()
    np.testing.assert_allclose(output.per_sample.numpy(), losses(terms(batch, times)), rtol=2e-4)


def test_only_the_s_below_t_half_is_evaluated() -> None:
    batch = toy_batch()
    for aux, live_calls in (
        (None, [(8, True), (4, False)]),
        (0, [(8, True), (4, False), (4, True)]),
    ):
        live, ema = Toy(LIVE), Toy(EMA)
        objective = SelfEvaluation(times=TimeSampler(tau_horizon=10), aux_from=aux)
        objective.loss(batch, Nets(live, ema), STEP, rng())
        assert live.calls == live_calls
        assert ema.calls == [(4, False)]


def test_no_evaluation_where_all_times_are_equal() -> None:
    live, ema = Toy(LIVE), Toy(EMA)
    times = FixedTimes(t=TIMES.t, s=TIMES.t)
    SelfEvaluation(times=times).loss(toy_batch(), Nets(live, ema), STEP, rng())
    assert live.calls == [(8, True)] and ema.calls == []


def test_dropped_captions_have_the_flow_matching_loss() -> None:
    batch = toy_batch(dropped=(1, 3))
    found = per_sample(SelfEvaluation(times=TIMES), batch)
    kept = per_sample(SelfEvaluation(times=TIMES), toy_batch())
    expected = losses(terms(batch))
    for row in (1, 3):
        x_0 = batch.x_0[row].double().numpy()
        x0_hat = terms(batch)[row].x0_hat
        data_loss = np.mean((x0_hat - x_0) ** 2) / TIMES.t[row] ** 2
        assert found[row] == pytest.approx(data_loss, rel=2e-4)
        assert expected[row] == pytest.approx(data_loss, rel=2e-4)
    np.testing.assert_array_equal(found[[0, 5, 7]], kept[[0, 5, 7]])


def test_missing_fake_captions_are_named() -> None:
    batch = toy_batch()
    bare = LatentBatch(batch.x_0, batch.condition, batch.null, batch.dropped, batch.index)
    with pytest.raises(ValueError, match="fake"):
        SelfEvaluation(times=TIMES, aux_from=0).loss(bare, Nets(Toy(), Toy(EMA)), STEP, rng())


def test_data_weight_is_one_over_one_plus_lambda() -> None:
    generator = torch.Generator().manual_seed(0)
    t = torch.rand(1000, generator=generator, dtype=torch.float64) * 0.999
    s = t * torch.rand(1000, generator=generator, dtype=torch.float64)
    expected = [
        1 / (1 + transcriptions.eq17(a, b)) for a, b in zip(t.tolist(), s.tolist(), strict=True)
    ]
    np.testing.assert_allclose(data_weight(t, s).numpy(), expected, rtol=1e-9)
    # in fp32, as training computes it: of order 1 / (1 - s) ulps, never outside [0, 1]
    single = data_weight(t.float(), s.float()).double().numpy()
    np.testing.assert_allclose(single, expected, rtol=2e-3)
    assert (single >= 0).all() and (single <= 1 + 1e-6).all()
    ends = data_weight(torch.tensor([1.0, 1.0, 0.4]), torch.tensor([0.0, 1.0, 0.4]))
    assert ends.tolist() == [0.0, 1.0, 1.0]
