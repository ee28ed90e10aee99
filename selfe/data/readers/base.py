"""Raw image-text data: what a reader yields, and which reader a `--data` spelling names.

A spelling is SCHEME:LOCATION, or a path whose kind can be told from what lies there:

| scheme | location |
|---|---|
| `wds:` | WebDataset tars: a file, a folder, a glob, `{000..127}` ranges, or fsspec URLs |
| `folder:` | images with sidecar .txt/.json captions, or metadata.jsonl / metadata.csv |
| `parquet:` | a file, a folder or a glob; image bytes and captions as columns |
| `hf:` | a hub id or a folder saved by `datasets`; `?split=train&streaming=true` and such |
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from selfe.registry import Registry

READERS = Registry(
    "data scheme",
    {
        "wds": "selfe.data.readers.tars:TarReader",
        "folder": "selfe.data.readers.folders:FolderReader",
        "parquet": "selfe.data.readers.parquet:ParquetReader",
        "hf": "selfe.data.readers.hub_datasets:HubReader",
    },
    group="selfe_bench.readers",
)

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
IMAGE_NAMES = ("image", "jpg", "jpeg", "png", "webp", "img", "image_bytes")
CAPTION_NAMES = ("caption", "text", "txt", "prompt", "description")
MOST_IMAGE_BYTES = 256 * 2**20
"""Larger images are refused before they are read."""
SHARD_ROWS = 1000
"""Samples of one shard where the data itself has no files to go by."""


@dataclass(frozen=True)
class RawSample:
    """One image, encoded as its file is, and its caption."""

    key: str
    image: bytes
    caption: str


@dataclass(frozen=True)
class Skipped:
    """Data that cannot be used. `name` says where it lies; `samples` how many were lost."""

    name: str
    reason: str
    samples: int = 1


class RawReader(Protocol):
    """Image-text data in shards that can be read on their own, in any order, again and again."""

    def shards(self) -> Sequence[str]:
        """Names of all shards, in order.

        Raises:
            ValueError: if there is nothing to read, naming the file or folder.
        """
        ...

    def fingerprint(self, shard: str) -> str:
        """What changes with a shard's data, as names and sizes of its files do; "" if unknown."""
        ...

    def read(self, shard: str) -> Iterator[RawSample | Skipped]:
        """The samples of a shard in their order; damaged ones as `Skipped`.

        Raises:
            ValueError: if the shard is gone.
        """
        ...


def split_spelling(text: str) -> tuple[str, str]:
    """ "wds:/data/*.tar" -> ("wds", "/data/*.tar"); without a scheme it is told from the path.

    Raises:
        ValueError: if the scheme is unknown, or nothing at the path tells what it is.
    """
    scheme, colon, location = text.partition(":")
    if colon and not location.startswith("//") and "/" not in scheme:
        if scheme not in READERS:
            raise ValueError(READERS.unknown(scheme))
        if not location:
            raise ValueError(f"--data {text} names no location after the scheme")
        return scheme, location
    endings = {".tar": "wds", ".tgz": "wds", ".gz": "wds", ".parquet": "parquet"}
    if (found := endings.get(Path(text).suffix)) is not None:
        return found, text
    folder = Path(text)
    if not folder.is_dir():
        raise ValueError(
            f"--data {text}: there is no such folder; write SCHEME:LOCATION, with a scheme of "
            + ", ".join(READERS)
        )
    return _scheme_of_folder(folder), text


def _scheme_of_folder(folder: Path) -> str:
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        return "hf"
    if any(folder.glob("*.tar")):
        return "wds"
    if any(folder.rglob("*.parquet")):
        return "parquet"
    if any(p.suffix.lower() in IMAGE_ENDINGS for p in folder.rglob("*")):
        return "folder"
    raise ValueError(
        f"--data {folder}: the folder holds no tars, no parquet files, no saved data set and no "
        "images"
    )


