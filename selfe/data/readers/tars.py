"""WebDataset tars, read in place: nothing is ever extracted to disk.

The layout is the `webdataset` library's (files of one sample share the name up to the first dot of
the base name and stand together). Its own iterator is not used on data of unknown origin: it ends
quietly at a damaged header and reads members of any size.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from selfe.data.readers.base import (
    IMAGE_ENDINGS,
    MOST_IMAGE_BYTES,
    CheckedReader,
    RawSample,
    Skipped,
    sample,
)
from selfe.data.readers.cells import IMAGE_NAMES, MOST_TEXT_BYTES, caption_in, listed, parse_record
from selfe.data.readers.locations import (
    TAR_ENDINGS,
    UNREAD_TAR_ENDINGS,
    digest_of_sizes,
    expand,
    is_hidden,
    require_file,
)
from selfe.text import first_line, without_secrets

_TEXT_ENDINGS = (".txt", ".text", ".caption")
_BROKEN = (
    *(tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError),
    # what the standard library's parser raises for headers that make no sense
    *(ValueError, OverflowError, IndexError, RecursionError),
)
_LONG_HEADERS = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
_MOST_HEADER_BYTES = 1 << 20
_MOST_PADDING = 1 << 20
"""Zeros behind the end of a tar that are looked through for more."""
_PACKINGS: tuple[tuple[bytes, Any], ...] = (
    (b"\x1f\x8b", lambda stream: gzip.GzipFile(fileobj=stream)),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ", lzma.LZMAFile),
)


class TarReader(CheckedReader):
    """`RawReader` of WebDataset tars, also packed with gzip, bzip2 or xz; a tar is a shard.

    Captions come from .txt, .text or .caption members, or from the usual keys of a .json member;
    `caption_column` names another ending, or else another key. Hidden members are passed over.

    Raises:
        ValueError: if there are no tars.
    """

    def __init__(self, location: str, image_column: str = "", caption_column: str = "") -> None:
        self.files = expand(location, TAR_ENDINGS, UNREAD_TAR_ENDINGS)
        self.image_ending = _ending(image_column)
        self.caption_column = caption_column
        self.caption_ending = _ending(caption_column)

    def shards(self) -> list[str]:
        for path in self.files:
            require_file(path)
        return self.files

    def fingerprint(self, shard: str) -> str:
        return digest_of_sizes([shard])

    def items(self, shard: str) -> Iterator[RawSample | Skipped]:
        key, refused = "", ""
        parts: dict[str, bytes] = {}
        for item in members(shard, self._most_bytes):
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

    def _most_bytes(self, name: str) -> int | None:
        """Most bytes of a member, None for one that is not read."""
        _, ending = split_member(name)
        if ending == self.image_ending or _is_image(ending):
            return MOST_IMAGE_BYTES
        texts = (*_TEXT_ENDINGS, ".json", self.caption_ending)
        return MOST_TEXT_BYTES if ending in texts else None

    def _sample(
        self, shard: str, key: str, parts: Mapping[str, bytes], refused: str
    ) -> RawSample | Skipped:
        name = f"{shard}/{key}"
        if refused:
            return Skipped(name, refused)
        return sample(name, lambda: self._image(parts), lambda: self._caption(parts))

    def _image(self, parts: Mapping[str, bytes]) -> bytes:
        endings = (self.image_ending,) if self.image_ending else IMAGE_ENDINGS
        named = () if self.image_ending else tuple(filter(_is_image, parts))
        image = next((parts[e] for e in (*endings, *named) if parts.get(e)), None)
        if image is None:
            raise ValueError(f"no image (its files: {listed(parts)})")
        return image

    def _caption(self, parts: Mapping[str, bytes]) -> Any:
        if self.caption_ending and self.caption_ending != ".json":
            if self.caption_ending in parts:
                return parts[self.caption_ending]
            if ".json" not in parts:
                raise ValueError(
                    f"no caption under {self.caption_column!r} (its files: {listed(parts)})"
                )
            return caption_in(parse_record(parts[".json"]), self.caption_column)
        if not self.caption_ending:
            for ending in _TEXT_ENDINGS:
                if ending in parts:
                    return parts[ending]
        return caption_in(parse_record(parts[".json"]), "") if ".json" in parts else None


def _ending(column: str) -> str:
    """ "JPG" and ".jpg" -> ".jpg" """
    return f".{column.lstrip('.').lower()}" if column else ""


def _is_image(ending: str) -> bool:
    """Whether a member is the image of its sample: .jpg, or .image.jpg, but not .mask.jpg."""
    before, dot, last = ending.rpartition(".")
    return dot + last in IMAGE_ENDINGS and (not before or before[1:] in IMAGE_NAMES)


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
    return ""


class _Member(tarfile.TarInfo):
    """A header whose size is looked at before anything of that size is read or skipped."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> _Member:
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0:
            raise tarfile.ReadError("a header with a negative size")
        if member.type in _LONG_HEADERS and member.size > _MOST_HEADER_BYTES:
            raise tarfile.ReadError(f"a name or header of {member.size} bytes")
        return member


