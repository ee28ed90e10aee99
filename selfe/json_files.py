"""The only reader of JSON: strict, limited in size and depth, faults with their line.

What the standard reader lets in and nothing here wants: NaN and Infinity, numbers that overflow,
keys given twice, surrogates without a partner, text that is not UTF-8, nesting that ends in a
RecursionError, files without end. Every fault is a `JsonFault`, whose message names file and line.

What a run writes is sealed as well: `selfe.sealed_files`.
"""

from __future__ import annotations

import json
import os
import re
import stat
from codecs import BOM_UTF8
from collections.abc import Hashable, Iterable, Iterator
from functools import lru_cache
from json.decoder import scanstring  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError

MOST_BYTES = 1 << 30
"""Of a document. The index of a cache of 100,000 shards has about 100 MB."""
MOST_LINE_BYTES = 1 << 26
"""Of a line in a file of lines."""
DEEPEST = 32
"""Nested lists and objects. What this project writes has at most 8."""
_LARGEST_INTEGER = 2**64

STRICT = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
"""For models of state: no key unknown, no text for a number, no NaN."""

T = TypeVar("T")


class JsonFault(ValueError):
    """JSON that is not taken.

    Attributes:
        where: the file.
        line: from 1; None where the fault lies in no line, as with a file that is too large.
        reason: what is wrong, without file and line.
        torn: whether it looks like a write that was cut short: it does not parse at all.
    """

    def __init__(self, where: object, line: int | None, reason: str, *, torn: bool = False) -> None:
        place = str(where) if line is None else f"{where}, line {line}"
        super().__init__(f"{place}: {reason}")
        self.where, self.line, self.reason, self.torn = str(where), line, reason, torn

    @property
    def detail(self) -> str:
        """Line and reason, for a sentence that names the file itself."""
        return self.reason if self.line is None else f"line {self.line}: {self.reason}"


class _Refused(ValueError):
    """Raised by the hooks of the standard reader."""


def _no_constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is no number of JSON")


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise _Refused(f"the number {_short(text)} is too large")
    return value


def _integer(text: str) -> int:
    if len(text) > 20 or abs(value := int(text)) >= _LARGEST_INTEGER:
        raise _Refused(f"the number {_short(text)} is too large")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _Refused(f"the key {_short(json.dumps(twice))} is given twice")
    return values


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."


_HOOKS: dict[str, Any] = {
    "parse_float": _float,
    "parse_int": _integer,
    "object_pairs_hook": _unique,
}
_FINITE = json.JSONDecoder(parse_constant=_no_constant, **_HOOKS)
_ANY_FLOAT = json.JSONDecoder(**_HOOKS)
_SMALL_FINITE = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_unique)
_SMALL_ANY_FLOAT = json.JSONDecoder(object_pairs_hook=_unique)
_DIGITS = bytes.maketrans(b"123456789E", b"000000000e")
_LONG = b"0" * 20
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(
    data: bytes | str,
    where: object,
    *,
    line: int | None = None,
    nonfinite: bool = False,
    deepest: int = DEEPEST,
) -> Any:
    """The value of one JSON document.

    Args:
        data: the document; bytes must be UTF-8, with or without a byte order mark.
        where: the file, for messages.
        line: number of the document's first line in that file; None for 1.
        nonfinite: take NaN, Infinity and -Infinity, as Python's writer spells them.
        deepest: most lists and objects within each other.

    Raises:
        JsonFault: for anything else; names file and line.
    """
    first = line or 1
    try:
        text = data.removeprefix(BOM_UTF8).decode() if isinstance(data, bytes) else data
    except UnicodeDecodeError as error:
        place = first + data[: error.start].count(b"\n")  # type: ignore[arg-type]
        raise JsonFault(where, place, "not UTF-8 text", torn=True) from None
    if not text.strip():
        raise JsonFault(where, line, "empty", torn=True)
    try:
        value = _decoder(data, nonfinite).decode(text)
    except json.JSONDecodeError as error:
        reason = f"not JSON ({error.msg}, column {error.colno})"
        raise JsonFault(where, first + error.lineno - 1, reason, torn=True) from None
    except _Refused as error:
        raise JsonFault(where, line, str(error)) from None
    except RecursionError:
        raise JsonFault(where, line, f"nested deeper than {deepest} levels") from None
    if text.count("[") + text.count("{") > deepest and _depth(value, deepest) > deepest:
        raise JsonFault(where, line, f"nested deeper than {deepest} levels")
    if not text.isascii() or ("\\u" in text and _SURROGATE.search(text)):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise JsonFault(where, line, "half of a surrogate pair, which is no text") from None
    return value


def _decoder(data: bytes | str, nonfinite: bool) -> json.JSONDecoder:
    """The decoder that looks at every number, or, where none can be too large, one that is three
    times as fast: no 20 digits in a row and no exponent but a negative one."""
    if isinstance(data, bytes):
        shape = data.translate(_DIGITS)
        if _LONG not in shape and b"0e0" not in shape and b"0e+" not in shape:
            return _SMALL_ANY_FLOAT if nonfinite else _SMALL_FINITE
    return _ANY_FLOAT if nonfinite else _FINITE


