"""The table of settings that were tried: each training's best score, those beside it included."""

from __future__ import annotations

import json
import sys

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
