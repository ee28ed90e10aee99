"""Lazy tables: a name stands for "module:attribute", imported only when it is asked for.

Optional back ends therefore cost nothing, and break nothing, until somebody names them. Other
installed packages add names through entry points: a table with the group "selfe_bench.detectors"
also holds what packages declare under

    [project.entry-points."selfe_bench.detectors"]
    my-detector = "my_package.detector:MyDetector"
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
import sys
from collections.abc import Iterator, Mapping
from typing import Any

EntryPoint = importlib.metadata.EntryPoint


class Registry:
    """A table of names, its own and those of other packages.

    Args:
        kind: what the names are, in the singular, for messages: "suite", "detector", "method".
        table: name -> "package.module:attribute", where the attribute may be dotted
            ("Class.method"), or whatever else a name stands for.
        group: entry points of this group belong to the table; "" for none.
    """

    def __init__(self, kind: str, table: Mapping[str, Any], group: str = "") -> None:
        self.kind = kind
        self.table: dict[str, Any] = dict(table)
        self.group = group
        for name, target in self.table.items():
            if isinstance(target, str):
                assert target.count(":") == 1, f"{kind} {name!r}: {target!r} is no module:attribute"

    def names(self) -> list[str]:
        """All known names: those of the table in its order, then those of other packages."""
        return list(self.table) + sorted(self._offers().keys() - self.table.keys())

    def __contains__(self, name: object) -> bool:
        return name in self.table or name in self._offers()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def load(self, name: str) -> Any:
        """Import and return what `name` stands for.

        Raises:
            ValueError: if the name is unknown (says which names exist and which is nearest), if
                several packages claim it, or if the package that has it cannot be imported.
        """
        own, offers = self.table.get(name), self._offers().get(name, ())
        if own is None and not offers:
            raise ValueError(self.unknown(name))
        if len(offers) + (own is not None) > 1:
            claims = [_package(offer) for offer in offers]
            claims += ["selfe-bench itself"] if own is not None else []
            raise ValueError(
                f"the {self.kind} {name!r} is claimed by {' and by '.join(claims)}: uninstall all "
                "packages but one, or rename the entry point of one"
            )
        if own is not None:
            return import_target(own) if isinstance(own, str) else own
        (offer,) = offers
        try:
            return offer.load()
        # whatever a foreign module raises while it is imported
        except Exception as error:
            raise ValueError(
                f"the {self.kind} {name!r} of {_package(offer)} cannot be loaded from "
                f"{offer.value} ({type(error).__name__}: {error}): repair or uninstall that package"
            ) from error

    def require(self, name: str) -> None:
        """Raises ValueError if the name is unknown; imports nothing."""
        if name not in self:
            raise ValueError(self.unknown(name))

    def unknown(self, name: str) -> str:
        """The sentence that answers an unknown name."""
        names = self.names()
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"unknown {self.kind} {name!r}{hint} (known: {', '.join(names) or 'none'})"

    def _offers(self) -> Mapping[str, tuple[EntryPoint, ...]]:
        return _entry_points(self.group, tuple(sys.path)) if self.group else {}


def import_target(target: str) -> Any:
    """What "package.module:attribute" names; the attribute may be dotted."""
    module, attribute = target.split(":")
    return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))


@functools.lru_cache(maxsize=64)
def _entry_points(group: str, paths: tuple[str, ...]) -> dict[str, tuple[EntryPoint, ...]]:
    """Name -> the entry points of that name in a group, of the packages on `paths`."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for point in importlib.metadata.entry_points(group=group):
        found[point.name] = (*found.get(point.name, ()), point)
    return found


def _package(point: EntryPoint) -> str:
    """The distribution that declares an entry point, for messages."""
    return f"the package {point.dist.name} {point.dist.version}" if point.dist else "some package"
