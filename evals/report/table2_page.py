"""Table 2 as Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import pandas as pd

from evals.base import Interval
from evals.multiplicity import NOT_RESOLVED, RESOLVED, holm, p_of_interval, verdict
from evals.report.commands import STEPS, not_run
from evals.report.markup import (
    is_missing,
    latex_paragraph,
    number,
    plain,
    signed,
    to_latex,
    to_markdown,
    with_interval,
)
from evals.report.page import (
    TASK_NAMES,
    _closing,
    _method,
    _paper_sentence,
    _task,
    heading,
    protocol_text,
    steps_label,
)
from evals.report.rows import Table
from evals.report.table1 import TABLE1_TASKS


def _joined(values: pd.Series) -> str:
    """The values of a row's cells, once if they agree."""
    texts = [plain(v) for v in values if not is_missing(v) and plain(v)]
    return " / ".join(texts) if len(set(texts)) > 1 else "".join(texts[:1])


def _steps_of(frame: pd.DataFrame) -> list[int]:
    return sorted({int(n) for n in frame["steps"]})


def _row_name(cells: pd.DataFrame) -> str:
    names = [_method(row) for _, row in cells.iterrows() if row["folder"]]
    return max(names, key=len) if names else str(cells["method"].iloc[0])


def _wide_rows(block: pd.DataFrame, steps: Sequence[int], settings: bool) -> list[list[str]]:
    """A row per method, columns numbers of steps, measured and the paper's.

    Args:
        settings: with iterations, NFE, guidance, eta and sampler of the row, joined over its steps.
    """
    rows = []
    for _, cells in block.groupby("label", sort=False):
        by_steps = {int(row["steps"]): row for _, row in cells.iterrows()}
        measured = cells[cells["folder"] != ""]
        texts = []
        for n in steps:
            row = by_steps.get(n)
            if row is None:
                texts.append("")
            elif not row["folder"]:
                texts.append("not run")
            else:
                text = with_interval(row["overall"], row["ci_low"], row["ci_high"])
                mark = " (partial)" if row["partial"] else ""
                texts.append((text or "no score") + mark)
        papers = [by_steps[n]["paper"] if n in by_steps else None for n in STEPS]
        found = [
            plain(cells["iterations"].iloc[0]),
            *[_joined(measured[name]) for name in ("nfe", "guidance", "eta", "settings")],
        ]
        rows.append(
            [
                _row_name(cells),
                *(found if settings else []),
                *texts,
                *[number(value, 4) for value in papers],
            ]
        )
    return rows


def _wide_header(steps: Sequence[int], settings: bool) -> list[str]:
    names = ["Iterations", "NFE", "Guidance", "eta", "Sampler"] if settings else []
    return [
        "Method",
        *names,
        *[steps_label(n) for n in steps],
        *[f"*{steps_label(n)}" for n in STEPS],
    ]


def _block_title(block: pd.DataFrame) -> str:
    iterations = block["iterations"].iloc[0]
    if is_missing(iterations):
        return "iterations not known yet"
    return f"{iterations} iterations"


def _adjusted(frame: pd.DataFrame) -> dict[Hashable, float]:
    """Row of the frame -> p-value of its difference, adjusted over all that the table tells."""
    told = frame[frame["delta_selfe"].notna()]
    p_values = [
        p_of_interval(Interval(mean=mean, low=low, high=high))
        for mean, low, high in zip(
            told["delta_selfe"], told["delta_low"], told["delta_high"], strict=True
        )
    ]
    return dict(zip(told.index, holm(p_values), strict=True))


def _difference_rows(frame: pd.DataFrame, steps: Sequence[int]) -> list[list[str]]:
    rows = []
    adjusted = _adjusted(frame)
    for (_, label), cells in frame.groupby(["block", "label"], sort=False):
        if label == "Self-E" or (cells["folder"] == "").all():
            continue
        by_steps = {int(row["steps"]): row for _, row in cells.iterrows()}
        texts = []
        for n in steps:
            row = by_steps.get(n)
            if row is None or not row["folder"]:
                texts.append("")
            elif is_missing(row["delta_selfe"]):
                texts.append(str(row["resolved"]))
            else:
                span = f"[{signed(row['delta_low'])}, {signed(row['delta_high'])}]"
                told = verdict(row["resolved"] != NOT_RESOLVED, adjusted[row.name])
                mark = "" if told == RESOLVED else f" {told}"
                texts.append(f"{signed(row['delta_selfe'])} {span}{mark}")
        rows.append([_row_name(cells), plain(cells["iterations"].iloc[0]), *texts])
    return rows


