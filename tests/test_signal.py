"""`data.signal`: a factor on the latents is a shift of time, and another codec everywhere else."""

from __future__ import annotations

import math

import pytest
import torch

from evals.base import ProtocolFacts
from evals.report.page import protocol_text
from evals.results import protocol_key
from selfe.config.recipes import CALIBRATED_SIGNAL
from selfe.config.resolve import changed_settings, differing_settings, resolve, validate
from selfe.data.gaussian_mixture import ConditionalGaussianMixture, overlapping_pairs
from selfe.data.shapes_latents import shapes_latents
from selfe.data.shapes_world import ShapesWorld
from selfe.encoders.registry import build_codec, load_codec
from selfe.sampler import SamplerSettings, draw_samples
from selfe.times import length_shift
from tests.helpers.tiny import tiny_config

TOKENS = 16
FACTORS = (0.5, 0.25, 0.12)


def scaled(world: ConditionalGaussianMixture, b: float) -> ConditionalGaussianMixture:
    """The same data times b."""
    return ConditionalGaussianMixture(
        world.weights, b * world.means, b * b * world.covariances, world.prior
    )


def exact_velocity(world: ConditionalGaussianMixture):
    """V of a Flow Matching model that has learnt everything: (x_t - E[x_0 | x_t]) / t."""

    def velocity(x, t, s):
        # grids are float64, what a network is told is float32
        time = float(t[0])
        return (x - world.posterior_mean(x, time, 0)) / time

    return velocity


