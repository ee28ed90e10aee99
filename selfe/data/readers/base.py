"""Raw image-text data: what a reader yields, and which reader a `--data` spelling names.

A spelling is SCHEME:LOCATION, or a path whose files show the kind:

| scheme | location |
|---|---|
| `wds:` | WebDataset tars: a file, a folder, a glob, `{000..127}` ranges, or fsspec URLs |
| `folder:` | images with sidecar .txt/.json captions, or metadata.jsonl / metadata.csv |
| `parquet:` | a file, a folder or a glob; image bytes and captions as columns |
| `hf:` | a hub id or a folder saved by `datasets`; `?split=train&streaming=true` and such |
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from selfe.data.readers.cells import MOST_IMAGE_BYTES, caption_text
from selfe.data.readers.cells import image_bytes as image_bytes  # for readers elsewhere
from selfe.data.readers.cells import pick_column as pick_column
from selfe.data.readers.locations import IMAGE_ENDINGS, PARQUET_ENDINGS, TAR_ENDINGS, walk
from selfe.data.readers.locations import digest_of_sizes as digest_of_sizes
from selfe.data.readers.locations import read_below as read_below
from selfe.data.readers.locations import require_file as require_file
from selfe.data.readers.parquet_files import image_columns
from selfe.registry import Registry
from selfe.text import first_line, printable, without_secrets

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

SHARD_ROWS = 1000
"""Samples of one shard where the data itself has no files to go by."""
_FAULTS = (ValueError, OSError, RecursionError, OverflowError, TypeError)
"""What parsers raise on damaged or hostile content."""


@dataclass(frozen=True)
class RawSample:
    """One image, encoded as its file is, and its caption."""

    key: str
    image: bytes
    caption: str


@dataclass(frozen=True)
class Skipped:
    """Data that cannot be used. `name` says where; `samples` is the number of samples lost, 0 for a
    mere note."""

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


class CheckedReader:
    """What all readers share: whatever is wrong with a sample, it is skipped, named and counted.

    Subclasses yield a shard's samples in `items`, each made by `sample`.
    """

    def items(self, shard: str) -> Iterator[RawSample | Skipped]:
        raise NotImplementedError

    def read(self, shard: str) -> Iterator[RawSample | Skipped]:
        """See `RawReader.read`. Names and reasons are Unicode and hold no secrets of a URL."""
        return map(checked, self.items(shard))


def checked(item: RawSample | Skipped) -> RawSample | Skipped:
    """What a reader yields, fit to be written down: a caption that is not text is skipped."""
    if isinstance(item, Skipped):
        return replace(item, name=_public(item.name), reason=_public(item.reason))
    key = _public(item.key)
    try:
        return replace(item, key=key, caption=caption_text(item.caption))
    except ValueError as error:
        return Skipped(key, str(error))


def _public(text: str) -> str:
    return printable(without_secrets(text))


def sample(
    name: str, image: Callable[[], bytes], caption: Callable[[], object]
) -> RawSample | Skipped:
    """A sample from what finds its parts.

    Args:
        name: of the sample; also its key.
        image: the bytes of its file; a ValueError says why there are none.
        caption: text, bytes or a list of texts (see `caption_text`); likewise.
    """
    try:
        content = image()
        if not content:
            raise ValueError("no image")
        if len(content) > MOST_IMAGE_BYTES:
            raise ValueError(f"refused: more than {MOST_IMAGE_BYTES} bytes")
        return RawSample(name, content, caption_text(caption()))
    except OSError as error:
        place = f"{error.filename} " if error.filename else ""
        return Skipped(name, f"{place}cannot be read ({error.strerror or type(error).__name__})")
    except _FAULTS as error:
        return Skipped(name, first_line(error))


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
        return scheme, os.path.expanduser(location)
    text = os.path.expanduser(text)
    name = (text.partition("?")[0] if "://" in text else text).lower()
    if not Path(text).is_dir():
        for endings, found in ((TAR_ENDINGS, "wds"), (PARQUET_ENDINGS, "parquet")):
            if name.endswith(endings):
                return found, text
        raise ValueError(
            f"--data {_public(text)}: there is no such folder; write SCHEME:LOCATION, with a "
            f"scheme of {', '.join(READERS)}"
        )
    return _scheme_of_folder(Path(text)), text


def _scheme_of_folder(folder: Path) -> str:
    """The one kind of data that a folder holds; two kinds are for the user to choose from."""
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        return "hf"
    names = walk(folder)
    tables = [name for name in names if name.lower().endswith(PARQUET_ENDINGS)]
    kinds = {
        "wds": any(name.lower().endswith(TAR_ENDINGS) for name in names),
        "folder": any(Path(name).suffix.lower() in IMAGE_ENDINGS for name in names),
    }
    # tables without images list what lies beside them, as those of img2dataset do
    kinds["parquet"] = bool(tables) and (
        not any(kinds.values()) or bool(image_columns(str(folder / tables[0])))
    )
    found = [kind for kind, there in kinds.items() if there]
    if not found:
        raise ValueError(
            f"--data {folder}: the folder holds no tars, no parquet files, no saved data set and "
            "no images"
        )
    if len(found) > 1:
        choices = " or ".join(f"{kind}:{folder}" for kind in found)
        raise ValueError(f"--data {folder}: the folder holds several kinds of data: say {choices}")
    return found[0]


def open_reader(text: str, **columns: str) -> RawReader:
    """The reader a `--data` spelling names.

    Args:
        columns: `image_column` and `caption_column`, for tables whose names are unusual.

    Raises:
        ValueError: in one sentence.
    """
    scheme, location = split_spelling(text)
    return READERS.load(scheme)(location, **columns)
