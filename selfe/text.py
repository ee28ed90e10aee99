"""Foreign text: whether it can be stored, how it is shown, and what must not be written down."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^/?#\s@:]*(?::[^/?#\s]*)?@)?"
    r"(?P<place>[^?#\s]*)(?P<query>\?[^#\s]*)?(?P<fragment>#\S*)?"
)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
HIDDEN = "***"
_MOST_BYTES = 1 << 26
"""Of a file of lines that a user names, such as prompts; a million have about this size."""


def decode_text(content: bytes) -> str:
    """UTF-8 text without a byte order mark.

    Raises:
        ValueError: for any other encoding; says what it looks like.
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("not UTF-8 text (it begins as UTF-16 does): save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text (byte {error.start} does not fit)") from None


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of a text file's lines that are not blank, without blanks around them.

    Only line breaks end a line: U+2028 and its kind, at which `str.splitlines` cuts, are text.

    Raises:
        ValueError: if the file cannot be read, or a line is not UTF-8; names file and line.
    """
    content = _read_named(path)
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            text = decode_text(line).strip()
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        if text:
            yield number, text


def _read_named(path: Path) -> bytes:
    try:
        # a pipe that nobody writes to then ends at once, and not never
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as file:
            if os.name == "posix":
                os.set_blocking(descriptor, True)
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from None
    if len(content) > _MOST_BYTES:
        raise ValueError(f"{path} is larger than {_MOST_BYTES >> 20} MiB: no list of lines is")
    return content


def is_storable(text: str) -> bool:
    """Whether text is Unicode; half of a surrogate pair, which JSON can spell, is not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def require_storable(text: str, what: str) -> str:
    """The text itself.

    Raises:
        ValueError: if it is not Unicode; `what` names it.
    """
    if not is_storable(text):
        raise ValueError(
            f"{what} is not Unicode text: it holds bytes that are not UTF-8, or half of a "
            "surrogate pair"
        )
    return text


def printable(text: str) -> str:
    """Text that any file can hold: what is not Unicode is spelled as an escape, `caf\\udce9`."""
    return text if is_storable(text) else text.encode("utf-8", "backslashreplace").decode()


def without_secrets(text: str) -> str:
    """Text whose URLs have lost user names, passwords and the values of their query.

    "https://me:key@host/a.tar?sig=x&part=1" -> "https://***@host/a.tar?sig=***&part=***". Signed
    addresses carry what opens them, and what is written beside data is read by many.
    """
    return _URL.sub(_masked, text) if "://" in text else text


def _masked(match: re.Match[str]) -> str:
    parts = match.groupdict(default="")
    user = f"{HIDDEN}@" if parts["user"] else ""
    pairs = [pair.partition("=") for pair in parts["query"][1:].split("&")]
    query = "&".join(f"{name}{equals}{HIDDEN}" if equals else HIDDEN for name, equals, _ in pairs)
    query = f"?{query}" if parts["query"] else ""
    fragment = f"#{HIDDEN}" if parts["fragment"] else ""
    return parts["scheme"] + user + parts["place"] + query + fragment


def first_line(error: BaseException) -> str:
    """What another library's error says, as one line without secrets."""
    lines = _COLOURS.sub("", str(error)).strip().splitlines()
    return printable(without_secrets(lines[0])) if lines else type(error).__name__
