"""WebDataset tars, read in place: nothing is ever extracted to disk.

The layout is the `webdataset` library's (files of one sample share the name up to the first dot of
the base name and stand together). Its own iterator is not used on data of unknown origin: it ends
quietly at a damaged header and reads members of any size.
"""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath

from selfe.data.readers.base import (
    IMAGE_ENDINGS,
    MOST_IMAGE_BYTES,
    RawSample,
    Skipped,
    caption_of,
    digest_of_sizes,
    expand,
    require_file,
)

_TEXT_ENDINGS = (".txt", ".text", ".caption")
_BROKEN = (tarfile.TarError, EOFError, zlib.error, OSError)


class TarReader:
    """`RawReader` of WebDataset tars; a tar is a shard.

    Captions come from .txt, .text or .caption members, or from the usual keys of a .json member.

    Raises:
        ValueError: if there are no tars.
    """

    def __init__(self, location: str, image_column: str = "", caption_column: str = "") -> None:
        self.files = expand(location, "*.tar")
        self.image_ending = f".{image_column}" if image_column else ""
        self.caption_ending = f".{caption_column}" if caption_column else ""

    def shards(self) -> list[str]:
        for path in self.files:
            require_file(path)
        return self.files

    def fingerprint(self, shard: str) -> str:
        return digest_of_sizes([shard])

    def read(self, shard: str) -> Iterator[RawSample | Skipped]:
        key, refused = "", ""
        parts: dict[str, bytes] = {}
        for item in members(shard):
            if isinstance(item, Skipped):
                if key:  # what was being read may lack its rest
                    yield self._sample(shard, key, parts, refused)
                key, parts, refused = "", {}, ""
                yield item
                continue
            name, content, problem = item
            this, ending = split_member(name)
            if key and (this != key or ending in parts):  # one that comes again begins anew
                yield self._sample(shard, key, parts, refused)
                parts, refused = {}, ""
            key = this
            refused = refused or problem
            parts[ending] = content
        if key:
            yield self._sample(shard, key, parts, refused)

    def _sample(
        self, shard: str, key: str, parts: dict[str, bytes], refused: str
    ) -> RawSample | Skipped:
        name = f"{shard}/{key}"
        if refused:
            return Skipped(name, refused)
        endings = (self.image_ending,) if self.image_ending else IMAGE_ENDINGS
        image = next((parts[e] for e in endings if parts.get(e)), None)
        if image is None:
            return Skipped(name, "no image")
        try:
            caption = self._caption(parts)
        except (UnicodeDecodeError, json.JSONDecodeError):
            return Skipped(name, "unreadable caption")
        if caption is None:
            return Skipped(name, "no caption")
        return RawSample(name, image, caption.strip())

    def _caption(self, parts: dict[str, bytes]) -> str | None:
        for ending in (self.caption_ending,) if self.caption_ending else _TEXT_ENDINGS:
            if ending in parts:
                return parts[ending].decode()
        if ".json" in parts:
            values = json.loads(parts[".json"])
            if isinstance(values, dict):
                return caption_of(values)
        return None


def split_member(name: str) -> tuple[str, str]:
    """ "a/b.seg.png" -> ("a/b", ".seg.png"), in lower case from the first dot on."""
    folder, _, base = name.rpartition("/")
    stem, dot, ending = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), (dot + ending).lower()


def unsafe(member: tarfile.TarInfo) -> str:
    """Why a member must not be read, or "". Nothing is written, but such a tar means harm."""
    path = PurePosixPath(member.name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        return "refused: its path leads out of the tar"
    if member.islnk() or member.issym():
        return "refused: a link"
    if not member.isreg() or member.issparse():
        return "refused: not a plain file"
    if member.size > MOST_IMAGE_BYTES:
        return f"refused: {member.size} bytes are more than {MOST_IMAGE_BYTES}"
    return ""


def members(shard: str) -> Iterator[tuple[str, bytes, str] | Skipped]:
    """(name, content, "") of every file of a tar, or (name, b"", why it is refused).

    A tar that breaks off yields one `Skipped` at its end: how many samples went with it is not
    known. A healthy one ends in zero blocks.

    Raises:
        ValueError: if the file is missing.
    """
    import fsspec

    try:
        stream = fsspec.open(shard, "rb").open()
    except FileNotFoundError:
        raise ValueError(f"the shard {shard} is missing") from None
    with stream:
        last = "its start"
        try:
            with tarfile.open(fileobj=stream, mode="r:*") as tar:
                while (member := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined]  # else all are remembered
                    if member.isdir():
                        continue
                    problem = unsafe(member)
                    file = None if problem else tar.extractfile(member)
                    content = b"" if file is None else file.read()
                    yield member.name, content, problem
                    last = member.name
                ending = tar.fileobj
                assert ending is not None
                ending.seek(tar.offset)
                if ending.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    yield Skipped(shard, f"the tar is damaged or cut short after {last}")
        except _BROKEN as error:
            yield Skipped(shard, f"the tar is damaged or cut short after {last} ({error})")