def _detail_rows(frame: pd.DataFrame) -> list[list[str]]:
    rows = []
    for _, row in frame[frame["folder"] != ""].iterrows():
        texts = [_method(row), *[plain(row[name]) for name in ("iterations", "steps", "nfe")]]
        texts += [plain(row["guidance"]), plain(row["eta"]), plain(row["settings"])]
        texts.append(with_interval(row["overall"], row["ci_low"], row["ci_high"]))
        rows.append(texts + [_task(row, task) for task in TABLE1_TASKS])
    return rows


_DETAIL_HEADER = [
    "Method",
    "Iterations",
    "Steps",
    "NFE",
    "Guidance",
    "eta",
    "Sampler",
    "Overall",
    *[TASK_NAMES[task] for task in TABLE1_TASKS],
]


def _missing_commands(frame: pd.DataFrame) -> list[str]:
    lines = []
    for (label, command), cells in frame[frame["folder"] == ""].groupby(
        ["label", "command"], sort=False
    ):
        steps = ", ".join(str(n) for n in sorted(cells["steps"]))
        lines.append(f"{label}, {steps} steps: {not_run(f'`{command}`')}")
    return lines


def table2_markdown(table: Table) -> str:
    frame = table.frame
    steps = _steps_of(frame)
    parts = [f"## {heading(table)}\n", protocol_text(table.protocol, table.recipe) + "\n"]
    if table.partial:
        parts.append("**PARTIAL RESULTS: rows so marked are not comparable.**\n")
    parts.append(
        "Overall score [95% interval, clustered by prompt]; NFE, guidance and sampler of every "
        "figure stand under *By task*.\n"
    )
    for _, block in frame.groupby("block", sort=False):
        parts.append(f"### {_block_title(block)}\n")
        parts.append(to_markdown(_wide_header(steps, False), _wide_rows(block, steps, False)))
    parts.append(_paper_sentence(table) + " Its iterations are 100k (upper block) and 300k.\n")
    if table.statements:
        parts.append("### Ordering\n")
        parts.append("\n".join(f"- {text}" for text in table.statements) + "\n")
        parts.append(
            '"Resolved": the 95% interval of the difference to the one named before it, paired '
            "over prompts, leaves out 0.\n"
        )
    differences = _difference_rows(frame, steps)
    if differences:
        parts.append("### Difference to Self-E at the same iterations and steps\n")
        parts.append(
            'Each interval is its own; "not after Holm" where a difference that it resolves is not '
            "resolved when all of these are told together.\n"
        )
        header = ["Method", "Iterations", *[steps_label(n) for n in steps]]
        parts.append(to_markdown(header, differences))
    details = _detail_rows(frame)
    if details:
        parts.append("### By task\n")
        parts.append(to_markdown(_DETAIL_HEADER, details))
    parts += _closing(table, _missing_commands(frame))
    return "\n".join(parts)


def table2_latex(table: Table) -> str:
    frame = table.frame
    steps = _steps_of(frame)
    blocks = [
        (_block_title(block), _wide_rows(block, steps, True))
        for _, block in frame.groupby("block", sort=False)
    ]
    caption = f"Controlled ablation study, {heading(table)}: overall score [95% interval]."
    parts = [to_latex(_wide_header(steps, True), blocks, caption)]
    return "\n".join(parts + _latex_closing(table))


def _latex_closing(table: Table) -> list[str]:
    texts = [protocol_text(table.protocol, table.recipe), _paper_sentence(table)]
    texts += ["PARTIAL RESULTS: rows so marked are not comparable."] if table.partial else []
    texts += [*table.statements, *(_missing_commands(table.frame) if table.lists_not_run else [])]
    texts += table.notes
    return [latex_paragraph(text.replace("`", "")) for text in texts]
