"""The shortcut objective against Eq. 4-5 of arXiv 2410.12557."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from baselines.flow_matching import FlowMatching
from baselines.shortcut import ShortcutModel
from selfe.objectives.base import Nets
from selfe.sampler import time_grid
from selfe.seeding import SampleRng
from tests.helpers import transcriptions
from tests.helpers.toy_networks import EMA, LIVE, Toy, numpy_toy, toy_batch

BATCH, SIZE, LEVELS = 32, 4, 3
SHORTCUT = ShortcutModel(group_size=SIZE, levels=LEVELS)


def rng(batch: int = BATCH) -> SampleRng:
    return SampleRng(6, torch.arange(batch))


def drawn_spans(tokens: int) -> list[tuple[float, float, float, bool]]:
    """(t, m, s, finest) of every sample: a level, then one of its equal spans, both warped."""
    found = []
    level_draws, span_draws = (rng().uniform(name).tolist() for name in ("level", "span"))
    for u, w in zip(level_draws, span_draws, strict=True):
        level = int(u * LEVELS)
        count = 2**level
        edges = transcriptions.grid(2 * count, tokens)  # from noise to data, with the middles
        place = 2 * int(w * count)
        found.append((edges[place], edges[place + 1], edges[place + 2], level == LEVELS - 1))
    return found


def expected_losses(theta: tuple[float, ...] | np.ndarray, output_t: list[float]) -> list[float]:
    batch = toy_batch(BATCH, dropped=(4, 9))
    eps = rng().normal("eps", batch.x_0.shape[1:]).double().numpy()
    losses = []
    for i, (t, m, s, finest) in enumerate(drawn_spans(batch.num_tokens)):
        x_0, c = batch.x_0[i].double().numpy(), batch.condition.pooled[i].double().numpy()
        if i % SIZE:
            losses.append(
                transcriptions.flow_matching(numpy_toy(theta), x_0, eps[i], output_t[i], c)
            )
            continue
        x_t = transcriptions.noisy(x_0, eps[i], t)
        target = transcriptions.shortcut_target(numpy_toy(EMA), x_t, (t, m, s), c, velocity=finest)
        losses.append(float(np.mean((numpy_toy(theta)(x_t, t, s, c) - target) ** 2)))
    return losses


def test_loss_and_gradient_equal_the_transcription() -> None:
    batch, live, ema = toy_batch(BATCH, dropped=(4, 9)), Toy(LIVE), Toy(EMA)
    output = SHORTCUT.loss(batch, Nets(live, ema), 7, rng())
    output.loss.backward()
    times = output.t.tolist()
    np.testing.assert_allclose(output.per_sample, expected_losses(LIVE, times), rtol=2e-4)
    h = 1e-5
    slopes = []
    for e in np.eye(6):
        up, down = (np.mean(expected_losses(np.array(LIVE) + k * e, times)) for k in (h, -h))
        slopes.append((up - down) / 2 / h)
    np.testing.assert_allclose(live.theta.grad.numpy(), slopes, rtol=1e-3, atol=1e-4)
    assert live.calls == [(BATCH, True)]
    assert ema.calls == [(BATCH // SIZE, False)] * 2
    shortcuts = output.per_sample[::SIZE]
    assert output.metrics["loss_shortcut"].item() == pytest.approx(shortcuts.mean().item())
    others = output.per_sample.reshape(-1, SIZE)[:, 1:]
    assert output.metrics["loss_data"].item() == pytest.approx(others.mean().item())


def test_times_of_shortcuts_are_steps_of_the_sampler() -> None:
    count = 4000
    t, m, s, finest = SHORTCUT.spans(rng(count), num_tokens=64)
    trained = Counter()
    for i in range(count):
        for level in range(LEVELS):
            grid = time_grid(2**level, 64)
            middle = time_grid(2 ** (level + 1), 64)[1::2]
            for k, ends in enumerate(zip(grid[:-1], grid[1:], strict=True)):
                if (t[i].item(), s[i].item()) == pytest.approx(ends, abs=1e-6):
                    assert m[i].item() == pytest.approx(middle[k], abs=1e-6)
                    assert finest[i].item() == (level == LEVELS - 1)
                    trained[level, k] += 1
    assert sum(trained.values()) == count
    for (level, _), times in trained.items():
        assert times == pytest.approx(count / LEVELS / 2**level, rel=0.25)
    assert len(trained) == 1 + 2 + 4


def test_all_other_samples_are_those_of_flow_matching() -> None:
    batch = toy_batch(BATCH)
    ours = SHORTCUT.loss(batch, Nets(Toy(LIVE), Toy(EMA)), 0, rng())
    plain = FlowMatching().loss(batch, Nets(Toy(LIVE), Toy(EMA)), 0, rng())
    others = torch.arange(BATCH) % SIZE != 0
    assert torch.equal(ours.per_sample[others], plain.per_sample[others])
    assert torch.equal(ours.t[others], plain.t[others])
    assert torch.equal(ours.s[others], ours.t[others])


def test_a_network_that_steps_straight_has_no_shortcut_to_learn() -> None:
    """Where V does not change on the way, two steps go where one goes: a loss of zero."""
    batch = toy_batch(BATCH)

    def straight(x, t, s, condition):
        return condition.pooled[:, :1, None, None].expand_as(x)

    output = SHORTCUT.loss(batch, Nets(_with_gradient(straight), straight), 0, rng())
    assert output.per_sample[::SIZE].max() < 1e-10
    assert output.per_sample.max() > 0.1


def _with_gradient(net):
    one = torch.ones((), requires_grad=True)
    return lambda *arguments: one * net(*arguments)


def test_groups_must_be_whole() -> None:
    with pytest.raises(ValueError, match="a batch of 6 does not divide into groups of 4"):
        SHORTCUT.loss(toy_batch(6), Nets(Toy(), Toy()), 0, rng(6))
