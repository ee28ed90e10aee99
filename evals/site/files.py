"""Files of the page: written only where they changed, and scripts that hold data."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class PageFiles:
    """Writes files below the page's folder.

    Attributes:
        written: every file so far, in order.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written: list[Path] = []

    def write(self, name: str, data: bytes | str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_changed(path, data.encode() if isinstance(data, str) else data)
        self.written.append(path)


def write_changed(path: Path, data: bytes) -> None:
    """As `selfe.files.write_atomically`, without waiting for the disk: some hundred files, which
    are made again from the results at any time. One that is the same already is left as it is."""
    if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def script_json(value: Any) -> str:
    """JSON that a script may hold: no text in it ends the script or a line of it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def data_script(function: str, name: str, value: Any) -> str:
    return f"window.{function}({script_json(name)}, {script_json(value)});\n"
