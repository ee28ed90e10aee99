"""The exact Flow Matching model's row in a report of a shapes suite."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from evals.base import Interval, ProtocolFacts, Scores
from evals.registry import open_color_classifier, open_detector, open_suite
from evals.report import exact_model
from evals.report.compact import compact_table
from evals.report.compact_text import compact_text
from evals.report.exact_model import NAME, exact_scores
from evals.report.headline import headline
from evals.report.lines import build_lines
from evals.report.render import render
from evals.report.result_folders import ResultFolder, collect
from evals.results import protocol_facts, read_result
from evals.scoring.headroom import WHAT, Headroom, HeadroomCell
from evals.suites.limit import limited, places_kept
from evals.suites.rules import DEFAULT_RULES
from selfe.config.recipes import CALIBRATED_SIGNAL
from selfe.sealed_files import seal
from selfe.studies.catalog import named_study
from tests.helpers.synthetic_results import write_result

SUITE = open_suite("shapes@1")
PER_TASK = 5
PART = limited(SUITE, PER_TASK)


def right(place: int, image: int, steps: int) -> bool:
    return (place + image) % steps != 0


def write_headroom(
    path: Path, protocol: ProtocolFacts, converged: bool = True, **sampling: object
) -> None:
    """As `selfe-bench headroom --out` writes it, of the whole suite, with made-up verdicts."""
    half = Interval(mean=0.5, low=0.4, high=0.6)
    found = Headroom(
        protocol=protocol,
        sampling={"warp": True, "eta": 0.0, **sampling},
        seed=0,
        num_scenes=512,
        converged=converged,
        tolerance=0.01,
        overall_by_scenes={512: [0.5, 0.5]},
        changes=[(0.0, 0.0)] * 2,
        cells=[
            HeadroomCell(
                steps=steps,
                scores=Scores(overall=half, tasks={}, num_images=1),
                scenes_in_use=1.0,
                correct=[
                    "".join("01"[right(place, i, steps)] for i in range(16))
                    for place in range(len(SUITE.records))
                ],
            )
            for steps in (2, 4)
        ],
    )
    path.write_text(found.model_dump_json())


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Self-E and Flow Matching in 2 and 50 steps, on the first prompts of every task."""
    for method in ("selfe", "fm"):
        for steps in (2, 50):
            folder = tmp_path / "runs" / f"shapes-{method}" / "results" / f"steps-{steps}"
            write_result(folder, method, steps=steps, prompts_per_task=PER_TASK)
            path = folder / "result.json"
            values = json.loads(path.read_text())
            values["protocol"]["prompts_sha256"] = PART.prompts_sha256
            path.write_text(json.dumps(values))
    return tmp_path / "runs"


def whole_suite(folders: list[ResultFolder], **changes: object) -> ProtocolFacts:
    size = {"prompts_sha256": SUITE.prompts_sha256, "num_prompts": len(SUITE.records)}
    return folders[0].result.protocol.model_copy(update={**size, **changes})


def test_its_row_is_of_the_prompts_that_were_scored(runs: Path) -> None:
    folders = collect([runs])
    write_headroom(runs / "headroom.json", whole_suite(folders))
    found = exact_scores(folders)
    assert set(found) == {2, 4}
    by_task: dict[str, list[bool]] = {}
    for place in places_kept(SUITE, PER_TASK):
        marks = [right(place, i, 4) for i in range(16)]
        by_task.setdefault(str(SUITE.records[place]["tag"]), []).extend(marks)
    for task, marks in by_task.items():
        assert found[4].tasks[task].mean == pytest.approx(sum(marks) / len(marks))
    assert found[4].num_images == 16 * len(PART.records)

    table = compact_table(build_lines(folders))
    assert table is not None
    *measured, exact = table.rows
    assert exact.name == NAME and set(exact.cells) == {2}, "at the steps that were measured"
    assert exact.cells[2].score == found[2].overall
    assert not exact.cells[2].best and exact.cells[2].delta is None
    assert sum(row.cells[2].best for row in measured) == 1
    *sentences, room = headline(table)
    assert not any(NAME in sentence for sentence in sentences)
    assert f"{1 - exact.cells[2].score.mean:.3f} at 2 steps" in room
    flow = next(row.cells[2] for row in measured if row.name == "Flow Matching")
    assert flow.delta is not None
    lead = f"{-flow.delta.mean:+.3f} where it is {1 - exact.cells[2].score.mean:.3f} (2 steps"
    assert f"Self-E's lead over Flow Matching beside it: {lead}" in room
    assert room in " ".join(compact_text(table).split())
    assert NAME in compact_text(table) and "headroom" in table.words


