"""Tables 1 and 2: rows, figures recomputed from the verdicts, refusals.

Longer than other files by the refusals, one for each way of mixing what does not belong together.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from evals.base import ImageVerdict
from evals.report.commands import CommandContext, protocol_options
from evals.report.compare_seeds import compare_trainings
from evals.report.groups import by_protocol, tell_apart
from evals.report.markup import to_csv
from evals.report.render import render
from evals.report.result_folders import collect
from evals.report.rows import paper_table
from evals.report.table1 import TABLE1_COLUMNS, build_table1
from evals.report.table1_page import table1_markdown
from evals.report.table2 import TABLE2_COLUMNS, build_table2, horizons
from evals.report.table2_page import table2_latex, table2_markdown
from evals.scoring.score import summarize
from selfe.foreign_text import latex
from tests.helpers.synthetic_results import TASKS, write_result, write_study

OFFICIAL = "mask2former-swin-s:743b7d99"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study") / "runs")


def recompute(folder: Path) -> tuple[dict[str, float], pd.DataFrame]:
    rows = [json.loads(line) for line in (folder / "images.jsonl").read_text().splitlines()]
    frame = pd.DataFrame(rows)
    return frame.groupby("tag")["correct"].mean().to_dict(), frame


def test_table2_csv_columns_and_figures_follow_from_the_verdicts(study: Path) -> None:
    table = build_table2(collect([study]))
    lines = to_csv(table.frame, TABLE2_COLUMNS).splitlines()
    assert lines[0] == (
        "method,iterations,steps,nfe,guidance,eta,overall,ci_low,ci_high,delta_selfe,delta_low,"
        "delta_high,resolved,single_object,two_object,counting,colors,position,color_attr,"
        + ",".join(f"{task}_low,{task}_high" for task in TASKS)
    )
    assert len(lines) == 1 + 6 * 4
    page = table2_markdown(table)
    for _, row in table.frame.iterrows():
        means, _ = recompute(Path(row["folder"]))
        assert row["overall"] == pytest.approx(np.mean([means[t] for t in TASKS]))
        for task in TASKS:
            assert row[task] == pytest.approx(means[task])
            low, high = row[f"{task}_low"], row[f"{task}_high"]
            assert low <= row[task] <= high and low < high
            assert f"{row[task]:.3f} [{low:.3f}, {high:.3f}]" in page


def test_differences_are_paired_with_selfe_at_the_same_iterations_and_steps(study: Path) -> None:
    frame = build_table2(collect([study])).frame
    for _, row in frame.iterrows():
        if row["label"] == "Self-E":
            assert row["resolved"] == "reference" and np.isnan(row["delta_selfe"])
            continue
        same = (frame["label"] == "Self-E") & (frame["iterations"] == row["iterations"])
        other = frame[same & (frame["steps"] == row["steps"])].iloc[0]
        (_, a), (_, b) = recompute(Path(row["folder"])), recompute(Path(other["folder"]))
        both = a.merge(b, on=["prompt_id", "sample_id", "tag"], suffixes=("", "_selfe"))
        both["change"] = both["correct"].astype(float) - both["correct_selfe"].astype(float)
        expected = both.groupby("tag")["change"].mean().mean()
        assert row["delta_selfe"] == pytest.approx(expected)
        assert row["delta_low"] < expected < row["delta_high"]
        contains_zero = row["delta_low"] <= 0 <= row["delta_high"]
        assert row["resolved"] == ("not resolved" if contains_zero else "resolved")


def test_blocks_are_the_common_milestone_and_the_final_iteration(study: Path) -> None:
    frame = build_table2(collect([study])).frame
    blocks = frame.groupby("block")["iterations"].unique().to_dict()
    assert list(blocks["short"]) == [1000] and list(blocks["long"]) == [3000]


def test_horizons_without_ablations_or_in_unequal_runs() -> None:
    def cells(**runs: list[int]) -> list[tuple[str, str, int | None, int]]:
        return [(method, "", n, 2) for method, found in runs.items() for n in found]

    assert horizons([]) == (None, None)
    assert horizons(cells(selfe=[450, 900], fm=[900], imm=[900])) == (450, 900)
    assert horizons(cells(selfe=[1000, 2000, 3000], fm=[1000, 2000])) == (1000, 2000)
    assert horizons(cells(fm=[900])) == (300, 900)
    assert horizons(cells(fm=[900]), 200) == (200, 900)
    assert horizons(cells(fm=[900]), 1000) == (300, 900)
    assert horizons(cells(selfe=[450, 900]), 200) == (450, 900)
    aux = [("selfe", "aux", 1000, 2), ("selfe", "aux", 500, 2)]
    assert horizons(cells(selfe=[500, 3000]) + aux) == (500, 3000)


def test_statements_say_the_order_and_what_is_resolved(study: Path) -> None:
    table = build_table2(collect([study]))
    assert len(table.statements) == 4
    long = table.frame[(table.frame["block"] == "long") & (table.frame["steps"] == 2)]
    ranked = long.sort_values("overall", ascending=False)
    text = table.statements[0]
    # nothing in the synthetic study reaches 0.9 of the codec's ceiling at 50 steps
    places = [
        text.index(f"{row['label']} (under-trained) {row['overall']:.3f}")
        for _, row in ranked.iterrows()
    ]
    assert text.startswith("At 2 steps: ") and places == sorted(places)
    assert text.count("resolved)") == 2


def test_missing_rows_name_the_command(tmp_path: Path) -> None:
    write_result(
        tmp_path / "runs" / "shapes-selfe" / "results" / "a",
        command="selfe-bench geneval --limit 12 --steps 2",
    )
    folders = collect([tmp_path / "runs"])
    context = CommandContext(options=protocol_options(folders[0].result.command))
    table = build_table2(folders, context)
    imm = table.frame[table.frame["label"] == "IMM"]
    command = (
        "selfe-bench train --method imm && "
        "selfe-bench geneval --model runs/shapes-imm --steps 2,4,8,50 --limit 12"
    )
    assert set(imm["resolved"]) == {f"not run: {command}"}
    assert imm["overall"].isna().all()
    page = table2_markdown(table)
    assert f"not run: `{command}`" in page
    assert "--variant no-target-norm --set train.iterations=1000" in page
    selfe = table.frame[(table.frame["label"] == "Self-E") & (table.frame["block"] == "long")]
    assert (selfe["folder"] != "").tolist() == [True, False, False, False]
    assert "shapes-selfe@3000 --steps 4,8,50" in selfe["command"].iloc[1]


def test_everything_not_run_without_results() -> None:
    two, one = build_table2([]), build_table1([])
    assert len(two.frame) == 24 and len(one.frame) == 32
    assert "not run: `selfe-bench geneval --model sdxl --steps 2,4,8,50`" in table1_markdown(one)
    assert two.statements == []
    assert two.frame["resolved"].str.startswith("not run: selfe-bench ").all()


@pytest.mark.fault(22)
def test_partial_results_are_marked_and_compared_with_nothing(tmp_path: Path) -> None:
    write_result(tmp_path / "a", "selfe")
    write_result(tmp_path / "b", "fm", keep=100)
    write_result(tmp_path / "c", "imm", keep=100, allow_partial=False)
    table = build_table2(collect([tmp_path]))
    rows = table.frame[(table.frame["steps"] == 2) & (table.frame["block"] == "long")]
    rows = rows.set_index("label")
    for label in ("Flow Matching", "IMM"):
        assert rows.loc[label, "method"] == f"{label} (partial)"
        assert rows.loc[label, "resolved"] == "partial: not compared"
        assert np.isnan(rows.loc[label, "delta_selfe"])
    assert np.isnan(rows.loc["IMM", "overall"]) and not np.isnan(
        rows.loc["Flow Matching", "overall"]
    )
    page = table2_markdown(table)
    assert "PARTIAL RESULTS" in page and "100 of 120 images" in page
    assert "(partial)" in table2_latex(table)
    assert table.statements == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"detector": "other@1"}, "detector"),
        ({"suite": "geneval@1"}, "suite"),
        ({"split": "validation"}, "split"),
        ({"prompts_per_task": 4}, "prompts_sha256"),
        ({"images_per_prompt": 3}, "images_per_prompt"),
    ],
)
def test_tables_refuse_to_mix_protocols(tmp_path: Path, change: dict, field: str) -> None:
    write_result(tmp_path / "a", "selfe")
    write_result(tmp_path / "b", "fm", **change)
    folders = collect([tmp_path])
    assert len(by_protocol(folders)) == 2
    for build in (build_table1, build_table2):
        with pytest.raises(ValueError, match=f"one table cannot hold {field}"):
            build(folders)


def test_table2_refuses_to_mix_recipes(tmp_path: Path) -> None:
    write_result(tmp_path / "a", "selfe")
    write_result(tmp_path / "b", "fm", recipe="shapes-quick")
    with pytest.raises(ValueError, match="cannot hold recipes shapes and shapes-quick"):
        build_table2(collect([tmp_path]))


def test_other_settings_are_counted_never_chosen_by_score(tmp_path: Path) -> None:
    write_result(tmp_path / "z", "selfe", rate=0.2)
    write_result(tmp_path / "a", "selfe", rate=0.9, settings={"s_fraction": 1.0})
    write_result(tmp_path / "b", "selfe", rate=0.9, settings={"update": "minfm"})
    table = build_table2(collect([tmp_path]))
    shown = table.frame[table.frame["folder"] != ""]
    assert shown["folder"].tolist() == [(tmp_path / "z").as_posix()]
    assert any(note.startswith("2 results with other sampling settings") for note in table.notes)


def test_a_row_is_of_one_training(tmp_path: Path) -> None:
    """The one measured at most steps, then the recipe's own, then the lowest seed; no score."""

    def write(name: str, steps: int, rate: float, **facts: object) -> None:
        training = {"config_digest": f"{name[0]}{facts.get('seed', 0)}", **facts}
        folder = tmp_path / name / f"steps-{steps}"
        write_result(folder, "selfe", steps=steps, rate=rate, training=training)

    for steps in (2, 8):
        write("m", steps, 0.2, follows_recipe=True)
        write("a-other-rate", steps, 0.9, follows_recipe=False)
        write("b-seed", steps, 0.9, follows_recipe=True, seed=1)
        write("c-fork", steps, 0.9, follows_recipe=True, init_from="x@1")
    write("d-elsewhere", 4, 0.9, follows_recipe=True)
    table = build_table2(collect([tmp_path]))
    shown = {row.folder.removeprefix(f"{tmp_path}/") for row in table.frame.itertuples()} - {""}
    assert shown == {"m/steps-2", "m/steps-8"}
    notes = [note for note in table.notes if note.startswith("ANOTHER TRAINING: Self-E")]
    left_out = ["a-other-rate/steps-2", "b-seed/steps-8", "c-fork/steps-2", "d-elsewhere/steps-4"]
    assert all(any(name in note for note in notes) for name in left_out)
    assert not any("more than once" in note for note in table.notes)