def open_reader(text: str, **columns: str) -> RawReader:
    """The reader a `--data` spelling names.

    Args:
        columns: `image_column` and `caption_column`, for tables whose names are unusual.

    Raises:
        ValueError: in one sentence.
    """
    scheme, location = split_spelling(text)
    return READERS.load(scheme)(location, **columns)


def expand(location: str, pattern: str) -> list[str]:
    """Files a location names: `{000..127}` ranges, globs, a folder's files of a pattern, a file.

    Ranges are not looked up, so that a missing shard is noticed and not passed over.

    Raises:
        ValueError: if a folder or a glob matches nothing.
    """
    found = re.search(r"\{(\d+)\.\.(\d+)\}", location)
    if found:
        first, last = found.groups()
        return [
            name
            for number in range(int(first), int(last) + 1)
            for name in expand(
                location[: found.start()] + f"{number:0{len(first)}}" + location[found.end() :],
                pattern,
            )
        ]
    if "://" in location:
        return [location]
    if Path(location).is_dir():
        files = sorted(str(path) for path in Path(location).rglob(pattern))
    elif any(c in location for c in "*?["):
        files = sorted(glob.glob(location, recursive=True))
    else:
        return [location]
    if not files:
        raise ValueError(f"the data set is empty: {location} has no {pattern} files")
    return files


def digest_of_sizes(paths: Iterable[str | Path]) -> str:
    """A digest of names and sizes; of what is missing or elsewhere, of the name alone."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            size: int | None = os.stat(path).st_size
        except OSError:
            size = None
        digest.update(f"{Path(path).name}\0{size}\0".encode())
    return digest.hexdigest()


def require_file(path: str) -> None:
    """Raise ValueError where a local shard is missing."""
    if "://" not in path and not Path(path).is_file():
        raise ValueError(f"the shard {path} is missing")


def pick_column(names: Sequence[str], wanted: str, known: Sequence[str], what: str) -> str:
    """The column of a table that holds images or captions.

    Raises:
        ValueError: lists the columns there are.
    """
    if wanted:
        if wanted in names:
            return wanted
    else:
        by_lower = {name.lower(): name for name in reversed(names)}
        for name in known:
            if name in by_lower:
                return by_lower[name]
    raise ValueError(
        f"no column {wanted or ' or '.join(known)!r} for the {what}: name one of "
        f"{', '.join(names)} with --{what}-column"
    )


def caption_of(values: Mapping[str, Any]) -> str | None:
    """The caption in a sample's record, under any of the usual names."""
    by_lower = {str(key).lower(): value for key, value in values.items()}
    for name in CAPTION_NAMES:
        value = by_lower.get(name)
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, str):
            return value
    return None


def image_bytes(value: Any, read: Callable[[str], bytes]) -> bytes:
    """Bytes of an image cell: raw bytes, or the {"bytes", "path"} of the `datasets` library.

    Args:
        read: content of the file that a cell with a path alone names.

    Raises:
        ValueError: if the cell holds neither, the file is unreadable, or the image is oversized.
    """
    if isinstance(value, Mapping):
        content, path = value.get("bytes"), value.get("path")
        if content is None and path:
            try:
                content = read(path)
            except OSError as error:
                reason = error.strerror or type(error).__name__
                raise ValueError(f"{path} cannot be read ({reason})") from None
        value = content
    if not isinstance(value, bytes):
        raise ValueError("no image")
    if len(value) > MOST_IMAGE_BYTES:
        raise ValueError(f"refused: more than {MOST_IMAGE_BYTES} bytes")
    return value


def read_below(root: Path, name: str) -> bytes:
    """A file below a folder, at most one byte more of it than is allowed.

    Raises:
        ValueError: if the name leads out of the folder.
        OSError: if it cannot be read.
    """
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise ValueError("refused: its path leads out of the folder")
    with path.open("rb") as file:
        return file.read(MOST_IMAGE_BYTES + 1)


def first_line(error: Exception) -> str:
    """What another library's error says, as one line."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
