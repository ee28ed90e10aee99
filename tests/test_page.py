"""The page as files and as a server; what it does in a browser is in test_page_browser.py."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from evals.report.chosen import render_runs
from evals.report.chosen_results import choose_runs
from evals.report.compact import compact_table
from evals.report.compact_text import compact_text
from evals.report.headline import headline
from evals.report.lines import build_lines
from evals.report.result_folders import ResultFolder, collect
from evals.site.files import script_json
from evals.site.pictures import draw_sheets
from evals.site.render import render_page
from evals.site.runs import read_run, thinned
from evals.site.serve import LiveSite, PageServer, servable
from tests.helpers.page_results import HOSTILE, write_page_study
from tests.helpers.synthetic_results import write_result


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> list[ResultFolder]:
    return collect([write_page_study(tmp_path_factory.mktemp("study"))])


@pytest.fixture(scope="module")
def page(study: list[ResultFolder], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page")
    render_page(study, out)
    return out


def read_call(path: Path) -> tuple[str, dict]:
    """The name and the value that a data file hands over."""
    text = path.read_text()
    arguments = re.fullmatch(r"window\.SELFE_GOT\((.*)\);\n", text, re.DOTALL)
    assert arguments
    name, value = json.loads(f"[{arguments[1]}]")
    return name, value


def summary_of(page: Path) -> dict:
    text = (page / "page" / "data.js").read_text()
    return json.loads(text.removeprefix("window.SELFE_DATA = ").removesuffix(";\n"))


def test_nothing_is_read_from_another_host(page: Path) -> None:
    namespace = "http://www.w3.org/2000/svg"
    for path in page.rglob("*"):
        if path.suffix in (".html", ".js", ".css"):
            text = path.read_text().replace(namespace, "")
            assert not re.search(r"(https?:)?//[a-z0-9-]+\.[a-z]", text, re.IGNORECASE), path


def test_verdicts_reasons_and_detections_are_those_of_the_files(
    page: Path, study: list[ResultFolder]
) -> None:
    results = {r["folder"]: r["id"] for r in summary_of(page)["results"]}
    for folder in study:
        _, data = read_call(page / "page" / "data" / f"r-{results[folder.name]}.js")
        rows = [json.loads(line) for line in (folder.path / "images.jsonl").open()]
        assert [c == "1" for c in data["correct"]] == [row["correct"] for row in rows]
        assert [data["reasons"][i] for i in data["reason"]] == [row["reason"] for row in rows]
        label, color, score, *box = data["found"][0][0]
        assert (data["words"][label], data["words"][color]) == ("square", "blue")
        assert (score, box, data["size"]) == (0.95, [4.0, 4.0, 20.0, 20.0], [[32, 32]])


def test_every_image_lies_at_its_place_in_a_sheet(page: Path, study: list[ResultFolder]) -> None:
    from PIL import Image

    from evals.images import read_image, sample_path

    summary = summary_of(page)
    edge, per_sheet = summary["sprite_edge"], summary["per_sheet"]
    folder = study[2]
    (result,) = [r for r in summary["results"] if r["folder"] == folder.name]
    _, data = read_call(page / "page" / "data" / f"r-{result['id']}.js")
    for place, slot in enumerate(data["slot"]):
        prompt, sample = folder.verdicts.loc[place, ["prompt_id", "sample_id"]]
        sheet = summary["sheets"][slot // per_sheet]
        row, column = divmod(slot % per_sheet, sheet["columns"])
        with Image.open(page / "page" / "sprites" / sheet["file"]) as image:
            found = np.asarray(image.convert("RGB"))
        shown = found[row * edge : (row + 1) * edge, column * edge : (column + 1) * edge]
        assert np.array_equal(shown, read_image(sample_path(folder.path, prompt, sample)))


def test_images_that_are_seen_first_share_the_first_sheets(study: list[ResultFolder]) -> None:
    seen_first = [0, 1, 0, 2]
    slots = draw_sheets(study[:4], lambda name, data: None, 1000, seen_first).slots
    by_tier: list[list[int]] = [[], [], []]
    for (number, _, _), slot in slots.items():
        by_tier[seen_first[number]].append(slot)
    assert max(by_tier[0]) < min(by_tier[1]) and max(by_tier[1]) < min(by_tier[2])
    both = [slots[number, 0, 0] for number in (0, 2)]
    assert abs(both[0] - both[1]) == 1  # one prompt and seed, side by side


def test_the_same_results_give_the_same_bytes(
    study: list[ResultFolder], page: Path, tmp_path: Path
) -> None:
    render_page(list(study), tmp_path)
    names = sorted(p.relative_to(page) for p in page.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    for name in names:
        assert (page / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_a_smaller_report_leaves_nothing_of_the_larger(
    study: list[ResultFolder], tmp_path: Path
) -> None:
    render_page(study, tmp_path)
    files = render_page(study[:1], tmp_path)
    assert {p for p in tmp_path.rglob("*") if p.is_file()} == set(files)
    assert len(list((tmp_path / "page" / "data").glob("r-*.js"))) == 1


def test_a_page_without_results_says_what_to_do(tmp_path: Path) -> None:
    render_page([], tmp_path)
    assert "selfe-bench geneval" in (tmp_path / "index.html").read_text()


def test_a_page_made_by_hand_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(ValueError, match="choose another folder"):
        render_page([], tmp_path)
    assert (tmp_path / "index.html").read_text() == "mine"


def test_foreign_text_is_escaped_everywhere(tmp_path: Path) -> None:
    folders = collect([write_page_study(tmp_path / "runs", hostile=True)])
    render_page(folders, tmp_path / "page", title=HOSTILE[1])
    html = (tmp_path / "page" / "index.html").read_text()
    assert "&lt;script&gt;window.pwned" in html
    assert not re.search(r"<script>|<img|<svg|onerror=\"", html)
    for path in (tmp_path / "page").rglob("*.js"):
        if path.name != "page.js":
            assert "<" not in path.read_text(), path


def test_json_in_scripts_holds_no_markup() -> None:
    value = {"a": "</script><!-- & \u2028"}
    text = script_json(value)
    assert json.loads(text) == value
    assert not set("<>&\u2028") & set(text)


# ---------------------------------------------------------------- words and numbers


def test_lines_are_told_apart_by_seed_then_run(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1), ("c", 1)):
        training = {"seed": seed, "config_digest": name}
        write_result(tmp_path / name / "r", "selfe", training=training)
        path = tmp_path / name / "r" / "result.json"
        path.write_text(path.read_text().replace("shapes-selfe@3000", f"run-{name}@3000"))
    names = {line.name for line in build_lines(collect([tmp_path]))}
    assert names == {"Self-E, seed 0", "Self-E, seed 1, run-b", "Self-E, seed 1, run-c"}


def test_the_compact_table_marks_the_highest_and_says_what_is_resolved(
    study: list[ResultFolder],
) -> None:
    table = compact_table(build_lines(study))
    assert table is not None
    assert [row.name for row in table.rows] == ["Self-E", "Flow Matching"]
    ours, theirs = table.rows
    assert ours.cells[2].best and not theirs.cells[2].best
    delta = theirs.cells[2].delta
    assert delta is not None
    assert delta.mean == pytest.approx(theirs.cells[2].score.mean - ours.cells[2].score.mean)
    text = compact_text(table, width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert f"{ours.cells[2].score.mean:.3f}*" in text
    for sentence in headline(table):
        assert ">" not in sentence
        assert len(sentence) < 200


def test_chosen_runs_are_shown_under_the_names_given(tmp_path: Path) -> None:
    runs = write_page_study(tmp_path / "runs")
    out = tmp_path / "out"
    chosen = choose_runs([runs], ["mine=shapes-fm", "shapes-selfe"], "mine")
    summary = render_runs(chosen, out)
    (table,) = summary.compact
    assert [row.name for row in table.rows] == ["mine", "shapes-selfe"]
    assert table.reference == "mine"
    assert all(cell.delta is None for cell in table.rows[0].cells.values())
    page = (out / "README.md").read_text()
    assert "Flow Matching" not in page and "IMM" not in page and "not run" not in page
    assert {"fig4.png", "scores_by_steps.svg"} <= {p.name for p in (out / "figures").iterdir()}
    assert {line["name"] for line in summary_of(out)["lines"]} == {"mine", "shapes-selfe"}
    with pytest.raises(ValueError, match="mean '.*runs with results: shapes-fm, shapes-selfe"):
        choose_runs([runs], ["shapes-fmm"])
    with pytest.raises(ValueError, match="none of --runs"):
        choose_runs([runs], ["shapes-fm"], "shapes-selfe")
    with pytest.raises(ValueError, match="names no run"):
        choose_runs([runs], [])


def test_curves_and_time_of_a_run(tmp_path: Path) -> None:
    records = [{"step": 10 * i, "loss": 1 / i, "images_per_second": 100.0} for i in range(1, 5)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    config = {"config": {"train": {"iterations": 80, "batch_size": 50}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    run = read_run(tmp_path)
    assert run.state == "40 of 80 iterations"
    assert run.curves["loss"][1] == (20, 0.5)
    assert run.seconds_at(20) == pytest.approx(20 * 50 / 100)
    (tmp_path / "metrics.jsonl").write_text("{\n{}\n")
    assert "metrics.jsonl" in read_run(tmp_path).state


def test_thinned_curves_keep_their_ends_and_means() -> None:
    points = [(i, 1.0) for i in range(1, 2001)]
    thin = thinned(points)
    assert len(thin) <= 400 and thin[-1] == (2000, 1.0)


# ---------------------------------------------------------------- the server


@pytest.fixture
def served(page: Path):
    server = PageServer(page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def get(server: PageServer, path: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=10)
    connection.putrequest("GET", path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_the_server_answers_its_own_page_only(served: PageServer) -> None:
    port = served.server_address[1]
    assert get(served, "/")[0] == 200
    assert get(served, "/", Host=f"localhost:{port}")[0] == 200
    assert get(served, "/", Origin=f"http://127.0.0.1:{port}")[0] == 200
    for headers in (
        {"Host": "example.org"},
        {"Host": f"example.org:{port}"},
        {"Host": "127.0.0.1"},
        {"Origin": "http://example.org"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
    ):
        status, body = get(served, "/", **headers)
        assert status == 403 and b"<html" not in body, headers


def test_the_server_leaves_its_folder_by_no_path(
    served: PageServer, page: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.js"
    secret.write_text("secret")
    links = [page / "link.js", page / "linked"]
    links[0].symlink_to(secret)
    links[1].symlink_to(tmp_path)
    (page / ".hidden.js").write_text("hidden")
    try:
        for path in (
            "/../secret.js",
            "/%2e%2e/secret.js",
            f"/{'../' * 20}etc/passwd",
            f"//{str(secret).lstrip('/')}",
            f"/{secret}",
            "/link.js",
            "/linked/secret.js",
            "/.hidden.js",
            "/page/..%5c..%5csecret.js",
            "/page%00/data.js",
            "/page",
            "/page/data",
        ):
            status, body = get(served, path)
            assert status == 404 and b"secret" not in body, path
    finally:
        for link in links:
            link.unlink()
        (page / ".hidden.js").unlink()
    assert servable(page, "/page/data.js") == (page / "page" / "data.js").resolve()


def test_a_live_page_follows_its_results(tmp_path: Path) -> None:
    runs = write_page_study(tmp_path / "runs")
    later = runs / "shapes-fm"
    shutil.move(later, tmp_path / "later")
    (runs / "new").mkdir()
    (runs / "new" / "metrics.jsonl").write_text('{"step": 10, "loss": 1.0}\n')
    site = LiveSite([runs], tmp_path / "site", "runs")
    assert site.refresh()
    first = site.version
    assert f'data-live="{first}"' in (tmp_path / "site" / "index.html").read_text()
    assert not site.refresh()
    assert [run["name"] for run in site.runs] == ["new"]
    shutil.move(tmp_path / "later", later)
    assert site.refresh() and site.version != first
    assert len(summary_of(tmp_path / "site")["results"]) == 4
    result = next(later.rglob("result.json"))
    result.write_text("{}")
    assert site.refresh()
    assert "older" in site.state and "result.json" in site.state
