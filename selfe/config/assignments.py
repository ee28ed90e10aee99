"""`section.key=value` texts, and how they change nested settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfe.json_files import JsonFault, parse_json


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
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise ValueError(f"--set {key}: {section} was already set to a value")
        node[last] = value
    return result


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Recursive update: mappings merge, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged
