"""The final rate is a share of the rate; earlier configurations are read as they were meant."""

from __future__ import annotations

import pytest

from selfe.config.recipes import RECIPES
from selfe.config.resolve import changed_settings, resolve, validate
from selfe.config.suspicious import suspicious_settings
from selfe.objectives.registry import METHODS
from selfe.training.optim import learning_rate
from tests.helpers.published import published

QUICK = "shapes-quick"


def digest(recipe: str, *assignments: str) -> str:
    return published(recipe, "fm", *assignments).digest[:12]


def test_digests_of_published_runs_are_those_of_the_rate_itself():
    """Computed by the version before: with `final_lr` as a setting."""
    assert digest("shapes") == "023df8283dd6"
    assert digest(QUICK) == "89785122aa4e"
    assert resolve("0.5b", "fm").digest[:12] == "cf18e28b69cb"
    assert digest("shapes", "optim.lr=0.008", "optim.final_lr=0.0008") == "7c4613a187d1"
    assert digest("shapes", "optim.lr=0.008") == "7c4613a187d1"


@pytest.mark.parametrize("rate", [1e-4, 8e-3, 0.05])
def test_another_rate_falls_as_the_recipes_does(rate):
    config = resolve(QUICK, "fm", assignments=[f"optim.lr={rate}"])
    rates = [learning_rate(step, config.optim, 800) for step in range(config.optim.warmup, 800)]
    assert rates == sorted(rates, reverse=True)
    assert config.optim.final_lr == pytest.approx(rate / 10)
    assert suspicious_settings(config) == []


def test_a_configuration_that_gives_the_final_rate_is_read_as_it_was_meant():
    values = resolve(QUICK, "fm", assignments=["optim.lr=0.00123"]).model_dump(mode="json")
    del values["optim"]["final_share"]
    for final in (0.000321, 0.0, 1e-5, 0.00012345678901234):
        values["optim"]["final_lr"] = final
        assert validate(values).optim.final_lr == final
    assert changed_settings(
        resolve("shapes", "fm", assignments=["optim.lr=0.002", "optim.final_lr=0.0002"])
    ) == ["optim.lr=0.002"]


@pytest.mark.parametrize("value", ['"x"', "null", "[]", "-1"])
def test_a_final_rate_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match=r"optim\.final_share"):
        resolve(QUICK, "fm", assignments=[f"optim.final_lr={value}"])


def test_share_and_rate_together_are_refused():
    with pytest.raises(ValueError, match="give one of them"):
        resolve(QUICK, "fm", assignments=["optim.final_lr=1e-5", "optim.final_share=0.5"])


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_no_recipe_is_suspicious(recipe):
    for method in METHODS.names():
        assert suspicious_settings(resolve(recipe, method)) == []


@pytest.mark.parametrize(
    ("assignments", "named"),
    [
        (["train.iterations=50"], "optim.warmup = 100 is not shorter"),
        (["optim.warmup=800"], "never reaches optim.lr"),
        (["optim.decay_horizon=80"], "is over before optim.warmup"),
        (["optim.lr=1e-4", "optim.final_lr=8e-4"], "rises from 0.0001 to 0.0008"),
        (["optim.ema_decay=0.9999", "optim.ema_warmup=false"], "mostly the initial weights"),
        (["optim.ema_decay=0.999"], "keeps the decay at or below 0.9889 in 800 iterations"),
        (["optim.betas=[0.95,0.9]"], "forget"),
        (["train.caption_dropout=1"], "drops every caption"),
        (["train.caption_dropout=0"], "never trains the null prompt"),
        (["data.size=100"], "repeats images"),
    ],
)
def test_what_defeats_itself_is_warned_of(assignments, named):
    (warning,) = suspicious_settings(resolve(QUICK, "fm", assignments=assignments))
    assert named in warning


@pytest.mark.parametrize(
    ("recipe", "assignments", "named"),
    [
        ("shapes", ["train.iterations=800"], "times.tau_horizon = 1800 is longer than the run"),
        (QUICK, ["objective.conditional_decay=0.9999"], "keeps that decay, too, at or below"),
        (QUICK, ["objective.aux_from=800"], "the auxiliary term never starts"),
        (QUICK, ["objective.fake_loss_weight=uniform"], "nothing without the auxiliary term"),
        (QUICK, ["objective.unnormalized_weight=one"], "nothing where targets are normalised"),
        (QUICK, ["times.base_len=2048"], "drawing by sampling.base_len = 512"),
    ],
)
def test_settings_of_self_e_without_effect_are_warned_of(recipe, assignments, named):
    (warning,) = suspicious_settings(resolve(recipe, "selfe", assignments=assignments))
    assert named in warning


def test_a_run_that_is_a_milestone_of_its_recipe_is_not_warned_of():
    part = ["train.iterations=800", "optim.decay_horizon=3000"]
    assert suspicious_settings(resolve("shapes", "selfe", assignments=part)) == []


def test_a_decay_of_the_average_that_is_reached_is_not_warned_of():
    for reached in (["optim.ema_decay=0.97"], ["optim.ema_decay=0.999", "train.iterations=12000"]):
        assert suspicious_settings(resolve(QUICK, "fm", assignments=reached)) == []


def test_imm_with_its_authors_exponent_in_bf16_is_warned_of():
    twelve = "objective.gap_exponent=12"
    (warning,) = suspicious_settings(resolve(QUICK, "imm", assignments=[twelve]))
    assert "objective.gap_exponent = 12" in warning and "train.precision=fp32" in warning
    exact = resolve(QUICK, "imm", assignments=[twelve, "train.precision=fp32"])
    assert suspicious_settings(exact) == []
    for exponent in (5, 8):
        nearer = [f"objective.gap_exponent={exponent}"]
        assert suspicious_settings(resolve(QUICK, "imm", assignments=nearer)) == []
