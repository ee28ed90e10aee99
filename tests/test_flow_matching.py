"""The Flow Matching baseline against Eq. 3."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from baselines.flow_matching import FlowMatching
from selfe.objectives.base import Nets
from selfe.seeding import SampleRng
from tests.helpers import transcriptions
from tests.helpers.toy_networks import EMA, LIVE, Toy, numpy_toy, toy_batch


def test_loss_and_gradient_equal_the_transcription() -> None:
    batch, live, ema = toy_batch(dropped=(2,)), Toy(LIVE), Toy(EMA)
    rng = SampleRng(4, torch.arange(8))
    output = FlowMatching().loss(batch, Nets(live, ema), 3, rng)
    output.loss.backward()
    eps = rng.normal("eps", batch.x_0.shape[1:]).double().numpy()

    def losses(theta: np.ndarray) -> list[float]:
        return [
            transcriptions.flow_matching(
                numpy_toy(theta),
                batch.x_0[i].double().numpy(),
                eps[i],
                float(output.t[i]),
                batch.condition.pooled[i].double().numpy(),
            )
            for i in range(8)
        ]

    expected = losses(np.array(LIVE))
    np.testing.assert_allclose(output.per_sample.numpy(), expected, rtol=1e-4)
    assert output.loss.item() == pytest.approx(np.mean(expected), rel=1e-4)
    h = 1e-5
    slopes = [
        (np.mean(losses(np.array(LIVE) + h * e)) - np.mean(losses(np.array(LIVE) - h * e))) / 2 / h
        for e in np.eye(6)
    ]
    np.testing.assert_allclose(live.theta.grad.numpy(), slopes, rtol=1e-3, atol=1e-4)
    assert live.calls == [(8, True)] and ema.calls == []
    assert torch.equal(output.t, output.s)


def test_iteration_plays_no_part() -> None:
    batch, nets, rng = toy_batch(), Nets(Toy(), Toy(EMA)), SampleRng(4, torch.arange(8))
    early, late = (FlowMatching().loss(batch, nets, step, rng).loss for step in (0, 10**6))
    assert torch.equal(early, late)
