"""All numbers of steps together: one difference to Self-E for every configuration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evals.multiplicity import holm
from evals.report.all_steps import all_steps_frame, all_steps_markdown
from evals.report.render import render
from evals.report.result_folders import collect
from evals.report.training_seeds import trainings_frame
from tests.helpers.synthetic_results import write_result

SEEDS = (0, 1, 2)
RATES = {"selfe": {2: 0.7, 4: 0.75}, "fm": {2: 0.4, 4: 0.7}, "imm": {2: 0.68, 4: 0.74}}


def write(root: Path, method: str, seed: int, steps: int, rate: float) -> None:
    facts = {"seed": seed, "seedless_digest": method, "config_digest": f"{method}-{seed}"}
    write_result(
        root / f"{method}-{seed}-{steps}",
        method,
        steps=steps,
        rate=rate,
        seed=10 * seed + steps,
        training=facts,
    )


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for method, rates in RATES.items():
        for seed in SEEDS:
            for steps, rate in rates.items():
                write(tmp_path / "runs", method, seed, steps, rate)
    return tmp_path / "runs"


def test_it_is_the_mean_of_the_cells_with_one_question_each(runs: Path) -> None:
    folders = collect([runs])
    frame = all_steps_frame(folders).set_index("method")
    cells = trainings_frame(folders).set_index(["method", "steps"])
    assert set(frame.index) == {"Flow Matching", "IMM"}, "Self-E is what the others stand beside"
    for method, row in frame.iterrows():
        deltas = [cells.loc[(method, steps), "delta_selfe"] for steps in (2, 4)]
        assert row["delta"] == pytest.approx(np.mean(deltas))
        assert row["mean"] - row["self_e"] == pytest.approx(row["delta"])
        assert (row["all_steps"], row["seeds"]) == ("2 4", "0 1 2")
        assert row["delta_low"] < row["delta"] < row["delta_high"]
        assert (row["delta_high"] < 0 or row["delta_low"] > 0) == (row["p_value"] < 0.05)
    assert frame["p_holm"].tolist() == pytest.approx(holm(frame["p_value"].tolist()))
    text = all_steps_markdown(frame.reset_index())
    assert f"{frame.loc['Flow Matching', 'delta']:+.3f} [" in text and "2, 4 | 0, 1, 2" in text


def test_seeds_and_steps_that_both_have_count(runs: Path, tmp_path: Path) -> None:
    write(runs, "fm", 3, 2, 0.5)  # a seed that Self-E lacks
    write(runs, "fm", 0, 8, 0.9)  # a number of steps of one training alone
    row = all_steps_frame(collect([runs])).set_index("method").loc["Flow Matching"]
    assert (row["all_steps"], row["seeds"]) == ("2 4", "0 1 2")


def test_of_one_number_of_steps_or_one_seed_there_is_no_row(tmp_path: Path) -> None:
    for seed in SEEDS:
        write(tmp_path / "runs", "selfe", seed, 2, 0.7)
        write(tmp_path / "runs", "fm", seed, 2, 0.5)
    write(tmp_path / "runs", "selfe", 0, 4, 0.7)
    write(tmp_path / "runs", "fm", 0, 4, 0.7)
    assert all_steps_frame(collect([tmp_path / "runs"])).empty
    render([tmp_path / "runs"], tmp_path / "out")
    assert not (tmp_path / "out" / "all_steps.md").exists()


def test_the_report_leads_to_it(runs: Path, tmp_path: Path) -> None:
    render([runs], tmp_path / "out")
    assert "(all_steps.md)" in (tmp_path / "out" / "README.md").read_text()
    assert "| Flow Matching |" in (tmp_path / "out" / "all_steps.md").read_text()
    assert (tmp_path / "out" / "all_steps.csv").is_file()
