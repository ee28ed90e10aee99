"""Classifier-free guidance: the identities that define each kind."""

from __future__ import annotations

import pytest
import torch

from selfe.config.schema import SamplingConfig
from selfe.guidance import Guidance, energy_preserving_guidance, linear_guidance
from tests.helpers import transcriptions

KINDS = ["linear", "ep-v", "ep-x0"]


def predictions() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    null, cond, x_t = torch.randn(3, 5, 2, 3, 3, generator=generator, dtype=torch.float64)
    return null, cond * 1.7, x_t, torch.tensor([0.1, 0.3, 0.5, 0.8, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("omega", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_against_the_transcription(omega: float) -> None:
    null, cond, x_t, t = predictions()
    functions = {
        "linear": lambda n, c, x, time: transcriptions.linear_cfg(n, c, omega),
        "ep-v": lambda n, c, x, time: transcriptions.ep_cfg(n, c, omega),
        "ep-x0": lambda n, c, x, time: transcriptions.ep_cfg_x0(n, c, omega, x, time),
    }
    for kind, expected in functions.items():
        found = Guidance(kind, omega).combine(null, cond, x_t, t)  # type: ignore[arg-type]
        for i in range(len(t)):
            row = expected(null[i].numpy(), cond[i].numpy(), x_t[i].numpy(), t[i].item())
            torch.testing.assert_close(found[i], torch.from_numpy(row))


def test_energy_is_that_of_the_conditional_prediction() -> None:
    null, cond, x_t, t = predictions()
    guided = energy_preserving_guidance(null, cond, 5.0)
    energy = lambda x: x.square().flatten(1).sum(1)  # noqa: E731
    torch.testing.assert_close(energy(guided), energy(cond))
    time = t.reshape(-1, 1, 1, 1)
    x0 = x_t - time * Guidance("ep-x0", 5.0).combine(null, cond, x_t, t)
    torch.testing.assert_close(energy(x0), energy(x_t - time * cond))
    # direction unchanged: parallel to linear guidance
    linear = linear_guidance(null, cond, 5.0)
    cosine = (guided * linear).flatten(1).sum(1) / (energy(guided) * energy(linear)).sqrt()
    torch.testing.assert_close(cosine, torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
def test_scale_one_is_the_conditional_prediction(kind: str) -> None:
    null, cond, x_t, t = predictions()
    guidance = Guidance(kind, 1.0)  # type: ignore[arg-type]
    torch.testing.assert_close(guidance.combine(null, cond, x_t, t), cond)
    assert not guidance.needs_null


def test_linear_guidance_is_linear_and_the_same_on_v_and_x0() -> None:
    null, cond, x_t, t = predictions()
    low, middle, high = (linear_guidance(null, cond, omega) for omega in (1.0, 2.0, 3.0))
    torch.testing.assert_close(high - middle, middle - low)
    torch.testing.assert_close(linear_guidance(null, cond, 0.0), null)
    time = t.reshape(-1, 1, 1, 1)
    x0 = linear_guidance(x_t - time * null, x_t - time * cond, 3.0)
    torch.testing.assert_close((x_t - x0) / time, high)


@pytest.mark.parametrize("kind", KINDS)
def test_calls_needed(kind: str) -> None:
    assert Guidance(kind, 2.0).needs_null  # type: ignore[arg-type]
    assert not Guidance("none", 7.0).needs_null


@pytest.mark.parametrize("kind", ["none", "linear", "ep-v", "ep-x0"])
@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize("time", ["s", "t"])
def test_plans_count_the_calls_of_a_step(kind, scale, time):
    settings = SamplingConfig(guidance=kind, guidance_scale=scale, guidance_time=time)
    assert settings.calls == Guidance(kind, scale, time).calls
