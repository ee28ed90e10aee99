"""Results that are kept beside a report give that report again."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest

from evals.report.compare_seeds import as_markdown, compare_trainings
from evals.report.result_folders import collect
from tests.helpers.command_line import selfe_bench

STUDIES = Path(__file__).resolve().parent.parent / "reports" / "studies"
ARCHIVES = sorted(STUDIES.glob("*/results.tar.xz"))


def test_there_are_some() -> None:
    assert ARCHIVES


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.parent.name)
def test_tables_follow_from_the_results(archive: Path, tmp_path: Path, monkeypatch) -> None:
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    (runs,) = (tmp_path / "runs").iterdir()
    code, _, err = selfe_bench("report", "--runs-dir", f"runs/{runs.name}", "--out", "again")
    assert code == 0, err
    tables = sorted(path.name for path in archive.parent.glob("*.csv"))
    assert tables == sorted(path.name for path in (tmp_path / "again").glob("*.csv"))
    assert {"table2.csv", "diversity.csv"} <= set(tables)
    for name in tables:
        assert (tmp_path / "again" / name).read_text() == (archive.parent / name).read_text(), name
    for path in sorted((tmp_path / "again").glob("*.md")):
        assert _without_images(path) == _without_images(archive.parent / path.name), path.name
    page = archive.parent / "page" / "data.js"
    if page.is_file():
        for part in ("results", "means", "differences", "tables"):
            found, kept = (
                _page_data(path)[part] for path in (tmp_path / "again/page/data.js", page)
            )
            assert found == kept, f"{page}: {part}; render the report again and keep its page"


def test_a_study_has_its_page() -> None:
    assert [a for a in ARCHIVES if (a.parent / "page" / "data.js").is_file()]


def _without_images(path: Path) -> list[str]:
    """Lines of a page, but for what needs the images, which are not kept: sheets of them, which are
    PNG, and the page that shows them."""
    text = path.read_text()
    shown = {"The same as a page, with every verdict, its reason, and the images where they are "
             "kept: index.html."}  # fmt: skip
    for line in re.findall(r"^!\[.*\]\(figures/\S+\.png\)$", text, re.MULTILINE):
        shown |= {line, line[2 : line.index("](")]}
    return [line for line in text.splitlines() if line and line not in shown]


def _page_data(path: Path) -> dict[str, Any]:
    text = path.read_text().removeprefix("window.SELFE_DATA = ").removesuffix(";\n")
    return json.loads(text)


COMPARISONS = re.compile(
    r"^    selfe-bench compare (\S+) \\\n        (\S+) --over runs\n\n(A = .*?\| overall [^\n]*)$",
    re.MULTILINE | re.DOTALL,
)


def test_comparisons_follow_from_the_results(tmp_path: Path, monkeypatch) -> None:
    page = (STUDIES / "quickstart" / "comparisons.md").read_text()
    for archive in re.findall(r"\(([^)]+\.tar\.xz)\)", page):
        with tarfile.open(STUDIES / "quickstart" / archive) as packed:
            packed.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    folders = collect([Path("runs")])
    shown = COMPARISONS.findall(page)
    assert len(shown) == page.count("selfe-bench compare") > 0
    for a, b, table in shown:
        assert table in as_markdown(compare_trainings(Path(a), Path(b), folders)), a
