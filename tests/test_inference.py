"""What V means decides how it is drawn: exact flow maps, velocities and posteriors of a Gaussian go
through every recipe, method and number of steps."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from torch import Tensor

from evals.base import ProtocolFacts
from evals.results import protocol_key
from selfe.cli.suspicions import of_drawing
from selfe.config.drawing import chosen_sampling, sampling_facts
from selfe.config.inference import (
    INFERENCES,
    as_drawn,
    check_sampling,
    inference_settings,
    sampling_problem,
)
from selfe.config.recipes import FAMILIES, RECIPES
from selfe.config.resolve import resolve
from selfe.config.schema import SamplingConfig
from selfe.config.search_space import first_stage, second_stage
from selfe.generation.any_step import draw_latents
from selfe.objectives.registry import METHODS, load_method
from selfe.path import expand_time
from selfe.sampler import even_grid
from selfe.times import length_shift

SIGMA = 0.5
"""Deviation of the data, whose mean is 0."""
STEPS = (1, 2, 4, 8, 50)


def deviation(t: Tensor) -> Tensor:
    """Of x_t."""
    return torch.sqrt((1 - t) ** 2 * SIGMA**2 + t**2)


def velocity(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """(x_t - E[x_0 | x_t]) / t, whatever s is."""
    t = expand_time(t.double(), x)
    return x * (1 - (1 - t) * SIGMA**2 / deviation(t) ** 2) / t


def velocity_at_t(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    assert torch.equal(s, t), "asked for where it was never trained"
    return velocity(x, t, s)


def flow_map(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The mean velocity from t to s along the path of the probability flow."""
    t_, s_ = (expand_time(time.double(), x) for time in (t, s))
    moved = x * deviation(s_) / deviation(t_)
    return torch.where(s_ < t_, (x - moved) / (t_ - s_).clamp_min(1e-9), velocity(x, t, s))


EXACT = {"velocity": velocity_at_t, "posterior": velocity, "flow-map": flow_map}


def drawn_deviation(
    settings: SamplingConfig, prediction: str, steps: int, samples: int = 6000
) -> float:
    generator = torch.Generator().manual_seed(0)

    def noise(k: int = 0) -> Tensor:
        return torch.randn(samples, 1, generator=generator, dtype=torch.float64)

    drawn = draw_latents(EXACT[prediction], noise(), steps, 256, settings, noise)
    return drawn.std().item()


@pytest.mark.parametrize("method", METHODS.names())
@pytest.mark.parametrize("recipe", list(RECIPES))
def test_every_recipe_draws_an_exact_model_exactly(recipe, method):
    config, row = resolve(recipe, method), load_method(method)
    named = {
        name: SamplingConfig.model_validate(inference_settings(recipe, row, name))
        for name in INFERENCES
        if name != "searched" or FAMILIES[recipe] == "shapes"
    }
    found = {}
    for name, sampling in {"recipe": config.sampling, **named}.items():
        check_sampling(sampling, method)
        for steps in STEPS:
            settings = as_drawn(sampling.at(steps), row.prediction)
            key = (name, steps)
            found[key] = drawn_deviation(settings, row.prediction, steps)
            if row.prediction == "flow-map":
                assert found[key] == pytest.approx(SIGMA, rel=0.03), key
        # a posterior mean is no sample, but many steps of it nearly are
        errors = [abs(found[name, steps] - SIGMA) for steps in (1, 4, 50)]
        assert errors[2] < 0.12 * SIGMA, name
        if row.prediction != "flow-map":
            assert errors[2] < errors[1] < errors[0], name


def test_the_fault_that_the_check_is_for():
    """Any-step at eta 1 takes an exact flow map away from the data, and is refused."""
    wrong = SamplingConfig()
    found = [drawn_deviation(wrong, "flow-map", n, 20_000) for n in (2, 4, 8, 50)]
    assert found == pytest.approx([0.478, 0.441, 0.443, 0.481], abs=0.01)
    for method in ("imm", "shortcut", "transition", "meanflow"):
        with pytest.raises(
            ValueError, match="eta = 1 needs an image at every s and its V is the m"
        ):
            check_sampling(wrong, method)
    check_sampling(wrong, "selfe")
    check_sampling(wrong, "fm")


@pytest.mark.parametrize(
    ("method", "assignment", "words"),
    [
        ("imm", "sampling.sampler=any-step", "sampling.eta=0"),
        ("meanflow", "sampling.s_fraction=0.5", "s_fraction = 0.5"),
        ("shortcut", "sampling.guidance=ep-x0", "ep-x0"),
        ("fm", "sampling.sampler=pushforward", "never trained"),
        ("fm", "sampling.s_fraction=0.5", "never trained"),
        ("meanflow", 'sampling.by_steps={"8": {"eta": 1.0}}', "at 8 steps"),
    ],
)
def test_settings_that_do_not_suit_a_method_are_one_sentence(method, assignment, words):
    with pytest.raises(ValueError) as caught:
        resolve("shapes", method, assignments=[assignment])
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_flow_matching_is_asked_at_s_equal_to_t():
    """Its results say so, whatever the section that earlier runs recorded says."""
    facts = sampling_facts(SamplingConfig(s_fraction=0.0), "velocity")
    assert facts["s"] == "t" and "s_fraction" not in facts
    assert as_drawn(SamplingConfig(s_fraction=0.0), "velocity").s_fraction == 1.0
    assert "s" not in sampling_facts(SamplingConfig())
    assert as_drawn(SamplingConfig(s_fraction=0.0), "posterior").s_fraction == 0.0
    with pytest.raises(ValueError, match="Flow Matching was trained only at s = t"):
        chosen_sampling(resolve("shapes", "fm"), {"s_fraction": 0.0})