def test_trainings_with_changed_settings_have_a_row_of_their_own(tmp_path: Path) -> None:
    """The recipe's own keeps the name, however few its results are and whatever they score."""

    def write(name: str, steps: int, rate: float, *changed: str, **more: Any) -> None:
        training = {"config_digest": name, "changed": list(changed)}
        write_result(
            tmp_path / name / f"steps-{steps}", steps=steps, rate=rate, training=training, **more
        )

    write("own", 2, 0.2)
    write("own-milestone", 2, 0.2, iterations=1000)
    write("aux", 2, 0.3, variant="aux", iterations=1000)
    write("fm", 2, 0.5, "optim.lr=0.001", method="fm")
    for steps in (2, 4, 8, 50):
        write("slow", steps, 0.9, "optim.lr=0.001")
        write("slow-aux", steps, 0.9, "optim.lr=0.001", "optim.warmup=9", variant="aux")
    table = build_table2(tell_apart(collect([tmp_path])))
    shown = table.frame[table.frame["folder"] != ""]
    rows = {row.folder.split("/")[-2]: row for row in shown.itertuples()}
    assert {name: row.method for name, row in rows.items()} == {
        "own": "Self-E",
        "own-milestone": "Self-E",
        "aux": "w/ aux. term",
        "fm": "Flow Matching",
        "slow": "Self-E (optim.lr=0.001)",
        "slow-aux": "Self-E (aux, optim.lr=0.001, optim.warmup=9)",
    }
    assert rows["slow"].resolved == "no Self-E at these iterations and steps"  # the last one, at 50
    (at_2,) = shown[shown["folder"].str.endswith("slow/steps-2")].itertuples()
    assert at_2.resolved == "resolved" and at_2.delta_selfe > 0.5
    assert "SETTINGS: Flow Matching was trained with optim.lr=0.001." in table.notes
    assert not any("ANOTHER TRAINING" in note for note in table.notes)
    write("short", 2, 0.5, "optim.lr=0.5", iterations=200)
    frame = build_table2(tell_apart(collect([tmp_path]))).frame
    commands = frame.loc[frame["label"] == "Self-E (optim.lr=0.5)", "command"]
    assert "@200 --steps 4,8,50" in commands.iloc[-1]
    assert table.statements[0].startswith("At 2 steps: Flow Matching 0.")


