"""Where raw data lies: files below folders, globs, ranges, and how a single file is read."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from selfe.data.readers.cells import MOST_IMAGE_BYTES
from selfe.text import without_secrets

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif",
                 ".jpe", ".jfif", ".apng", ".dib")  # fmt: skip
UNREAD_IMAGE_ENDINGS = (".heic", ".heif", ".jxl", ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pnm",
                        ".tga", ".psd", ".dng", ".exr")  # fmt: skip
"""Of images in formats that are not read: such a file is skipped by name, not passed over."""
ARCHIVE_ENDINGS = (".zip", ".rar", ".7z")
TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
UNREAD_TAR_ENDINGS = (".tar.zst", ".tar.zstd", ".tzst", ".tar.lz4", ".tar.br", ".tar.z")
PARQUET_ENDINGS = (".parquet", ".parq", ".pq")
_NOT_DATA = (
    *("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found"),
    "System Volume Information",
)
"""Folders that programs leave beside data, with copies of it, thumbnails or what was deleted."""
_MOST_SHARDS = 1_000_000


def is_hidden(name: str) -> bool:
    """Whether a file or folder is not data: `.ipynb_checkpoints`, the `._a.jpg` of macOS, ..."""
    return name.startswith(".") or name in _NOT_DATA


def walk(root: Path) -> list[str]:
    """Names of all files below a folder, relative to it, sorted; hidden ones are left out.

    Linked folders are entered. Every folder is read once, under its own name rather than a link's,
    so that links in a circle end. Broken links count as files; reading them raises the error.

    Raises:
        ValueError: if a folder cannot be read.
    """
    names: list[str] = []
    linked: list[str] = []
    seen: set[tuple[int, int]] = set()

    def enter(start: str) -> None:
        waiting = [start]
        while waiting:
            inside = waiting.pop()
            folder = os.path.join(root, inside)
            try:
                facts = os.stat(folder)
                if (facts.st_dev, facts.st_ino) in seen:
                    continue
                seen.add((facts.st_dev, facts.st_ino))
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as error:
                raise ValueError(f"{folder} cannot be read ({error.strerror})") from None
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                name = os.path.join(inside, entry.name)
                try:
                    is_folder = entry.is_dir()
                except OSError:  # a link to itself
                    is_folder = False
                if not is_folder:
                    names.append(name)
                else:
                    (linked if entry.is_symlink() else waiting).append(name)

    enter("")
    while linked:
        enter(linked.pop(0))
    return sorted(names)


def expand(location: str, endings: tuple[str, ...], unread: tuple[str, ...] = ()) -> list[str]:
    """Files a location names: `{000..127}` ranges, globs, a folder's files of a kind, a file.

    A file of exactly this name is taken first, whatever brackets the name has. Ranges are not
    looked up, so that a missing shard is noticed and not passed over.

    Of a file and links to it in a folder or glob, one is taken.

    Args:
        endings: of the files taken from folders, in lower case.
        unread: endings of files that ought to be read and cannot be.

    Raises:
        ValueError: if a folder or a glob matches nothing, or holds what cannot be read.
    """
    if "://" not in location and os.path.lexists(location):
        is_folder = os.path.isdir(location)
        return _once(_below(location, endings, unread)) if is_folder else [location]
    there, rest = _literal_part(location)
    found = re.search(r"\{(\d+)\.\.(\d+)\}", rest)
    if found:
        first, last = found.groups()
        numbers = range(int(first), int(last) + 1)
        if not 0 < len(numbers) <= _MOST_SHARDS:
            what = "too many shards" if numbers else "no shard"
            raise ValueError(f"the range {found.group()} names {what}")
        return [
            name
            for number in numbers
            for name in expand(
                f"{there}{rest[: found.start()]}{number:0{len(first)}}{rest[found.end() :]}",
                endings,
                unread,
            )
        ]
    if "://" in location or not glob.has_magic(rest):
        return [location]
    matches = sorted(glob.glob(glob.escape(there) + rest, recursive=True))
    _refuse_unread(matches, unread)
    files = [path for path in matches if not os.path.isdir(path)]
    # "shard*" means the tars, not the statistics beside them
    files = [path for path in files if path.lower().endswith(endings)] or files
    if not files:
        for folder in matches:
            files += _below(folder, endings, unread)
    if not files:
        raise ValueError(f"the data set is empty: {location} has no *{endings[0]} files")
    return _once(files)


def _once(files: list[str]) -> list[str]:
    """Without links to files that are listed under their own name, or as another link before."""
    taken = {os.path.realpath(path) for path in files if not os.path.islink(path)}
    kept = []
    for path in files:
        if os.path.islink(path):
            real = os.path.realpath(path)
            if real in taken:
                continue
            taken.add(real)
        kept.append(path)
    return kept


def _literal_part(location: str) -> tuple[str, str]:
    """The leading folders that exist under this very name, and the rest."""
    if "://" in location:
        return "", location
    parts = location.split("/")
    for length in range(len(parts) - 1, 0, -1):
        there = "/".join(parts[:length])
        if there and os.path.isdir(there):
            return there + "/", "/".join(parts[length:])
    return "", location


def _below(folder: str, endings: tuple[str, ...], unread: tuple[str, ...]) -> list[str]:
    names = walk(Path(folder))
    _refuse_unread(names, unread)
    files = [os.path.join(folder, name) for name in names if name.lower().endswith(endings)]
    if not files:
        raise ValueError(f"the data set is empty: {folder} has no *{endings[0]} files")
    return files


def _refuse_unread(names: Iterable[str], unread: tuple[str, ...]) -> None:
    for name in names:
        if unread and name.lower().endswith(unread):
            raise ValueError(f"{name} is packed in a way that is not read: pack it with gzip or xz")


def digest_of_sizes(paths: Iterable[str | Path]) -> str:
    """A digest of names and sizes; of what is missing or elsewhere, of the name alone."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            size: int | None = os.stat(path).st_size
        except (OSError, ValueError):
            size = None
        name = without_secrets(str(path)).rpartition("/")[2]
        digest.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def require_file(path: str) -> None:
    """Raise ValueError where a local shard is missing or is no plain file."""
    if "://" in path or Path(path).is_file():
        return
    what = "is not a plain file" if os.path.exists(path) else "is missing"
    raise ValueError(f"the shard {path} {what}")


def read_plain_file(path: str | Path, most: int = MOST_IMAGE_BYTES) -> bytes:
    """Content of a file; a pipe or a device, which might never end, is not opened.

    Raises:
        ValueError: if it is no plain file, or larger than `most` bytes.
        OSError: if it cannot be read.
    """
    with open_plain_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise ValueError(f"refused: {size} bytes are more than {most}")
        return file.read(most + 1)


def open_plain_file(path: str | Path) -> BinaryIO:
    """Raises ValueError if it is no plain file, OSError if it cannot be read."""
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError("refused: not a plain file")
    return file


def place_below(root: str | Path, name: str) -> str:
    """The path of what a table names, relative to a folder or in full.

    Raises:
        ValueError: if the name leads out of the folder.
    """
    whole = os.path.abspath(root)
    path = os.path.normpath(os.path.join(whole, name))
    if "\0" in name or not path.startswith(whole.rstrip("/") + "/"):
        raise ValueError("refused: its path leads out of the folder")
    return path


def read_below(root: str | Path, name: str) -> bytes:
    """A file below a folder, as a table names it.

    Raises:
        ValueError: if the name leads out of the folder, or is no plain file.
        OSError: if it cannot be read; names what the table names.
    """
    path = place_below(root, name)
    try:
        return read_plain_file(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from None