def _depth(value: Any, most: int) -> int:
    """Levels of lists and objects, counted up to `most` + 1."""
    level, depth = [value], 0
    while level and depth <= most:
        level = [
            child
            for each in level
            if isinstance(each, dict | list)
            for child in (each.values() if isinstance(each, dict) else each)
            if isinstance(child, dict | list)
        ]
        depth += 1
    return depth


def read_bytes(path: str | Path, most: int = MOST_BYTES) -> bytes:
    """A regular file's content, of at most `most` bytes.

    Raises:
        JsonFault: if it is larger, or no regular file, such as a pipe that would never end.
        OSError: if it cannot be read.
    """
    with open(_regular(path), "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise JsonFault(path, None, f"larger than {most >> 20} MiB, which nothing here writes")
    return data


def _regular(path: str | Path) -> str | Path:
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise JsonFault(path, None, "no regular file")
    return path


def read_json(
    path: str | Path,
    schema: type[T],
    *,
    nonfinite: bool = False,
    most: int = MOST_BYTES,
) -> T:
    """A JSON file as `schema` has it: a pydantic model, a dataclass or a type such as
    `dict[str, Any]`.

    Args:
        nonfinite: see `parse_json`.
        most: bytes.

    Raises:
        JsonFault: names file and line.
        OSError: if it cannot be read.
    """
    data = read_bytes(path, most)
    value = parse_json(data, path, nonfinite=nonfinite)
    return fit(schema, value, path, data.decode("utf-8-sig"))


def fit(
    schema: type[T], value: Any, where: object, text: str | None = None, line: int | None = None
) -> T:
    """A parsed value as `schema` has it, with strict types: no text for a number.

    Args:
        text: the document, to find the line in; None where `line` is known.

    Raises:
        JsonFault: names the key and what it must be.
    """
    try:
        return cast(
            T, _adapter(cast(Hashable, schema)).validate_json(json.dumps(value), strict=True)
        )
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        place = [part for part in problem["loc"] if isinstance(part, str | int)]
        if text is not None:
            line = line_of(text, place)
        name = ".".join(str(part) for part in place)
        given = problem.get("input")
        shown = "" if isinstance(given, dict | list) else f", got {_short(json.dumps(given))}"
        message = problem["msg"][:1].lower() + problem["msg"][1:]
        raise JsonFault(where, line, f"{name + ': ' if name else ''}{message}{shown}") from None


@lru_cache(maxsize=64)
def _adapter(schema: Hashable) -> TypeAdapter[Any]:
    adapter: TypeAdapter[Any] = TypeAdapter(cast(Any, schema))
    return adapter


_SPACE = re.compile(r"[ \t\n\r]*")


def line_of(text: str, place: Iterable[str | int]) -> int:
    """The line, from 1, on which the value at `place` begins in a valid document; where the way
    there ends early, that of the last value found."""
    skip = json.JSONDecoder().raw_decode

    def after_space(index: int) -> int:
        match = _SPACE.match(text, index)
        return match.end() if match else index

    here = after_space(0)
    for part in place:
        opening = text[here : here + 1]
        if opening not in ("{", "["):
            break
        index, number, found = after_space(here + 1), 0, None
        while text[index : index + 1] not in ("}", "]", ""):
            name: str | int = number
            if opening == "{":
                name, index = scanstring(text, index + 1)
                index = after_space(after_space(index) + 1)  # past the colon
            if name == part:
                found = index
                break
            _, index = skip(text, index)
            index = after_space(index)
            if text[index : index + 1] == ",":
                index = after_space(index + 1)
            number += 1
        if found is None:
            break
        here = found
    return text.count("\n", 0, here) + 1


def read_json_lines(
    path: str | Path, *, nonfinite: bool = False, most: int = MOST_LINE_BYTES
) -> Iterator[tuple[int, Any]]:
    """(line number from 1, value) of every line that is not blank, one at a time.

    A last line without its line break counts if it is whole; one that is not JSON was torn by a
    crash and is dropped.

    Raises:
        JsonFault: if another line is not taken by `parse_json`; names file and line.
        ValueError: if there is no such file.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    with open(_regular(path), "rb") as file:
        number = 0
        while line := file.readline(most + 1):
            number += 1
            if len(line) > most:
                raise JsonFault(path, number, f"longer than {most >> 20} MiB")
            if line.isspace():
                continue
            try:
                value = parse_json(line.rstrip(b"\r\n"), path, line=number, nonfinite=nonfinite)
            except JsonFault as fault:
                if fault.torn and not line.endswith(b"\n"):
                    return
                raise
            yield number, value


def end_last_line(path: str | Path) -> None:
    """Make a file ready for lines to be appended: a whole last line gets the line break it lacks,
    a torn one is cut off."""
    path = Path(path)
    if not path.exists():
        return
    with open(path, "rb+") as file:
        data = file.read()
        start = data.rfind(b"\n") + 1
        if start == len(data):
            return
        try:
            parse_json(data[start:], path, nonfinite=True)
        except JsonFault:
            file.truncate(start)
        else:
            file.write(b"\n")
