"""The report of exactly the runs that a user names, under the user's names.

Tables 1 and 2 have the paper's rows; this one has the user's: methods by steps, the differences to
a baseline, every task, figures, and the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from evals.base import TASKS
from evals.multiplicity import NOT_RESOLVED
from evals.report import curves, image_grids
from evals.report import page as pages
from evals.report.chosen_results import Chosen
from evals.report.compact import (
    CompactCell,
    CompactTable,
    column_name,
    compact_markdown,
    compact_table,
)
from evals.report.groups import by_protocol
from evals.report.headline import headline
from evals.report.index import TITLE
from evals.report.lines import Line, build_lines
from evals.report.markup import (
    latex_document,
    latex_paragraph,
    number,
    plain,
    signed,
    to_csv,
    to_latex,
    to_markdown,
    with_interval,
)
from evals.report.model_columns import eta_of, guidance_text, setting_text
from evals.report.render import PAGE, ReportSummary, require_own_page
from evals.report.result_folders import ResultFolder
from evals.report.rows import reading_notes
from evals.results import protocol_slug
from evals.site.render import render_page

_COLUMNS = (
    "name", "iterations", "steps", "nfe", "guidance", "eta", "sampler", "overall", "overall_low",
    "overall_high", "delta", "delta_low", "delta_high", "resolved",
    *(task + end for task in TASKS for end in ("", "_low", "_high")), "folder",
)  # fmt: skip


def render_runs(chosen: Chosen, out_dir: Path | str, *, latex: bool = False) -> ReportSummary:
    """Render the report of the runs chosen into `out_dir`.

    Args:
        latex: whether to write the table as LaTeX, too.

    Raises:
        ValueError: if `out_dir` has a page that is no report's.
    """
    require_own_page(Path(out_dir) / PAGE)
    given, baseline = chosen.given, chosen.baseline
    summary = ReportSummary(Path(out_dir), results=len(chosen.folders))
    lines = build_lines(chosen.folders, chosen.names)
    for line in lines:
        line.usual = not line.further
    lines.sort(key=lambda line: (line.further, given.index(chosen.names[line.first.name])))
    parts = [f"{TITLE} of chosen runs\n", _what(chosen, given)]
    tables = []
    for place, members in enumerate(_largest_first(chosen.folders)):
        key = members[0].result.protocol
        own = [line for line in lines if line.first.result.protocol == key]
        its_baseline = next((line.name for line in own if _is(line, chosen.names, baseline)), "")
        table = compact_table(own, None, its_baseline)
        suffix = f".{protocol_slug(key)}" if place else ""
        if table is None:
            parts.append(f"## {protocol_slug(key)}\n\nNo complete result.\n")
            continue
        summary.compact.append(table)
        frame = _frame(own, table)
        summary.write(f"runs{suffix}.csv", to_csv(frame, _COLUMNS))
        parts.append(f"## {table.title}\n\n{pages.protocol_text(key)}\n")
        if len(table.rows) > 1:
            parts.append("\n".join(f"- {text}" for text in headline(table)) + "\n")
        parts += [compact_markdown(table), table.words + "\n"]
        for figure in _draw(summary, own, table, suffix):
            parts.append(f"![{figure}](figures/{figure})\n")
        parts.append(f"### Every result\n\n{to_markdown(*_details(own))}")
        tables.append(_latex(table, pages.protocol_text(key)))
        notes = reading_notes([f for line in own for f in line.folders if line.is_final(f)])
        summary.notes += notes
        parts += ["\n".join(f"- {note}" for note in notes) + "\n"] if notes else []
    if latex:
        summary.write("runs.tex", latex_document(tables))
    summary.write(PAGE, "\n".join(parts))
    summary.files += render_page(
        chosen.folders,
        summary.out_dir,
        title=", ".join(given) if len(given) <= 4 else f"Report of {len(given)} runs",
        names=chosen.names,
        baseline=baseline,
        tables_beside=True,
    )
    return summary


def _what(chosen: Chosen, given: Sequence[str]) -> str:
    runs: dict[str, list[str]] = {}
    for folder in chosen.folders:
        place = runs.setdefault(chosen.names[folder.name], [])
        if folder.run not in place:
            place.append(folder.run)
    lines = [f"- {name}: {', '.join(f'`{run}`' for run in runs[name])}" for name in given]
    return f"{len(chosen.folders)} results of:\n\n" + "\n".join(lines) + "\n"


def _is(line: Line, names: Mapping[str, str], wanted: str) -> bool:
    return not line.further and names[line.first.name] == wanted


def _largest_first(folders: Sequence[ResultFolder]) -> list[list[ResultFolder]]:
    return sorted(by_protocol(folders).values(), key=lambda members: -len(members))


def _finals(line: Line) -> list[ResultFolder]:
    return [folder for folder in line.folders if line.is_final(folder)]


def _frame(lines: Sequence[Line], table: CompactTable) -> pd.DataFrame:
    rows = []
    cells = {row.name: row.cells for row in table.rows}
    for line in lines:
        for folder in line.folders:
            result, overall = folder.result, folder.result.scores.overall
            cell = cells.get(line.name, {}).get(result.sampling.steps)
            delta = cell.delta if cell and line.is_final(folder) else None
            row = {
                "name": line.name,
                "iterations": result.model.iterations,
                "steps": result.sampling.steps,
                "nfe": result.sampling.nfe,
                "guidance": guidance_text(result),
                "eta": eta_of(result),
                "sampler": setting_text(result),
                "overall": overall.mean if overall else None,
                "overall_low": overall.low if overall else None,
                "overall_high": overall.high if overall else None,
                "delta": delta.mean if delta else None,
                "delta_low": delta.low if delta else None,
                "delta_high": delta.high if delta else None,
                "resolved": _resolved(cell) if delta else "",
                "folder": folder.name,
            }
            for task, interval in result.scores.tasks.items():
                row |= {
                    task: interval.mean,
                    f"{task}_low": interval.low,
                    f"{task}_high": interval.high,
                }
            rows.append(row)
    frame = pd.DataFrame(rows).reindex(columns=list(_COLUMNS))
    return frame.astype({"iterations": "Int64", "steps": "Int64", "nfe": "Int64"})


def _resolved(cell: CompactCell | None) -> str:
    return cell.told if cell else NOT_RESOLVED


def _details(lines: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    present = [
        task for task in TASKS if any(task in f.result.scores.tasks for f in lines[0].folders)
    ]
    header = ["Name", "Iterations", "Steps", "NFE", "Guidance", "eta", "Sampler", "Overall"]
    rows = []
    for line in lines:
        for folder in line.folders:
            result, scores = folder.result, folder.result.scores
            overall = scores.overall
            texts = [line.name, plain(result.model.iterations), plain(result.sampling.steps)]
            texts += [plain(result.sampling.nfe), guidance_text(result), plain(eta_of(result))]
            texts.append(setting_text(result))
            span = with_interval(overall.mean, overall.low, overall.high) if overall else "no score"
            texts.append(span + (" (partial)" if scores.partial else ""))
            texts += [number(scores.tasks[t].mean) if t in scores.tasks else "" for t in present]
            rows.append(texts)
    return [*header, *[pages.TASK_NAMES[task] for task in present]], rows


def _draw(
    summary: ReportSummary, lines: Sequence[Line], table: CompactTable, suffix: str
) -> list[str]:
    """Score against steps and against iterations, and the same prompts side by side."""
    shown = [line for line in lines if line.usual]
    name_of = {folder.name: line.name for line in shown for folder in line.folders}
    finals = [folder for line in shown for folder in _finals(line)]
    every = [folder for line in shown for folder in line.folders]
    title = f"{table.title}; 95% intervals clustered by prompt"

    def label(folder: ResultFolder) -> str:
        return name_of[folder.name]

    by_steps = curves.make_series(finals, lambda f: f.result.sampling.steps, label)
    drawn = []
    if by_steps:
        figure = curves.over_steps(by_steps, "Score against sampling steps", title)
        drawn += summary.draw(f"scores_by_steps{suffix}", figure)
    panels = {
        n: curves.make_series(
            [f for f in every if f.result.sampling.steps == n and f.result.model.iterations],
            lambda f: f.result.model.iterations,
            label,
        )
        for n in table.steps[:4]
    }
    drawn += summary.draw(
        f"fig5{suffix}", curves.over_iterations(panels, "Training progress", title)
    )
    rows = [
        (line.name, {f.result.sampling.steps: f for f in _finals(line)})
        for line in shown[: image_grids.MOST_ROWS]
    ]
    shared = sorted(set.intersection(*[set(found) for _, found in rows])) if rows else []
    if shared:
        grid = image_grids.result_grid(rows, shared, "Same prompts and seeds")
        drawn += summary.draw(f"fig4{suffix}", grid)
    return drawn


def _latex(table: CompactTable, words: str) -> str:
    header = ["", *[column_name(n) for n in table.steps]]
    rows = []
    for row in table.rows:
        texts = []
        for steps in table.steps:
            cell = row.cells.get(steps)
            score = cell.score if cell else None
            text = with_interval(score.mean, score.low, score.high) if score else ""
            if cell and cell.delta:
                mark = "" if cell.resolved else f", {cell.told}"
                text += f" ({signed(cell.delta.mean)}{mark})"
            texts.append(text + (" *" if cell and cell.best else ""))
        rows.append([row.name, *texts])
    caption = f"Overall score [95% interval], {table.title}"
    if table.reference:
        caption += f"; in brackets the difference to {table.reference}"
    text = to_latex(header, [("", rows)], caption + "; *: highest of its column.")
    return text + latex_paragraph(words)
