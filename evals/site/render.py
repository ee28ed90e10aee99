"""The page: `index.html` and a folder `page/` beside it, which work from a file."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from evals.report.compact import CompactTable, column_name, compact_table, headline
from evals.report.diversity_table import DIVERSITY
from evals.report.lines import Line, build_lines, reference_line
from evals.report.markup import number
from evals.report.page import TASK_NAMES
from evals.report.result_folders import ResultFolder
from evals.report.rows import PAPER, Table, reading_notes
from evals.report.training_seeds import trainings_frame
from evals.site import summary as facts
from evals.site.pictures import draw_sheets, prompt_texts, result_data
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
    lines = build_lines(folders, names)
    if names:
        _draw_named(lines, names)
    written: list[Path] = []

    def write(name: str, data: bytes | str) -> None:
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, data.encode() if isinstance(data, str) else data)
        written.append(path)

    ids = facts.ResultIds.of(folders)
    by_protocol: dict[str, list[Line]] = {}
    for line in lines:
        by_protocol.setdefault(line.protocol, []).append(line)
    sheets = draw_sheets(
        folders, lambda name, data: write(f"page/sprites/{name}", data), MOST_IMAGES
    )
    data: dict[str, Any] = {
        "title": title,
        "task_names": TASK_NAMES,
        "protocols": [],
        "lines": [],
        "results": [],
        "means": [],
        "tables": [facts.table_facts(n, i, t) for i, (n, t) in enumerate(tables) if t.protocol],
        "differences": [],
        "paper": facts.paper_lines(),
        "paper_name": PAPER,
        "exact": [],
        "runs": facts.run_facts(runs.values(), bool(live)),
        "sheets": [vars(sheet) for sheet in sheets.sheets],
        "per_sheet": sheets.per_sheet,
        "sprite_edge": sheets.edge,
    }
    line_of = {id(folder): line for line in lines for folder in line.folders}
    members: dict[str, list[int]] = {}
    for place, folder in enumerate(folders):
        members.setdefault(facts.protocol_id(folder), []).append(place)
    overview = []
    for protocol in sorted(members, key=lambda key: -len(members[key])):
        places = members[protocol]
        own = [folders[i] for i in places]
        own_lines = by_protocol[protocol]
        data["protocols"].append(facts.protocol_facts(own[0]))
        data["exact"] += facts.exact_lines(protocol, own)
        frame = (trainings or {}).get(protocol)
        if frame is None:
            frame = trainings_frame(own)
        means, points = facts.mean_lines(frame, protocol, own_lines)
        if names:
            means = [mean | {"usual": False} for mean in means]
        averaged = any(mean["usual"] for mean in means)
        data["lines"] += means
        for line in own_lines:
            values = facts.line_facts(line, False)
            data["lines"].append(values | {"usual": line.usual and not averaged})
        data["means"] += points
        reference = _reference(own_lines, baseline)
        rows = facts.difference_rows(
            folders, ids, own_lines, reference, bool(baseline), facts.mean_differences(frame, means)
        )
        data["differences"] += [rows] if rows else []
        order = _write_prompts(write, protocol, own)
        for i in places:
            line = line_of[id(folders[i])]
            run = runs.get(facts.run_of(folders[i]))
            seconds = run.seconds_at(folders[i].result.model.iterations) if run else None
            data["results"].append(facts.result_facts(folders[i], ids.ids[i], line, seconds))
            write(
                f"page/data/r-{ids.ids[i]}.js",
                _call("SELFE_GOT", f"r-{ids.ids[i]}", result_data(i, folders[i], order, sheets)),
            )
        table = compact_table(own_lines, frame if len(frame) else None, baseline)
        overview.append(
            {
                "protocol": protocol,
                "headline": headline(table) if table and len(table.rows) > 1 else [],
                "table": _overview_table(table) if table else None,
                "notes": reading_notes(_shown(own_lines)),
            }
        )
    written += write_sheets(runs.values(), out)
    write("page/data.js", f"window.SELFE_DATA = {script_json(data)};\n")
    for name, text in static_files().items():
        write(f"page/{name}", text)
    html = _template().render(
        title=title,
        subtitle=_subtitle(folders, data),
        live=live,
        overview=overview,
        has_diversity=any(result["diversity"] for result in data["results"]),
        has_runs=bool(data["runs"]),
        diversity_words=DIVERSITY.removesuffix(
            " Every task and factor by itself stands in the CSV file."
        ),
        tables_beside=tables_beside,
        version=importlib.metadata.version("selfe-bench"),
        num_results=len(folders),
    )
    write("index.html", html)
    _remove_left_over(out / "page", written)
    return [written[-1], *written[:-1]]


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
            _replace(target, path.read_bytes())
    return written


def _require_own_page(path: Path) -> None:
    """Raise ValueError where the page would take the place of one that is not ours."""
    if path.is_file() and "page/data.js" not in path.read_text(errors="replace"):
        raise ValueError(
            f"{path} is not of an earlier report and would be overwritten: choose another folder "
            "with --out"
        )


def _replace(path: Path, data: bytes) -> None:
    """As `selfe.files.write_atomically`, without waiting for the disk: some hundred files, which
    are made again from the results at any time. One that is the same already is left as it is."""
    if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _draw_named(lines: Sequence[Line], names: Mapping[str, str]) -> None:
    for line in lines:
        line.usual = not line.further and line.first.name in names


def _shown(lines: Sequence[Line]) -> list[ResultFolder]:
    return [f for line in lines if line.usual for f in line.folders if line.is_final(f)]


def _reference(lines: Sequence[Line], baseline: str) -> Line | None:
    if baseline:
        return next((line for line in lines if line.name == baseline), None)
    return reference_line(lines) or next(iter(lines), None)


def _write_prompts(write: Any, protocol: str, folders: Sequence[ResultFolder]) -> dict:
    """Captions, tasks and the order of images of a protocol; returns the order."""
    images: dict[tuple[int, int], str] = {}
    for folder in folders:
        frame = folder.verdicts
        if len(images) == len(frame) and folder is not folders[0]:
            continue  # the same set
        for prompt, sample, tag in zip(
            frame["prompt_id"], frame["sample_id"], frame["tag"], strict=True
        ):
            images[int(prompt), int(sample)] = str(tag)
    keys = sorted(images)
    texts = prompt_texts(folders)
    prompts = {prompt: images[prompt, sample] for prompt, sample in reversed(keys)}
    value = {
        "prompts": [[prompt, prompts[prompt], texts.get(prompt, "")] for prompt in sorted(prompts)],
        "images": keys,
    }
    write(f"page/data/p-{protocol}.js", _call("SELFE_GOT", f"p-{protocol}", value))
    return {key: place for place, key in enumerate(keys)}


def script_json(value: Any) -> str:
    """JSON that a script may hold: no text in it ends the script or a line of it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _call(function: str, name: str, value: Any) -> str:
    return f"window.{function}({script_json(name)}, {script_json(value)});\n"


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


def _overview_table(table: CompactTable) -> dict[str, Any]:
    rows = []
    for row in table.rows:
        cells: list[dict[str, Any] | None] = []
        for steps in table.steps:
            cell = row.cells.get(steps)
            if cell is None:
                cells.append(None)
                continue
            score = cell.score
            cells.append(
                {
                    "score": number(score.mean),
                    "interval": f"[{number(score.low)}, {number(score.high)}]",
                    "best": cell.best,
                    "difference": cell.verdict,
                    "span": cell.difference,
                }
            )
        rows.append({"name": row.name, "cells": cells})
    return {
        "corner": "Overall score",
        "columns": [column_name(n) for n in table.steps],
        "rows": rows,
        "words": table.words,
    }


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