def members(shard: str, most_bytes: Any) -> Iterator[tuple[str, bytes, str] | Skipped]:
    """(name, content, "") of every file of a tar, or (name, b"", why it is refused).

    A tar that breaks off yields one `Skipped` at its end: how many samples went with it is not
    known. A healthy one ends in zero blocks.

    Args:
        most_bytes: name -> most bytes that are read of such a member, or None for none.

    Raises:
        ValueError: if the file is missing or cannot be opened.
    """
    last: str | None = None
    with _open(shard) as packed:
        head = packed.read(512)
        packed.seek(0)
        if not head:
            yield Skipped(shard, "the tar is damaged or cut short: it has no bytes")
            return
        try:
            with _unpacked(packed, head) as stream, _tar(stream) as tar:
                while (member := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined]  # else all are remembered
                    if member.size < 0:
                        raise tarfile.ReadError("a header with a negative size")
                    name = member.name.removeprefix("./")
                    last = member.name
                    if member.isdir() or any(map(is_hidden, _folders(name))):
                        continue
                    problem = unsafe(member)
                    most = most_bytes(name)
                    if not problem and most is not None and member.size > most:
                        problem = f"refused: {member.size} bytes are more than {most}"
                    file = None if problem or most is None else tar.extractfile(member)
                    yield name, b"" if file is None else file.read(), problem
                ending = tar.fileobj
                assert ending is not None
                ending.seek(tar.offset)
                if ending.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    yield Skipped(
                        shard, f"the tar is damaged or cut short after {last or 'its start'}"
                    )
                elif ending.read(_MOST_PADDING).strip(b"\0"):
                    yield Skipped(
                        shard,
                        "more follows behind the end of the tar, as where tars were joined with "
                        "cat: it is not read; join them with tar --concatenate",
                    )
                elif last is None:
                    yield Skipped(shard, "the tar is empty", samples=0)
        except _BROKEN as error:
            place = last or "its start"
            reason = f"the tar is damaged or cut short after {place} ({first_line(error)})"
            yield Skipped(shard, reason)


def _folders(name: str) -> list[str]:
    """Parts of a member's name that may be hidden; ".." is refused elsewhere."""
    return [part for part in name.split("/") if part not in ("", ".", "..")]


def _tar(stream: Any) -> tarfile.TarFile:
    return tarfile.open(fileobj=stream, mode="r:", tarinfo=_Member)


def _unpacked(stream: Any, head: bytes) -> Any:
    for magic, opener in _PACKINGS:
        if head.startswith(magic):
            return opener(stream)
    return stream


def _open(shard: str) -> Any:
    """The shard's bytes. Raises ValueError where it cannot be opened."""
    place = without_secrets(shard)
    if "://" not in shard:
        require_file(shard)
        try:
            return open(os.open(shard, os.O_RDONLY | os.O_CLOEXEC), "rb")
        except OSError as error:
            raise ValueError(f"the shard {place} cannot be read ({error.strerror})") from None
    import fsspec

    try:
        return fsspec.open(shard, "rb").open()
    except FileNotFoundError:
        raise ValueError(f"the shard {place} is missing") from None
    except Exception as error:  # every protocol has errors of its own
        raise ValueError(f"the shard {place} cannot be opened ({first_line(error)})") from None
