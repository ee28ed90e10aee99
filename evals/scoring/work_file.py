"""Rows that are saved as they are found, each sealed with the one before it. A killed process or a
damaged file loses only the rows that were torn or changed; no changed digit is accepted."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfe.files import append_lines, as_json_lines, write_atomically
from selfe.json_files import JsonFault
from selfe.sealed_files import CHECK, chain, digest_of, read_chained_lines

Row = dict[str, Any]


def sound_rows(path: Path, identity: Mapping[str, Any]) -> list[Row]:
    """Rows of a working file, up to the first that is torn or was changed; none of a file of
    another identity, with which the chain begins."""
    rows: list[Row] = []
    if path.is_file():
        with contextlib.suppress(JsonFault):
            for _, row in read_chained_lines(path, digest_of(identity), required=True):
                rows.append(row)
    return rows


class WorkFile:
    """The working file of one process, to append to.

    Args:
        path: what is sound in it is kept, the rest is cut off.
        identity: everything that decides the rows, as a JSON value.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path, self._last = path, digest_of(identity)
        kept = sound_rows(path, identity)
        write_atomically(path, as_json_lines(self._sealed(kept)))

    def append(self, rows: Sequence[Row]) -> None:
        """Append and sync."""
        append_lines(self.path, self._sealed(rows))

    def _sealed(self, rows: Sequence[Row]) -> list[Row]:
        lines = list(chain(rows, self._last))
        if lines:
            self._last = lines[-1][CHECK]
        return lines
