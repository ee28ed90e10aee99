"""Configuration: recipes, overrides, and errors a person can act on."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from selfe.config.recipes import RECIPES
from selfe.config.resolve import (
    build_objective,
    changed_settings,
    objective_of_section,
    resolve,
    run_name,
    validate,
)
from selfe.config.schema import RunConfig, TimesConfig
from selfe.config.stages import first_position, stage_at, stages_of
from selfe.objectives.registry import METHODS, Method, variants_of
from tests.helpers.published import published


@pytest.mark.parametrize("method", METHODS.names())
@pytest.mark.parametrize("recipe", list(RECIPES))
def test_every_recipe_resolves_for_every_method_and_round_trips(recipe, method):
    config = resolve(recipe, method)
    again = validate(config.model_dump(mode="json"))
    assert again == config
    assert again.digest == config.digest
    assert build_objective(config) is not None


def test_paper_recipes_are_the_papers():
    half, full = resolve("0.5b", "selfe"), resolve("2b", "selfe")
    assert (half.train.batch_size, half.train.iterations) == (1024, 300_000)
    assert half.train.milestone_every == 50_000
    assert half.optim.betas == (0.9, 0.95)
    assert (half.optim.lr, half.optim.final_lr, half.optim.warmup) == (3e-4, 1e-5, 1000)
    assert half.optim.ema_decay == 0.9999
    assert half.times.tau_horizon == full.times.tau_horizon == 300_000
    assert half.sampling.guidance == "ep-v" and half.sampling.guidance_scale == 5.0
    assert half.sampling.eta == 1.0 and half.sampling.update == "ancestral"
    assert half.optim.decay_horizon == 300_000
    assert full.train.iterations == 710_000
    first, second = stages_of(full)
    assert (first.start, first.stop, first.batch_size) == (0, 500_000, 1024)
    assert (second.start, second.stop, second.batch_size) == (500_000, 710_000, 768)
    assert first.resolutions == {256: 1} and second.resolutions == {256: 0.5, 512: 0.5}
    assert build_objective(full).aux_from == 550_000
    assert build_objective(full).fake_loss_weight == "uniform"
    assert build_objective(half).aux_from is None


def test_methods_share_everything_but_objective_and_sampling():
    dumps = {m: resolve("shapes", m).model_dump() for m in METHODS.names()}
    # what subtracts near copies may be given more precision than others, never less
    precisions = {m: dump["train"].pop("precision") for m, dump in dumps.items()}
    assert precisions == dict.fromkeys(dumps, "auto") | {"transition": "fp32"}
    for section in ("model", "data", "times", "optim", "train"):
        assert all(d[section] == dumps["fm"][section] for d in dumps.values())


def staged(*stages: str, **options) -> RunConfig:
    given = [f"train.stages=[{','.join(stages)}]", "train.micro_batch_size=null"]
    return resolve("0.5b", "imm", assignments=given, **options)


def test_stages_change_batch_and_mix_and_move_no_sample():
    config = staged('{"start": 10, "batch_size": 8}', '{"start": 20, "resolutions": {"512": 2}}')
    assert [(s.start, s.stop, s.batch_size) for s in stages_of(config)] == [
        (0, 10, 1024), (10, 20, 8), (20, 300_000, 8),
    ]  # fmt: skip
    assert [dict(s.resolutions) for s in stages_of(config)] == [{256: 1}, {256: 1}, {512: 1}]
    positions = [first_position(config, step) for step in (0, 9, 10, 11, 20, 21)]
    assert positions == [0, 9216, 10_240, 10_248, 10_320, 10_328]
    assert stage_at(config, 19).start == 10 and stage_at(config, 300_000).start == 20


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        (['{"start": 20}', '{"start": 20}'], ["train.stages[1]", "start = 20 must come after 20"]),
        (['{"start": 300000}'], ["train.stages[0]", "inside the run", "300000"]),
        (['{"start": 0}'], ["train.stages[0].start", "greater than or equal to 1"]),
        (['{"start": 5, "batch_size": 6}'], ["groups of 4", "train.stages[0].batch_size"]),
        (['{"start": 5, "resolutions": {"256": 0}}'], ["positive shares", "256: 0"]),
        (['{"start": 5, "resolutions": {"0": 1}}'], ["positive shares", "0: 1"]),
        (['{"start": 5, "resolutions": {"x": 1}}'], ["train.stages[0].resolutions"]),
        (['{"start": 5, "batchsize": 8}'], ["did you mean 'train.stages[0].batch_size'"]),
        (["5"], ["train.stages[0]", "a section"]),
    ],
)
def test_stages_that_do_not_fit_are_one_sentence(stages, words):
    with pytest.raises(ValueError) as caught:
        staged(*stages)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_micro_batch_divides_the_batch_of_every_stage():
    stages = 'train.stages=[{"start": 5, "batch_size": 768}]'
    resolve("0.5b", "fm", assignments=[stages, "train.micro_batch_size=256"])
    with pytest.raises(ValueError, match=r"512 must divide train.stages\[0\].batch_size = 768"):
        resolve("0.5b", "fm", assignments=[stages, "train.micro_batch_size=512"])


def test_variants_set_the_ablations_of_table_2():
    assert set(variants_of("selfe")) == {
        "no-target-norm", "no-target-norm-one", "aux", "smooth-time",
    }  # fmt: skip
    assert build_objective(resolve("0.5b", "selfe", variant="no-target-norm")).target_norm is False
    one = build_objective(resolve("0.5b", "selfe", variant="no-target-norm-one"))
    assert (one.target_norm, one.unnormalized_weight) == (False, "one")
    assert build_objective(resolve("0.5b", "selfe", variant="aux")).aux_from == 0


def test_smooth_time_changes_the_network_alone():
    for method in METHODS.names():
        plain = resolve("shapes", method).model_dump()
        smooth = resolve("shapes", method, variant="smooth-time").model_dump()
        assert (plain["model"].pop("time_factor"), smooth["model"].pop("time_factor")) == (1000, 10)
        assert smooth == plain | {"variant": "smooth-time"}


def test_set_wins_and_reaches_the_objective():
    config = resolve(
        "shapes",
        "imm",
        assignments=["objective.group_size=8", "optim.lr=5e-4", "times.base_len=256"],
    )
    assert build_objective(config).group_size == 8
    assert config.optim.lr == 5e-4
    assert (
        build_objective(resolve("shapes", "fm", assignments=["times.base_len=256"])).times.base_len
        == 256
    )


def test_a_sampling_setting_reaches_every_number_of_steps():
    """By `train --set` as by `geneval --set`: what a recipe found best for 4 steps gives way."""
    plain = resolve("shapes", "selfe").sampling
    assert plain.by_steps[4].guidance is not None
    none = resolve("shapes", "selfe", assignments=["sampling.guidance=none"]).sampling
    assert {none.at(n).guidance for n in (1, 2, 4, 8, 50)} == {"none"}
    one = resolve("shapes", "selfe", assignments=["sampling.by_steps.4.guidance_scale=3"]).sampling
    assert one.at(4) == plain.at(4).model_copy(update={"guidance_scale": 3.0})
    assert [one.at(n) for n in (2, 8, 50)] == [plain.at(n) for n in (2, 8, 50)]
    emptied = resolve("shapes", "selfe", assignments=["sampling.by_steps={}"]).sampling
    assert emptied.at(4) == emptied.at(2) == plain.at(2)


def test_a_number_of_steps_between_two_entries_starts_from_the_lower_one():
    plain = resolve("shapes", "selfe").sampling
    six = resolve("shapes", "selfe", assignments=["sampling.by_steps.6.eta=0.5"]).sampling
    assert six.at(6) == plain.at(4).model_copy(update={"eta": 0.5})
    assert six.at(4) == plain.at(4) and six.at(8) == plain.at(8)


@pytest.mark.parametrize(
    ("assignments", "changed"),
    [
        ([], []),
        (["optim.lr=5e-4", "objective.target_norm=false"], None),
        (["train.precision=bf16", "train.micro_batch_size=32"], None),
        (["optim.betas=[0.8,0.9]", 'data.text="null"'], None),
        (['train.stages=[{"start":100,"batch_size":256}]'], None),
        (["train.iterations=500"], None),  # another learning rate at every iteration
        (["optim.decay_horizon=1000"], None),
        (["train.iterations=9000", "optim.decay_horizon=3000"], None),
        (["train.iterations=1000", "optim.decay_horizon=3000"], []),  # a milestone of the recipe
        (["train.checkpoint_every=7", "data.workers=0", "sampling.eta=0.5", "data.path=/x"], []),
    ],
)
def test_changed_settings_are_what_set_takes(assignments, changed):
    config = resolve("shapes", "selfe", seed=3, assignments=assignments)
    found = changed_settings(config)
    keys = [text.partition("=")[0] for text in assignments]
    assert sorted(t.partition("=")[0] for t in found) == sorted(keys if changed is None else [])
    again = resolve("shapes", "selfe", seed=3, assignments=found)
    if changed is None:
        assert again == config


def test_settings_of_another_version_are_not_told():
    config = resolve("shapes", "selfe")
    assert changed_settings(config.model_copy(update={"recipe": "gone"})) is None
    assert changed_settings(config.model_copy(update={"objective": {"gone": 1}})) is None


def test_the_digest_depends_on_what_is_computed():
    a, b = resolve("shapes", "fm"), resolve("shapes", "fm", assignments=["optim.lr=1e-4"])
    assert a.digest != b.digest
    assert a.digest == resolve("shapes", "fm").digest


def test_digests_are_those_of_published_runs():
    """Settings that came later are not in them until they are changed."""
    digest = "023df8283dd670a5"
    smoother = published("shapes", "fm", "model.time_factor=10")
    assert published("shapes", "fm").digest[:16] == digest != smoother.digest[:16]
    assert published("shapes", "selfe").digest[:16] == "e375b06da0c00e08"
    for setting in ("renoise=same", "dropped=literal", "fake_average=batch",
                    "conditional_weights=live"):  # fmt: skip
        other = published("shapes", "selfe", f"objective.{setting}")
        assert other.digest != published("shapes", "selfe").digest
    logit_normal = resolve(
        "shapes", "imm", assignments=["objective.time_distribution=logit-normal"]
    )
    assert logit_normal.digest != resolve("shapes", "imm").digest


@pytest.mark.parametrize(
    ("method", "digest"),
    [
        ("selfe", "f35956e60e5567bb"),
        ("fm", "925be42f90787e7c"),
        ("imm", "43a9ef72d6dfbf06"),
        ("shortcut", "4a71145b7df11bf8"),
        ("transition", "ec5aaad3fb30a8d0"),
        ("meanflow", "1ce5fd14dfef87fd"),
    ],
)
def test_a_new_setting_leaves_the_digest_of_every_method(method, digest):
    """A run would else be "damaged or of another version" after the update: a setting added to an
    objective or a section belongs into `schema._YOUNGER`. A changed recipe changes them rightly."""
    assert resolve("shapes-quick", method).digest[:16] == digest


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("optim.lrr=1", ["'optim.lrr'", "'optim.lr'"]),
        ("optim.lr=fast", ["optim.lr", "a number", '"fast"']),
        ("optim.lr=-1", ["optim.lr must be greater than 0, got -1"]),
        ("optim.lr=Infinity", ["optim.lr must be a finite number, got Infinity"]),
        ("optim.clip_norm=NaN", ["optim.clip_norm must be greater than 0, got NaN"]),
        ("optim.betas=[0.9,1]", ["optim.betas[1] must be less than 1, got 1"]),
        ('optim.betas=["x",0.5]', ["optim.betas[0] must be a number"]),
        ("objective.fake_loss_scale=NaN", ["objective.fake_loss_scale", "finite"]),
        ("foo.bar=1", ["'foo'"]),
        ("objective.target_nrm=1", ["'objective.target_nrm'", "'objective.target_norm'"]),
        ("objective.aux_from=x", ["objective.aux_from", "an integer or null"]),
        ("times.pairing=x", ["times.pairing", "stratified, bernoulli"]),
        ("train.micro_batch_size=5", ["micro_batch_size", "batch_size"]),
        ("optim=3", ["optim", "section"]),
        ("optim.lr", ["section.key=value"]),
        ("variant=aux", ["section.key=value", "--variant"]),
        ("method=imm", ["--method"]),
        ("train.iterations=0", ["train.iterations"]),
    ],
)
def test_a_bad_setting_is_one_sentence_naming_the_key(assignment, words):
    with pytest.raises(ValueError) as caught:
        resolve("shapes", "selfe", assignments=[assignment])
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nope", "fm", ""), ["unknown recipe 'nope'", "shapes"]),
        (("shapes", "sefle", ""), ["unknown method 'sefle'", "did you mean 'selfe'", "imm"]),
        (("shapes", "selfe", "axu"), ["unknown variant of selfe", "'aux'"]),
        (("shapes", "fm", "aux"), ["unknown variant of fm"]),
    ],
)
def test_unknown_names_are_answered_with_known_ones(arguments, words):
    recipe, method, variant = arguments
    with pytest.raises(ValueError) as caught:
        resolve(recipe, method, variant=variant)
    for word in words:
        assert word in str(caught.value)


def test_gradients_may_be_left_unclipped():
    config = resolve("shapes", "fm", assignments=["optim.clip_norm=Infinity"])
    assert validate(json.loads(json.dumps(config.model_dump(mode="json")))) == config


def test_an_objective_is_a_dataclass(monkeypatch):
    monkeypatch.setitem(METHODS.table, "plain", Method(f"{__name__}:Plain", "Plain", "velocity"))
    with pytest.raises(TypeError, match="Plain, the objective of method 'plain', must be a datac"):
        objective_of_section("plain", {}, TimesConfig())


class Plain:
    group_size, needs_fake_captions = 1, False


def test_what_an_objective_lacks_is_named(monkeypatch):
    monkeypatch.setitem(
        METHODS.table, "lacking", Method(f"{__name__}:Lacking", "Lacking", "velocity")
    )
    with pytest.raises(TypeError, match="of method 'lacking' has no loss, needs_fake_captions"):
        objective_of_section("lacking", {}, TimesConfig())


@dataclass(frozen=True)
class Lacking:
    group_size: int = 1


@pytest.mark.parametrize("size", [0, -1])
def test_groups_have_a_size(size):
    with pytest.raises(ValueError, match="objective.group_size must be at least 1"):
        resolve("shapes", "imm", assignments=[f"objective.group_size={size}"])


def test_imm_refuses_batches_that_do_not_divide_into_groups():
    with pytest.raises(ValueError, match="groups of 4"):
        resolve("shapes", "imm", assignments=["train.batch_size=6"])


def test_run_names():
    assert run_name(resolve("shapes", "selfe")) == "shapes-selfe"
    assert run_name(resolve("shapes", "selfe", variant="aux", seed=3)) == "shapes-selfe-aux-seed3"