@pytest.mark.parametrize("b", FACTORS)
@pytest.mark.parametrize("t", [0.99, 0.7, 0.2])
def test_a_factor_is_a_shift_of_time(b: float, t: float) -> None:
    """E[b x_0 | x_t at t] = b E[x_0 | x' at t'], t' / (1 - t') = t / ((1 - t) b)."""
    world = overlapping_pairs()
    x_t = torch.randn(64, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    odds = t / ((1 - t) * b)
    moved = odds / (1 + odds)
    x_moved = x_t / ((1 - t) * b + t)
    for condition in (0, None):
        found = scaled(world, b).posterior_mean(x_t, t, condition)
        assert torch.allclose(found, b * world.posterior_mean(x_moved, moved, condition))


@pytest.mark.parametrize("b", FACTORS)
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("num_steps", [1, 2, 4, 9])
def test_a_grid_shifted_towards_data_wins_a_factor_back(
    b: float, eta: float, num_steps: int
) -> None:
    """Samples of the data times b on the grid mu are those of the data on mu - ln b, times b."""
    world = overlapping_pairs()
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(64, 2, generator=generator, dtype=torch.float64)
    fresh = torch.randn(num_steps, 64, 2, generator=generator, dtype=torch.float64)

    def draw(factor: float, shift: float) -> torch.Tensor:
        settings = SamplerSettings(eta=eta, shift=shift)
        velocity = exact_velocity(scaled(world, factor))
        return draw_samples(velocity, x, num_steps, TOKENS, settings, lambda k: fresh[k])

    mu = length_shift(TOKENS)
    assert torch.allclose(draw(b, mu), b * draw(1.0, mu - math.log(b)), atol=1e-4 * b)
    # and the grid of the recipe is the one that is taken where no other is asked for
    usual = draw_samples(
        exact_velocity(world), x, num_steps, TOKENS, SamplerSettings(eta=eta), lambda k: fresh[k]
    )
    assert torch.equal(usual, draw(1.0, mu))


def test_the_codec_multiplies_and_divides() -> None:
    plain, quarter = load_codec("shapes-grid", "cpu"), load_codec("shapes-grid", "cpu", "", 0.25)
    world = ShapesWorld("grid")
    images = torch.from_numpy(
        world.render_batch([world.training_example(900, i) for i in range(4)])
    )
    images = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    latents = plain.encode(images)
    assert torch.allclose(quarter.encode(images), latents / 4, rtol=1e-6, atol=0)
    assert torch.equal(quarter.decode(latents / 4), plain.decode(latents))
    assert plain.digest != quarter.digest != load_codec("shapes-grid", "cpu", "", 0.5).digest
    assert load_codec("shapes-grid", "cpu", "", 1.0).digest == plain.digest


def test_only_codecs_of_the_shapes_world_have_a_signal() -> None:
    with pytest.raises(ValueError, match="the codec 'flux' has none"):
        load_codec("flux", "cpu", "", 0.5)
    with pytest.raises(ValueError, match=r"data\.signal must be greater than 0"):
        resolve("shapes", "fm", assignments=["data.signal=0"])


def test_caches_of_two_factors_are_two_files(tmp_path) -> None:
    world = ShapesWorld("grid")
    found = [
        shapes_latents(world, build_codec(config, "cpu"), 8, tmp_path)[0].float()
        for config in (tiny_config("fm", "data.signal=1"), tiny_config("fm", "data.signal=0.25"))
    ]
    assert len(list(tmp_path.iterdir())) == 2
    assert torch.allclose(found[0] / 4, found[1], rtol=2e-3)


def test_earlier_runs_keep_their_names() -> None:
    plain = resolve("shapes", "fm", assignments=["data.signal=1"])
    weak = resolve("shapes", "fm", assignments=["data.signal=0.25"])
    stored = plain.model_dump(mode="json")
    del stored["data"]["signal"]  # as a run of before there was one has it
    earlier = validate(stored)
    assert earlier.digest == plain.digest != weak.digest
    assert plain.seedless_digest != weak.seedless_digest
    assert weak == resolve("shapes", "fm")
    assert changed_settings(weak) == []
    assert changed_settings(earlier) == ["data.signal=1.0"]


def test_the_control_is_the_world_as_it_was() -> None:
    easy, calibrated = resolve("shapes-easy", "fm"), resolve("shapes", "fm")
    assert easy.data.signal == 1.0 and calibrated.data.signal == CALIBRATED_SIGNAL
    names = {name for name, *_ in differing_settings(easy, calibrated)}
    assert {n for n in names if not n.startswith("sampling.")} == {"recipe", "data.signal"}


def test_a_signal_is_of_the_world_it_was_calibrated_in() -> None:
    """Other codecs and presets have their own."""
    given = ["data.preset=free", "data.codec=shapes-free"]
    assert resolve("shapes", "fm", assignments=given).data.signal == 1.0
    assert resolve("shapes", "fm", assignments=["data.codec=flux"]).data.signal == 1.0
    same = ["data.preset=grid", "data.codec=shapes-grid"]  # the recipe's own world, by name
    assert resolve("shapes", "fm", assignments=same) == resolve("shapes", "fm")
    assert resolve("shapes", "fm", assignments=["data.signal=0.5", *given]).data.signal == 0.5


def test_earlier_tables_keep_their_names() -> None:
    facts = {
        "suite": "shapes@1",
        "prompts_sha256": "0" * 64,
        "num_prompts": 66,
        "images_per_prompt": 4,
        "detector": "d",
        "color_classifier": "c",
        "rules": {},
    }
    protocols = [ProtocolFacts(**facts, signal=b) for b in (1.0, 0.25)]
    assert protocol_key(protocols[0]) == protocol_key(ProtocolFacts(**facts))
    assert protocol_key(protocols[0]) != protocol_key(protocols[1])
    assert "latents times 0.25" in protocol_text(protocols[1])
    assert "latents" not in protocol_text(protocols[0])


@pytest.mark.parametrize("signal", [1.0, 0.5, CALIBRATED_SIGNAL])
def test_imm_is_told_the_deviation_of_the_latents(signal: float) -> None:
    config = resolve("shapes-quick", "imm", assignments=[f"data.signal={signal}"])
    assert config.objective["sigma_d"] == signal
    given = [f"data.signal={signal}", "objective.sigma_d=0.7"]
    assert resolve("shapes-quick", "imm", assignments=given).objective["sigma_d"] == 0.7


def test_a_recipe_without_a_signal_leaves_imm_as_published() -> None:
    for recipe in ("shapes-easy", "0.5b"):
        objective = resolve(recipe, "imm").objective
        assert (objective["sigma_d"], objective["gap_exponent"]) == (1.0, 12)
