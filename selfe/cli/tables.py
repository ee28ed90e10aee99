"""Plain tables for terminals and logs: aligned columns that fit the width there is."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from textwrap import wrap
from typing import Any

PIPED_WIDTH = 160
_GAP = 2
_NARROWEST = 12
_WIDEST_FIXED = 40


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        key: of the rows' values.
        title: above the column; "" for the key.
        keep: columns of the smallest `keep` are the first to be left out where room is short;
            None for one that always stays.
        right: whether cells are aligned to the right.
        wrap: whether sentences that are too long continue below, instead of being cut.
    """

    key: str
    title: str = ""
    keep: int | None = None
    right: bool = False
    wrap: bool = False

    @property
    def head(self) -> str:
        return self.title or self.key


def terminal_width() -> int:
    """Columns of the terminal, or what COLUMNS says; a log or pipe without it is wide."""
    if os.environ.get("COLUMNS", "").isdecimal() or sys.stdout.isatty():
        return max(20, shutil.get_terminal_size().columns)
    return PIPED_WIDTH


def as_table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], width: int | None = None
) -> str:
    """Rows under a header. Empty columns are left out, then the dispensable ones, until it fits;
    what is still too wide continues below, or is cut with an ellipsis (`Column.wrap`).

    Args:
        rows: values by column key; lists are joined by commas.
        width: None for that of the terminal.
    """
    width = terminal_width() if width is None else width
    cells = [{c.key: cell_text(row.get(c.key)) for c in columns} for row in rows]
    shown = [c for c in columns if any(row[c.key] for row in cells)] or list(columns[:1])

    def natural(column: Column) -> int:
        return max([len(column.head), *(len(row[column.key]) for row in cells)])

    def least(column: Column) -> int:
        return min(natural(column), _NARROWEST if column.keep is not None else _WIDEST_FIXED)

    def over(sizes: list[int]) -> int:
        return sum(sizes) + _GAP * (len(sizes) - 1) - width

    while over([least(c) for c in shown]) > 0:
        spare = [c for c in shown if c.keep is not None]
        if not spare:
            break
        shown.remove(min(spare, key=lambda c: c.keep or 0))
    found = [natural(c) for c in shown]
    while over(found) > 0:  # the widest of those that may shrink gives a character
        room = [i for i, c in enumerate(shown) if found[i] > least(c)]
        room = room or [i for i, size in enumerate(found) if size > _NARROWEST]
        if not room:
            break
        found[max(room, key=lambda i: found[i])] -= 1
    lines = [[c.head for c in shown], *([row[c.key] for c in shown] for row in cells)]
    return "\n".join(_row(line, found, shown) for line in lines)


def _row(cells: Sequence[str], sizes: Sequence[int], columns: Sequence[Column]) -> str:
    """A row of a table, over several lines where a cell continues below."""
    parts = [
        wrap(text, size) if column.wrap and len(text) > size else [text]
        for text, size, column in zip(cells, sizes, columns, strict=True)
    ]
    return "\n".join(
        (" " * _GAP)
        .join(
            _fit(text, size, column.right)
            for text, size, column in zip(texts, sizes, columns, strict=True)
        )
        .rstrip()
        for texts in zip_longest(*parts, fillvalue="")
    )


def cell_text(value: Any) -> str:
    """A value as one line of a cell."""
    if value is None or value == "" or value == [] or value == {}:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={cell_text(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(cell_text, value))
    return " ".join(str(value).split())


def _fit(text: str, size: int, right: bool) -> str:
    if len(text) > size:
        text = text[: size - 1] + "…"
    return text.rjust(size) if right else text.ljust(size)