def test_trainings_on_other_data_have_a_row_of_their_own(tmp_path: Path) -> None:
    """Neither another measurement of the same training nor another seed of it."""

    def write(run: str, method: str, cache: str, path: str, seed: int = 0) -> None:
        training = {
            "config_digest": f"{method}{seed}",
            "seedless_digest": method,
            "changed": ["data.source=latents"],
            "seed": seed,
            "data": {"cache": cache, "path": path},
        }
        for steps in (2, 4):
            folder = tmp_path / "runs" / run / f"steps-{steps}"
            write_result(folder, method, steps=steps, training=training)

    write("selfe", "selfe", "aa", "/data/birds")
    write("selfe-1", "selfe", "aa", "/elsewhere/birds", seed=1)  # a copy is the same data
    write("fm", "fm", "aa", "/data/birds")
    write("fm-cars", "fm", "bb", "/data/cars")
    write("fm-cars-1", "fm", "cc", "/data/cars", seed=1)
    summary = render([tmp_path / "runs"], tmp_path / "out", runs_dir="runs")
    table = (tmp_path / "out" / "table2.md").read_text()
    assert "Flow Matching (data cars bb)" in table and "Flow Matching (data cars cc)" in table
    assert not any("more than once" in note for note in summary.notes)
    over_seeds = (tmp_path / "out" / "trainings.md").read_text()
    assert "| Self-E |" in over_seeds and "Flow Matching" not in over_seeds
    folders = collect([tmp_path / "runs"])
    a, b = (tmp_path / "runs" / name / "steps-2" for name in ("selfe", "fm-cars"))
    with pytest.raises(ValueError, match="two shared seeds"):
        compare_trainings(a, b, folders)
    assert all("--set data.path=/data/birds " in c for c in summary.not_run if "train" in c)