def test_restart_takes_guided_images_for_it_asks_at_s_0():
    restart = SamplingConfig(sampler="restart", guidance="ep-x0")
    assert sampling_problem(restart, "flow-map") == ""
    pushed = restart.model_copy(update={"sampler": "pushforward"})
    assert "ep-x0" in sampling_problem(pushed, "flow-map")


def test_the_papers_inference_is_the_same_for_all_that_can_take_it():
    papers = {m: inference_settings("shapes", load_method(m), "paper") for m in METHODS.names()}
    wanted = {"guidance": "ep-v", "guidance_scale": 5.0, "eta": 1.0, "warp": True}
    for method in ("selfe", "fm"):
        assert papers[method] == papers["selfe"]
        assert {key: papers[method][key] for key in wanted} == wanted
        assert papers[method]["update"] == "minfm" and papers[method]["by_steps"] == {}
    assert (papers["imm"]["sampler"], papers["imm"]["guidance"]) == ("pushforward", "linear")
    beside = inference_settings("0.5b", load_method("selfe"), "paper-ancestral")
    assert beside == papers["selfe"] | {"update": "ancestral"}


def test_inference_has_names_that_are_known():
    config = resolve("shapes", "selfe", assignments=["sampling.batch_slots=8"])
    searched = chosen_sampling(config, {}, "searched")
    assert searched == config.sampling
    assert chosen_sampling(config, {}, "paper").batch_slots == 8
    with pytest.raises(ValueError, match="paper or paper-ancestral or searched, got 'papers'"):
        chosen_sampling(config, {}, "papers")
    with pytest.raises(ValueError, match="sets every sampling setting"):
        chosen_sampling(config, {"eta": 0.0}, "paper")
    with pytest.raises(ValueError, match="no sampling was searched for Self-E"):
        chosen_sampling(resolve("0.5b", "selfe"), {}, "searched")


def test_results_of_two_inferences_share_no_table_and_earlier_ones_keep_their_names():
    facts = ProtocolFacts(
        suite="shapes@1", prompts_sha256="0", num_prompts=1, images_per_prompt=1,
        detector="d", color_classifier="c", rules={},
    )  # fmt: skip
    keys = {protocol_key(facts.model_copy(update={"inference": name})) for name in ("", "paper")}
    assert len(keys) == 2
    earlier = json.dumps(
        facts.model_dump(mode="json", exclude={"inference", "signal", "crop_black_borders"}),
        sort_keys=True,
    )
    assert protocol_key(facts) == hashlib.sha256(earlier.encode()).hexdigest()


@pytest.mark.parametrize("method", METHODS.names())
def test_a_search_tries_as_many_settings_for_every_method(method):
    row = load_method(method)
    tried = first_stage(row)
    assert len(tried) == len({json.dumps(t, sort_keys=True) for t in tried}) == 28
    scales = {t["guidance_scale"] for t in tried if t["guidance"] == "linear"}
    assert {1.25, 1.5, 1.75} < scales and any(t["guidance"] == "ep-x0" for t in tried)
    at_t = [t for t in tried if t.get("guidance_time") == "t"]
    assert len(at_t) == (6 if method == "selfe" else 0)
    drawn = [as_drawn(SamplingConfig.model_validate(t), row.prediction) for t in tried]
    assert len({s.model_dump_json() for s in drawn}) == 28  # none is another under another name
    shifted = second_stage(tried[0], num_tokens=16)
    assert len(shifted) == 4
    for setting in shifted:
        settings = SamplingConfig.model_validate(setting)
        assert sampling_problem(settings, row.prediction) == ""
        if row.prediction == "flow-map":
            found = drawn_deviation(as_drawn(settings, row.prediction), row.prediction, 4)
            assert found == pytest.approx(SIGMA, rel=0.03)


def test_a_shift_of_no_size_is_the_grid_itself():
    for sampler in ("any-step", "pushforward"):
        best = {"sampler": sampler}
        middle = [s["shift"] for s in second_stage(best, 16)][1:3]
        own = 0.0 if sampler == "pushforward" else length_shift(16)
        assert sum(middle) / 2 == pytest.approx(own, abs=1e-3)
    assert even_grid(4, 0.994, 0.0) == pytest.approx(even_grid(4, 0.994))


@pytest.mark.parametrize(
    ("recipe", "method", "over", "named"),
    [
        ("scenes", "selfe", {"guidance_scale": 5}, "no image from 1, from 4, from 8 steps on"),
        ("shapes", "imm", {"eta": 0.5}, "sampling.eta = 0.5 changes no image: "),
        ("shapes", "fm", {"guidance": "none", "guidance_scale": 3}, "guidance_scale = 3 changes"),
    ],
)
def test_a_setting_of_drawing_without_effect_is_warned_of(recipe, method, over, named):
    (warning,) = of_drawing(resolve(recipe, method), over)
    assert named in warning


@pytest.mark.parametrize("over", [{}, {"guidance_scale": 3}, {"eta": 0.0}, {"batch_slots": 8}])
def test_a_setting_of_drawing_that_counts_is_not_warned_of(over):
    assert list(of_drawing(resolve("shapes", "selfe"), over)) == []
