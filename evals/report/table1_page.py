"""Table 1 as Markdown and LaTeX."""

from __future__ import annotations

import pandas as pd

from evals.report.commands import not_run
from evals.report.markup import (
    latex_paragraph,
    number,
    plain,
    signed,
    to_latex,
    to_markdown,
    with_interval,
)
from evals.report.page import (
    _OTHER_WEIGHTS,
    TASK_NAMES,
    _closing,
    _method,
    _paper_sentence,
    _task,
    heading,
    protocol_text,
    steps_label,
)
from evals.report.rows import Table, follows_paper_protocol
from evals.report.table1 import TABLE1_TASKS


def _shows_paper(table: Table) -> bool:
    return bool(table.frame["paper_overall"].notna().any())


def _table1_header(table: Table) -> list[str]:
    tasks = [TASK_NAMES[task] for task in TABLE1_TASKS]
    header = ["Steps", "Method", "NFE", "Guidance", "Sampler", "Overall", *tasks]
    if not _shows_paper(table):
        return header
    compares = follows_paper_protocol(table.protocol)
    return [*header, "*Overall", *[f"*{name}" for name in tasks], *(["Difference"] * compares)]


def _table1_rows(
    table: Table, frame: pd.DataFrame, *, task_intervals: bool = False
) -> list[list[str]]:
    """Rows of `frame`, a part of the table's. LaTeX has no room for the intervals of tasks."""
    compares = follows_paper_protocol(table.protocol)
    rows = []
    for _, row in frame.iterrows():
        if row["folder"]:
            overall = with_interval(row["overall"], row["ci_low"], row["ci_high"]) or "no score"
        else:
            overall = "not run"
        # of images made elsewhere nobody knows the number of steps
        steps, nfe = (plain(row[name]) if row["steps"] else "" for name in ("steps", "nfe"))
        texts = [steps, _method(row), nfe, plain(row["guidance"])]
        texts += [plain(row["settings"]), overall]
        texts += [
            _task(row, task) if task_intervals else number(row[task]) for task in TABLE1_TASKS
        ]
        if not _shows_paper(table):
            rows.append(texts)
            continue
        # an erratum begins with the column it is about
        misprint = str(row["paper_errata"]).split(" ")[0]
        for name in ("overall", *TABLE1_TASKS):
            mark = "†" if name == misprint else ""
            texts.append(number(row[f"paper_{name}"], 4) + mark)
        rows.append(texts + ([signed(row["delta_paper"])] if compares else []))
    return rows


def _command_of(row: pd.Series) -> str:
    return str(row["status"]).removeprefix("not run: ")


def table1_markdown(table: Table) -> str:
    parts = [f"## {heading(table)}\n", protocol_text(table.protocol) + "\n"]
    if table.other_weights:
        parts.append(f"**{_OTHER_WEIGHTS}**\n")
    if table.partial:
        parts.append("**PARTIAL RESULTS: rows so marked are not comparable.**\n")
    for steps, block in table.frame.groupby("steps", sort=True):
        parts.append(f"### {steps_label(int(steps))}\n")
        rows = _table1_rows(table, block, task_intervals=True)
        parts.append(to_markdown(_table1_header(table), rows))
    if _shows_paper(table):
        parts.append(_paper_sentence(table) + " †: printed with a misprint, see the notes.\n")
    return "\n".join(parts + _closing(table, _table1_missing(table.frame)))


def _table1_missing(frame: pd.DataFrame) -> list[str]:
    missing = frame[frame["folder"] == ""].groupby("label", sort=False)
    return [f"{label}: {not_run(f'`{_command_of(cells.iloc[0])}`')}" for label, cells in missing]


def table1_latex(table: Table) -> str:
    blocks = [
        ("", _table1_rows(table, block)) for _, block in table.frame.groupby("steps", sort=True)
    ]
    caption = f"Models under one protocol, {heading(table)}: overall score [95% interval]."
    texts = [protocol_text(table.protocol)]
    if table.other_weights:
        texts.append(_OTHER_WEIGHTS)
    if _shows_paper(table):
        texts.append(_paper_sentence(table))
    if table.partial:
        texts.append("PARTIAL RESULTS: rows so marked are not comparable.")
    texts += _table1_missing(table.frame) if table.lists_not_run else []
    texts += table.notes
    parts = [to_latex(_table1_header(table), blocks, caption)]
    return "\n".join(parts + [latex_paragraph(text.replace("`", "")) for text in texts])