def test_what_all_settings_share_keeps_the_name(tmp_path: Path) -> None:
    for run, more in (("a-ablation", ["objective.a=0.5"]), ("base", [])):
        training = {"config_digest": run, "changed": ["model.num_layers=1", *more]}
        write_result(tmp_path / run / "steps-2", training=training)
    variants = {f.path.parent.name: f.result.model.variant for f in tell_apart(collect([tmp_path]))}
    assert variants == {"base": "", "a-ablation": "model.num_layers=1, objective.a=0.5"}


def test_commands_name_checkpoints_that_are_there(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for method, iterations in (("selfe", 300), ("imm", 30)):
        run = runs / f"shapes-{method}"
        write_result(run / "results" / "a", method, iterations=iterations)
        (run / "checkpoints" / f"step-{iterations:08d}").mkdir(parents=True)
    frame = build_table2(collect([runs]), CommandContext(runs_dir=str(runs))).frame

    def command(label: str) -> str:
        (found,) = set(frame.loc[(frame["label"] == label) & (frame["folder"] == ""), "command"])
        return str(found)

    assert "shapes-imm@" not in command("IMM")
    assert "train --method imm --set train.iterations=300 --name shapes-imm-300" in command("IMM")
    assert f"geneval --model {runs}/shapes-imm-300 --steps 2,4,8,50" in command("IMM")


def test_missing_rows_are_trained_as_their_neighbours(tmp_path: Path) -> None:
    shared = ["optim.lr=0.001", "train.iterations=500"]
    for method, more in (("selfe", ["objective.eps=0.1"]), ("fm", ["train.precision=fp32"])):
        training = {"changed": [*shared, *more]}
        write_result(tmp_path / "runs" / method, method, iterations=500, training=training)
    summary = render([tmp_path / "runs"], tmp_path / "reports", runs_dir="runs")
    (imm,) = [c for c in summary.not_run if "--method imm" in c]
    settings = "--set optim.lr=0.001 --set train.iterations=500"
    assert f"train --method imm {settings} && selfe-bench geneval" in imm
    (aux,) = [c for c in summary.not_run if "--variant aux" in c]
    assert aux.count("train.iterations") == 1 and "--set train.iterations=167" in aux


def test_methods_that_the_paper_lacks_have_a_row(study: Path, tmp_path: Path) -> None:
    write_result(tmp_path / "new", "drift", label="Drift", rate=0.99)
    write_result(tmp_path / "newer", "drift", label="Drift", variant="slow", rate=0.0)
    before, table = (build_table2(collect(roots)) for roots in ([study], [study, tmp_path]))
    assert list(table.frame["method"].unique()) == [
        *before.frame["method"].unique(),
        "Drift",
        "Drift (slow)",
    ]
    (row,) = table.frame[table.frame["folder"].str.endswith("/new")].itertuples()
    assert row.steps == 2 and row.resolved == "resolved" and row.delta_selfe > 0
    assert table.statements[0].startswith("At 2 steps: Drift 0.9")
    assert len(table.frame) == len(before.frame) + 2 * 4
    write_result(tmp_path / "short", "short", label="Short", iterations=500)
    frame = build_table2(collect([study, tmp_path])).frame
    assert frame[frame["folder"].str.endswith("/short")]["iterations"].tolist() == [500]


def test_images_made_elsewhere_have_no_steps_and_bring_no_paper(tmp_path: Path) -> None:
    write_result(tmp_path / "a", "images", label="theirs", steps=0, iterations=None)
    table = build_table1(collect([tmp_path]))
    page = table1_markdown(table)
    assert "### Images made elsewhere" in page and "0 steps" not in page
    assert "SDXL" not in page
    (row,) = [line for line in page.splitlines() if "theirs" in line]
    assert [cell.strip() for cell in row.split("|")][1:4] == ["", "theirs", ""]
    (record,) = csv.DictReader(to_csv(table.frame, TABLE1_COLUMNS).splitlines())
    assert (record["method"], record["steps"], record["nfe"]) == ("theirs", "", "")


def test_a_models_own_settings_come_before_overrides(tmp_path: Path) -> None:
    own = {"s_fraction": 0.5}
    command = "selfe-bench geneval --steps 2 --set sampling.s_fraction=0"
    write_result(tmp_path / "a", "selfe", command=command)
    write_result(tmp_path / "z", "selfe", settings=own)
    frame = build_table2(collect([tmp_path])).frame
    assert frame.loc[frame["folder"] != "", "folder"].tolist() == [(tmp_path / "z").as_posix()]


def test_under_trained_models_are_labelled(tmp_path: Path) -> None:
    reason = "below 0.9 of VAE round trips at 50 steps"
    write_result(tmp_path / "a", "selfe")
    write_result(tmp_path / "b", "fm", training={"under_trained": reason})
    folders = collect([tmp_path])
    assert [f.under_trained for f in folders if f.result.model.method == "selfe"] == [""]
    table = build_table2(folders)
    page = table2_markdown(table)
    assert "Flow Matching (under-trained)" in page and reason in page
    assert "Flow Matching (under-trained)" in table.statements[0]


def test_a_low_score_at_50_steps_marks_every_result_of_the_model(tmp_path: Path) -> None:
    for steps in (2, 50):
        write_result(tmp_path / f"fm-{steps}", "fm", steps=steps)
    folders = collect([tmp_path])
    assert all(f.result.scores.overall.mean < 0.9 * 0.9975 for f in folders)
    assert all("round trip" in f.under_trained for f in folders)


def test_table1_has_the_papers_layout_and_errata(tmp_path: Path) -> None:
    write_result(tmp_path / "a", "sdxl", label="SDXL", iterations=None, suite="geneval@1", split="")
    table = build_table1(collect([tmp_path]))
    assert table.frame["label"].tolist()[:8] == paper_table(1)["method"].tolist()[:8]
    assert table.frame["delta_paper"].isna().all()
    page = table1_markdown(table)
    header = (
        "Overall | Single object | Two object | Attribute binding | Colors | Counting | Position"
    )
    assert header in page and "paper (BAGEL protocol, prompt set not stated)" in page
    assert "0.0130†" in page and "0.0030†" in page and "single_object must be 0.0125" in page


def test_differences_to_the_paper_only_under_its_protocol(tmp_path: Path) -> None:
    facts = {"iterations": None, "suite": "geneval-long@1", "split": "", "label": "LCM"}
    folder = write_result(
        tmp_path / "a", "lcm", detector=OFFICIAL, prompts_per_task=1, steps=4, **facts
    )
    assert build_table1(collect([tmp_path])).frame["delta_paper"].isna().all()
    make_full_size(folder)
    table = build_table1(collect([tmp_path]))
    row = table.frame[table.frame["folder"] != ""].iloc[0]
    assert row["delta_paper"] == pytest.approx(row["overall"] - 0.3277)
    page = table1_markdown(table)
    assert "Difference" in page and "FLUX.1-Dev at 50 steps has position 0.65" in page
    result = json.loads((folder / "result.json").read_text())  # the short prompts are another
    result["protocol"]["suite"] = "geneval@1"
    (folder / "result.json").write_text(json.dumps(result))
    table = build_table1(collect([tmp_path]))
    assert table.frame["delta_paper"].isna().all()
    assert "another protocol, shown beside and not compared" in table1_markdown(table)


def make_full_size(folder: Path) -> None:
    """Blow the set up to GenEval's 553 prompts x 4, all correct in every task."""
    tags = [TASKS[i % 6] for i in range(553)]
    lines = [
        {"prompt_id": p, "sample_id": s, "tag": tags[p], "correct": True, "reason": ""}
        for p in range(553)
        for s in range(4)
    ]
    (folder / "images.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = json.loads((folder / "result.json").read_text())
    result["protocol"] |= {"num_prompts": 553}
    result["scores"] = summarize([ImageVerdict.model_validate(v) for v in lines]).model_dump()
    (folder / "result.json").write_text(json.dumps(result))


def test_own_models_under_shapes_stand_in_table1_at_their_last_iteration(study: Path) -> None:
    frame = build_table1(collect([study])).frame
    assert set(frame["label"]) == {
        "Self-E (shapes, 3000 it.)",
        "Flow Matching (shapes, 3000 it.)",
        "IMM (shapes, 3000 it.)",
    }


def test_contradicting_and_damaged_results_are_refused(tmp_path: Path) -> None:
    folder = write_result(tmp_path / "a")
    images = folder / "images.jsonl"
    good = images.read_text()
    images.write_text(good + '{"prompt_id": 0, "samp')  # torn tail
    assert len(collect([tmp_path])) == 1
    images.write_text(good.replace('"correct": true', '"correct": false', 1))
    with pytest.raises(ValueError, match="does not follow from images.jsonl"):
        collect([tmp_path])
    lines = good.splitlines()
    images.write_text("\n".join(["nonsense", *lines[1:]]) + "\n")
    with pytest.raises(ValueError, match="line 1"):
        collect([tmp_path])
    images.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(ValueError, match="counts 120 images but images.jsonl has 119"):
        collect([tmp_path])
    images.write_text("\n".join([*lines[:-1], lines[0]]) + "\n")
    with pytest.raises(ValueError, match=r"image \(0, 0\) occurs twice"):
        collect([tmp_path])
    images.write_text(good)
    (folder / "result.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a result: line 1: protocol"):
        collect([tmp_path])


def test_latex_escapes_everything_special() -> None:
    assert latex("50% a_b & {c}") == r"50\% a\_b \& \{c\}"


def test_intervals_of_other_statistics_are_refused(tmp_path: Path) -> None:
    folder = write_result(tmp_path / "a")
    path = folder / "result.json"
    result = json.loads(path.read_text())
    result["scores"]["tasks"]["colors"]["low"] -= 0.01
    result["scores"]["overall"]["high"] += 0.01
    path.write_text(json.dumps(result))
    with pytest.raises(ValueError, match="interval of colors, overall is of another version"):
        collect([tmp_path])


def test_commands_stand_below_the_tables_not_in_them(tmp_path: Path) -> None:
    write_result(tmp_path / "runs" / "a")
    folders = collect([tmp_path / "runs"])
    for page in (table2_markdown(build_table2(folders)), table1_markdown(build_table1([]))):
        cells = [line for line in page.splitlines() if line.startswith("|")]
        assert any("not run" in line for line in cells)
        assert not any("selfe-bench" in line for line in cells)
        assert "- IMM, 2, 4, 8, 50 steps: not run: `" in page or "- SDXL: not run: `" in page


def test_under_trained_is_judged_by_the_best_settings_at_many_steps(tmp_path: Path) -> None:
    write_result(tmp_path / "a", steps=50, rate=0.1, settings={"s_fraction": 1.0})
    assert all(f.under_trained for f in collect([tmp_path]))
    write_result(tmp_path / "b", steps=50, rate=1.0)
    assert not any(f.under_trained for f in collect([tmp_path]))
