"""metrics.jsonl: one JSON object a line, the source of truth of a run's history.

Each line is sealed with the one before it (`selfe.sealed_files`), the first with the run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from selfe.files import write_atomically
from selfe.json_files import JsonFault
from selfe.sealed_files import CHECK, chained, read_chained_lines


def read_lines(path: Path, run: str | None = None) -> list[dict[str, Any]]:
    """All records; a last line that was cut short is dropped.

    Args:
        run: what the log belongs to, as `RunLog` was given it; None not to compare.

    Raises:
        JsonFault: for any other line that is no JSON object or was changed after it was written,
            with its number; for one without a whole number as its step.
    """
    if not path.exists():
        return []
    records = []
    for number, record in read_chained_lines(path, run, nonfinite=True):
        if type(record.get("step", 0)) is not int:
            raise JsonFault(path, number, "step must be a whole number")
        records.append(record)
    return records


class RunLog:
    """Appends records. When opened at a step, it first removes records that a killed run wrote
    after that step.

    Args:
        path: the file.
        resume_step: last step to keep.
        mirror: told about every record written from now on.
        run: what the log belongs to: another run's log is not continued.

    Raises:
        ValueError: if the file is damaged or another run's; says what to do.
    """

    def __init__(
        self,
        path: Path,
        resume_step: int = 0,
        mirror: Callable[[Mapping[str, Any]], None] = lambda record: None,
        run: str = "",
    ) -> None:
        self.path = path
        self._mirror = mirror
        self._last = run
        try:
            kept = [r for r in read_lines(path, run) if r.get("step", 0) <= resume_step]
        except JsonFault as fault:
            raise ValueError(
                f"{path} is damaged ({fault.detail}): move it away to continue without the "
                "history before this point"
            ) from None
        write_atomically(path, "".join(self._sealed(record) for record in kept))
        self._file = path.open("a")

    def _sealed(self, record: Mapping[str, Any]) -> str:
        record = chained(record, self._last)
        self._last = record[CHECK]
        return json.dumps(record) + "\n"

    def write(self, record: Mapping[str, Any]) -> None:
        self._file.write(self._sealed(record))
        self._file.flush()
        self._mirror(record)

    def close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


class NoLog:
    """The log of a process that writes none: one process of a run writes for all."""

    def write(self, record: Mapping[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass
