"""Reads captions, image bytes and records from cells of tables and from files beside images.

All readers understand the same: a caption is text, UTF-8 bytes, or a list whose first text counts;
an image is bytes, the {"bytes", "path"} of the `datasets` library, or a path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from selfe.json_files import JsonFault, parse_json
from selfe.text import decode_text, printable, require_storable

IMAGE_NAMES = ("image", "jpg", "jpeg", "png", "webp", "img", "image_bytes")
CAPTION_NAMES = ("caption", "text", "txt", "prompt", "description")
MOST_IMAGE_BYTES = 256 * 2**20
"""Larger images are refused before they are read."""
MOST_TEXT_BYTES = 16 * 2**20
"""Of a file or line that holds a caption, and of a caption."""
_NAMED = 8


def caption_text(value: Any) -> str:
    """A caption from whatever holds it, without a byte order mark and blanks around it.

    Raises:
        ValueError: if there is none, or it is not Unicode.
    """
    if isinstance(value, list | tuple):
        value = next((each for each in value if isinstance(each, str | bytes)), None)
    if isinstance(value, bytes | str) and len(value) > MOST_TEXT_BYTES:
        raise ValueError(f"refused: a caption of more than {MOST_TEXT_BYTES} bytes")
    if isinstance(value, bytes):
        try:
            value = decode_text(value)
        except ValueError as error:
            raise ValueError(f"unreadable caption ({error})") from None
    if not isinstance(value, str):
        raise ValueError("no caption")
    try:
        return require_storable(value, "it").removeprefix("\ufeff").strip()
    except ValueError as error:
        raise ValueError(f"unreadable caption ({error})") from None


def caption_in(values: Mapping[str, Any], column: str) -> Any:
    """The caption in a sample's record: under the asked name, else under one of the usual names.

    Raises:
        ValueError: if there is none; names what there is instead.
    """
    if column:
        name = column if column in values else _by_lower(values).get(column.lower())
        if name is None or not _may_be_caption(values[name]):
            raise ValueError(f"no caption under {column!r} (there are: {listed(values)})")
        return values[name]
    names = _by_lower(values)
    for usual in CAPTION_NAMES:
        if usual in names and _may_be_caption(values[names[usual]]):
            return values[names[usual]]
    raise ValueError("no caption")


def value_under(values: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The first value that is not empty, under a name in any case; None where there is none."""
    by_lower = _by_lower(values)
    keys = (name if name in values else by_lower.get(name.lower()) for name in names)
    return next((values[key] for key in keys if key is not None and values[key]), None)


def _by_lower(names: Iterable[Any]) -> dict[str, Any]:
    """Lower case -> name; of those that differ by case, the first."""
    return {str(name).lower(): name for name in reversed(list(names))}


def _may_be_caption(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(isinstance(each, str | bytes) for each in value)
    return isinstance(value, str | bytes)


def listed(names: Iterable[Any]) -> str:
    """A few names, in one line."""
    names = [printable(str(name)) for name in names]
    more = [f"and {len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return ", ".join([*names[:_NAMED], *more]) or "none"


def parse_record(content: bytes) -> dict[str, Any]:
    """The JSON map of a file or a line.

    Raises:
        ValueError: if it is no such thing, or far too large or deep.
    """
    if len(content) > MOST_TEXT_BYTES:
        raise ValueError(f"refused: a record of more than {MOST_TEXT_BYTES} bytes")
    try:
        values = parse_json(content, "", nonfinite=True)
    except JsonFault as fault:
        raise ValueError(f"unreadable record ({fault.reason})") from None
    if not isinstance(values, dict):
        raise ValueError("unreadable record (its JSON is not a map of names to values)")
    return values


def image_bytes(value: Any, read: Callable[[str], bytes]) -> bytes:
    """Bytes of an image cell.

    Args:
        read: content of the file that a cell with a path alone names.

    Raises:
        ValueError: if the cell holds none.
        OSError: if the file is unreadable.
    """
    if isinstance(value, Mapping):
        content, path = value.get("bytes"), value.get("path")
        value = path if content is None else content
    if isinstance(value, str) and value:
        return read(value)
    if isinstance(value, bytearray | memoryview):
        value = bytes(value)
    if not isinstance(value, bytes):
        raise ValueError("no image")
    return value


def pick_column(names: Sequence[str], wanted: str, known: Sequence[str], what: str) -> str:
    """The column of a table that holds images or captions.

    Raises:
        ValueError: lists the columns there are.
    """
    found = None
    by_lower = _by_lower(names)
    if wanted:
        found = wanted if wanted in names else by_lower.get(wanted.lower())
    else:
        found = next((by_lower[name] for name in known if name in by_lower), None)
    if found is None:
        raise ValueError(
            f"no column {wanted or ' or '.join(known)!r} for the {what}: name one of "
            f"{', '.join(names)} with --{what}-column"
        )
    if list(names).count(found) > 1:
        raise ValueError(f"the column {found!r} for the {what} is there twice: rename one")
    return found
