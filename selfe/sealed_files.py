"""State whose damage is noticed: sealed JSON documents, and chains of sealed lines.

A sealed document says "what" it is and has the key "checksum", the sha256 of all its other keys: a
flipped digit, a key less or a value of another type is noticed by whoever reads it, and so is one
kind of document in another's place. Lines that are appended are sealed in a chain: each line's
"check" covers the line before it, too. What earlier versions wrote has neither key and is read as
it is, where a caller allows that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from selfe.json_files import MOST_BYTES, JsonFault, fit, parse_json, read_bytes, read_json_lines

WHAT = "what"
CHECKSUM = "checksum"
CHECK = "check"

T = TypeVar("T")


def seal(what: str, values: Mapping[str, Any], *, indent: int | None = 1) -> str:
    """A document of the kind `what` whose "checksum" covers all its other keys."""
    content = {WHAT: what, **{k: v for k, v in values.items() if k not in (WHAT, CHECKSUM)}}
    return json.dumps({**content, CHECKSUM: digest_of(content)}, indent=indent) + "\n"


def digest_of(values: Any) -> str:
    """sha256 of a JSON value; the order of keys does not matter."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def unseal(value: Any, what: str, where: object, *, required: bool = False) -> dict[str, Any]:
    """A parsed document without "what" and "checksum".

    Args:
        what: the kind that it must be of.
        required: False to take a document with neither key, as earlier versions wrote it.

    Raises:
        JsonFault: if it is no object, of another kind, or its checksum is missing or differs.
    """
    if not isinstance(value, dict):
        raise JsonFault(where, None, "not a JSON object")
    if not required and WHAT not in value and CHECKSUM not in value:
        return value
    for key in (WHAT, CHECKSUM):
        if key not in value:
            raise JsonFault(where, None, f'the key "{key}" is missing')
    content = {key: each for key, each in value.items() if key != CHECKSUM}
    if value[CHECKSUM] != digest_of(content):
        raise JsonFault(where, None, "it was changed after it was written: its checksum differs")
    if content.pop(WHAT) != what:
        raise JsonFault(where, None, f"it is a {value[WHAT]}, not a {what}")
    return content


def read_sealed(
    path: str | Path,
    schema: type[T],
    what: str,
    *,
    required: bool = False,
    nonfinite: bool = False,
    most: int = MOST_BYTES,
) -> T:
    """A sealed document as `schema` has it; see `unseal` and `selfe.json_files.read_json`.

    Raises:
        JsonFault: names file and line.
        OSError: if it cannot be read.
    """
    data = read_bytes(path, most)
    value = unseal(parse_json(data, path, nonfinite=nonfinite), what, path, required=required)
    return fit(schema, value, path, data.decode("utf-8-sig"))


def chained(record: Mapping[str, Any], before: str) -> dict[str, Any]:
    """A record with the key "check", which covers it and the "check" of the line before it.

    Args:
        before: "check" of the line before; of the first line, what the file belongs to.
    """
    content = {key: value for key, value in record.items() if key != CHECK}
    return {**content, CHECK: digest_of({"before": before, "record": content})[:16]}


def chain(records: Iterable[Mapping[str, Any]], before: str) -> Iterator[dict[str, Any]]:
    """`chained` of each record and the one before it."""
    for record in records:
        sealed = chained(record, before)
        before = sealed[CHECK]
        yield sealed


def read_chained_lines(
    path: str | Path, first: str | None, *, nonfinite: bool = False, required: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """`read_json_lines` of records that `chained` sealed, without their "check".

    A file without any "check" is of an earlier version and taken as it is.

    Args:
        first: what the file belongs to, as given to `chained` with the first line; None to take
            the first line's word for it.
        required: refuse a file without any "check".

    Raises:
        JsonFault: for a line that is no object, was changed, or does not follow the one before it.
    """
    before, sealed = first, None
    for number, record in read_json_lines(path, nonfinite=nonfinite):
        if not isinstance(record, dict):
            raise JsonFault(path, number, "not a JSON object")
        check = record.pop(CHECK, None)
        sealed = required or check is not None if sealed is None else sealed
        if sealed and before is not None and check != chained(record, before)[CHECK]:
            raise JsonFault(
                path, number, "this line or the one before it was changed after it was written"
            )
        if not sealed and check is not None:
            raise JsonFault(path, number, "it is sealed, and a line before it is not")
        before = str(check)
        yield number, record
