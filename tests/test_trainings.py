"""Means and differences over training seeds.

Longer than other files by the cases of which training is compared with which.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.stats import norm, ttest_1samp

from evals.base import Interval
from evals.multiplicity import holm
from evals.over_trainings import over_trainings, p_over_trainings
from evals.report.compact import compact_table
from evals.report.compact_text import compact_text
from evals.report.compare_seeds import as_markdown, compare_trainings
from evals.report.figures import ResultGroup, draw_group
from evals.report.headline import headline
from evals.report.lines import build_lines
from evals.report.page import TASK_NAMES
from evals.report.render import render
from evals.report.result_folders import ResultFolder, collect
from evals.report.training_seeds import trainings_frame
from evals.report.training_seeds_page import trainings_markdown, trainings_statements
from evals.stats import PromptCounts
from evals.verdicts import difference_of_counts, together
from scripts.checks.training_intervals import coverage
from selfe.config.resolve import resolve
from tests.helpers.command_line import selfe_bench
from tests.helpers.synthetic_results import write_result

T_95_OF_TWO_DEGREES = 4.302653
SEEDS = (0, 1, 2)


def write(
    root: Path,
    method: str,
    seed: int,
    *,
    settings: str = "own",
    facts: dict[str, Any] | None = None,
    drawn: dict[str, Any] | None = None,
    **more: Any,
) -> None:
    """A result of one training; `drawn` are sampling settings, `more` is of `write_result`."""
    training = {
        "seed": seed,
        "seedless_digest": f"{method}-{settings}",
        "config_digest": f"{method}-{settings}-{seed}",
        "follows_recipe": settings == "own",
        "init_from": None,
        "precision": "fp32",
        **(facts or {}),
    }
    folder = root / f"{method}-{settings}-{seed}"
    write_result(folder, method, seed=seed, training=training, settings=drawn, **more)


@pytest.fixture
def thrice(tmp_path: Path) -> list[ResultFolder]:
    for seed in SEEDS:
        write(tmp_path, "selfe", seed, rate=0.6 + 0.02 * seed)
        write(tmp_path, "fm", seed, rate=0.3 + 0.02 * seed)
        write(tmp_path, "imm", seed, rate=0.6)
    return collect([tmp_path])


def overall(folder: ResultFolder) -> float:
    assert folder.result.scores.overall is not None
    return folder.result.scores.overall.mean


def test_mean_and_spread_are_those_of_the_trainings(thrice: list[ResultFolder]) -> None:
    frame = trainings_frame(thrice).set_index("method")
    for method, name in (("fm", "Flow Matching"), ("selfe", "Self-E")):
        values = [overall(f) for f in thrice if f.result.model.method == method]
        row = frame.loc[name]
        assert row["training_seed"] == "0 1 2"
        assert row["overall"] == pytest.approx(np.mean(values))
        assert row["sd"] == pytest.approx(np.std(values, ddof=1))
        half = T_95_OF_TWO_DEGREES * row["sd"] / 3**0.5
        assert row["overall_high"] - row["overall"] >= half
        assert row["overall"] - row["overall_low"] >= half


def test_difference_is_paired_over_seeds(thrice: list[ResultFolder]) -> None:
    frame = trainings_frame(thrice).set_index("method")
    by = {(f.result.model.method, f.result.model.training["seed"]): f for f in thrice}
    deltas = [overall(by["fm", s]) - overall(by["selfe", s]) for s in SEEDS]
    row = frame.loc["Flow Matching"]
    assert row["delta_selfe"] == pytest.approx(np.mean(deltas))
    half = T_95_OF_TWO_DEGREES * np.std(deltas, ddof=1) / 3**0.5
    prompts = difference_of_counts(
        *(together([by[method, s].counts for s in SEEDS]) for method in ("fm", "selfe"))
    ).interval
    assert row["delta_high"] - row["delta_selfe"] == pytest.approx(
        np.hypot(half, prompts.high - prompts.mean)
    )
    assert row["resolved_over_prompts"] == "3 of 3"
    assert frame.loc["IMM", "resolved"] == "not resolved"
    assert frame.loc["Self-E", "resolved"] == "reference"


def test_verdicts_hold_for_all_differences_of_the_table(thrice: list[ResultFolder]) -> None:
    frame = trainings_frame(thrice).set_index("method")
    told = frame[frame["delta_selfe"].notna()]
    assert told["p_holm"].tolist() == pytest.approx(holm(told["p_value"].tolist()))
    row = frame.loc["Flow Matching"]
    assert row["p_value"] < 0.05 < row["p_holm"] and row["delta_high"] < 0
    assert row["resolved"] == "resolved, not after Holm"
    assert "resolved, not after Holm" in trainings_markdown(frame.reset_index())
    table = compact_table(build_lines(thrice), trainings_frame(thrice))
    assert table is not None
    cells = {row.name: next(iter(row.cells.values())) for row in table.rows}
    assert cells["Flow Matching"].told == "resolved, not after Holm"
    assert not cells["Flow Matching"].resolved and cells["IMM"].told == "not resolved"
    (sentence,) = headline(table)
    assert "resolved by itself only: Flow Matching" in sentence
    assert "cannot be told from 3 trainings" in table.words
    text = " ".join(compact_text(table).split())
    assert "~ resolved by itself, not among all (Holm)" in text


def test_p_over_trainings_is_one_minus_the_confidence_that_ends_at_0() -> None:
    values = [0.02, 0.11, 0.08]
    mean = float(np.mean(values))
    wide = over_trainings(values, Interval(mean=mean, low=mean - 0.03, high=mean + 0.04))
    at_0 = [v - wide.low for v in values]  # moved so that the interval ends at 0
    prompts = Interval(mean=mean - wide.low, low=mean - wide.low - 0.03, high=1.0)
    assert p_over_trainings(at_0, prompts) == pytest.approx(0.05)
    assert p_over_trainings([-v for v in at_0], Interval(
        mean=-prompts.mean, low=-1.0, high=-prompts.low)) == pytest.approx(0.05)  # fmt: skip
    # of one kind of error alone it is Student's, and Gauss's
    point = Interval(mean=mean, low=mean, high=mean)
    assert p_over_trainings(values, point) == pytest.approx(ttest_1samp(values, 0).pvalue)
    equal = Interval(mean=0.05, low=0.01, high=0.09)
    assert p_over_trainings([0.05, 0.05], equal) == pytest.approx(
        2 * norm.sf(0.05 / (0.04 / norm.ppf(0.975)))
    )
    assert p_over_trainings([0.1, -0.1], Interval(mean=0.0, low=-0.1, high=0.1)) == 1.0
    assert p_over_trainings([0.1, 0.1], Interval(mean=0.1, low=0.1, high=0.1)) < 1e-10
    with pytest.raises(ValueError, match="two or more"):
        p_over_trainings([0.5], prompts)


def test_tasks_are_compared_by_themselves(tmp_path: Path) -> None:
    """Equal overall scores may hide that one method counts and the other binds attributes."""
    few, many = (0.05, 0.95)
    for seed in SEEDS:
        write(tmp_path, "selfe", seed, rate=0.5, rates={"counting": few, "color_attr": many})
        write(tmp_path, "fm", seed, rate=0.5, rates={"counting": many, "color_attr": few})
    folders = collect([tmp_path])
    frame = trainings_frame(folders)
    row = frame.set_index("method").loc["Flow Matching"]
    assert row["resolved"] == "not resolved"
    assert row["counting_delta_low"] > 0 > row["color_attr_delta_high"]
    assert row["colors_delta_low"] < 0 < row["colors_delta_high"]
    shares = [
        f.verdicts[f.verdicts["tag"] == "counting"]["correct"].mean()
        for f in folders
        if f.result.model.method == "fm"
    ]
    assert row["counting"] == pytest.approx(np.mean(shares))
    assert row["counting_low"] < row["counting"] < row["counting_high"]
    page = trainings_markdown(frame)
    assert f"{row['counting']:.3f}; **+{row['counting_delta']:.3f}** [+" in page
    self_e = frame.set_index("method").loc["Self-E"]
    assert f"| {self_e['counting']:.3f} |" in page
    assert self_e[["counting_delta", "colors_delta"]].isna().all()


def test_only_trainings_that_differ_in_nothing_but_the_seed_share_a_mean(tmp_path: Path) -> None:
    for seed in SEEDS:
        write(tmp_path, "selfe", seed, rate=0.5)
        write(tmp_path, "fm", seed, rate=0.5, settings="changed")
    write(tmp_path, "fm", 0, rate=0.9)
    write(tmp_path, "imm", 0, rate=0.5)
    write(tmp_path, "imm", 1, rate=0.5, facts={"precision": "bf16"})
    write(tmp_path, "selfe", 5, rate=0.9, drawn={"eta": 0.5})
    write(tmp_path, "selfe", 3, rate=0.9, facts={"init_from": "other@100"})
    write(tmp_path, "selfe", 4, rate=0.9, keep=60)
    frame = trainings_frame(collect([tmp_path]))
    rows = {(row.method, row.changed): row.training_seed for row in frame.itertuples()}
    assert rows == {("Self-E", False): "0 1 2", ("Flow Matching", True): "0 1 2"}


def test_a_method_without_self_e_at_its_seeds_is_compared_with_nothing(tmp_path: Path) -> None:
    for seed in (5, 6):
        write(tmp_path, "fm", seed, rate=0.5)
    for seed in (6, 7):
        write(tmp_path, "selfe", seed, rate=0.5)
    frame = trainings_frame(collect([tmp_path])).set_index("method")
    assert frame.loc["Flow Matching", "resolved"] == "no Self-E of two of these seeds"


def test_a_sentence_names_seeds_that_are_not_those_of_self_e(thrice: list[ResultFolder]) -> None:
    fewer = [
        folder
        for folder in thrice
        if (folder.result.model.method, folder.result.model.training["seed"]) != ("fm", 2)
    ]
    (text,) = trainings_statements(trainings_frame(fewer))
    assert "seeds 0 1 2 (shapes, 3000 iterations): Self-E" in text
    assert text.endswith("resolved, mean of seeds 0 1).")
    assert text.count("mean of seeds") == 1


def test_a_sentence_names_the_seeds_of_a_difference_that_are_not_all(
    thrice: list[ResultFolder],
) -> None:
    fewer = [
        folder
        for folder in thrice
        if (folder.result.model.method, folder.result.model.training["seed"]) != ("selfe", 2)
    ]
    (text,) = trainings_statements(trainings_frame(fewer))
    assert text.endswith("resolved, mean of seeds 0 1 2, difference of 0 1).")


def test_self_e_as_its_recipe_is_the_reference_of_all(tmp_path: Path) -> None:
    for seed in SEEDS:
        write(tmp_path, "fm", seed, rate=0.5)
        write(tmp_path, "selfe", seed, rate=0.2, settings="changed")
        write(tmp_path, "imm", seed, rate=0.5, settings="changed")
    for seed in (1, 2):
        write(tmp_path, "selfe", seed, rate=0.8)
    folders = collect([tmp_path])
    frame = trainings_frame(folders)
    assert frame["method"].tolist() == ["Flow Matching", "IMM", "Self-E", "Self-E"]
    assert frame["resolved"].tolist()[2:] == ["reference", "resolved, not after Holm"]
    assert (frame["delta_selfe"].dropna() < 0).all() and frame["delta_selfe"].count() == 3
    assert frame["delta_seeds"].dropna().tolist() == ["1 2"] * 3
    (text,) = trainings_statements(frame)
    assert "IMM, settings changed, 0." in text and "Self-E, settings changed, 0." in text
    assert trainings_markdown(frame).count(" (seeds 1 2) |") == 3


def test_statements_say_what_was_changed_of_self_e_too(tmp_path: Path) -> None:
    for seed in (0, 1):
        write(tmp_path, "fm", seed, rate=0.3, settings="changed")
        write(tmp_path, "selfe", seed, rate=0.6, settings="changed")
    (text,) = trainings_statements(trainings_frame(collect([tmp_path])))
    assert (
        "): Self-E, settings changed, 0." in text
        and ", Flow Matching, settings changed, 0." in text
    )


def test_a_variant_is_compared_with_the_self_e_of_that_variant(tmp_path: Path) -> None:
    named: dict[str, Any] = {"facts": {"follows_recipe": True}}
    for seed in SEEDS:
        write(tmp_path, "selfe", seed, rate=0.8)
        for method, variant, rate in (
            ("selfe", "smooth-time", 0.3),
            ("fm", "smooth-time", 0.5),
            ("imm", "no-loss-norm", 0.5),
        ):
            write(tmp_path, method, seed, settings=variant, variant=variant, rate=rate, **named)
    frame = trainings_frame(collect([tmp_path])).set_index(["method", "variant"])
    assert frame.loc[("Self-E", "smooth-time"), "delta_selfe"] < 0
    assert frame.loc[("Flow Matching", "smooth-time"), "delta_selfe"] > 0
    assert frame.loc[("IMM", "no-loss-norm"), "delta_selfe"] < 0
    marked = frame.index[frame["delta_same_variant"].eq(True)]
    assert marked.tolist() == [("Flow Matching", "smooth-time")]
    (text,) = trainings_statements(frame.reset_index())
    assert text.count("same variant") == 1
    assert trainings_markdown(frame.reset_index()).count("] same variant |") == 1


def test_of_several_changed_self_e_none_is_the_reference(tmp_path: Path) -> None:
    for seed in (0, 1):
        for settings in ("slow", "fast"):
            write(tmp_path, "selfe", seed, rate=0.5, settings=settings)
            write(tmp_path, "fm", seed, rate=0.5, settings=settings)
    frame = trainings_frame(collect([tmp_path]))
    assert frame["resolved"].tolist() == ["several Self-E"] * 4
    assert trainings_statements(frame) == []


def test_one_seed_in_two_precisions_is_two_trainings(tmp_path: Path) -> None:
    write(tmp_path / "a", "selfe", 0, rate=0.5, facts={"precision": "bf16"})
    for seed in (0, 1):
        write(tmp_path / "b", "selfe", seed, rate=0.5)
    (seeds,) = trainings_frame(collect([tmp_path]))["training_seed"]
    assert seeds == "0 1"


def test_a_mean_over_seeds_never_mixes_two_ways_of_drawing(tmp_path: Path) -> None:
    for seed in SEEDS:
        for shift, rate in ((0.1, 0.3), (0.2, 0.9)):
            # whichever folder comes first by its name
            root = tmp_path / str(seed % 2 == int(shift == 0.1))
            write(root, "selfe", seed, rate=rate, drawn={"guidance": "none", "shift": shift})
    frame = trainings_frame(collect([tmp_path]))
    assert list(frame["training_seed"]) == ["0 1 2"] and frame["sd"][0] < 0.1


def test_the_compact_table_shows_the_way_of_drawing_of_most_seeds(tmp_path: Path) -> None:
    for seed, shift in enumerate((0.1, 0.1, 0.1, 0.2, 0.2)):
        drawn = {"guidance": "none", "shift": shift}
        write(tmp_path, "selfe", seed, rate=0.3 if shift == 0.1 else 0.9, drawn=drawn)
    folders = collect([tmp_path])
    frame = trainings_frame(folders)
    assert sorted(frame["training_seed"]) == ["0 1 2", "3 4"]
    table = compact_table(build_lines(folders), frame)
    assert table is not None
    (cell,) = table.rows[0].cells.values()
    assert cell.score.mean < 0.6


def test_a_difference_stays_a_difference_of_shares(tmp_path: Path) -> None:
    for seed, rates in enumerate(((0.9, 0.5), (0.99, 0.1))):
        write(tmp_path, "selfe", seed, rate=rates[0])
        write(tmp_path, "fm", seed, rate=rates[1])
    frame = trainings_frame(collect([tmp_path])).set_index("method")
    assert frame.loc["Flow Matching", "delta_low"] == -1
    assert frame.loc["Flow Matching", "delta_high"] == 1


def test_the_report_has_the_page_where_a_configuration_was_trained_twice(tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    write(runs, "selfe", 0, rate=0.5)
    render([runs], out)
    assert not (out / "trainings.md").exists()
    write(runs, "selfe", 1, rate=0.5)
    write(runs, "fm", 1, rate=0.4)
    write(runs, "fm", 0, rate=0.4)
    summary = render([runs], out)
    assert "Self-E was trained with seeds 1 too" in "".join(summary.notes)
    assert not any("ANOTHER" in note for note in summary.notes)
    index = (out / "README.md").read_text()
    assert "- At 2 steps: Self-E 0.496; not resolved: Flow Matching 0.396." in index
    assert "Means over training seeds" in index
    assert "(trainings.md)" in (out / "README.md").read_text()
    with (out / "trainings.csv").open() as stream:
        rows = {row["method"]: row for row in csv.DictReader(stream)}
    row = rows["Self-E"]
    assert row["training_seed"] == "0 1" and row["resolved"] == "reference"
    assert f"| {float(row['sd']):.3f} |" in (out / "trainings.md").read_text()


def test_results_of_other_tasks_have_no_difference() -> None:
    counts = {t: PromptCounts(np.array([1]), np.array([4])) for t in ("colors", "counting")}
    with pytest.raises(ValueError, match="only one has counting"):
        difference_of_counts({"colors": counts["colors"]}, counts)


def test_settings_but_the_seed_have_one_digest() -> None:
    first, other = (resolve("shapes-quick", "fm", seed=seed) for seed in (0, 1))
    changed = resolve("shapes-quick", "fm", assignments=["optim.lr=1e-4"])
    assert first.digest != other.digest and first.seedless_digest == other.seedless_digest
    assert changed.seedless_digest != first.seedless_digest


@pytest.mark.parametrize("setting", ["sampling.guidance_scale=3", "train.sample_every=null"])
def test_what_the_weights_do_not_see_keeps_seeds_together(setting: str) -> None:
    """A seed that is added after the sampling was searched counts with those before."""
    before, after = (resolve("shapes-quick", "fm", assignments=a) for a in ([], [setting]))
    assert before.digest != after.digest and before.seedless_digest == after.seedless_digest


def test_one_training_has_no_spread() -> None:
    with pytest.raises(ValueError, match="two or more"):
        over_trainings([0.5], Interval(mean=0.5, low=0.4, high=0.6))


def test_equal_trainings_keep_the_interval_of_the_prompts() -> None:
    prompts = Interval(mean=0.5, low=0.4, high=0.7)
    found = over_trainings([0.5, 0.5], prompts)
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.4, 0.7))


@pytest.mark.parametrize(("trainings", "sd"), [(2, 0.0), (3, 0.4), (5, 0.1)])
def test_the_interval_covers_the_difference_for_new_seeds_and_prompts(
    trainings: int, sd: float
) -> None:
    worlds = 400
    found = {name: row["coverage"] for name, row in coverage(trainings, sd, worlds).items()}
    # five standard errors of a coverage of 0.95 below it
    least = 0.95 - 5 * (0.95 * 0.05 / worlds) ** 0.5
    assert found["both"] > least
    if sd == 0.4:
        assert found["prompts"] < least


def test_figures_draw_the_means_and_name_the_seeds(tmp_path: Path) -> None:
    for iterations in (500, 1000):
        for seed in SEEDS:
            place = tmp_path / str(iterations)
            write(place, "selfe", seed, rate=0.4 + iterations / 5000, iterations=iterations)
            if seed:
                write(place, "fm", seed, rate=0.3 + 0.02 * seed, iterations=iterations)
    write(tmp_path, "imm", 0, rate=0.5)  # one training has no mean
    group = ResultGroup(collect([tmp_path]), "shapes")
    drawn: dict[str, Figure] = {}

    def draw(name: str, figure: Figure | None) -> list[str]:
        drawn.update({name: figure} if figure is not None else {})
        return []

    draw_group(draw, group, "")
    frame = trainings_frame(group.folders).set_index(["method", "iterations"])
    means = frame["overall"]
    for name, where in (("trainings_by_steps", [1000]), ("trainings_progress", [500, 1000])):
        every = {line.get_label(): line for line in drawn[name].axes[0].get_lines()}
        lines = {label: line for label, line in every.items() if not label.startswith("_")}
        assert set(lines) == {"Self-E", "Flow Matching"}
        for label, line in lines.items():
            expected = [means.loc[label, iterations] for iterations in where]
            assert line.get_ydata() == pytest.approx(expected)
        texts = " ".join(text.get_text() for text in drawn[name].texts).replace("\n", " ")
        assert "training seeds Flow Matching 1 2, Self-E 0 1 2" in texts
    panels = drawn["trainings_by_task"].axes
    assert [axes.get_title(loc="left") for axes in panels] == list(TASK_NAMES.values())
    for axes, task in zip(panels, TASK_NAMES, strict=True):
        heights = {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}
        for label in ("Self-E", "Flow Matching"):
            assert heights[label] == pytest.approx([frame.loc[(label, 1000), task]])


# --- two configurations by name -------------------------------------------------------------------


def folder_of(tmp_path: Path, name: str) -> Path:
    (found,) = {path.parent for path in (tmp_path / name).rglob("result.json")}
    return found


def test_two_configurations_are_compared_as_the_report_compares(thrice, tmp_path: Path) -> None:
    write(tmp_path, "fm", 7, rate=0.9)  # a seed that Self-E lacks
    folders = collect([tmp_path])
    rows = trainings_frame(folders).set_index("method")
    fm, selfe = (folder_of(tmp_path, f"{method}-own-2") for method in ("fm", "selfe"))
    found = compare_trainings(fm, selfe, folders)
    assert found.seeds == SEEDS
    row = rows.loc["Flow Matching"]
    for column, value in zip(
        ("delta_selfe", "delta_low", "delta_high"),
        (
            found.overall.difference.mean,
            found.overall.difference.low,
            found.overall.difference.high,
        ),
        strict=True,
    ):
        assert value == pytest.approx(row[column])
    assert found.overall.resolved and row["resolved"].startswith("resolved")
    assert found.overall.p_value == pytest.approx(row["p_value"])
    assert found.overall.b.mean == pytest.approx(rows.loc["Self-E"]["overall"])
    for task, score in found.tasks.items():
        assert score.difference.mean == pytest.approx(row[f"{task}_delta"])
    text = as_markdown(found)
    assert "over training seeds 0, 1, 2" in text
    assert f"| overall | {found.overall.a.mean:.3f} | {found.overall.b.mean:.3f} |" in text
    code, out, _ = selfe_bench("compare", str(fm), str(selfe), "--over", str(tmp_path))
    assert code == 0 and out.strip() == text.strip()
    back = compare_trainings(selfe, fm, folders)
    assert back.overall.difference.mean == pytest.approx(-found.overall.difference.mean)


def test_what_cannot_be_compared_over_trainings_is_said(thrice, tmp_path: Path) -> None:
    write(tmp_path, "selfe", 5, settings="other", rate=0.5)
    write(tmp_path, "selfe", 0, settings="fork", rate=0.5, facts={"init_from": "x@1"})
    folders = collect([tmp_path])
    own, other, fork = (
        folder_of(tmp_path, f"selfe-{name}") for name in ("own-0", "other-5", "fork-0")
    )
    with pytest.raises(ValueError, match="seeds 0, 1, 2, .* of 5"):
        compare_trainings(own, other, folders)
    with pytest.raises(ValueError, match="not of a training from its start"):
        compare_trainings(own, fork, folders)
    with pytest.raises(ValueError, match="not among the results"):
        compare_trainings(own, tmp_path / "nowhere", folders)
