"""Keeps the results of a report and the history of its trainings beside it, in one small file."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from selfe.files import write_atomically

ARCHIVE = "results.tar.xz"
KEPT = ("result.json", "images.jsonl", "detections.jsonl", "metrics.jsonl")
"""Names of the files that tables and curves are made from; images and weights are left out."""

_LONG_AGO = 946_684_800
"""2000-01-01 00:00 UTC: the same results give the same bytes, whenever they are packed."""


def kept_files(runs_dir: Path) -> Iterator[Path]:
    """What a report reads of the runs below `runs_dir`, by rising path."""
    found = (p for p in runs_dir.rglob("*.json*") if p.name in KEPT and p.is_file())
    yield from sorted(found, key=lambda path: path.as_posix().encode())


def pack_results(runs_dir: Path, report: Path) -> tuple[Path, int]:
    """Write `report`/results.tar.xz, on which `report` and `compare` work as on the runs themselves
    wherever it is unpacked.

    Args:
        runs_dir: relative to the current folder; names in the archive begin with it.

    Returns:
        The archive, and the number of results in it.

    Raises:
        ValueError: if a folder is missing, there is no result, or `runs_dir` leads out of the
            current folder.
    """
    for folder in (runs_dir, report):
        if not folder.is_dir():
            raise ValueError(f"no folder {folder}")
    if runs_dir.is_absolute() or ".." in runs_dir.parts:
        raise ValueError(
            f"{runs_dir} is not below the current folder: go to a folder above it first, because "
            "the names in the archive begin there"
        )
    files = list(kept_files(runs_dir))
    results = sum(path.name == "result.json" for path in files)
    if not results:
        raise ValueError(f"no result in {runs_dir}: score its runs with `selfe-bench geneval`")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz", format=tarfile.GNU_FORMAT) as archive:
        for path in files:
            data = path.read_bytes()
            entry = tarfile.TarInfo(path.as_posix())
            entry.size, entry.mtime, entry.mode = len(data), _LONG_AGO, 0o644
            archive.addfile(entry, io.BytesIO(data))
    write_atomically(report / ARCHIVE, packed.getvalue())
    return report / ARCHIVE, results
