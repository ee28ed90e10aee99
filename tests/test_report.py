"""The report: what it writes, that it is reproducible, and that protocols stay apart."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from evals.report.render import render
from tests.helpers.command_line import selfe_bench
from tests.helpers.synthetic_results import RATES, write_result


def small_study(root: Path, order: int = 1) -> Path:
    for method in list(RATES)[::order]:
        for iterations in (500, 1000)[::order]:
            for steps in (2, 4, 8, 50)[::order]:
                write_result(
                    root / f"shapes-{method}" / f"{iterations}-{steps}",
                    method,
                    steps=steps,
                    iterations=iterations,
                    prompts_per_task=2,
                    images=iterations == 1000,
                )
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_report_is_byte_reproducible_and_independent_of_file_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, order in (("one", 1), ("two", -1)):
        place = tmp_path / name
        place.mkdir()
        monkeypatch.chdir(place)
        small_study(Path("runs"), order)
        summary = render([Path("runs")], Path("reports"), latex=True)
        assert sorted(p.as_posix() for p in summary.files) == sorted(
            f"reports/{n}" for n in contents(Path("reports"))
        )
    first, second = (contents(tmp_path / name / "reports") for name in ("one", "two"))
    assert first == second
    names = {"table1", "table2"}
    assert {f"{n}.{s}" for n in names for s in ("md", "csv", "tex")} <= set(first)
    assert {"seen_unseen.md", "seen_unseen.csv", "diversity.md", "diversity.csv"} <= set(first)
    # a figure of lines is drawn as lines, one of images as pixels
    figures = {name.partition("/")[2] for name in first if name.startswith("figures/")}
    assert {"fig4.png", "fig5.svg", "scores_by_steps.svg"} <= figures
    assert len({name.rpartition(".")[0] for name in figures}) == len(figures)


def test_a_page_written_by_hand_is_not_overwritten(tmp_path: Path) -> None:
    write_result(tmp_path / "runs" / "a")
    render([tmp_path / "runs"], tmp_path / "out")
    render([tmp_path / "runs"], tmp_path / "out")  # its own is
    page = tmp_path / "out" / "README.md"
    page.write_text("# Studies\n")
    with pytest.raises(ValueError, match="choose another folder with --out"):
        render([tmp_path / "runs"], tmp_path / "out")
    assert page.read_text() == "# Studies\n"


def test_index_links_exist_and_name_protocol_seed_and_commit(tmp_path: Path) -> None:
    summary = render([small_study(tmp_path / "runs")], tmp_path / "out")
    page = (tmp_path / "out" / "README.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert len(links) > 8
    for link in links:
        assert (tmp_path / "out" / link).is_file(), link
    assert "0123456789ab" in page and "`selfe-bench geneval --steps 2,4,8,50`" in page
    assert "suite shapes@1, split heldout" in page and "4 images per prompt" in page
    assert summary.results == 24 and len(summary.statements) == 4
    assert all(statement in page for statement in summary.statements)


def test_index_lists_every_result_and_its_command_once(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_result(runs / "a", "selfe", command="selfe-bench geneval --steps 2,4")
    write_result(runs / "b", "selfe", steps=4, command="selfe-bench geneval --steps 2,4")
    write_result(runs / "c", "selfe", variant="aux", keep=100, command="selfe-bench geneval aux")
    render([runs], tmp_path / "out")
    page = (tmp_path / "out" / "README.md").read_text()
    assert page.count("- `selfe-bench geneval --steps 2,4`") == 1
    numbers = {}
    for line in page.splitlines():
        if found := re.fullmatch(r"  - (\d+): `(.*)`", line):
            numbers[found[1]] = found[2].rpartition("/")[2]
    assert sorted(numbers.values()) == ["a", "b", "c"]
    (aux,) = [n for n, folder in numbers.items() if folder == "c"]
    assert f"| {aux} | Self-E aux | 3000 | 2 |" in page and "(partial: 100 images)" in page


def test_diversity_stands_beside_accuracy(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    folder = write_result(runs / "a", "selfe")
    overall = json.loads((folder / "result.json").read_text())["scores"]["overall"]["mean"]
    render([runs], tmp_path / "out")
    with (tmp_path / "out" / "diversity.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert float(row["overall"]) == pytest.approx(overall, abs=1e-6)
    assert float(row["tasks.counting.color.tv"]) == 0.375
    by_kind, by_task = (tmp_path / "out" / "diversity.md").read_text().split("By caption type")
    # colour: counting alone; place: the mean of counting and colors; all: as measured
    assert f"{overall:.3f} [" in by_kind
    assert "| 0.250 (0.133) | 0.375 (0.200) | 0.188 (0.100) |" in by_kind
    assert "| Counting | Colors |" in by_task or "| Colors | Counting |" in by_task
    assert "0.250 (0.150)" in by_task and "0.250 (0.100)" in by_task


def test_protocols_get_tables_of_their_own(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_result(runs / "a", "selfe")
    write_result(runs / "b", "fm")
    write_result(runs / "c", "selfe", split="validation", rate=0.9)
    write_result(runs / "d", "sdxl", label="SDXL", iterations=None, suite="geneval@1", split="")
    render([runs], tmp_path / "out")
    tables = sorted(p.name for p in (tmp_path / "out").glob("table2*.csv"))
    assert len(tables) == 2 and "table2.csv" in tables
    with (tmp_path / "out" / "table2.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [r["method"] for r in rows if r["overall"]] == ["Flow Matching", "Self-E"]
    page = (tmp_path / "out" / "table2.md").read_text()
    assert page.count("Protocol: suite shapes@1") == 2
    assert page.index("split heldout") < page.index("split validation")
    with (tmp_path / "out" / "table1.csv").open() as stream:
        measured = [r["method"] for r in csv.DictReader(stream) if r["overall"]]
    assert measured == ["SDXL"]


def test_files_of_an_earlier_report_are_named_and_kept(tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    small_study(runs)
    write_result(runs / "validation", "selfe", split="validation")
    assert render([runs], out).left_over == []
    (out / "protocol.md").write_text("by hand")
    before = contents(out)
    smaller = tmp_path / "smaller"
    write_result(smaller / "one", "selfe", images=False)
    summary = render([smaller], out)
    gone = {n for n in before if "/fig4" in n or "/fig5" in n or n.count(".") > 1}
    assert {path.relative_to(out).as_posix() for path in summary.left_over} == gone
    assert {n: content for n, content in contents(out).items() if n in gone | {"protocol.md"}} == {
        n: before[n] for n in gone | {"protocol.md"}
    }
    assert len(gone) > 4


def test_index_says_which_settings_were_changed(tmp_path: Path) -> None:
    for name, changed in (("a", []), ("b", ["optim.lr=0.001", "optim.warmup=9"])):
        training = {"config_digest": name, "changed": changed}
        write_result(tmp_path / "runs" / name, training=training)
    render([tmp_path / "runs"], tmp_path / "reports")
    index = (tmp_path / "reports" / "README.md").read_text()
    rows = [
        line.strip("| ").split(" | ") for line in index.splitlines() if "| 0123456789ab" in line
    ]
    assert [row[1] for row in rows] == ["Self-E", "Self-E"]
    assert "| Changed settings |" in index
    assert "| optim.lr=0.001, optim.warmup=9 |" in index


def test_report_without_results_shows_commands(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    summary = render([tmp_path / "runs"], tmp_path / "out", runs_dir="runs")
    page = (tmp_path / "out" / "table2.md").read_text()
    assert "not run: `selfe-bench train --method imm && selfe-bench geneval --model " in page
    assert any("--method fm" in command for command in summary.not_run)
    assert (
        "not run: `selfe-bench geneval --model sdxl --steps 2,4,8,50`"
        in (tmp_path / "out" / "table1.md").read_text()
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--steps", "2,4"), "--steps would change nothing: --grid draws images"),
        (("--prompts", "x", "--seed", "3"), "--prompts, --seed would change nothing"),
        (("--grid", "x", "--latex"), "--latex would change nothing"),
        (("--runs", "a", "--paper"), "leave out it or --runs"),
    ],
)
def test_options_that_nothing_reads_are_refused(words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = selfe_bench("report", *words)
    assert code == 2 and sentence in " ".join(err.split())


def test_missing_folder_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no folder: name the folder that holds results"):
        render([tmp_path / "nowhere"], tmp_path / "out")


def balanced(text: str) -> bool:
    begun = re.findall(r"\\begin\{(\w+)\}", text)
    return sorted(begun) == sorted(re.findall(r"\\end\{(\w+)\}", text))


def test_latex_is_well_formed_and_compiles(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_result(runs / "a", "selfe", command="selfe-bench geneval --set a_b=50% & $x #{}^~")
    write_result(runs / "b", "fm", keep=100, training={"under_trained": "50% & a_b <c>"})
    write_result(runs / "c", "lcm", label="LCM", iterations=None)
    render([runs], tmp_path / "out", latex=True)
    for name in ("table1", "table2"):
        text = (tmp_path / "out" / f"{name}.tex").read_text()
        assert text.isascii() and balanced(text)
        assert r"\toprule" in text and r"\bottomrule" in text
        columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)
        assert columns is not None
        body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
        rows = [r for r in body.split("\\\\\n") if "&" in r and "multicolumn" not in r]
        assert rows
        for row in rows:
            assert len(re.findall(r"(?<!\\)&", row)) == len(columns[1]) - 1
        if shutil.which("pdflatex"):
            done = subprocess.run(
                ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"{name}.tex"],
                cwd=tmp_path / "out",
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stdout[-800:]
