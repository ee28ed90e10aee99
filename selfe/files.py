"""Files that survive a kill: atomic writes, append-only JSON lines, and a lock on a folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from selfe.temporaries import temporary

_PATIENCE = 0.3
"""Seconds: a process that ends removes its lock, and who asks at that moment asks again."""


def file_sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """A context in which system errors, such as a full disk, name the file that was being
    written."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise


def fsync_directory(path: str | Path) -> None:
    """Make renames in a folder durable. It has no effect where folders cannot be opened
    (Windows)."""
    if os.name != "posix":
        return
    with naming(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_atomically(path: str | Path, data: bytes | str) -> None:
    """Write `data` under a temporary name that starts with a dot, sync, rename.

    A reader sees the old file or the new one, never half of either.

    Raises:
        OSError: with the file's name.
    """
    with replacing(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write piece by piece, which takes the place of `path` when the context ends; as
    `write_atomically`. Where the context ends by an error, `path` stays as it was."""
    path = Path(path)
    written = temporary(path)
    try:
        with naming(path), open(written, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(written, path)
    finally:
        written.unlink(missing_ok=True)
    fsync_directory(path.parent)


def as_json_lines(rows: Iterable[Any]) -> str:
    """One JSON value a line, every line ended."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def default_cache() -> Path:
    """$SELFE_BENCH_CACHE, or else selfe-bench below $XDG_CACHE_HOME or ~/.cache.

    Raises:
        ValueError: where none of these is set and there is no home.
    """
    if folder := os.environ.get("SELFE_BENCH_CACHE"):
        return Path(folder)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "selfe-bench"
    except RuntimeError:
        raise ValueError(
            "this user has no home folder: set SELFE_BENCH_CACHE to a folder that may be written"
        ) from None


def writable_cache(name: str) -> Path | None:
    """A folder of `default_cache` that can be written; None where there is no place for one."""
    try:
        folder = default_cache() / name
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError):  # a read-only disk; no home
        return None
    return folder if os.access(folder, os.W_OK) else None


def append_lines(path: str | Path, rows: Iterable[Any]) -> None:
    """Append JSON lines and sync, so that a kill loses no more than this call.

    Raises:
        OSError: with the file's name.
    """
    with naming(path), open(path, "ab") as file:
        file.write(as_json_lines(rows).encode())
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def folder_lock(folder: str | Path, name: str = ".lock") -> Iterator[None]:
    """Hold a folder for this process; the lock goes with the process, however it ends.

    A folder that was made for it and is empty in the end is removed again.

    Raises:
        ValueError: if the folder cannot be written or locked, or another process holds it; names
            the folder.
    """
    folder = Path(folder)
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write to {folder} ({error.strerror})") from None
    from filelock import FileLock, Timeout  # here: lists and typing errors need no lock

    lock = FileLock(folder / name, timeout=_PATIENCE, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"another process is working on {folder}; wait for it, or choose another folder"
        ) from None
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise ValueError(
                f"cannot lock {folder} ({error.strerror}): its file system keeps no locks; choose "
                "a folder on another one"
            ) from None
        raise ValueError(f"cannot write to {folder} ({error.strerror})") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # before the release: nobody else's can be meant
            (folder / name).unlink()
        lock.release()
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()


def is_held(folder: str | Path, name: str = ".lock") -> bool:
    """Whether a process holds `folder_lock` on a folder now; nothing is created."""
    path = Path(folder) / name
    if not path.is_file():  # the process that held the lock removed its file
        return False
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except (Timeout, OSError):
        return True
    lock.release()
    return False