def test_a_file_of_just_these_prompts_comes_first(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reports of the quickstart's prompts keep their figures where the whole suite is shipped."""
    folders = collect([runs])
    whole, part = tmp_path / "a.json", tmp_path / "b.json"
    write_headroom(whole, whole_suite(folders))
    write_headroom(part, folders[0].result.protocol)
    values = json.loads(part.read_text())
    for cell in values["cells"]:
        cell["correct"] = ["1" * 16 for _ in cell["correct"]]
    part.write_text(json.dumps(values))
    for files, score in (([whole], 0.75), ([part], 1.0), ([whole, part], 1.0)):
        monkeypatch.setattr(exact_model, "_shipped", lambda files=files: files)
        overall = exact_scores(folders)[4].overall
        assert overall is not None and overall.mean == pytest.approx(score)


def test_the_page_has_it_as_a_layer(runs: Path, tmp_path: Path) -> None:
    folders = collect([runs])
    write_headroom(runs / "headroom.json", whole_suite(folders))
    render([runs], tmp_path / "out")
    assert NAME in (tmp_path / "out" / "README.md").read_text()
    text = (tmp_path / "out" / "page" / "data.js").read_text()
    data = json.loads(text.removeprefix("window.SELFE_DATA = ").removesuffix(";\n"))
    exact, room = data["exact"]
    assert (exact["name"], room["name"]) == (NAME, "Headroom")
    for one, other in zip(exact["points"], room["points"], strict=True):
        assert one["overall"][0] + other["overall"][0] == pytest.approx(1)
        low, high = other["overall"][1:]
        assert low <= other["overall"][0] <= high
    assert exact["protocol"] == data["protocols"][0]["id"]


@pytest.mark.parametrize(
    "changes",
    [
        {"signal": 0.25},
        {"split": "validation"},
        {"detector": "another"},
        {"rules": {"threshold": 0.5}},
        {"prompts_sha256": "0" * 64},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_world_or_ruler_is_not_taken(runs: Path, changes: dict[str, object]) -> None:
    folders = collect([runs])
    write_headroom(runs / "headroom.json", whole_suite(folders, **changes))
    assert exact_scores(folders) == {}


@pytest.mark.parametrize("sampling", [{"shift": -1.0}, {"eta": 1.0}, {"warp": False}])
def test_another_way_of_drawing_is_not_taken(runs: Path, sampling: dict[str, object]) -> None:
    folders = collect([runs])
    write_headroom(runs / "headroom.json", whole_suite(folders), **sampling)
    assert exact_scores(folders) == {}


def test_what_more_scenes_would_change_is_not_taken(runs: Path) -> None:
    folders = collect([runs])
    write_headroom(runs / "headroom.json", whole_suite(folders), converged=False)
    assert exact_scores(folders) == {}


def test_a_changed_score_is_noticed(runs: Path) -> None:
    folders, path = collect([runs]), runs / "headroom.json"
    write_headroom(path, whole_suite(folders))
    path.write_text(seal(WHAT, json.loads(path.read_text())))
    assert exact_scores(folders)
    text = path.read_text()
    path.write_text(text.replace('"correct": [\n    "1', '"correct": [\n    "0', 1))
    if path.read_text() == text:
        path.write_text(text.replace('"seed": 0', '"seed": 1', 1))
    assert path.read_text() != text
    with pytest.raises(ValueError, match=r"headroom\.json: it was changed"):
        exact_scores(folders)


def test_a_damaged_file_is_named(runs: Path) -> None:
    (runs / "headroom.json").write_text('{"cells": [1]}')
    with pytest.raises(ValueError, match=r"headroom\.json"):
        exact_scores(collect([runs]))


def test_photographs_have_none(tmp_path: Path) -> None:
    write_result(tmp_path / "r", suite="geneval@1")
    assert exact_scores(collect([tmp_path])) == {}
    assert read_result(tmp_path / "r").protocol.suite == "geneval@1"


@pytest.mark.parametrize("signal", [1.0, CALIBRATED_SIGNAL])
def test_the_quickstart_has_it_without_a_file(runs: Path, signal: float) -> None:
    """Files of the recipes' worlds are shipped, measured on the quickstart's prompts."""
    suite = limited(SUITE, named_study("quickstart").limit)
    detector = open_detector(suite.detector, **dict(suite.detector_options))
    colors = open_color_classifier(suite.color_classifier)
    protocol = protocol_facts(suite, 4, detector, colors, DEFAULT_RULES, signal=signal)
    (folder, *_) = collect([runs])
    result = folder.result.model_copy(update={"protocol": protocol})
    found = exact_scores([replace(folder, result=result)])
    assert {2, 4, 8, 50} <= set(found)
    few, many = found[2].overall, found[8].overall
    assert few is not None and many is not None
    assert few.mean < many.mean > 0.98
