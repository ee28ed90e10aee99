"""Figures: data drawn, byte reproducibility, refusals."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from evals.report import curves
from evals.report.canvas import save
from evals.report.image_grids import GridBlock, grid, prompts_shown, result_grid, row_labels
from evals.report.result_folders import collect
from tests.helpers.synthetic_results import RATES, write_result


@pytest.fixture
def milestones(tmp_path: Path) -> Path:
    for method in RATES:
        for iterations in (1000, 2000):
            write_result(tmp_path / f"{method}-{iterations}", method, iterations=iterations)
    return tmp_path


def test_curves_show_scores_and_bands(milestones: Path) -> None:
    folders = collect([milestones])
    figure = curves.training_progress(folders, "title")
    assert figure is not None
    axes = figure.axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert set(lines) == {"Self-E", "Flow Matching", "IMM"}
    for folder in folders:
        x, y = lines[folder.result.model.label].get_data()
        place = list(x).index(folder.result.model.iterations)
        assert y[place] == pytest.approx(folder.result.scores.overall.mean)
    assert len(axes.collections) == 3
    assert {t.get_text() for t in axes.texts} == set(lines)
    assert axes.get_xlabel() == "training iterations" and axes.get_ylabel() == "overall score"


def test_no_curve_from_one_iteration_and_no_partial_points(tmp_path: Path) -> None:
    write_result(tmp_path / "a")
    assert curves.training_progress(collect([tmp_path]), "") is None
    write_result(tmp_path / "b", iterations=1000, keep=50)
    assert curves.training_progress(collect([tmp_path]), "") is None


def test_saved_bytes_do_not_depend_on_run_or_user_settings(milestones: Path, monkeypatch) -> None:
    folders = collect([milestones])
    out = milestones / "out"
    first = save(draw(folders), out / "a").read_bytes()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    with mpl.rc_context({"font.size": 20, "lines.linewidth": 5, "svg.hashsalt": None}):
        second = save(draw(folders), out / "b").read_bytes()
    assert first == second
    assert b"<dc:date>" not in first and b"matplotlib.org" not in first
    assert mpl.rcParams["svg.hashsalt"] is None


def draw(folders):
    return curves.scores_against_steps(folders, "title")


def test_colours_and_markers_are_distinct() -> None:
    styles = list(curves.STYLES.values())
    assert len({s[0] for s in styles}) == len(styles) == len({s[1] for s in styles})


def test_grid_needs_every_image_and_marks_failed_ones(tmp_path: Path) -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    block = GridBlock("a photo of a circle", [[image, None]])
    with pytest.raises(ValueError, match="needs 2 x 2 images"):
        grid(["A", "B"], ["2 steps", "4 steps"], [block])
    with pytest.raises(ValueError, match="at least one"):
        grid([], [], [])
    figure = grid(["A"], ["2 steps", "4 steps"], [block], "title")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["2 steps", "4 steps", "A", "a photo of a circle"]
    png = save(figure, tmp_path / "grid")
    pixels = np.asarray(Image.open(png).convert("RGB")).reshape(-1, 3)
    assert (pixels == (255, 0, 255)).all(1).sum() > 1000  # the failed one
    assert (pixels == (0, 0, 0)).all(1).sum() > 1000


def test_result_grid_reads_the_same_prompts_of_every_folder(tmp_path: Path) -> None:
    for method in ("selfe", "fm"):
        write_result(
            tmp_path / method, method, images=True, prompts_per_task=1, images_per_prompt=1
        )
    folders = {f.result.model.method: f for f in collect([tmp_path])}
    rows = [(m, {2: folder}) for m, folder in folders.items()]
    assert prompts_shown(folders["fm"]) == [5, 4, 2, 1]
    figure = result_grid(rows, [2], "title")
    assert figure is not None and len(figure.axes) == 4
    picture = np.asarray(Image.open(tmp_path / "fm" / "00005" / "samples" / "00000.png"))
    shown = figure.axes[0].images[0].get_array()
    assert np.array_equal(shown[:128:4, :128:4], picture)
    (tmp_path / "selfe" / "00005" / "samples" / "00000.png").unlink()
    assert result_grid(rows, [2], "title") is None


def test_policy_figures_separate_fractions(tmp_path: Path) -> None:
    for fraction in (0.0, 1.0):
        for steps in (1, 2, 4):
            settings = {"s_fraction": fraction}
            write_result(tmp_path / f"{steps}-{fraction}", steps=steps, settings=settings)
    folders = collect([tmp_path])
    several = [f for f in folders if f.result.sampling.steps > 1]
    figure = curves.secondary_time_scores(several, "")
    assert figure is not None
    labels = [line.get_label() for line in figure.axes[0].get_lines()]
    assert labels == ["s = next", "s = current"]
    one_step = curves.one_step_scores(folders, "")
    assert one_step is not None
    assert list(one_step.axes[0].get_lines()[0].get_xdata()) == [0.0, 1.0]


def test_rows_of_one_label_are_told_apart_by_their_names() -> None:
    labels = row_labels(["Self-E", "SDXL", "Self-E"], ["run@400", "sdxl", "run@250"])
    assert labels == ["run@400", "SDXL", "run@250"]
