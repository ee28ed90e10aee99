"""The table of settings that were tried: each training's best score, those beside it included."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from scripts.studies import tuning_table


def keep(folder, run, scores):
    """A search of one training: for each number of steps the scores of its settings."""
    (folder / "search").mkdir(parents=True)
    found = {steps: {f"s{i}": x for i, x in enumerate(xs)} for steps, xs in scores.items()}
    (folder / "search" / f"{run}.json").write_text(json.dumps({"usual": found}))


@pytest.mark.parametrize("beside", [False, True])
def test_the_best_setting_counts_and_other_studies_stand_beside(tmp_path, monkeypatch, beside):
    keep(tmp_path / "tried", "fm-rate", {"2": [0.1, 0.3], "4": [0.5, 0.4], "8": [0.7]})
    keep(tmp_path / "recipe", "fm", {"2": [0.2], "4": [0.2], "8": [0.5, 0.1]})
    args = ["tuning_table", "--folder", str(tmp_path / "tried")]
    args += ["--beside", str(tmp_path / "recipe")] * beside
    monkeypatch.setattr(sys, "argv", args)
    tuning_table.main()
    page = (tmp_path / "tried" / "tables.md").read_text()
    assert "| fm-rate | usual | 0.300 | 0.500 | 0.700 | 0.500 |" in page
    assert ("| fm | usual | 0.200 | 0.200 | 0.500 | 0.300 |" in page) is beside
    assert "Trained again over seeds" not in page


TUNING = Path(__file__).resolve().parent.parent / "reports" / "studies" / "tuning"
RECIPES = {"imm": "imm-gap5-sigma0.25", "fm": "fm-seed0", "selfe": "selfe-seed0"}


@pytest.mark.parametrize(
    ("begins", "run", "grid"),
    [
        ("IMM as its recipe is", "imm-logit-normal", "usual"),
        ("the same recipe, half", "imm-lr4e-3", "usual"),
        ("the same, groups of 8", "imm-group8", "usual"),
        ("the same, exponent `weight_a` 1", "imm-weight-a1", "usual"),
        ("the same, `weight_b` 6.8", "imm-weight-b6.8", "usual"),
        ("the same, `weight_a` 1 and", "imm-weight-a1-logit-normal", "usual"),
        ("Flow Matching, twice", "fm-lr16e-3", "usual"),
        ("Flow Matching, half", "fm-lr4e-3", "usual"),
        ("Flow Matching, `times.base_len` 128", "fm-len128", "usual"),
        ("Flow Matching, `times.base_len` 1024", "fm-len1024", "usual"),
        ("Flow Matching, `times.base_len` 2048", "fm-len2048", "usual"),
        ("Flow Matching, `optim.ema_decay`", "fm-ema0.97", "usual"),
        ("Flow Matching, `optim.ema_warmup`", "fm-ema-no-warmup", "usual"),
        ("Flow Matching, `train.caption", "fm-dropout0.2", "usual"),
        ("Flow Matching, time grid", "fm-seed0", "shifted"),
        ("Self-E, half", "selfe-lr4e-3", "usual"),
        ("Self-E, twice", "selfe-lr16e-3", "usual"),
        ("Self-E, `times.base_len`", "selfe-len2048", "usual"),
        ("Self-E, `optim.ema_decay`", "selfe-ema0.97", "usual"),
        ("Self-E, `optim.ema_warmup`", "selfe-ema-no-warmup", "usual"),
        ("Self-E, time grid", "selfe-seed0", "shifted"),
    ],
)
def test_the_page_of_tuning_says_what_was_measured(begins, run, grid):
    def mean(name: str, part: str) -> float:
        found = json.loads((TUNING / "search" / f"{name}.json").read_text())[part]
        return sum(max(found[steps].values()) for steps in ("2", "4", "8")) / 3

    own, recipes = mean(run, grid), mean(RECIPES[run.partition("-")[0]], "usual")
    lines = (TUNING / "README.md").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"| {begins}"))
    assert f"| {own:.3f} | {recipes:.3f} | {own - recipes:+.3f} |" in line


def test_the_page_of_tuning_has_imm_in_bf16_as_well():
    page = " ".join((TUNING / "README.md").read_text().split())
    means = []
    for name in ("", "-logit-normal", "-weight-a1", "-weight-a1-logit-normal"):
        found = json.loads((TUNING / "search" / f"imm-bf16{name}.json").read_text())["usual"]
        means.append(f"{sum(max(found[steps].values()) for steps in ('2', '4', '8')) / 3:.3f}")
    said = "the recipe has {}, with logit-normal times {} and with `weight_a` 1 {}, with both {}."
    assert said.format(*means) in page
