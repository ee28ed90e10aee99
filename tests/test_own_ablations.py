"""A user's own ablation stands in figures, tables and headlines under the user's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from evals.report.chosen import render_runs
from evals.report.chosen_results import choose_runs
from evals.report.figures import ResultGroup, draw_group
from evals.report.groups import tell_apart
from evals.report.headline import headline
from evals.report.lines import build_lines
from evals.report.render import render
from evals.report.result_folders import collect
from evals.site.render import render_page
from tests.helpers.synthetic_results import write_result


def write(root: Path, run: str, *changed: str, method: str = "selfe", **more: Any) -> None:
    """Results of a run at 2 and 4 steps."""
    training = {
        "config_digest": run,
        "seedless_digest": ",".join((method, *changed)),
        "changed": list(changed),
        "seed": more.pop("training_seed", 0),
    }
    for steps in (2, 4):
        folder = root / run / "results" / f"steps-{steps}"
        write_result(
            folder, method, steps=steps, run=run, training=training, prompts_per_task=2, **more
        )


def variants(root: Path) -> dict[str, str]:
    return {folder.run: folder.result.model.variant for folder in tell_apart(collect([root]))}


def test_its_name_is_that_of_the_run(tmp_path: Path) -> None:
    write(tmp_path, "shapes-selfe")
    write(tmp_path, "hot", "optim.lr=0.1")
    write(tmp_path, "narrow-seed0", "model.dim=8")
    write(tmp_path, "narrow-seed1", "model.dim=8", training_seed=1)
    write(tmp_path, "shapes-selfe-optim.lr1e-2-seed3", "optim.lr=0.01")
    write(tmp_path, "aux", "optim.lr=0.3")
    write(tmp_path, "one", "optim.lr=0.4")
    write(tmp_path, "two", "optim.lr=0.4", training_seed=1)
    assert variants(tmp_path) == {
        "shapes-selfe": "",
        "hot": "hot",
        "narrow-seed0": "narrow",
        "narrow-seed1": "narrow",
        "shapes-selfe-optim.lr1e-2-seed3": "optim.lr=0.01",  # a name that no user chose
        "aux": "optim.lr=0.3",  # another ablation's
        "one": "optim.lr=0.4",  # no name for both
        "two": "optim.lr=0.4",
    }


def test_two_configurations_never_share_a_name(tmp_path: Path) -> None:
    write(tmp_path, "shapes-selfe")
    write(tmp_path / "monday", "hot", "optim.lr=0.1")
    write(tmp_path / "tuesday", "hot", "optim.lr=0.2")
    found = {folder.result.model.variant for folder in tell_apart(collect([tmp_path]))}
    assert found == {"", "optim.lr=0.1", "optim.lr=0.2"}


def labels_of(figure: Figure) -> set[str]:
    return {str(line.get_label()) for axes in figure.axes for line in axes.lines}


def test_figures_tables_headlines_and_the_page_have_it(tmp_path: Path) -> None:
    for iterations in (1000, 3000):
        root = tmp_path / "runs" / str(iterations)
        write(root, "shapes-selfe", iterations=iterations, images=True)
        write(root, "shapes-fm", method="fm", iterations=iterations, images=True)
        # trained for shorter than the others
        write(root, "hot", "optim.lr=0.1", iterations=iterations // 2, images=True)
    folders = tell_apart(collect([tmp_path / "runs"]))
    figures: dict[str, Figure] = {}

    def draw(name: str, figure: Figure | None) -> list[str]:
        figures.update({name: figure} if figure else {})
        return []

    draw_group(draw, ResultGroup(folders, "shapes"), "")
    for name in ("fig5", "scores_by_steps"):
        assert labels_of(figures[name]) >= {"Self-E", "Flow Matching", "Self-E (hot)"}, name
    words = [text.get_text() for axes in figures["fig4"].axes for text in axes.texts]
    assert any("hot" in text for text in words)
    summary = render([tmp_path / "runs"], tmp_path / "out")
    (table,) = summary.compact
    assert "Self-E (hot)" in [row.name for row in table.rows]
    assert all("Self-E (hot)" in sentence for sentence in headline(table))
    assert "Self-E (hot)" in (tmp_path / "out" / "table2.md").read_text()
    assert '"name":"Self-E (hot)"' in (tmp_path / "out" / "page" / "data.js").read_text()
    (line,) = [line for line in build_lines(folders) if line.name == "Self-E (hot)"]
    assert line.usual


def test_over_seeds_it_has_its_row_and_a_verdict(tmp_path: Path) -> None:
    for seed in (0, 1):
        write(tmp_path / "runs", f"shapes-selfe-seed{seed}", training_seed=seed, seed=seed)
        write(
            tmp_path / "runs", f"hot-{seed}", "optim.lr=0.1", training_seed=seed, seed=seed,
            rate=0.9,
        )  # fmt: skip
    (table,) = render([tmp_path / "runs"], tmp_path / "out", html=False).compact
    (row,) = [row for row in table.rows if row.name == "Self-E (hot)"]
    assert row.main and all(cell.delta is not None for cell in row.cells.values())
    assert all("Self-E (hot)" in sentence for sentence in headline(table))


def test_many_of_them_leave_the_methods_their_places(tmp_path: Path) -> None:
    write(tmp_path, "shapes-selfe")
    write(tmp_path, "shapes-imm", method="imm")
    for number in range(8):
        write(tmp_path, f"width-{'abcdefgh'[number]}", f"model.dim={number}")
    shown = [line.name for line in build_lines(tell_apart(collect([tmp_path]))) if line.usual]
    assert len(shown) == 6 and {"Self-E", "IMM", "Self-E (width-a)"} <= set(shown)


def test_without_the_recipes_own_settings_nobody_is_called_by_the_method_alone(
    tmp_path: Path,
) -> None:
    write(tmp_path, "a", "objective.renoise=same")
    write(tmp_path, "b", "objective.dropped=literal")
    write(tmp_path, "b-seed1", "objective.dropped=literal")
    assert variants(tmp_path) == {"a": "a", "b": "b", "b-seed1": "b"}


def test_a_baseline_may_lack_results_of_one_protocol(tmp_path: Path) -> None:
    """Both tables stand in the report; each names what its differences are to."""
    write(tmp_path, "shapes-selfe")
    write(tmp_path, "hot", "optim.lr=0.1")
    for steps in (2, 4):
        folder = tmp_path / "hot" / "results" / f"steps-{steps}-free"
        training = {"config_digest": "hot", "seedless_digest": "hot", "changed": [], "seed": 0}
        write_result(folder, "selfe", steps=steps, run="hot", training=training, prompts_per_task=3)
    chosen = choose_runs([tmp_path], ["shapes-selfe", "hot"], "shapes-selfe")
    summary = render_runs(chosen, tmp_path / "report")
    assert len(summary.compact) == 2
    assert {table.reference for table in summary.compact} == {"shapes-selfe", "hot"}
    assert (tmp_path / "report" / "index.html").is_file()
    with pytest.raises(ValueError, match="no configuration is called 'nobody'"):
        render_page(chosen.folders, tmp_path / "page", names=chosen.names, baseline="nobody")
