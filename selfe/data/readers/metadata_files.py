"""metadata.jsonl and metadata.csv: one record a line, read so that a bad line loses only itself.

Python's own reader of CSV drops cells that have no column, and lets a quote that is never closed
swallow the rows after it. Here both are reported, and reading continues with the next line.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfe.data.readers.cells import MOST_TEXT_BYTES, listed, parse_record
from selfe.data.readers.locations import IMAGE_ENDINGS, open_plain_file
from selfe.text import decode_text, first_line

METADATA_NAMES = ("metadata.jsonl", "metadata.csv")
_MOST_LINES = 1000
"""Most lines of one quoted cell; more mean a quote that was never closed."""

Record = dict[str, Any] | str
"""A record, or why a line holds none."""


def read_metadata(path: Path) -> Iterator[tuple[int, Record]]:
    """(line from 1, record or what is wrong with it); blank lines are passed over.

    Raises:
        ValueError: if the header of a CSV file is unusable, or a line is too long to be one.
    """
    lines = _lines(path)
    return _csv_records(path, lines) if path.suffix.lower() == ".csv" else _json_records(lines)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        opened = open_plain_file(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({first_line(error)})") from None
    with opened as file:
        number = 0
        while chunk := file.readline(MOST_TEXT_BYTES + 1):
            if len(chunk) > MOST_TEXT_BYTES:
                raise ValueError(f"{path}, line {number + 1}: longer than {MOST_TEXT_BYTES} bytes")
            for line in chunk.splitlines(keepends=True):
                number += 1
                if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise ValueError(f"{path} is UTF-16 text: save it as UTF-8")
                yield number, line


def _json_records(lines: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, Record]]:
    for number, line in lines:
        if not line.strip(b"\xef\xbb\xbf \t\r\n"):
            continue
        try:
            yield number, parse_record(line)
        except ValueError as error:
            yield number, str(error)


def _csv_records(path: Path, lines: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, Record]]:
    header: list[str] | None = None
    waiting = list(lines)[::-1]
    while waiting:
        number, line = waiting.pop()
        if not line.strip():
            continue
        cells = _cells(number, line, waiting, header)
        if header is None:
            if isinstance(cells, str):
                raise ValueError(f"{path}, line {number}: {cells}")
            header = [cell.strip() for cell in cells]
            twice = sorted({name for name in header if name and header.count(name) > 1})
            if len(header) == 1:
                raise ValueError(
                    f"{path}, line {number}: a single column {header[0]!r}; columns are separated "
                    "by commas"
                )
            if twice:
                raise ValueError(f"{path}, line {number}: the column {twice[0]!r} is there twice")
        elif isinstance(cells, str):
            yield number, cells
        elif len(cells) != len(header):
            yield (
                number,
                f"a row of {len(cells)} cells under {len(header)} columns (a text with a comma "
                "must stand in quotes)",
            )
        else:
            yield number, dict(zip(header, cells, strict=True))


def _cells(
    number: int,
    line: bytes,
    waiting: list[tuple[int, bytes]],
    header: list[str] | None,
) -> list[str] | str:
    """The cells of the record that begins in a line, or what is wrong with it.

    Further lines of a quoted cell are taken from `waiting`, the last first; where the quote is
    never closed, none are.
    """
    taken: list[tuple[int, bytes]] = []
    content = line
    while True:
        try:
            return _parse_csv(content)
        except _OpenQuote:
            following = waiting[-1][1] if waiting else b""
            begins_anew = header is not None and _looks_like_a_row(following, len(header))
            if begins_anew or not waiting or len(taken) == _MOST_LINES:
                waiting.extend(reversed(taken))
                return "a quote that is not closed"
            taken.append(waiting.pop())
            content += taken[-1][1]
            if len(content) > MOST_TEXT_BYTES:
                waiting.extend(reversed(taken))
                return "a quote that is not closed"
        except ValueError as error:
            waiting.extend(reversed(taken))
            return "a quote that is not closed" if taken else str(error)


class _OpenQuote(ValueError):
    """The record continues in the next line."""


def _parse_csv(content: bytes) -> list[str]:
    try:
        text = decode_text(content)
    except ValueError as error:
        raise ValueError(f"unreadable row ({error})") from None
    before = csv.field_size_limit(MOST_TEXT_BYTES + 1)
    try:
        rows = list(csv.reader(text.splitlines(keepends=True), strict=True))
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            raise _OpenQuote from None
        raise ValueError(f"unreadable row ({error})") from None
    finally:
        csv.field_size_limit(before)
    if len(rows) != 1:
        raise ValueError("unreadable row (it has a line break outside quotes)")
    return rows[0]


def _looks_like_a_row(line: bytes, columns: int) -> bool:
    """Whether a line is a whole record that names an image."""
    try:
        cells = _parse_csv(line)
    except ValueError:
        return False
    return len(cells) == columns and any(cell.lower().endswith(IMAGE_ENDINGS) for cell in cells)


def names_of(record: Record) -> str:
    """The columns of a record, for messages."""
    return listed(record) if isinstance(record, dict) else ""
