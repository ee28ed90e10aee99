"""Names of files and folders that are being written, and the removal of those that a kill left.

A temporary lies beside what it becomes, begins with a dot and names its process, so that a second
process can tell work in progress from what a dead one left behind.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_NAME = re.compile(r"\..+\.(?:(?P<host>[A-Za-z0-9_]+)-)?(?P<pid>\d+)\.(?:tmp|old)", re.DOTALL)
_SURELY_STALE = 7 * 24 * 3600
"""Seconds without a change after which another machine's process no longer writes."""


def _host() -> str:
    return re.sub(r"\W", "_", socket.gethostname(), flags=re.ASCII)[:32] or "host"


def temporary(path: str | Path, ending: str = "tmp") -> Path:
    """Where this process writes what becomes `path`; or puts aside what was there ("old")."""
    path = Path(path)
    return path.with_name(f".{path.name}.{_host()}-{os.getpid()}.{ending}")


@contextlib.contextmanager
def scratch_folder(what: str) -> Iterator[Path]:
    """A folder in the system's place for temporary files; it goes in the end, and what killed
    processes left of the same kind goes now."""
    place = Path(tempfile.gettempdir())
    remove_leftovers(place, of=place / what)
    ending = f".{_host()}-{os.getpid()}.tmp"
    folder = Path(tempfile.mkdtemp(prefix=f".{what}.", suffix=ending, dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(
    folder: str | Path, *, deep: bool = False, of: Path | None = None
) -> list[Path]:
    """Remove what processes that are gone were writing in a folder.

    Call it before this process writes there: its own number may be that of a process before it.

    Args:
        deep: look in folders below, too.
        of: only what was to become this path; None for whatever it was to become.

    Returns:
        What was removed.
    """
    removed: list[Path] = []
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(parent, name)
            mine = of is None or name.startswith(f".{of.name}.")
            if name.startswith(".") and mine and _is_leftover(path):
                with contextlib.suppress(OSError):  # somebody else's, in a shared folder
                    if path.is_dir() and not path.is_symlink():
                        shutil.rmtree(path)
                    else:
                        path.unlink(missing_ok=True)
                    removed.append(path)
        folders[:] = [name for name in folders if deep and not name.startswith(".")]
    return removed


def _is_leftover(path: Path) -> bool:
    match = _NAME.fullmatch(path.name)
    if match is None:
        return False
    if match["host"] in (None, _host()):  # earlier versions named no machine
        return int(match["pid"]) == os.getpid() or not _is_alive(int(match["pid"]))
    return _is_old(path)


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > _SURELY_STALE
    except OSError:
        return False


def _is_alive(pid: int) -> bool:
    if os.name != "posix":  # there, asking would end the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
