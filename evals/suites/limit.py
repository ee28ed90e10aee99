"""A suite cut to its first prompts: a smaller protocol, for quick runs and tests."""

from __future__ import annotations

import dataclasses

from evals.base import TASKS
from evals.suites.base import Suite


def limited(suite: Suite, per_task: int | None) -> Suite:
    """The first `per_task` prompts of every task: a smaller protocol, never mixed with the whole.

    Raises:
        ValueError: if `per_task` is below 1.
    """
    if per_task is None:
        return suite
    kept = places_kept(suite, per_task)
    place = {old: new for new, old in enumerate(kept)}
    groups = {
        name: tuple(place[i] for i in members if i in place)
        for name, members in suite.groups.items()
    }
    return dataclasses.replace(
        suite,
        records=[suite.records[i] for i in kept],
        groups={name: members for name, members in groups.items() if members},
    )


def places_kept(suite: Suite, per_task: int) -> list[int]:
    """Places in the whole suite of the prompts that `limited` keeps."""
    if per_task < 1:
        raise ValueError(f"--limit must be at least 1 prompt per task, got {per_task}")
    kept: list[int] = []
    for task in dict.fromkeys([*TASKS, *[str(r["tag"]) for r in suite.records]]):
        kept += [i for i, r in enumerate(suite.records) if r["tag"] == task][:per_task]
    return sorted(kept)
