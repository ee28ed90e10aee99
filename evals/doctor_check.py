"""The finding of one check of a machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, the verdict, what was seen, and how to fix it ("" if ok)."""

    name: str
    ok: bool
    detail: str
    fix: str = ""
