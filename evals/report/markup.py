"""Frames as CSV, Markdown and LaTeX, byte for byte the same for the same figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from selfe.foreign_text import csv_cell, latex


def is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def number(value: Any, digits: int = 3) -> str:
    """A share with fixed digits; "" where there is none; never "-0.000"."""
    if is_missing(value):
        return ""
    text = f"{value:.{digits}f}"
    return text[1:] if text.startswith("-") and float(text) == 0 else text


def signed(value: Any, digits: int = 3) -> str:
    if is_missing(value):
        return ""
    text = number(value, digits)
    return text if text.startswith("-") else f"+{text}"


def with_interval(value: Any, low: Any, high: Any) -> str:
    """ "0.610 [0.583, 0.637]"; "" where there is no value."""
    if is_missing(value):
        return ""
    return f"{number(value)} [{number(low)}, {number(high)}]"


def plain(value: Any) -> str:
    """An integer, a short number or a text."""
    if is_missing(value):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def to_csv(frame: pd.DataFrame, columns: Sequence[str]) -> str:
    """Six decimals, "\\n" line ends, empty fields where nothing was measured or known."""
    shown = frame[list(columns)].copy()
    if "steps" in columns:  # nobody knows them of images made elsewhere, whose results say 0
        known = shown["steps"] != 0
        for name in ("steps", "nfe"):
            shown[name] = shown[name].astype("Int64").where(known)
    for name in shown.select_dtypes(["object", "string"]):
        shown[name] = shown[name].map(csv_cell)
    text: str = shown.to_csv(index=False, float_format="%.6f", lineterminator="\n")
    return text


def to_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(header), line(["---"] * len(header)), *map(line, rows)]) + "\n"


def to_latex(
    header: Sequence[str],
    blocks: Sequence[tuple[str, Sequence[Sequence[str]]]],
    caption: str,
) -> str:
    """A booktabs table that needs no packages but booktabs and graphicx.

    Args:
        blocks: (heading, rows); an empty heading draws none.
    """
    columns = "l" * min(2, len(header)) + "r" * max(0, len(header) - 2)
    lines = [
        r"\begin{table}[ht]",
        r"\centering",
        rf"\caption{{{latex(caption)}}}",
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(latex(cell) for cell in header) + r" \\",
    ]
    for heading, rows in blocks:
        lines.append(r"\midrule")
        if heading:
            lines.append(rf"\multicolumn{{{len(header)}}}{{l}}{{\emph{{{latex(heading)}}}}} \\")
        lines += [" & ".join(latex(cell) for cell in row) + r" \\" for row in rows]
    lines += [r"\bottomrule", r"\end{tabular}}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def latex_paragraph(text: str) -> str:
    return rf"\par\noindent {latex(text)}" + "\n"


def latex_document(parts: Sequence[str]) -> str:
    """A document that compiles by itself; the tables can be copied out of it."""
    head = (
        "\\documentclass{article}\n\\usepackage{booktabs}\n\\usepackage{graphicx}\n"
        "\\usepackage[margin=2cm]{geometry}\n\\begin{document}\n"
    )
    return head + "\n".join(parts) + "\\end{document}\n"
