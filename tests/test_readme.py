"""README's tables of scores say what the committed reports say."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEADER = "| | 2 steps | 4 steps | 8 steps | 50 steps |"
TABLES = [  # in README's order: report and iterations
    ("quickstart", "800"),
    ("shapes-seeds", "3000"),
    ("shapes-seeds", "1000"),
    ("learning-rate", "800"),
    ("quickstart", "800"),
    ("meanflow", "800"),
]
ROWS = {  # method and variant
    "Self-E": ("Self-E", ""),
    "Flow Matching": ("Flow Matching", ""),
    "IMM": ("IMM", ""),
    "Shortcut models": ("Shortcut", ""),
    "Transition (TiM)": ("Transition (TiM)", ""),
    "MeanFlow": ("MeanFlow", ""),
    "MeanFlow, smooth-time": ("MeanFlow", "smooth-time"),
    "Flow Matching in fp32": ("Flow Matching", "train.precision=fp32"),
    "without target normalisation": ("Self-E", "no-target-norm"),
    "with the auxiliary term": ("Self-E", "aux"),
}


def tables() -> list[list[list[str]]]:
    """Cells of every table under the header, row by row."""
    found = []
    for part in (ROOT / "README.md").read_text().split(HEADER)[1:]:
        lines = part.split("\n\n")[0].strip().splitlines()[1:]  # after the rule
        found.append([[cell.strip() for cell in line.strip("|").split("|")] for line in lines])
    return found


def test_every_table_is_checked():
    assert len(tables()) == len(TABLES)


@pytest.mark.parametrize("place", range(len(TABLES)))
def test_scores_are_those_of_the_report(place):
    report, iterations = TABLES[place]
    with (ROOT / "reports" / report / "trainings.csv").open() as stream:
        measured = {
            (r["method"], r["variant"], r["steps"]): r
            for r in csv.DictReader(stream)
            if r["iterations"] == iterations
        }
    rows = tables()[place]
    assert len(rows) >= 2
    for label, *cells in rows:
        for steps, cell in zip(("2", "4", "8", "50"), cells, strict=True):
            row = measured[*ROWS[label], steps]
            mean, low, high = (float(row[f"overall{end}"]) for end in ("", "_low", "_high"))
            mark = " n.r." * (row["resolved"] == "not resolved")
            assert cell == f"{mean:.3f} [{low:.3f}, {high:.3f}]{mark}", (label, steps)
