"""Programs that measure, check and build; no library logic. Run as `python -m scripts.…`."""

from __future__ import annotations

import shlex
import sys


def command_line() -> str:
    """The command that runs, as it is typed in the repository: no place of a machine is in it."""
    spec = sys.modules["__main__"].__spec__
    name = spec.name.removesuffix(".__main__") if spec else "SCRIPT"
    return shlex.join(["python", "-m", name, *sys.argv[1:]])
