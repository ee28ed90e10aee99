"""Every small change of a JSON document: other digits, types, keys and values."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

STRANGE: tuple[Any, ...] = (None, True, -1, 2**70, 1.5, "x", [], {}, [[]], {"a": None})


def mutations(document: Any) -> Iterator[tuple[str, str]]:
    """(what was done, text) of every change of one place; the document itself is not among them."""
    whole = json.dumps(document)
    for what, text in _attempts(document):
        if text != whole:
            yield what, text


def _attempts(document: Any) -> Iterator[tuple[str, str]]:
    for place in places(document):
        name = ".".join(map(str, place)) or "the whole"
        for value in STRANGE:
            yield f"{name} = {value!r}", json.dumps(changed(document, place, value))
        old = at(document, place)
        if isinstance(old, bool):
            yield f"{name} turned", json.dumps(changed(document, place, not old))
        elif isinstance(old, int):
            for digit in range(len(str(abs(old)))):
                yield (
                    f"{name}, digit {digit}",
                    json.dumps(changed(document, place, old + 10**digit)),
                )
        elif isinstance(old, float):
            yield f"{name} doubled", json.dumps(changed(document, place, old * 2 + 1))
            yield (
                f"{name} = 1e400",
                json.dumps(changed(document, place, "@")).replace('"@"', "1e400"),
            )
        elif isinstance(old, str) and old:
            other = chr(ord(old[0]) ^ 1)
            yield f"{name}, first letter", json.dumps(changed(document, place, other + old[1:]))
        if place:
            yield f"{name} left out", json.dumps(changed(document, place, _GONE))


def texts(text: str) -> Iterator[tuple[str, bytes]]:
    """(what was done, bytes) of damage that leaves no JSON, or JSON of another kind."""
    data = text.encode()
    yield "empty", b""
    yield "cut", data[: len(data) // 2]
    yield "not UTF-8", data.replace(b'"', b'"\xff', 1)
    yield "NUL", b"\0" * len(data)
    yield "deep", b"[" * 100_000
    yield "twice", data + data
    yield "list", b"[" + data + b"]"
    yield "number", b"1e400"
    yield "null", b"null"


_GONE = object()


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Ways to every value in a document, the document's own included."""
    yield above
    if isinstance(value, dict | list):
        keys = value.keys() if isinstance(value, dict) else range(len(value))
        for key in keys:
            yield from places(value[key], (*above, key))


def at(document: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        document = document[key]
    return document


def changed(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at a place, or without it."""
    if not place:
        return value
    document = copy.deepcopy(document)
    inner = at(document, place[:-1])
    if value is _GONE:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return document
