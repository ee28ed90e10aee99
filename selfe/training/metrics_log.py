"""metrics.jsonl: one JSON object a line, the source of truth of a run's history."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from selfe.files import write_atomically


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All records; a last line without its newline (a write cut short) is dropped.

    Raises:
        ValueError: for any other malformed line, with its number.
    """
    if not path.exists():
        return []
    *lines, _torn = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except ValueError:
            raise ValueError(f"{path}, line {number}: not a JSON object") from None
    return records


class RunLog:
    """Appends records. Opened at a step, it first forgets what a killed run wrote beyond it.

    Args:
        path: the file.
        resume_step: last step to keep.
        mirror: told about every record written from now on.
    """

    def __init__(
        self,
        path: Path,
        resume_step: int = 0,
        mirror: Callable[[Mapping[str, Any]], None] = lambda record: None,
    ) -> None:
        self.path = path
        self._mirror = mirror
        kept = [r for r in read_lines(path) if r.get("step", 0) <= resume_step]
        write_atomically(path, "".join(json.dumps(record) + "\n" for record in kept).encode())
        self._file = path.open("a")

    def write(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        self._mirror(record)

    def close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


class NoLog:
    """The log of a process that keeps none: one of a run writes for all."""

    def write(self, record: Mapping[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass
