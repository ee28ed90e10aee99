"""`selfe-bench search`: settings and rates are chosen on validation prompts, scored as always."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from selfe.data.shapes_world import ShapesWorld
from selfe.studies import search_rate
from selfe.studies.schedule import Machine, make_schedule
from selfe.studies.search_rate import only_new, rate_study, score_rates
from selfe.studies.search_sampling import Trial, render
from selfe.studies.validation import ValidationScorer
from tests.helpers.command_line import selfe_bench


class Perfect:
    """Draws what is asked for, and nothing at all for the first prompt where `fails`."""

    def __init__(self, scorer: ValidationScorer, fails: bool = False) -> None:
        self.world = ShapesWorld("grid")
        self.records = {r["prompt"]: r for r in scorer.suite.records}
        self.missing = scorer.suite.records[0]["prompt"] if fails else None

    def generate(self, prompts, num_steps, seeds):
        scenes = [
            self.world.scene_for(dict(self.records[prompt]), np.random.default_rng(seed % 2**32))
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        drawn = list(self.world.render_batch(scenes))
        return [
            None if prompt == self.missing else image
            for prompt, image in zip(prompts, drawn, strict=True)
        ]


@pytest.fixture(scope="module")
def scorer() -> ValidationScorer:
    return ValidationScorer("grid", per_task=1, samples=2)


def test_the_best_is_found_and_what_was_scored_is_not_scored_again(scorer):
    loaded = []

    def load(sampling):
        loaded.append(sampling)
        return Perfect(scorer)

    trial = Trial(load, scorer, 2)
    settings = [{"guidance": "none"}, {"guidance": "linear"}]
    scores = {json.dumps(settings[0]): 0.5}
    assert trial.best(settings, scores, scores.__setitem__) == settings[1]
    assert loaded == [settings[1]] and scores[json.dumps(settings[1])] > 0.9
    told = trial.diversity(settings[1])
    assert set(told) == {"tv", "tv_data"} and 0 < told["tv"] < 1
    page = render({
        "made": {"r": {"command": "c", "commit": "h", "machine": "m", "prompts": 6, "samples": 2,
                       "settings": []}},
        "runs": {"r": {"2 steps": scores, "4 steps": {json.dumps({"shift": -1.0}): 0.7}}},
        "diversity": {"r": {"2 steps": {"without it": told, "with it": told}}},
    })  # fmt: skip
    assert "| shift -1.0 |  | **0.700** |" in page
    assert "At 2 steps a shift wins" in page and f"without it {told['tv']:.3f}" in page


def test_prompts_are_validation_prompts_and_an_image_that_failed_is_wrong(scorer):
    assert scorer.suite.split == "validation" and len(scorer.suite.records) == 6
    whole, one_fails = (scorer.score(Perfect(scorer, fails), 2) for fails in (False, True))
    assert whole - one_fails == pytest.approx(1 / 6)
    with pytest.raises(ValueError, match="at least 1 prompt per task"):
        ValidationScorer("grid", 0, 2)


def test_rates_are_trained_side_by_side_scored_once_and_tabulated(scorer, tmp_path, monkeypatch):
    study = rate_study("shapes-quick", ["fm", "imm"], [2e-3, 8e-3], [0, 1], 400)
    study = replace(study, runs_dir=tmp_path / "runs")
    jobs = make_schedule(study, Machine("cpu", 2)).jobs
    assert len(jobs) == 8 and all(job.words[1] == "train" for job in jobs)
    configs = [job.training.config for job in jobs]
    assert {c.train.iterations for c in configs} == {400}
    assert {c.times.tau_horizon for c in configs} == {240}  # 0.6 of the run, as in the recipe
    for config in configs:
        assert config.optim.final_lr == pytest.approx(config.optim.lr / 10)

    monkeypatch.setattr(
        "selfe.run_folder.model.load_run", lambda run: Perfect(scorer, "imm" in run.name)
    )
    monkeypatch.setattr(
        search_rate, "find_checkpoint", lambda run: SimpleNamespace(digest=run.name)
    )
    monkeypatch.setattr(search_rate, "ValidationScorer", lambda *args: scorer)
    out, said = tmp_path / "out", []
    page = score_rates(study, per_task=1, samples=2, out=out, command="c", say=said.append)
    assert len(said) == 8 and "| all 2 | 0.002 |" in page.read_text()
    found = json.loads((out / "learning_rate.json").read_text())["methods"]
    score_rates(study, per_task=1, samples=2, out=out, command="c", say=said.append)
    assert len(said) == 8
    other = SimpleNamespace(digest="of another training")
    monkeypatch.setattr(search_rate, "find_checkpoint", lambda run: other)
    score_rates(study, per_task=1, samples=2, out=out, command="c", say=said.append)
    assert len(said) == 16
    assert found["fm"]["0.008"]["1"]["mean"] > found["imm"]["0.008"]["1"]["mean"]
    assert not only_new(study, out).entries
    more = rate_study("shapes-quick", ["fm"], [8e-3, 1.6e-2], [0, 1], 400)
    assert [e.settings for e in only_new(more, out).entries] == [("optim.lr=0.016",)]
    other = rate_study("shapes-quick", ["fm"], [8e-3], [0], 200)
    with pytest.raises(ValueError, match="iterations = 400, not 200"):
        score_rates(other, per_task=1, samples=2, out=out, command="c")
    with pytest.raises(ValueError, match="iterations = 400, not 200"):
        only_new(other, out)  # also where nothing is left to train
    warm = rate_study("shapes-quick", ["fm"], [8e-3], [0], 400, ["optim.warmup=50"])
    with pytest.raises(ValueError, match=r"settings = \[\], not \['optim.warmup=50'\]"):
        only_new(warm, out)
    kept = rate_study("shapes-quick", ["fm"], [8e-3], [0], 400, ["train.log_every=50"])
    assert not only_new(kept, out).entries
    with pytest.raises(ValueError, match="--iterations"):
        rate_study("shapes-quick", ["fm"], [8e-3], [0], 400, ["train.iterations=100"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("sampling", "--model", "nope"), "no run 'nope'"),
        (("rate", "--rates", "fast"), "--rates takes numbers above 0"),
        (("rate", "--rates", "-1"), "--rates takes numbers above 0"),
        (("rate", "--recipe", "0.5b"), "draws photographs"),
        (("rate", "--methods", "nope"), "unknown method 'nope'"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = selfe_bench("search", *words)
    assert code == 2 and sentence in err, err
    assert len(err.strip().splitlines()) == 1


def test_the_plan_of_a_search_of_rates(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("--methods", "fm", "--rates", "4e-3", "--device", "cpu", "--dry-run", "--json")
    code, out, err = selfe_bench("search", "rate", *words)
    assert code == 0, err
    (job,) = json.loads(out)["jobs"]
    assert "--set optim.lr=0.004" in job["command"] and not list(tmp_path.iterdir())
