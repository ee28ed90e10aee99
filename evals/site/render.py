"""The page: `index.html` and a folder `page/` beside it, which work from a file."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from evals.report.diversity_table import DIVERSITY
from evals.report.page import TASK_NAMES
from evals.report.result_folders import ResultFolder
from evals.report.rows import PAPER, Table
from evals.site import summary as facts
from evals.site.content import PageContent
from evals.site.files import PageFiles, script_json, write_changed
from evals.site.pictures import draw_sheets
from evals.site.runs import RunRecord, runs_of

MOST_IMAGES = 60_000
"""Thumbnails of further results are left out."""
_OWN = re.compile(r"(?:data/(?:r|p)-[0-9a-f]+\.js|sprites/s[0-9]+\.(?:webp|jpg)|sheets/[^/]+\.png)")


def render_page(
    folders: Sequence[ResultFolder],
    out_dir: Path | str,
    *,
    title: str = "Report",
    names: Mapping[str, str] | None = None,
    baseline: str = "",
    tables: Sequence[tuple[int, Table]] = (),
    trainings: Mapping[str, pd.DataFrame] | None = None,
    runs: Mapping[str, RunRecord] | None = None,
    live: str = "",
    start: Mapping[str, str] | None = None,
    tables_beside: bool = False,
) -> list[Path]:
    """Write the page for a set of results.

    Args:
        folders: results of any protocols (`evals.report.result_folders.collect`).
        out_dir: made if absent; gets index.html and page/.
        names: name of a result (`ResultFolder.name`) -> what the user calls its run; every run
            named here is drawn at first.
        baseline: name that differences are to; Self-E where none is named.
        tables: Tables 1 and 2 with their numbers.
        trainings: frames of `trainings_frame` by protocol; computed where not given.
        runs: training runs by name; those that the results lie in where not given.
        live: version of a served page, which asks the server for a newer one.
        start: choices in the gallery with which the page opens there, as its address holds them.
        tables_beside: whether README.md lies in the same folder.

    Returns:
        The files, index.html first.

    Raises:
        ValueError: for a damaged result, a baseline that no configuration is called, or an
            index.html in `out_dir` that is another page.
    """
    out = Path(out_dir)
    folders = list(folders)
    _require_own_page(out / "index.html")
    if runs is None:
        runs = runs_of(folders)
    files = PageFiles(out)
    content = PageContent(folders, runs, names or {}, baseline)
    content.sheets = sheets = draw_sheets(
        folders,
        lambda name, data: files.write(f"page/sprites/{name}", data),
        MOST_IMAGES,
        content.tiers(),
    )
    for protocol, places in content.protocols_by_size():
        content.add_protocol(protocol, places, (trainings or {}).get(protocol), files)
    data: dict[str, Any] = {
        "title": title,
        "task_names": TASK_NAMES,
        "tables": [facts.table_facts(n, i, t) for i, (n, t) in enumerate(tables) if t.protocol],
        "paper": facts.paper_lines(),
        "paper_name": PAPER,
        "start": dict(start or {}),
        "runs": facts.run_facts(runs.values(), bool(live)),
        "sheets": [vars(sheet) for sheet in sheets.sheets],
        "per_sheet": sheets.per_sheet,
        "sprite_edge": sheets.edge,
        **content.lists,
    }
    files.written += write_sheets(runs.values(), out)
    files.write("page/data.js", f"window.SELFE_DATA = {script_json(data)};\n")
    for name, text in static_files().items():
        files.write(f"page/{name}", text)
    html = _template().render(
        title=title,
        subtitle=_subtitle(folders, data),
        live=live,
        overview=content.overview,
        has_diversity=any(result["diversity"] for result in data["results"]),
        has_runs=bool(data["runs"]),
        diversity_words=DIVERSITY.removesuffix(
            " Every task and factor by itself stands in the CSV file."
        ),
        tables_beside=tables_beside,
        version=importlib.metadata.version("selfe-bench"),
        num_results=len(folders),
    )
    files.write("index.html", html)
    _remove_left_over(out / "page", files.written)
    return [files.written[-1], *files.written[:-1]]


def write_sheets(runs: Iterable[RunRecord], out: Path) -> list[Path]:
    """Copy the runs' sample sheets into the page's folder; returns the files."""
    written = []
    for run in runs:
        for step, path in run.sheets:
            target = out / "page" / "sheets" / facts.sheet_name(run, step)
            written.append(target)
            if target.is_file() and target.stat().st_size == path.stat().st_size:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            write_changed(target, path.read_bytes())
    return written


def _require_own_page(path: Path) -> None:
    """Raise ValueError where the page would take the place of one that is not ours."""
    if path.is_file() and "page/data.js" not in path.read_text(errors="replace"):
        raise ValueError(
            f"{path} is not of an earlier report and would be overwritten: choose another folder "
            "with --out"
        )


def static_files() -> dict[str, str]:
    """page.js, joined from its parts in the order of their names, and page.css."""
    folder = resources.files("evals.site") / "static"
    parts = sorted(p.name for p in folder.iterdir() if p.name.endswith(".js"))
    code = "\n".join((folder / name).read_text() for name in parts)
    return {"page.js": code, "page.css": (folder / "page.css").read_text()}


def _template() -> jinja2.Template:
    source = (resources.files("evals.site") / "templates" / "index.html.j2").read_text()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(source)


def _subtitle(folders: Sequence[ResultFolder], data: Mapping[str, Any]) -> str:
    if not folders:
        return "nothing was measured yet"
    trainings = sum(line["kind"] == "training" for line in data["lines"])
    images = sum(result["num_images"] for result in data["results"])
    parts = [
        f"{len(folders):,} result{'s' * (len(folders) != 1)}",
        f"{trainings:,} configuration{'s' * (trainings != 1)}",
        f"{images:,} judged images",
    ]
    if len(data["protocols"]) > 1:
        parts.append(f"{len(data['protocols'])} protocols, never mixed")
    return " · ".join(parts)


def _remove_left_over(folder: Path, written: Sequence[Path]) -> None:
    """Files of an earlier page of the same folder: all in page/ with such a name are ours."""
    kept = set(written)
    for path in folder.glob("*/*"):
        if path not in kept and _OWN.fullmatch(path.relative_to(folder).as_posix()):
            path.unlink()
