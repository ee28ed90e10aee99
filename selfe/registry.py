"""Lazy tables: a name stands for "module:attribute", imported only when it is asked for.

Optional back ends therefore cost nothing, and break nothing, until somebody names them.
"""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Iterator, Mapping
from typing import Any


class Registry:
    """A fixed table of names.

    Args:
        kind: what the names are, in the singular, for messages: "suite", "detector", "objective".
        table: name -> "package.module:attribute"; the attribute may be dotted ("Class.method").
    """

    def __init__(self, kind: str, table: Mapping[str, str]) -> None:
        self.kind = kind
        self.table: dict[str, str] = dict(table)
        for name, target in self.table.items():
            assert target.count(":") == 1, f"{kind} {name!r}: {target!r} is not module:attribute"

    def names(self) -> list[str]:
        """All known names, in the order of the table."""
        return list(self.table)

    def __contains__(self, name: object) -> bool:
        return name in self.table

    def __iter__(self) -> Iterator[str]:
        return iter(self.table)

    def load(self, name: str) -> Any:
        """Import and return what `name` stands for.

        Raises:
            ValueError: if the name is unknown; says which names exist and which is nearest.
        """
        target = self.table.get(name)
        if target is None:
            raise ValueError(self.unknown(name))
        module, attribute = target.split(":")
        return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))

    def unknown(self, name: str) -> str:
        """The sentence that answers an unknown name."""
        near = difflib.get_close_matches(name, self.table, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join(self.table) or "none"
        return f"unknown {self.kind} {name!r}{hint} (known: {known})"
