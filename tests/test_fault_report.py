"""The fault report and the table of benchmarks say what was measured, and what was not."""

from __future__ import annotations

import ast
import json
from pathlib import Path

from scripts.bench import all
from scripts.checks.fault_report import FAULTS, Trials, render, summarise

TESTS = Path(__file__).resolve().parent


def problem(outcome: str) -> dict[str, str]:
    return {"trial": "tests/test_x.py::test_a[1]", "outcome": outcome, "why": "because"}


def test_a_fault_passes_only_if_it_was_tried_and_never_failed():
    trials = {
        "a": Trials((1,), passed=50),
        "b": Trials((2, 3), passed=2, problems=[problem("failed")]),
        "c": Trials((3,), passed=1),
        "d": Trials((4,), problems=[problem("skipped")]),
        "e": Trials((5,), passed=3, problems=[problem("skipped")]),
    }
    rows = {row["number"]: row for row in summarise(trials)}
    assert rows[1]["verdict"] == "pass 50/50"
    assert rows[2]["verdict"] == "FAIL 2/3"
    assert rows[3]["verdict"] == "FAIL 3/4"
    assert rows[4]["verdict"] == "not tried: skipped here"
    assert rows[5]["verdict"] == "pass 3/3, 1 skipped"
    assert rows[6]["verdict"] == "not tried: no test"
    facts = {"commit": "c", "machine": "m"}
    report = {"command": "x", "provenance": facts, "seconds": 1.0, "faults": list(rows.values())}
    assert render(report).count("test_x.py::test_a[1]`: because") == 1


def test_every_marker_names_known_faults():
    numbers = set()
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.fault":
                numbers |= {ast.literal_eval(argument) for argument in node.args}
    assert numbers and numbers <= FAULTS.keys()


def test_benchmarks_are_listed_with_their_verdicts(tmp_path):
    row = {"name": "a / b", "ratio": 0.25, "ideal": None, "passes": 0.5, "verdict": "pass"}
    (tmp_path / "ema.json").write_text(json.dumps({"commit": "abc", "machine": "M", "rows": [row]}))
    (tmp_path / "colors.json").write_text(json.dumps({"ratio_cpu": 10.0, "target_cpu": 20}))
    table = all.render(tmp_path)
    assert "| [ema](ema.json) | a / b | 0.250 |  | 0.500 | pass | abc |" in table
    assert "| 0.100 |  | 0.050 | over by 0.050 | not recorded |" in table
    assert "loader]" not in table
    assert "- Not measured here: denoiser, objectives, loader, detection, " in table
    assert "\n- ema: moving average of the weights; M\n" in table
