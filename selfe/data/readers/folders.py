"""A folder of images with captions beside them, or in metadata.jsonl / metadata.csv."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from selfe.data.readers.base import (
    CAPTION_NAMES,
    IMAGE_ENDINGS,
    SHARD_ROWS,
    RawSample,
    Skipped,
    caption_of,
    digest_of_sizes,
    image_bytes,
    read_below,
)

_METADATA = ("metadata.jsonl", "metadata.csv")
_FILE_NAMES = ("file_name", "filename", "image")
_SIDECARS = (".txt", ".caption", ".json")
_ENCODING = "utf-8-sig"  # as spreadsheets save it, or without the mark


class FolderReader:
    """`RawReader` of a folder and those below it; every 1,000 images in the order of their names
    are a shard.

    Captions come from a metadata file at the top, which names the images (the layout of
    `datasets`' imagefolder), or else from NAME.txt or NAME.json beside each image.

    Raises:
        ValueError: if the folder is missing, or its metadata file is malformed, with the line,
            names an image twice or has no captions.
    """

    def __init__(self, location: str, image_column: str = "", caption_column: str = "") -> None:
        self.root = Path(location)
        self.file_names = (image_column,) if image_column else _FILE_NAMES
        self.caption_column = caption_column
        if not self.root.is_dir():
            raise ValueError(f"there is no folder {location}")
        metadata = [self.root / name for name in _METADATA if (self.root / name).is_file()]
        self.listed: dict[str, str | None] | None = None
        if metadata:
            self.listed = self._read_metadata(metadata[0])
            self.names = sorted(self.listed)
        else:
            self.names = sorted(
                path.relative_to(self.root).as_posix()
                for path in self.root.rglob("*")
                if path.suffix.lower() in IMAGE_ENDINGS
            )

    def shards(self) -> list[str]:
        if not self.names:
            raise ValueError(f"the data set is empty: {self.root} has no images")
        return [f"images {start}" for start in range(0, len(self.names), SHARD_ROWS)]

    def fingerprint(self, shard: str) -> str:
        images = [self.root / name for name in self._names(shard)]
        if self.listed is None:
            return digest_of_sizes(
                p for image in images for p in (image, self._sidecar(image)) if p
            )
        captions = json.dumps([self.listed[name] for name in self._names(shard)]).encode()
        return f"{digest_of_sizes(images)} {hashlib.sha256(captions).hexdigest()}"

    def read(self, shard: str) -> Iterator[RawSample | Skipped]:
        for name in self._names(shard):
            yield self._sample(name)

    def _names(self, shard: str) -> list[str]:
        start = int(shard.split()[1])
        return self.names[start : start + SHARD_ROWS]

    def _sample(self, name: str) -> RawSample | Skipped:
        path = self.root / name
        try:
            image = image_bytes({"path": name}, lambda name: read_below(self.root, name))
        except ValueError as error:
            return Skipped(str(path), str(error))
        try:
            caption = self._beside(path) if self.listed is None else self.listed[name]
        except (OSError, ValueError):
            return Skipped(str(path), "unreadable caption")
        if caption is None:
            return Skipped(str(path), "no caption")
        return RawSample(name, image, caption.strip())

    def _beside(self, path: Path) -> str | None:
        sidecar = self._sidecar(path)
        if sidecar is None:
            return None
        text = sidecar.read_text(encoding=_ENCODING)
        if sidecar.suffix.lower() != ".json":
            return text
        values = json.loads(text)
        return self._caption(values) if isinstance(values, dict) else None

    @staticmethod
    def _sidecar(image: Path) -> Path | None:
        for ending in _SIDECARS:
            for spelling in (ending, ending.upper()):
                if (sidecar := image.with_suffix(spelling)).is_file():
                    return sidecar
        return None

    def _caption(self, values: dict[str, object]) -> str | None:
        if not self.caption_column:
            return caption_of(values)
        value = values.get(self.caption_column)
        return value if isinstance(value, str) else None

    def _read_metadata(self, path: Path) -> dict[str, str | None]:
        """Captions by image."""
        captions: dict[str, str | None] = {}
        lines: dict[str, int] = {}
        columns: Sequence[str] = ()
        for number, name, values in self._records(path):
            if name in captions:
                raise ValueError(
                    f"{path}, line {number}: {name} was listed in line {lines[name]} already; an "
                    "image has one caption"
                )
            columns = columns or [str(column) for column in values]
            captions[name], lines[name] = self._caption(values), number
        if captions and all(caption is None for caption in captions.values()):
            wanted = self.caption_column or " or ".join(CAPTION_NAMES)
            raise ValueError(
                f"{path} has no captions under {wanted}: name one of {', '.join(columns)} with "
                "--caption-column"
            )
        return captions

    def _records(self, path: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """(line, name of the image, record)"""
        with path.open(encoding=_ENCODING, newline="") as file:
            rows: Iterable[dict[str, Any] | None] = map(_json_row, file)
            number = 0
            if path.suffix == ".csv":
                rows, number = csv.DictReader(file), 1
            for values in rows:
                number += 1
                if values == {}:
                    continue
                values = values or {}
                name = next((values[n] for n in self.file_names if values.get(n)), None)
                if not isinstance(name, str):
                    found = f", found {', '.join(map(str, values))}" if values else ""
                    raise ValueError(
                        f"{path}, line {number}: expected a record with "
                        f"{' or '.join(self.file_names)} and {' or '.join(CAPTION_NAMES)}{found}"
                    )
                yield number, name, values


def _json_row(line: str) -> dict[str, object] | None:
    """The record of a line, {} for an empty one, None for anything else."""
    if not line.strip():
        return {}
    try:
        values = json.loads(line)
    except json.JSONDecodeError:
        return None
    return values if isinstance(values, dict) else None
