"""A folder of images with captions beside them, or in metadata.jsonl / metadata.csv."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from selfe.data.readers.base import (
    IMAGE_ENDINGS,
    SHARD_ROWS,
    CheckedReader,
    RawSample,
    Skipped,
    sample,
)
from selfe.data.readers.cells import (
    CAPTION_NAMES,
    MOST_TEXT_BYTES,
    caption_in,
    caption_text,
    parse_record,
    value_under,
)
from selfe.data.readers.locations import (
    ARCHIVE_ENDINGS,
    TAR_ENDINGS,
    UNREAD_IMAGE_ENDINGS,
    UNREAD_TAR_ENDINGS,
    digest_of_sizes,
    read_below,
    read_plain_file,
    walk,
)
from selfe.data.readers.metadata_files import METADATA_NAMES, names_of, read_metadata
from selfe.text import first_line

_FILE_NAMES = ("file_name", "filename", "image")
_ARCHIVES = (*ARCHIVE_ENDINGS, *TAR_ENDINGS, *UNREAD_TAR_ENDINGS)
_SIDECARS = (".txt", ".caption", ".json")


@dataclass(frozen=True)
class _NoCaption:
    """Why an image that a metadata file lists has no caption."""

    reason: str


class FolderReader(CheckedReader):
    """`RawReader` of a folder and those below it, linked ones too and hidden ones not; every 1,000
    images in the order of their names are a shard.

    Captions come from a metadata file, which names the images of its folder and those below (the
    layout of `datasets`' imagefolder), or else from NAME.txt or NAME.json beside each image. Images
    that their metadata file does not list are not part of the data; their number is reported.

    Raises:
        ValueError: if the folder is missing, or a metadata file names an image twice, with the
            line, or has no captions.
    """

    def __init__(self, location: str, image_column: str = "", caption_column: str = "") -> None:
        self.root = Path(location)
        self.file_names = (image_column,) if image_column else _FILE_NAMES
        self.caption_column = caption_column
        if not self.root.is_dir():
            raise ValueError(f"there is no folder {location}")
        there = walk(self.root)
        self.listed: dict[str, str | _NoCaption] = {}
        self.faults: list[Skipped] = []
        self._listed_in: dict[str, str] = {}
        folders = self._metadata_folders(there)
        for folder, name in folders.items():
            self._read_metadata(folder, self.root / folder / name)
        endings = (*IMAGE_ENDINGS, *UNREAD_IMAGE_ENDINGS)
        images = [name for name in there if Path(name).suffix.lower() in endings]
        archives = [name for name in there if name.lower().endswith(_ARCHIVES)]
        if archives:
            reason = f"no part of the data: archives, the first is {archives[0]} ({len(archives)})"
            self.faults.append(Skipped(str(self.root), reason, samples=0))
        self.names = sorted({*self._unlisted(images, folders), *self.listed})

    def shards(self) -> list[str]:
        if not self.names and not any(fault.samples for fault in self.faults):
            raise ValueError(f"the data set is empty: {self.root} has no images")
        return [f"images {start}" for start in range(0, max(1, len(self.names)), SHARD_ROWS)]

    def fingerprint(self, shard: str) -> str:
        names = self._names(shard)
        paths = [
            path
            for name in names
            for path in (self.root / name, None if name in self.listed else self._sidecar(name))
            if path
        ]
        captions = [str(self.listed[name]) for name in names if name in self.listed]
        if not captions:
            return digest_of_sizes(paths)
        return (
            f"{digest_of_sizes(paths)} {hashlib.sha256(json.dumps(captions).encode()).hexdigest()}"
        )

    def items(self, shard: str) -> Iterator[RawSample | Skipped]:
        if shard == "images 0":
            yield from self.faults
        for name in self._names(shard):
            made = sample(name, partial(read_below, self.root, name), partial(self._of, name))
            if isinstance(made, Skipped):
                made = replace(made, name=str(self.root / name))
            yield made

    def _names(self, shard: str) -> list[str]:
        start = int(shard.split()[1])
        return self.names[start : start + SHARD_ROWS]

    def _of(self, name: str) -> str | None:
        """The caption of an image. Raises ValueError where it has none."""
        caption = self.listed.get(name)
        if isinstance(caption, _NoCaption):
            raise ValueError(caption.reason)
        return self._beside(name) if caption is None else caption

    def _beside(self, name: str) -> str:
        if self.caption_column:
            own = self._first(name, ["." + self.caption_column.lstrip(".")])
            if own is not None and own.suffix.lower() != ".json":
                return caption_text(_content(own))
            record = self._first(name, [".json"])
            if record is None:
                raise ValueError(f"no caption under {self.caption_column!r}")
            key = "" if own == record else self.caption_column
            return caption_text(caption_in(parse_record(_content(record)), key))
        sidecar = self._sidecar(name)
        if sidecar is None:
            raise ValueError("no caption")
        if sidecar.suffix.lower() != ".json":
            return caption_text(_content(sidecar))
        return caption_text(caption_in(parse_record(_content(sidecar)), ""))

    def _sidecar(self, name: str) -> Path | None:
        endings = ["." + self.caption_column.lstrip(".")] if self.caption_column else []
        return self._first(name, [*endings, *_SIDECARS])

    def _first(self, name: str, endings: Sequence[str]) -> Path | None:
        image = self.root / name
        for ending in endings:
            for spelling in dict.fromkeys((ending, ending.lower(), ending.upper())):
                path = image.parent / (image.stem + spelling)
                if path != image and os.path.exists(path) and not os.path.isdir(path):
                    return path
        return None

    @staticmethod
    def _metadata_folders(names: Sequence[str]) -> dict[str, str]:
        """Folder -> its metadata file, "" being the top."""
        found: dict[str, str] = {}
        for name in names:
            path = PurePosixPath(name)
            if path.name.lower() in METADATA_NAMES:
                folder = "" if str(path.parent) == "." else str(path.parent)
                if folder in found:
                    raise ValueError(
                        f"{folder or 'the folder'} holds {found[folder]} and {path.name}: keep one"
                    )
                found[folder] = path.name
        return found

    def _unlisted(self, images: Sequence[str], folders: dict[str, str]) -> list[str]:
        """Images without a metadata file; images that theirs does not list are reported."""
        free, passed_over = [], dict.fromkeys(folders, 0)
        for name in images:
            if name in self.listed:
                continue
            above = (str(p) if str(p) != "." else "" for p in PurePosixPath(name).parents)
            owner = next((folder for folder in above if folder in folders), None)
            if owner is None:
                free.append(name)
            else:
                passed_over[owner] += 1
        for folder, count in passed_over.items():
            if count:
                place = self.root / folder / folders[folder]
                reason = f"no part of the data: images that it does not list ({count})"
                self.faults.append(Skipped(str(place), reason, samples=0))
        return free

    def _read_metadata(self, folder: str, path: Path) -> None:
        own_names: list[str] = []
        faults: list[Skipped] = []
        columns = ""
        for number, record in read_metadata(path):
            place = f"{path}, line {number}"
            if isinstance(record, str):
                faults.append(Skipped(place, record))
                continue
            own = value_under(record, self.file_names)
            columns = columns or names_of(record)
            if not isinstance(own, str):
                wanted = f"{' or '.join(self.file_names)} and {' or '.join(CAPTION_NAMES)}"
                reason = f"no name of an image (expected {wanted}, found {names_of(record)})"
                faults.append(Skipped(place, reason))
                continue
            name = posixpath.normpath(posixpath.join(folder, own))
            if name in self._listed_in:
                raise ValueError(
                    f"{place}: {own} was listed in {self._listed_in[name]} already; an image has "
                    "one caption"
                )
            self._listed_in[name] = f"line {number}"
            own_names.append(name)
            self.listed[name] = self._listed_caption(record)
        own_captions = [self.listed[name] for name in own_names]
        if own_captions and all(isinstance(each, _NoCaption) for each in own_captions):
            wanted = self.caption_column or " or ".join(CAPTION_NAMES)
            raise ValueError(
                f"{path} has no captions under {wanted}: name one of {columns} with "
                "--caption-column"
            )
        if faults and not own_captions:
            raise ValueError(f"{faults[0].name}: {faults[0].reason}")
        self.faults += faults

    def _listed_caption(self, record: dict[str, object]) -> str | _NoCaption:
        try:
            return caption_text(caption_in(record, self.caption_column))
        except ValueError as error:
            return _NoCaption(first_line(error))


def _content(path: Path) -> bytes:
    return read_plain_file(path, MOST_TEXT_BYTES)
