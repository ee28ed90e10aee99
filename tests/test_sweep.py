"""`selfe-bench sweep`: the grid, its baseline, and the page that compares them."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from evals.base import TASKS
from evals.stats import PromptCounts
from selfe.studies import sweep_page
from selfe.studies.study import Entry, Study, trainings_of
from selfe.studies.sweep import grid_of, parse_axis, parse_baseline, sweep_study
from selfe.studies.sweep_page import sweep_rows, write_sweep
from tests.helpers.command_line import selfe_bench


def study(*methods: str, seeds=(0,)) -> Study:
    return Study("s", "", "shapes-quick", tuple(Entry(m) for m in methods), seeds=seeds)


def counts(shift: int, seed: int = 0) -> dict[str, PromptCounts]:
    """Ten prompts of four images a task; `shift` more of them are right."""
    rng = np.random.default_rng(seed)
    return {
        task: PromptCounts(np.clip(rng.integers(0, 3, 10) + shift, 0, 4), np.full(10, 4))
        for task in TASKS
    }


def test_an_axis_is_a_setting_and_its_values():
    assert parse_axis("optim.lr=1e-3, 2e-3") == ["optim.lr=1e-3", "optim.lr=2e-3"]
    lists = parse_axis("model.axes_dims_rope=[8,12,12],[4,14,14]")
    assert lists == ["model.axes_dims_rope=[8,12,12]", "model.axes_dims_rope=[4,14,14]"]
    assert grid_of(["a.b=1,2", "c.d=3,4"]) == [
        ("a.b=1", "c.d=3"), ("a.b=1", "c.d=4"), ("a.b=2", "c.d=3"), ("a.b=2", "c.d=4"),
    ]  # fmt: skip
    for wrong in ("optim.lr", "lr=1", "optim.lr=", "optim.lr=1,1", "optim.lr=1,,2"):
        with pytest.raises(ValueError, match="--over"):
            parse_axis(wrong)
    with pytest.raises(ValueError, match="twice for one setting"):
        grid_of(["a.b=1", "a.b=2"])


@pytest.mark.parametrize(
    ("axis", "advice"),
    [("sampling.eta=0,1", "selfe-bench search sampling"), ("train.log_every=5,20", "leave it out")],
)
def test_what_changes_no_weight_is_not_trained_over(axis, advice):
    with pytest.raises(ValueError, match=f"changes no weight.*{advice}"):
        sweep_study(study("fm"), grid_of([axis, "optim.lr=4e-3,8e-3"]), ())


def test_the_baseline_is_trained_once_whatever_it_is_called():
    points = grid_of(["optim.lr=4e-3,0.008"])
    own = sweep_study(study("fm", "selfe"), points, parse_baseline("", points))
    # 8e-3 is the recipe's own rate
    assert [(e.method, e.settings) for e in own.entries] == [
        ("fm", ()), ("fm", ("optim.lr=4e-3",)), ("selfe", ()), ("selfe", ("optim.lr=4e-3",)),
    ]  # fmt: skip
    point = parse_baseline("optim.lr=4e-3", points)
    named = sweep_study(study("fm"), points, point)
    assert [e.settings for e in named.entries] == [("optim.lr=4e-3",), ("optim.lr=0.008",)]
    assert len({t.run_dir for t in trainings_of(named).trainings}) == 2
    with pytest.raises(ValueError, match="no point of the grid"):
        parse_baseline("optim.lr=5e-3", points)


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_differences_are_paired_and_to_the_baseline_of_the_same_method(
    seeds, tmp_path, monkeypatch
):
    better = {"fm": 0, "selfe": 1}

    def made_up(study, training, steps):
        shift = better[training.entry.method] if training.entry.settings else 0
        return counts(shift, training.seed)

    monkeypatch.setattr(sweep_page, "_counts", made_up)
    points = grid_of(["optim.lr=4e-3"])
    swept = sweep_study(study("fm", "selfe", seeds=seeds), points, ())
    rows = sweep_rows(swept, [2, 4])
    assert [r.steps for r in rows] == [2] * 4 + [4] * 4
    fm, fm_changed, selfe, selfe_changed = rows[:4]
    assert fm.difference is None and selfe.difference is None
    assert fm_changed.difference.mean == 0 and not fm_changed.resolved
    assert selfe_changed.difference.mean == pytest.approx(0.25)
    assert selfe_changed.resolved and selfe_changed.seeds == seeds
    assert selfe_changed.overall.mean == pytest.approx(selfe.overall.mean + 0.25)

    page = write_sweep(replace(swept, out=tmp_path / "out"), [2, 4], "selfe-bench sweep ...")
    text = page.read_text()
    assert "## selfe, 800 iterations" in text and "**+0.250 [" in text
    assert "4 differences are shown" in text and "(baseline)" in text
    with (tmp_path / "out" / "sweep.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [row["resolved"] for row in table] == [
        "baseline", "not resolved", "baseline", "resolved",
    ] * 2  # fmt: skip


def test_the_plan_of_a_sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = selfe_bench(
        *("sweep", "--over", "optim.lr=4e-3,8e-3", "--over", "train.batch_size=64,128"),
        *("--methods", "selfe", "--seeds", "0,1", "--name", "rates", "--device", "cpu"),
        *("--cores", "2", "--dry-run", "--json"),
    )
    assert code == 0, err
    record = json.loads(out)
    assert record["runs_dir"] == "runs/rates" and record["report"] == "reports/local/rates"
    trained = [j for j in record["jobs"] if "selfe-bench train" in j["command"]]
    assert len(trained) == 2 * 4  # the recipe's own point is the baseline
    scored = [j["command"] for j in record["jobs"] if "selfe-bench geneval" in j["command"]]
    # settings are chosen on prompts that no report is made of
    assert len(scored) == 8 and all("--split validation --limit 12" in each for each in scored)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--over", "lr=1"), "--over takes SECTION.KEY=VALUE"),
        (("--over", "optim.lrr=1"), "did you mean 'optim.lr'"),
        (("--over", "optim.lr=fast"), "optim.lr must be a number"),
        (("--over", "optim.lr=1e-3", "--baseline", "optim.lr=1"), "no point of the grid"),
        (("--over", "optim.lr=1e-3", "--name", "../x"), "--name takes the name of a folder"),
        (("--over", "optim.lr=1e-3", "--split", "test"), "split"),
        (("--over", "optim.lr=1e-3", "--price", "3"), "--price is that of a GPU-hour"),
        (("--over", "optim.lr=1e-3", "--mfu", "0.4"), "--mfu is of a GPU's peak"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = selfe_bench("sweep", "--device", "cpu", "--dry-run", *words)
    assert code == 2, (out, err)
    assert sentence in err and len(err.strip().splitlines()) == 1
