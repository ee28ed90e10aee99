"""The one place that turns text of unknown origin into something a page may hold.

Names of folders and models, settings, commands, reasons: all of it may come from a result.json that
somebody else wrote. It is made one line when it is read (`one_line`, `from_outside`), and made
harmless for what it is written into: Markdown and the HTML that it becomes, LaTeX, CSV, labels of
plots, file names, a terminal.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Any

LONGEST = 2000
"""Characters of a text from outside."""
_LONGEST_NAME = 40
PLOT_SETTINGS = {"text.parse_math": False}
"""Of matplotlib: a label that holds "$" is no formula."""

_FORMAT = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories that break lines, hide text or turn its direction."""


def one_line(text: str, most: int = LONGEST) -> str:
    """Text without line breaks, control characters, marks of direction and backticks, which would
    end a line, a table's row or a piece of code; cut to `most` characters."""
    if not text.isprintable() or "`" in text:
        plain = (c if c.isprintable() else " " for c in text.replace("`", "’"))
        text = " ".join("".join(plain).split())
    return text if len(text) <= most else text[: most - 3] + "..."


def from_outside(value: Any) -> Any:
    """A JSON value whose texts, keys included, are `one_line`."""
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, list | tuple):
        return [from_outside(each) for each in value]
    if isinstance(value, dict):
        return {one_line(str(key)): from_outside(each) for key, each in value.items()}
    return value


_CODE = re.compile(r"(`[^`\n]*`)")
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_OWN_LINK = r"(?:#[\w-]+|(?:[\w-]+/)?[\w@,.+-]+\.(?:md|csv|tex|svg|png|html))"
_FOREIGN_LINK = re.compile(rf"\](?=\((?!{_OWN_LINK}\))|\[|:)")


def markdown_page(text: str) -> str:
    """A page of Markdown whose own parts hold no HTML and link to the report's files alone: tags
    and other links are shown as the text they are. Code between backticks stays as it is."""
    parts = _CODE.split(text)
    for place in range(0, len(parts), 2):
        parts[place] = _FOREIGN_LINK.sub(r"\\]", _TAG.sub("&lt;", parts[place]))
    return "".join(parts)


def csv_cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula; numbers stay numbers."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "−": "$-$",
    "–": "--",
    "×": r"$\times$",
    "†": r"$\dagger$",
    "·": r"$\cdot$",
    "’": "'",
}


def latex(text: str) -> str:
    """LaTeX, in ASCII, that prints the text; a character that has no such form shows its number."""
    return "".join(_LATEX.get(c) or (c if c.isascii() else _in_ascii(c)) for c in text)


def _in_ascii(character: str) -> str:
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return "".join(_LATEX.get(c, c) for c in plain) if plain else f"U+{ord(character):04X}"


def file_name(text: str) -> str:
    """A part of a file's name: letters, digits and "._@+-" alone, not hidden, not too long. Text
    that had to be changed ends in a digest, so that two texts never share a name."""
    safe = re.sub(r"[^A-Za-z0-9._@+-]+", "-", text)
    safe = re.sub(r"\.{2,}", ".", safe).lstrip(".-")[:_LONGEST_NAME]
    if safe == text and text:
        return text
    return f"{safe or 'unnamed'}-{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:6]}"


def on_terminal(text: str) -> str:
    """Text of several lines without the control characters that steer a terminal."""
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in _FORMAT else "\N{REPLACEMENT CHARACTER}"
        for c in text
    )
