"""The compact table on a terminal."""

from __future__ import annotations

import textwrap

from evals.report.compact import CompactCell, CompactTable, column_name
from evals.report.headline import headline, headroom_sentence
from evals.report.markup import number, signed

_CELL = 20
"""Width of a column on a terminal."""


def compact_text(table: CompactTable, width: int = 100) -> str:
    """For a terminal: two lines a row, the score and its difference; "*" marks the highest, "?" a
    difference that is not resolved, "~" one that is by itself only."""
    longest = max(len(row.name) for row in table.rows)
    room = max(14, min(longest + 1, width - _CELL * min(4, len(table.steps))))
    columns = max(1, (width - room) // _CELL)
    lines = [table.title]
    for start in range(0, len(table.steps), columns):
        part = table.steps[start : start + columns]
        lines.append(" " * room + "".join(f"{column_name(n):>{_CELL}}" for n in part))
        for row in table.rows:
            name = row.name if len(row.name) < room else row.name[: room - 2] + "… "
            cells = [row.cells.get(n) for n in part]
            scores = "".join(f"{_score_text(cell):>{_CELL}}" for cell in cells)
            deltas = "".join(f"{_delta_text(cell):>{_CELL}}" for cell in cells)
            lines.append(f"{name:<{room}}{scores}".rstrip())
            if deltas.strip():
                lines.append(" " * room + deltas.rstrip())
    every = [cell for row in table.rows for cell in row.cells.values()]
    several = sum(not row.exact for row in table.rows) > 1
    notes = ["* highest of its column"] if several else []
    if any(cell.delta for cell in every):
        notes.append(f"below: difference to {table.reference}")
    if any(_mark(cell) == "?" for cell in every):
        notes.append("? not resolved")
    if any(_mark(cell) == "~" for cell in every):
        notes.append("~ resolved by itself, not among all (Holm)")
    notes.append(
        "95% intervals over " + ("training seeds and prompts" if table.over_seeds else "prompts")
    )
    lines.append(textwrap.fill("; ".join(notes), width))
    found = headline(table) if several else [headroom_sentence(table)]
    lines += [textwrap.fill(sentence, width) for sentence in found if sentence]
    return "\n".join(lines)


def _score_text(cell: CompactCell | None) -> str:
    if cell is None:
        return ""
    span = f"[{number(cell.score.low, 2)}, {number(cell.score.high, 2)}]"
    return f"{number(cell.score.mean)}{'*' if cell.best else ' '}{span}"


def _delta_text(cell: CompactCell | None) -> str:
    """Its last figure below that of the score: the interval takes 12 places beside it."""
    if cell is None or cell.delta is None:
        return ""
    return f"{signed(cell.delta.mean)}{_mark(cell)}{' ' * 12}"


def _mark(cell: CompactCell) -> str:
    if cell.delta is None or cell.resolved:
        return " "
    return "~" if cell.by_itself else "?"
