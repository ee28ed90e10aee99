"""`section.key=value` texts, and how they change nested settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfe.json_files import JsonFault, parse_json


class Dotted(dict[str, Any]):
    """A section whose keys were given one by one ("a.b=1"), not in one piece ("a={...}")."""


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """["optim.lr=1e-3", ...] -> nested dictionary; values are JSON, or else plain strings.

    Raises:
        ValueError: for text without "=" or without a section.
    """
    result: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"--set takes section.key=value, got {assignment!r}")
        try:
            value = parse_json(text, f"--set {key}", nonfinite=True)
        except JsonFault as fault:
            if not fault.torn:  # JSON, but none that is taken
                raise ValueError(f"--set {key}: {fault.reason}") from None
            value = text
        node = result
        *sections, last = key.strip().split(".")
        for section in sections:
            node = node.setdefault(section, Dotted())
            if not isinstance(node, dict):
                raise ValueError(f"--set {key}: {section} was already set to a value")
        node[last] = value
    return result


def override_steps(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A section "sampling" with a user's overrides, which apply to every number of steps.

    What `over` sets, no entry of `by_steps` sets otherwise. "by_steps={...}" replaces all entries;
    "by_steps.4.eta=0" changes the settings that apply to 4 steps, and keeps the others.

    Args:
        base: the section as it is, a mapping of plain values.
    """
    entries = {_number(n): dict(e) for n, e in base.get("by_steps", {}).items()}
    given = over.get("by_steps", {})
    if isinstance(given, Mapping) and ("by_steps" not in over or isinstance(given, Dotted)):
        for steps, entry in given.items():
            number = _number(steps)
            below = [n for n in entries if isinstance(number, int) and n <= number]
            own = entries[max(below)] if below else {}
            entries[number] = {**own, **entry} if isinstance(entry, Mapping) else entry
        given = entries
    plain = over.keys() - {"by_steps"}
    if isinstance(given, Mapping):
        given = {
            _number(steps): {k: v for k, v in entry.items() if k not in plain}
            if isinstance(entry, Mapping)
            else entry
            for steps, entry in given.items()
        }
    return {**base, **over, "by_steps": given}


def _number(steps: Any) -> Any:
    """JSON's keys are texts; what is no number is left to be refused."""
    text = str(steps).strip()
    return int(text) if text.isascii() and text.isdecimal() else steps


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Recursive update: mappings merge, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged
