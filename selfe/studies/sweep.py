"""A sweep: a grid of settings, each trained for every method and seed, against one baseline."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace

from selfe.config.resolve import resolve, same_weights, settings_of_weights
from selfe.studies.study import Entry, Study

Point = tuple[str, ...]
"""Settings of one place of the grid, as `--set` takes them; () is the recipe's own."""

_COMMA = re.compile(r",(?![^\[\{\"]*[\]\}\"])")
"""A comma that is not inside a list, a mapping or a quoted text."""


def parse_axis(text: str) -> list[str]:
    """ "optim.lr=1e-3,2e-3" -> ["optim.lr=1e-3", "optim.lr=2e-3"].

    Raises:
        ValueError: for text of another form, or a value that is given twice.
    """
    key, equals, values = text.partition("=")
    found = [value.strip() for value in _COMMA.split(values)]
    if not equals or "." not in key or not all(found):
        raise ValueError(
            f"--over takes SECTION.KEY=VALUE,VALUE,... (optim.lr=4e-3,8e-3), got {text!r}"
        )
    if len(set(found)) < len(found):
        raise ValueError(f"--over {key.strip()} names a value twice: {values}")
    return [f"{key.strip()}={value}" for value in found]


def grid_of(axes: Sequence[str]) -> list[Point]:
    """Every combination of the values of all axes, the last axis changing fastest.

    Raises:
        ValueError: if there is no axis, or two of one setting.
    """
    if not axes:
        raise ValueError("a sweep needs what to vary: --over optim.lr=4e-3,8e-3")
    parsed = [parse_axis(axis) for axis in axes]
    keys = [axis[0].partition("=")[0] for axis in parsed]
    if len(set(keys)) < len(keys):
        raise ValueError(f"--over is given twice for one setting: {', '.join(keys)}")
    return list(itertools.product(*parsed))


def parse_baseline(text: str, points: Sequence[Point]) -> Point:
    """ "" -> the recipe's own settings; "optim.lr=1e-3 model.x=2" -> that point of the grid.

    Raises:
        ValueError: if it is no point of the grid.
    """
    if not text.strip():
        return ()
    wanted = set(text.split())
    for point in points:
        if set(point) == wanted:
            return point
    raise ValueError(
        f"--baseline {text!r} is no point of the grid; the first is {' '.join(points[0])!r}"
    )


def sweep_study(study: Study, points: Sequence[Point], baseline: Point) -> Study:
    """The study with a row per method and point, each method's baseline before its others.

    A point whose settings are those of the recipe is not trained beside it again.

    Args:
        study: its entries are the methods.

    Raises:
        ValueError: for settings that do not fit a method, and to vary what changes no weight.
    """
    rows: list[Entry] = []
    for key in dict.fromkeys(text.partition("=")[0] for point in points for text in point):
        if not settings_of_weights([f"{key}="]):
            drawn = key.startswith("sampling.")
            raise ValueError(
                f"{key} changes no weight, so there is nothing to train with --over: "
                + (
                    "compare ways of drawing with `selfe-bench geneval --set`, or search them with "
                    "`selfe-bench search sampling`"
                    if drawn
                    else "leave it out"
                )
            )
    for entry in study.entries:
        config = _config(study, entry, baseline)
        others = [p for p in points if not same_weights(_config(study, entry, p), config)]
        rows += [replace(entry, settings=point) for point in (baseline, *others)]
    return replace(study, entries=tuple(rows))


def _config(study: Study, entry: Entry, point: Point):
    return resolve(
        study.recipe,
        entry.method,
        variant=entry.variant,
        assignments=[*study.settings, *point],
    )
